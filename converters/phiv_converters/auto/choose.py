"""The command that reads a source, found by its shape.

phiv-convert auto --source photos --out_dir out
phiv-convert: photos: images in 4 folders: phiv-convert folder --source photos
"""

from __future__ import annotations

import sys
from importlib.metadata import entry_points
from pathlib import Path

from phiv_data.convert.base import ConverterOptions
from phiv_data.export.record import read_export
from phiv_data.formats.recognise import Recognised, recognise
from phiv_data.utils.terminal import say
from phiv_schemas.errors import SourceError


def choose_options(source: Path) -> ConverterOptions:
    """The options of that command for `source`, after a line that says which. SourceError where none is known."""
    if not source.exists():
        raise SourceError("--source", f"no such file or folder {str(source)!r}", "Check the path")
    export = read_export(source)
    found = Recognised(export.format, "an export of phiv") if export else recognise(source)
    if found is None:
        what = "is of no shape that a command of phiv-convert reads"
        raise SourceError(str(source), what, "docs/own_data.md shows them")
    say(f"phiv-convert: {source}: {found.what}: phiv-convert {found.arguments(source)}", to=sys.stderr)
    (point,) = entry_points(group="phiv.converters", name=found.command)
    options: ConverterOptions = point.load()(source=source, **({"labels": found.labels} if found.labels else {}))
    return options
