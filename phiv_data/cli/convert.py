"""`phiv-convert DATASET --out_dir OUT`: convert a raw dataset.

Exit codes: 0 everything written, 1 some inputs rejected, 2 usage, 3 something of the environment is missing,
130 interrupted (the same command resumes).
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Iterable
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_type_hints

import phiv_schemas
from phiv_data.cli.common import run
from phiv_data.cli.engine_options import EngineOptions, make_engine
from phiv_data.convert.base import ConverterOptions
from phiv_data.stores.address import find_address, spell_place
from phiv_data.utils.plugins import CONVERTERS, load_plugins
from phiv_data.utils.terminal import say
from phiv_schemas.errors import EXIT_DATA, EXIT_OK, UsageError

if TYPE_CHECKING:
    from phiv_data.engines.array import ArrayEngine
    from phiv_schemas import Manifest

SHOWN_REJECTS = 10
SHOWN_GROUPS = 20


@dataclasses.dataclass(frozen=True, kw_only=True)
class OutputOptions(EngineOptions):
    """Where the output goes and how it is made; only --no_arrow and --include_unlabeled change what it holds."""

    out_dir: Path
    """Folder of the output, or an address such as s3://bucket/folder. A finished one is left alone; an unfinished one
    is resumed."""
    task: str | None = None
    """With --engine array: which part of the plan is done here, as 17/256; counted from 0 or from 1. Default: as
    Slurm's variables say."""
    finish: bool = False
    """Make the output of what the tasks of an array job have done; refused while any is missing."""
    status: bool = False
    """Print how far the array job in the output folder is, and convert nothing."""
    format: Literal["text", "json"] = "text"
    """How --status is printed."""
    no_arrow: bool = False
    """Write the jsonl files and images only."""
    include_unlabeled: bool = False
    """Write rows without an answer too, with assistant null; by default they are left out and counted."""
    input_timeout: float = 300.0
    """Reject an input whose reading takes longer than this many seconds, alone and again; 0 waits for ever."""
    overwrite: bool = False
    """Replace an output made from other options or inputs; the old one stays until the new one is complete."""
    update: bool = False
    """As --overwrite, with the same result, but of a finished output keep the rows of inputs that have not changed."""
    retry_failed: bool = False
    """As --update, also where nothing has changed: inputs that were rejected are converted again, the others kept."""
    verify: bool = False
    """Compare the source's files with those of an earlier run by sha256, instead of by size and time."""


@dataclasses.dataclass(frozen=True)
class ConvertCommand:
    """A dataset's options and the output's, as one flat command line."""

    dataset: Any
    output: OutputOptions


def main() -> int:
    """Entry point of `phiv-convert`."""
    return run("phiv-convert", lambda: _convert(_parse(sys.argv[1:])))


def _parse(argv: list[str]) -> ConvertCommand:
    import tyro

    plugins = load_plugins(CONVERTERS)
    for name, options in list(plugins.loaded.items()):
        if (reason := _why_no_options(options)) is not None:
            del plugins.loaded[name]
            plugins.broken[name] = f"{name}: {reason}"
    for line in plugins.broken.values():
        say(f"phiv-convert: plugin left out: {line}", to=sys.stderr)
    if argv and not argv[0].startswith("-") and argv[0] not in plugins.loaded:
        close = get_close_matches(argv[0], plugins.loaded, n=1)
        hint = f"Did you mean {close[0]!r}?" if close else f"There are: {', '.join(sorted(plugins.loaded))}"
        raise UsageError(argv[0], "is no converter", hint)
    # One sub-command per converter, under the description of its options class.
    commands: dict[str, Callable[..., ConvertCommand]] = {
        name: dataclasses.make_dataclass(
            options.__name__,
            [("dataset", options), ("output", OutputOptions)],
            bases=(ConvertCommand,),
            frozen=True,
            namespace={"__doc__": options.__doc__},
        )
        for name, options in plugins.loaded.items()
    }
    command: ConvertCommand = tyro.extras.subcommand_cli_from_dict(
        commands,
        prog="phiv-convert",
        description="Convert a raw dataset to conversations.",
        args=argv,
        config=(tyro.conf.OmitArgPrefixes, tyro.conf.OmitSubcommandPrefixes, tyro.conf.FlagCreatePairsOff),
    )
    return command


def _why_no_options(options: object) -> str | None:
    """Why a plugin cannot be a sub-command: one that is none would end the others' command line, too."""
    if not (isinstance(options, type) and dataclasses.is_dataclass(options) and issubclass(options, ConverterOptions)):
        return "is no dataclass that is a ConverterOptions or a Converter"
    try:
        get_type_hints(options)
    except Exception as error:  # whatever a third party's annotation raises
        return f"its fields have types that cannot be read ({type(error).__name__}: {error})"
    return None


def _convert(command: ConvertCommand) -> int:
    # These import pydantic and pyarrow: not for --help.
    from phiv_data.cli.array import show_status
    from phiv_data.convert.engine import read_rejects
    from phiv_data.convert.object_store import convert_anywhere
    from phiv_data.convert.running import NothingWritten
    from phiv_data.engines.array import ArrayEngine
    from phiv_data.engines.local import LocalEngine

    out = command.output
    if out.format != "text" and not out.status:
        raise UsageError("--format", "is for --status", "Leave it out")
    if find_address(out.out_dir) and (out.status or out.finish or out.engine == "array"):
        what = f"an array job works in a folder that its machines share, not at {spell_place(out.out_dir)!r}"
        raise UsageError("--out_dir", what, "Pass such a folder")
    if out.status:
        return show_status(out.out_dir, out.format)
    engine = make_engine(out)
    if isinstance(engine, ArrayEngine):
        if not out.finish:
            return _convert_share(command, engine)
        engine = LocalEngine(engine.num_workers)
    try:
        outcome, folder = convert_anywhere(
            command.dataset,
            out.out_dir,
            engine=engine,
            arrow=not out.no_arrow,
            overwrite=out.overwrite,
            update=out.update,
            retry_failed=out.retry_failed,
            verify=out.verify,
            finish=out.finish,
            include_unlabeled=out.include_unlabeled,
            input_timeout=out.input_timeout,
        )
    except NothingWritten as error:
        for warning in error.warnings:
            say(f"phiv-convert: {warning}", to=sys.stderr)
        _show_rejects(error.rejects)
        raise
    for warning in outcome.warnings:
        say(f"phiv-convert: {warning}", to=sys.stderr)
    done = outcome.manifest.accounting
    if done.rejected:
        path = f"{spell_place(out.out_dir)}/{outcome.manifest.rejects.path}"
        lines = read_rejects(folder / outcome.manifest.rejects.path, outcome.manifest.rejects)
        _show_rejects(phiv_schemas.Reject.model_validate_json(line) for line in lines[:SHOWN_REJECTS])
        if len(lines) > SHOWN_REJECTS:
            say(f"phiv-convert: {len(lines) - SHOWN_REJECTS} more in {path}", to=sys.stderr)
    state = "already converted, nothing to do" if outcome.found_finished else "converted"
    say(f"{spell_place(out.out_dir)}: {state} ({outcome.manifest.source})")
    if outcome.num_kept is not None:
        total = done.inputs - done.duplicates
        made = total - outcome.num_kept
        say(f"  {made} of {total} inputs new, changed or rejected before, {outcome.num_kept} kept")
    _show_counts(outcome.manifest, out.out_dir)
    if outcome.first_unlabeled is not None:
        first = outcome.first_unlabeled
        say(f"  {done.unlabeled} without an answer (first: {first!r}); --include_unlabeled keeps them")
    return EXIT_DATA if done.rejected else EXIT_OK


def _convert_share(command: ConvertCommand, engine: ArrayEngine) -> int:
    from phiv_data.convert.array import convert_share

    out = command.output
    if out.overwrite or out.update or out.retry_failed:
        what = "does not go with --overwrite and --update, as each task would undo what others have done"
        raise UsageError("--engine array", what, "Leave them out, or use another engine")
    done = convert_share(
        command.dataset,
        out.out_dir,
        engine,
        arrow=not out.no_arrow,
        include_unlabeled=out.include_unlabeled,
        verify=out.verify,
        input_timeout=out.input_timeout,
    )
    for warning in done.warnings:
        say(f"phiv-convert: {warning}", to=sys.stderr)
    if done.found_finished:
        say(f"{out.out_dir}: already converted, nothing to do")
        return EXIT_OK
    say(f"{out.out_dir}: share {done.share.part}/{done.share.parts} done, {done.tasks} tasks")
    left = f"{done.num_missing} tasks of others are missing" if done.num_missing else "nothing is missing: --finish"
    say(f"  {left}")
    return EXIT_OK


def _show_rejects(rejects: Iterable[phiv_schemas.Reject]) -> None:
    for reject in rejects:
        say(f"phiv-convert: {reject.input}: rejected, {reject.reason}", to=sys.stderr)


def _show_counts(manifest: Manifest, out_dir: Path) -> None:
    """Rows by split, what became of every input, and inputs that are there more than once."""
    a = manifest.accounting
    for split in manifest.splits:
        say(
            f"  {split.name:5} {split.rows:7} rows {split.num_images:8} images {len(split.shards):3} shards"
            f"  {split.jsonl.path}"
        )
    rejected = ", ".join(f"{count} {code}" for code, count in a.rejected.items()) or "0"
    say(
        f"  {a.inputs} inputs = {a.written} written + {rejected} rejected"
        f" + {a.unlabeled} unlabeled + {a.duplicates} duplicates"
    )
    if a.absent:
        say(f"  {a.absent} listed inputs have no file in the source")
    for group in manifest.duplicate_inputs[:SHOWN_GROUPS]:
        say(f"  given again, written once: {' = '.join(group)}")
    for group in manifest.identical_inputs[:SHOWN_GROUPS]:
        say(f"  identical bytes, all kept: {' = '.join(group)}")
    if max(len(manifest.duplicate_inputs), len(manifest.identical_inputs)) > SHOWN_GROUPS:
        say(f"  all of them are in {spell_place(out_dir)}/manifest.json")
