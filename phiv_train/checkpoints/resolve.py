"""What a model's name means: family, base, adapter, and the image settings it was trained with.

    source = find_source("out/final")          # a checkpoint, an adapter folder, a hub id, or `tiny`, `tiny:7`
    model, processor = load_model(source, dtype="bfloat16")
    processor = load_processor(source)          # tokenizer and preprocessor files only, no weights

An adapter folder is enough: it names its base, and its own `num_crops` counts.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from phiv_data.utils.atomic import environment_problems
from phiv_schemas.errors import EnvironmentProblem, UsageError
from phiv_train.families.base import family_names, get_family

DEFAULT_FAMILY = "phi3_vision"
MODEL_TYPES = {"phi3_v": "phi3_vision"}  # config.json's model_type, where a family is called otherwise


@dataclass(frozen=True, slots=True)
class Source:
    """`base` is what the family loads, `adapter` a folder put on top. What the saved folder says of its training:
    `num_crops`, and `spec_hash` of its processor; None where it does not say."""

    family: str
    base: str
    adapter: Path | None = None
    num_crops: int | None = None
    spec_hash: str | None = None

    @property
    def folder(self) -> Path:
        """Where files about this model belong: its own folder, or the current one for a model without."""
        folder = self.adapter or Path(self.base)
        return folder if folder.is_dir() else Path()


def find_source(model: str | None = None, *, adapter: Path | None = None, family: str | None = None) -> Source:
    """The source of a name. UsageError for an adapter folder that is none, or one that names no base."""
    if adapter is None and _is_adapter(folder := Path(model or "")):
        model, adapter = None, folder
    if adapter is not None and not _is_adapter(adapter):
        raise UsageError(str(adapter), "is no adapter (no adapter_config.json)", "Pass a folder phiv-train wrote")
    base = model or (_base(adapter) if adapter else default_model(family or DEFAULT_FAMILY))
    saved = adapter or Path(base)
    settings = _json(saved / "phiv_config.json")
    return Source(
        family=family or settings.get("family") or family_of(base),
        base=base,
        adapter=adapter,
        num_crops=_json(saved / "preprocessor_config.json").get("num_crops"),
        spec_hash=_json(saved / "phiv_checkpoint.json").get("spec"),
    )


def default_model(family: str) -> str:
    """The model of a family when none is named: its published one, or the family's own name (`tiny`)."""
    return "microsoft/Phi-3.5-vision-instruct" if family == "phi3_vision" else family


def family_of(model: str) -> str:
    """The family of a checkpoint folder by its config.json, of `tiny:7` by its name; phi3_vision for a hub id."""
    folder = Path(model)
    if not folder.is_dir():
        name = model.partition(":")[0]
        return name if name in family_names() else DEFAULT_FAMILY
    found = _json(folder / "config.json").get("model_type")
    name = MODEL_TYPES.get(found or "", found or "")
    if name not in family_names():
        what = (
            f"model_type {found!r} belongs to no installed family" if found else "has no config.json with a model_type"
        )
        raise UsageError(model, what, f"Pass --family ({', '.join(family_names())})")
    return name


def load_model(source: Source, *, num_crops: int | None = None, **options: Any) -> tuple[Any, Any]:
    """`(model, processor)`, the adapter put in, in eval mode. `options` as for `Family.load`.

    `num_crops`: None takes the number it was trained with.
    """
    family = get_family(source.family)
    model, processor = family.load(source.base, num_crops=num_crops or source.num_crops, **options)
    if source.adapter is not None:
        _put_in(model, source.adapter)
    model.eval()
    return model, processor


def load_processor(source: Source, *, num_crops: int | None = None) -> Any:
    """The processor alone; of a hub model only the json files are fetched."""
    family: Any = get_family(source.family)
    crops = num_crops or source.num_crops
    if hasattr(family, "load_processor"):
        return family.load_processor(source.base, num_crops=crops)
    if source.family != DEFAULT_FAMILY:
        return load_model(source, num_crops=num_crops)[1]  # no other way to ask
    from phiv_train.families.phi3_vision.processor import Processor

    return Processor.from_folder(_json_files(source.base), num_crops=crops)


def _json_files(model: str) -> Path:
    """The folder of a model's small files, fetched from the hub where it is no folder."""
    if Path(model).is_dir():
        return Path(model)
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(model, allow_patterns=["*.json"]))
    except Exception as error:  # the hub client raises a dozen types; each means we have no files
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        hint = "Check the name and the network, or pass --model_name_or_path FOLDER, or --family tiny"
        raise EnvironmentProblem(model, f"no such folder, and the hub does not give it ({first})", hint) from error


def _put_in(model: Any, folder: Path) -> None:
    from peft import LoraConfig, inject_adapter_in_model

    from phiv_train.checkpoints.weights import ADAPTER, load_weights

    lora = LoraConfig.from_pretrained(folder)
    inject_adapter_in_model(lora, model, ADAPTER)
    model.peft_config, model._hf_peft_config_loaded = {ADAPTER: lora}, True
    load_weights(model, folder)


def _is_adapter(folder: Path) -> bool:
    return (folder / "adapter_config.json").is_file() and not (folder / "config.json").is_file()


def _base(adapter: Path) -> str:
    if base := _json(adapter / "adapter_config.json").get("base_model_name_or_path"):
        return str(base)
    raise UsageError(str(adapter), "does not say which model it belongs to", "Pass --model_name_or_path too")


def _json(path: Path) -> dict[str, Any]:
    """The object of a json file, empty where there is no file. UsageError when it is broken."""
    with environment_problems(path):
        if not path.is_file():
            return {}
        try:
            return dict(json.loads(path.read_text(encoding="utf-8")))
        except (ValueError, TypeError) as error:
            raise UsageError(str(path), f"is not a JSON object ({error})") from error
