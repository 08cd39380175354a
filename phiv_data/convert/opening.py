"""Opens a source for the output that it goes to: the converter, what it lists, the plan."""

from __future__ import annotations

import shutil
from contextlib import suppress
from dataclasses import replace
from importlib.metadata import entry_points, version
from pathlib import Path
from typing import Any

from phiv_data.convert.base import Converter, ConverterOptions, Inputs
from phiv_data.convert.fingerprint import SourceRoots
from phiv_data.convert.plan import ConversionPlan, list_inputs, make_plan
from phiv_data.convert.shared_plan import forget_plan
from phiv_data.convert.staging import Workspace
from phiv_data.formats.recognise import recognise
from phiv_data.utils.plugins import CONVERTERS
from phiv_schemas import PhivError, SourceError


def find_provenance(options: ConverterOptions, converter: Converter, output_options: dict[str, bool]) -> dict[str, Any]:
    """For the manifest: how the output is made."""
    return {
        "options": converter.options() | output_options,
        "versions": {name: version(name) for name in ("phiv", "pyarrow", "pydantic")} | converter.versions(),
        "converter": f"{type(options).__module__}:{type(options).__qualname__}",
        "converter_version": converter.version,
    }


def open_source(
    options: ConverterOptions, workspace: Workspace, roots: SourceRoots, *, verify: bool
) -> tuple[Inputs, ConversionPlan]:
    """What the source holds, its items in the plan alone. A source that will not do leaves no files behind."""
    forget_plan(workspace)  # its items are written again
    try:
        converter = options.open(workspace.source)
        inputs = list_inputs(converter, getattr(options, "source", None))
        folders = *roots.folders(), workspace.source.absolute()
        plan = make_plan(converter, inputs, workspace.items, workspace.source, verify=verify, roots=folders)
    except SystemExit as stop:
        what = f"the converter ends the program while it lists the source (exit {stop.code})"
        raise SourceError(type(options).__name__, what, "Tell its author") from stop
    except PhivError as error:
        shutil.rmtree(workspace.source, ignore_errors=True)
        roots.check()
        if isinstance(error, SourceError) and (way_out := _name_other_command(options, error)):
            raise SourceError(error.where, error.what, way_out) from error
        raise
    roots.check()  # away while it was listed, it would look like one that lacks files
    return replace(inputs, items=()), plan


def _name_other_command(options: ConverterOptions, error: SourceError) -> str:
    """The error's hint with the command that reads the source, where that is another one; "" where none is known."""
    source = getattr(options, "source", None)
    if not isinstance(source, Path) or "phiv-convert" in error.hint:
        return ""
    with suppress(PhivError, OSError):
        found = recognise(source)
        of_command = {point.value for point in entry_points(group=CONVERTERS, name=found.command)} if found else set()
        if found and f"{type(options).__module__}:{type(options).__qualname__}" not in of_command:
            return f"{error.hint}. It reads as {found.what}: phiv-convert {found.arguments(source)}".lstrip(". ")
    return ""
