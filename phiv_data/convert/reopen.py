"""Compare a raw source with what a finished dataset was converted from, by the plan's fingerprint in its manifest."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Literal, NamedTuple

from phiv_data.convert.base import ConverterOptions
from phiv_data.convert.plan import list_inputs, make_plan
from phiv_data.storage.record_errors import short_repr
from phiv_data.utils.plugins import CONVERTERS, load_plugins
from phiv_schemas import Manifest, PhivError


class SourceComparison(NamedTuple):
    """What is known of a source: it gives the same inputs, others, or cannot be compared, and why.

    `no converter`: the manifest names none, so phiv-convert did not write it.
    """

    status: Literal["same", "changed", "unknown", "no converter"]
    reason: str = ""


def compare_source(manifest: Manifest, sources: Sequence[Path], work_dir: Path) -> SourceComparison:
    """Whether the inputs in `sources` are those that the dataset was made from: the rows' bytes, the files' sizes.

    The first of `sources` is the converter's `source`, the others are its `images`. `work_dir` is a folder for what
    the converter unpacks. The bytes of image files are for the caller to compare; they are named in the dataset.
    """
    if manifest.converter is None:
        return SourceComparison("no converter")
    # Only what is installed under that name is imported: a manifest is data, and may name anything.
    names = [point.name for point in entry_points(group=CONVERTERS) if point.value == manifest.converter]
    if not names:
        return SourceComparison("unknown", f"its converter {short_repr(manifest.converter)} is not installed")
    plugins = load_plugins(CONVERTERS, names[0])
    if (options_class := plugins.loaded.get(names[0])) is None:
        return SourceComparison("unknown", plugins.broken[names[0]])
    if manifest.options.get("source") == "demo":
        return SourceComparison("unknown", "it was made with --demo")
    try:
        converter = _rebuild_options(options_class, manifest.options, sources).open(work_dir)
        found = converter.options()
        if converter.version != manifest.converter_version:
            return SourceComparison("unknown", "the converter has changed since")
        recorded = {key: value for key, value in manifest.options.items() if key in found}
        if found != recorded:
            keys = sorted(key for key in found if key not in recorded or found[key] != recorded[key])
            # A flag is what the user has chosen; other options (hashes of files) were found in the source.
            flags = {field.name for field in dataclasses.fields(options_class) if "Path" not in str(field.type)}
            is_source = all(key in manifest.options and key not in flags for key in keys)
            return SourceComparison("changed" if is_source else "unknown", f"it differs in {', '.join(keys)}")
        # Sizes are all that the plan knows of files: nothing is read, wherever they are.
        plan = make_plan(converter, list_inputs(converter, sources[0]), work_dir / "items", work_dir / "none")
    except PhivError as error:
        return SourceComparison("unknown", str(error))
    except Exception as error:  # whatever a third party's converter raises
        return SourceComparison("unknown", f"the converter fails on it ({type(error).__name__}: {error})")
    if plan.sha256 == manifest.plan_sha256:
        return SourceComparison("same")
    counts = f"{plan.num_items} inputs now, {manifest.accounting.inputs - manifest.accounting.duplicates} then"
    return SourceComparison("changed", f"its inputs differ ({counts})")


def _rebuild_options(cls: type[Any], recorded: dict[str, Any], sources: Sequence[Path]) -> ConverterOptions:
    """The converter's options as the manifest has them, with the paths given. None means the default."""
    values: dict[str, Any] = {}
    for field in dataclasses.fields(cls):
        value = recorded.get(field.name)
        if value is not None and field.init and "Path" not in str(field.type):
            values[field.name] = tuple(value) if isinstance(value, list) else value
    values["source"] = sources[0]
    if len(sources) > 1:
        several = "tuple" in str(next(field.type for field in dataclasses.fields(cls) if field.name == "images"))
        values["images"] = tuple(sources[1:]) if several else sources[1]
    options: ConverterOptions = cls(**values)
    return options
