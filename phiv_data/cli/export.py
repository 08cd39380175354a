"""`phiv-export FORMAT DATA OUT`: write a converted dataset in an external format.

What the format cannot hold is printed on stderr, with the number of rows that lose it.
Exit codes: 0 written or already there, 1 the dataset is unfinished or damaged, 2 usage, 3 something of the environment
is missing, 130 interrupted (nothing is left behind).
"""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Annotated, Any

import tyro
from tyro.conf import FlagCreatePairsOff, OmitArgPrefixes, OmitSubcommandPrefixes, Positional, arg

from phiv_data.cli.common import run
from phiv_data.export.cauldron import CauldronExport
from phiv_data.export.chat_json import Llava, ShareGpt, Swift, Trl
from phiv_data.export.hub import Hub
from phiv_data.export.webdataset import WebDataset
from phiv_data.stores.address import require_local
from phiv_data.stores.folder_copy import local_copy
from phiv_data.utils.terminal import say
from phiv_schemas.errors import EXIT_OK

FORMATS = (CauldronExport, Hub, Llava, ShareGpt, Swift, Trl, WebDataset)


@dataclasses.dataclass(frozen=True)
class ExportOptions:
    """Which dataset is exported, and where to."""

    data: Annotated[Positional[Path], arg(metavar="DATA")]
    """Folder that phiv-convert wrote, or its address in an object store."""
    out: Annotated[Positional[Path], arg(metavar="OUT")]
    """New folder of the export; it appears when everything is in it. A finished export is left alone."""
    split: tuple[str, ...] = ()
    """Export these splits only."""
    overwrite: bool = False
    """Replace an export made from other data or options; the old one stays until the new one is complete."""


@dataclasses.dataclass(frozen=True)
class ExportCommand:
    """The options of a format, and those of every export, as one flat command line."""

    writer: Any
    options: ExportOptions


def main() -> int:
    """Entry point of `phiv-export`."""
    return run("phiv-export", lambda: _export(_parse(sys.argv[1:])))


def _parse(argv: list[str]) -> ExportCommand:
    commands: dict[str, Any] = {}
    for writer in FORMATS:  # a command for each, under the format's own description
        fields = [("writer", writer), ("options", ExportOptions)]
        namespace = {"__doc__": writer.__doc__}
        commands[writer.name] = dataclasses.make_dataclass(
            writer.__name__, fields, bases=(ExportCommand,), frozen=True, namespace=namespace
        )
    command: ExportCommand = tyro.extras.subcommand_cli_from_dict(
        commands,
        prog="phiv-export",
        description="Write a converted dataset in an external format.",
        args=argv,
        config=(OmitArgPrefixes, OmitSubcommandPrefixes, FlagCreatePairsOff),
    )
    return command


def _export(command: ExportCommand) -> int:
    from tqdm import tqdm

    from phiv_data.export.engine import export  # imports pydantic: not for --help

    options, format = command.options, command.writer.name
    require_local("OUT", options.out)
    with (
        local_copy(options.data, leave_out="images/") as data,
        tqdm(unit=" rows", desc="export", disable=None, leave=False, file=sys.stderr) as bar,
    ):
        done = export(
            command.writer,
            data,
            options.out,
            splits=options.split,
            overwrite=options.overwrite,
            on_rows=bar.update,
        )
    total = sum(done.rows.values())
    for what, count in done.losses.items():
        is_kept = what.startswith("keeps ")  # what other readers do not read
        said = f"{what}: {count}" if is_kept else f"cannot hold {what}: lost in {count}"
        say(f"phiv-export: {format} {said} of {total} rows", to=sys.stderr)
    for warning in done.warnings:
        say(f"phiv-export: {warning}", to=sys.stderr)
    state = "already exported, nothing to do" if done.found_finished else "exported"
    say(f"{options.out}: {state} ({format})")
    for split, rows in done.rows.items():
        say(f"  {split:5} {rows:7} rows {done.images[split]:8} images")
    more = ", ..." if len(done.files) > 4 else ""
    say(f"  {len(done.files)} files: {', '.join(done.files[:4])}{more}")
    return EXIT_OK
