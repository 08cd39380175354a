"""Which family, base model, adapter and image options a model's name stands for.

    source = find_source("out")   # a run's folder, its final/, a checkpoint, an adapter, a hub id, or `tiny`, `tiny:7`
    processor = load_processor(source)               # tokenizer and preprocessor files only, no weights

The family is the one that declares the `model_type` of the model's config.json, in a folder or on the hub. An adapter
folder is enough: it names its base, and the image options it was trained with count.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from phiv_data.utils.image_options import parse_image_options
from phiv_data.utils.json_files import read_object
from phiv_schemas.errors import EnvironmentProblem, UsageError
from phiv_train.families.base import Family, family_names, get_family
from phiv_train.families.hub import model_folder

DEFAULT_FAMILY = "phi3_vision"
# What a family's processor writes beside weights or an adapter, one of them at least.
_PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json")


@dataclass(frozen=True, slots=True)
class Source:
    """`base` is what the family loads, `adapter` a folder put on top. `processor`: the folder, hub id or name whose
    tokenizer and image options count. Where they are saved: `spec_hash` of the processor it was trained with,
    `base_stamp` of the model that the adapter was trained on."""

    family: str
    base: str
    adapter: Path | None = None
    processor: str = ""
    spec_hash: str | None = None
    base_stamp: str | None = None

    @property
    def folder(self) -> Path:
        """Where files about this model belong: its own folder, or the current one for a model without."""
        folder = self.adapter or Path(self.base)
        return folder if folder.is_dir() else Path()


def find_source(model: str | None = None, *, adapter: Path | None = None, family: str | None = None) -> Source:
    """The source of a name. UsageError for a folder that is not an adapter, for one that names no base, and where no
    installed family is for the model."""
    if model == "":
        raise UsageError("model", "its name is empty", "Is a variable of the shell unset?")
    adapter = adapter and model_folder(adapter)
    if model and Path(model).is_dir():
        model = str(model_folder(Path(model)))
    if adapter is None and _is_adapter(folder := Path(model or "")):
        model, adapter = None, folder
    if adapter is not None and not _is_adapter(adapter):
        raise UsageError(str(adapter), "is no adapter (no adapter_config.json)", "Pass a folder phiv-train wrote")
    if model:
        base = model
    elif adapter is None:
        base = get_family(family or DEFAULT_FAMILY).default_model
    elif not (base := str(_json(adapter / "adapter_config.json").get("base_model_name_or_path") or "")):
        raise UsageError(str(adapter), "does not say which model it belongs to", "Pass its base model too")
    saved = adapter or Path(base)
    has_processor = any((saved / name).is_file() for name in _PROCESSOR_FILES)
    metadata = _json(saved / "phiv_checkpoint.json")
    return Source(
        family=family or _json(saved / "phiv_config.json").get("family") or family_of(base),
        base=base,
        adapter=adapter,
        processor=str(saved) if has_processor else base,
        spec_hash=metadata.get("spec"),
        base_stamp=metadata.get("base") if adapter is not None else None,
    )


def family_of(model: str) -> str:
    """The family of a checkpoint folder or hub id by its config.json, of a family's own model (`tiny:7`) by its name.

    UsageError naming the installed families where none is for it; EnvironmentProblem where a hub id's config.json
    cannot be read. A family's published model needs no network.
    """
    families: list[Family] = []
    for name in family_names():
        with suppress(EnvironmentProblem, UsageError):  # a broken plugin must not keep another's model from being found
            families.append(get_family(name))
    if not Path(model).is_dir():
        for family in families:
            if model == family.default_model or model.partition(":")[0] == family.name:
                return family.name
    if Path(model).is_dir():
        model_type = _json(Path(model) / "config.json").get("model_type")
    elif model.count("/") != 1 or model.startswith((".", "/", "~")):
        own = ", ".join(sorted({family.default_model for family in families}))
        raise UsageError(model, "no such folder, and not a hub id (owner/name)", f"Models of the families: {own}")
    else:  # of the hub, from the cache or the network
        from huggingface_hub import hf_hub_download

        try:
            model_type = _json(Path(hf_hub_download(model, "config.json"))).get("model_type")
        except Exception as error:  # the hub client raises a dozen types; each means that the family is not known
            first = (str(error).strip().splitlines() or [type(error).__name__])[0]
            what = f"no such folder, and the hub does not give its config.json ({first})"
            hint = f"Check the name and the network, or pass --family ({', '.join(family_names())})"
            raise EnvironmentProblem(model, what, hint) from error
    found = [family.name for family in families if model_type in family.model_types]
    if len(found) == 1:
        return found[0]
    what = "has no config.json with a model_type" if model_type is None else f"model_type {model_type!r} belongs to "
    if model_type is not None:
        what += f"several installed families ({', '.join(found)})" if found else "no installed family"
    raise UsageError(model, what, f"Pass --family ({', '.join(family_names())})")


def load_processor(source: Source, *, image_options: Mapping[str, Any] | None = None) -> Any:
    """The processor alone; of a hub model only its small files are fetched. `image_options` as for `load_model`."""
    family = get_family(source.family)
    values = parse_image_options(family.name, family.image_options, image_options or {})
    return family.load_processor(source.processor, image_options=values)


def _is_adapter(folder: Path) -> bool:
    return (folder / "adapter_config.json").is_file() and not (folder / "config.json").is_file()


def _json(path: Path) -> dict[str, Any]:
    """The object of a json file, empty where there is no file. UsageError when it is broken."""
    return read_object(path) if path.is_file() else {}
