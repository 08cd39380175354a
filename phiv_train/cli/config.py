"""Command line and YAML to `TrainConfig`: flags over the file over the recipe over the defaults.

    parse(["--recipe", "docvqa-lora", "--config", "run.yaml", "--data_dir", "docvqa", "--learning_rate", "1e-4"])

tyro reads the flags into a plain dataclass made from TrainConfig's fields, so that pydantic judges all three sources
with the same words, one line each.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, get_type_hints

from pydantic import ValidationError

from phiv_data.utils.atomic import environment_problems
from phiv_schemas.errors import UsageError
from phiv_train.config import TrainConfig, checked, usage_error
from phiv_train.presets import recipe_settings

_DESCRIPTION = """Fine-tune a vision-language model on a converted dataset.

--recipe NAME takes a preset's settings (--list_recipes shows them), --config FILE a YAML file's; flags override both.
Each flag may be written with - or _."""


def parse(argv: Sequence[str]) -> TrainConfig:
    """The configuration of a command line. UsageError for wrong values; SystemExit for unknown flags and --help."""
    import tyro

    recipe, file, flags = split_sources(argv)
    base = (recipe_settings(recipe) if recipe else {}) | (read_yaml(file) if file else {})
    _check_base(base, str(file or "--recipe"))
    parsed = tyro.cli(_flags_class(base), prog="phiv-train", description=_DESCRIPTION, args=flags)
    values = {field.name: getattr(parsed, field.name) for field in dataclasses.fields(parsed)}
    return checked(values, "phiv-train")


def split_sources(argv: Sequence[str]) -> tuple[str | None, Path | None, list[str]]:
    """`(recipe, file, other flags)`."""
    import argparse

    parser = argparse.ArgumentParser("phiv-train", add_help=False, allow_abbrev=False)
    parser.add_argument("--recipe")
    parser.add_argument("--config", type=Path)
    known, rest = parser.parse_known_args(argv)
    return known.recipe, known.config, rest


def read_yaml(path: Path) -> dict[str, Any]:
    """The settings of a YAML (or JSON) file. UsageError when it is none, or not a mapping."""
    import yaml

    class Loader(yaml.SafeLoader):  # type: ignore[misc]  # yaml has no types
        """YAML 1.1 reads 1e-5 as text; YAML 1.2 and everyone who writes one mean a number."""

    Loader.add_implicit_resolver(
        "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
    )
    with environment_problems(path):
        try:
            values = yaml.load(path.read_text(encoding="utf-8"), Loader)
        except FileNotFoundError as error:
            raise UsageError("--config", f"no such file {str(path)!r}") from error
        except yaml.YAMLError as error:
            raise UsageError(str(path), f"is not YAML ({error})") from error
    if not isinstance(values, Mapping) or not all(isinstance(key, str) for key in values):
        raise UsageError(str(path), f"holds no settings (found a {type(values).__name__})", "Write `key: value` lines")
    return {key.replace("-", "_"): value for key, value in values.items()}


def _check_base(base: Mapping[str, Any], where: str) -> None:
    """Judge file and recipe before the flags, so that the message names the file."""
    try:
        TrainConfig.model_validate({"data_dir": "", **base})
    except ValidationError as error:
        raise usage_error(error, where) from error


def _same(value: Any) -> Any:
    return value


def _flags_class(base: Mapping[str, Any]) -> type[Any]:
    """A dataclass with TrainConfig's fields, described, with the defaults of `base`."""
    import tyro

    hints = get_type_hints(TrainConfig, include_extras=True)
    fields: list[tuple[str, Any, Any]] = []
    for name, info in TrainConfig.model_fields.items():
        text = " ".join((info.description or "").split())
        default = base.get(name, info.get_default(call_default_factory=True))
        default = tuple(default) if isinstance(default, list) else default
        if name in base and hints[name] is not str and _is_path(hints[name]):
            default = Path(str(default))
        required = info.is_required() and name not in base
        made: Any = dataclasses.field() if required else dataclasses.field(default_factory=partial(_same, default))
        hint: Any = hints[name]
        if name == "image_option":
            append: Any = tyro.conf.UseAppendAction
            hint = append[hint]
        fields.append((name, Annotated[hint, tyro.conf.arg(help=text)], made))
    return dataclasses.make_dataclass("TrainConfig", fields, kw_only=True)


def _is_path(hint: Any) -> bool:
    return getattr(hint, "__origin__", None) is Path
