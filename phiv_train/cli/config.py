"""Command line, YAML file and preset to `TrainConfig`: flags over the file over the preset over the defaults.

    parse(["--recipe", "docvqa-lora", "--config", "run.yaml", "--data_dir", "docvqa", "--learning_rate", "1e-4"])

tyro reads the flags into the pydantic model itself; what pydantic refuses is one line, whichever source it came from.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tyro
from pydantic import ValidationError
from tyro.conf import UseAppendAction

from phiv_data.utils.atomic import environment_problems
from phiv_schemas.errors import UsageError
from phiv_train.cli.words import read_words
from phiv_train.config import Names, TrainConfig, to_usage_error, validate_config
from phiv_train.presets import preset_settings

_DESCRIPTION = """Fine-tune a vision-language model on a converted dataset.

--recipe NAME takes the settings of a preset (--list_recipes shows them), --config FILE those of a YAML file; flags
override both. Each flag may be written with - or _."""


class _Flags(TrainConfig):
    """TrainConfig as tyro makes it from flags: a wrong value is a UsageError, which tyro does not catch and box."""

    image_option: UseAppendAction[Names] = ()
    """KEY=VALUE: an image option of the family, by default the checkpoint's. May be given several times; --num_crops N
    is num_crops=N."""

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise to_usage_error(error, "phiv-train") from error


for _field in _Flags.model_fields.values():  # tyro keeps line breaks
    _field.description = " ".join((_field.description or "").split())


def parse(argv: Sequence[str]) -> TrainConfig:
    """The configuration of a command line. UsageError for wrong values; SystemExit for unknown flags and --help."""
    parser = argparse.ArgumentParser("phiv-train", add_help=False, allow_abbrev=False)
    parser.add_argument("--recipe")
    parser.add_argument("--config", type=Path)
    types: dict[str, Any] = {name: field.annotation for name, field in TrainConfig.model_fields.items()}
    types |= {f"no_{name}": bool for name, kind in types.items() if kind is bool}
    sources, flags = parser.parse_known_args(read_words(argv, types, "phiv-train"))
    settings = preset_settings(sources.recipe) if sources.recipe else {}
    if sources.config:
        settings |= read_yaml(sources.config)
    # Checked before the flags, so that the message names the file; what is still missing may come from the flags.
    checked = validate_config({"data_dir": "", **settings}, str(sources.config or "--recipe"))
    defaults = _Flags.model_construct(**{name: getattr(checked, name) for name in settings})
    parsed = tyro.cli(_Flags, default=defaults, prog="phiv-train", description=_DESCRIPTION, args=flags)
    return TrainConfig.model_construct(**parsed.__dict__)


def read_yaml(path: Path) -> dict[str, Any]:
    """The settings of a YAML (or JSON) file. UsageError when it cannot be parsed, or is not a mapping."""
    import yaml

    class Loader(yaml.SafeLoader):  # type: ignore[misc]  # yaml has no types
        """YAML 1.1 reads 1e-5 as text; YAML 1.2, and whoever writes it, mean a number. Of two keys it takes one."""

        def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
            names = [key.value.replace("-", "_") for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
            if again := next((name for name in names if names.count(name) > 1), None):
                raise UsageError(f"{path}:{node.start_mark.line + 1}", f"has {again!r} twice", "Keep one")
            values: dict[Any, Any] = super().construct_mapping(node, deep)
            return values

    Loader.add_implicit_resolver(
        "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
    )
    with environment_problems(path):
        try:
            values = yaml.load(path.read_text(encoding="utf-8"), Loader)
        except FileNotFoundError as error:
            raise UsageError("--config", f"no such file {str(path)!r}") from error
        except UnicodeDecodeError as error:
            raise UsageError(str(path), f"is not UTF-8 ({error.reason})", "Save it as UTF-8") from error
        except RecursionError as error:
            raise UsageError(str(path), "is not YAML (it is nested too deeply)") from error
        except yaml.YAMLError as error:
            raise UsageError(str(path), f"is not YAML ({error})") from error
    if not isinstance(values, Mapping) or not all(isinstance(key, str) for key in values):
        raise UsageError(str(path), f"holds no settings (found a {type(values).__name__})", "Write `key: value` lines")
    return {key.replace("-", "_"): value for key, value in values.items()}
