"""`phiv-export FORMAT DATA OUT`: write a converted dataset in a format of another tool.

What the format cannot carry is printed on stderr, with the number of rows that lose it.
Exit codes: 0 written or found, 1 the dataset is unfinished or damaged, 2 usage, 3 something of the environment is
missing, 130 interrupted (nothing is left behind).
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import Positional, arg

from phiv_data.cli.common import run
from phiv_schemas.errors import EXIT_OK

if TYPE_CHECKING:
    from phiv_data.export.engine import Exported


@dataclasses.dataclass(frozen=True)
class ExportOptions:
    """What is exported and where to."""

    data: Annotated[Positional[Path], arg(metavar="DATA")]
    """Folder that phiv-convert wrote."""
    out: Annotated[Positional[Path], arg(metavar="OUT")]
    """New folder of the export; it appears when everything is in it. A finished export is left alone."""
    split: tuple[str, ...] = ()
    """Export these splits only."""
    overwrite: bool = False
    """Replace an export made from other data or options; the old one stays until the new one is complete."""


@dataclasses.dataclass(frozen=True)
class Command:
    """A format's options and where it goes, as one flat command line."""

    writer: Any
    places: ExportOptions


def main() -> int:
    """Entry point of `phiv-export`."""
    return run("phiv-export", lambda: _export(_parse(sys.argv[1:])))


def _parse(argv: list[str]) -> Command:
    import tyro

    config = (tyro.conf.OmitArgPrefixes, tyro.conf.OmitSubcommandPrefixes, tyro.conf.FlagCreatePairsOff)
    commands: dict[str, Callable[..., Command]] = {w.name: _command(w) for w in _writers()}
    command: Command = tyro.extras.subcommand_cli_from_dict(
        commands,
        prog="phiv-export",
        description="Write a converted dataset in a format of another tool.",
        args=argv,
        config=config,
    )
    return command


def _writers() -> list[Any]:
    from phiv_data.export.cauldron import Cauldron
    from phiv_data.export.chat_json import Llava, ShareGpt, Swift, Trl
    from phiv_data.export.hub import Hub
    from phiv_data.export.webdataset import WebDataset

    return [Cauldron, Hub, Llava, ShareGpt, Swift, Trl, WebDataset]


def _command(writer: type[Any]) -> type[Command]:
    """`Command` for one format, under the format's own description."""
    return dataclasses.make_dataclass(
        writer.__name__,
        [("writer", writer), ("places", ExportOptions)],
        bases=(Command,),
        frozen=True,
        namespace={"__doc__": writer.__doc__},
    )


def _export(command: Command) -> int:
    from tqdm import tqdm

    from phiv_data.export.engine import export

    places = command.places
    with tqdm(unit=" rows", desc="export", disable=None, leave=False, file=sys.stderr) as bar:
        done = export(
            command.writer,
            places.data,
            places.out,
            splits=places.split,
            overwrite=places.overwrite,
            on_rows=bar.update,
        )
    _report(done, command.writer.name, places.out)
    return EXIT_OK


def _report(done: Exported, format: str, out: Path) -> None:
    total = sum(done.rows.values())
    for what, count in done.losses.items():
        sys.stderr.write(f"phiv-export: {format} cannot carry {what}: lost in {count} of {total} rows\n")
    for notice in done.notices:
        sys.stderr.write(f"phiv-export: {notice}\n")
    state = "already exported, nothing to do" if done.found_finished else "exported"
    sys.stdout.write(f"{out}: {state} ({format})\n")
    for split, rows in done.rows.items():
        sys.stdout.write(f"  {split:5} {rows:7} rows {done.images[split]:8} images\n")
    sys.stdout.write(
        f"  {len(done.files)} files: {', '.join(done.files[:4])}{', ...' if len(done.files) > 4 else ''}\n"
    )
