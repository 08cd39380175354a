"""What `phiv-convert` does with its options: convert, here or as a task of an array job, and say what became of it."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

import phiv_schemas
from phiv_data.cli.array import show_status
from phiv_data.cli.convert_options import ConvertCommand, OutputOptions
from phiv_data.cli.engine_options import make_engine
from phiv_data.convert.array import convert_share
from phiv_data.convert.engine import Outcome, read_rejects
from phiv_data.convert.object_store import convert_anywhere
from phiv_data.convert.running import NothingWritten
from phiv_data.engines.array import ArrayEngine
from phiv_data.engines.local import LocalEngine
from phiv_data.stores.address import find_address, spell_place
from phiv_data.utils.terminal import say
from phiv_schemas import Manifest
from phiv_schemas.errors import EXIT_DATA, EXIT_OK, UsageError

SHOWN_REJECTS = 10
SHOWN_GROUPS = 20


def run_convert(command: ConvertCommand) -> int:
    """Convert what a command line names; its exit code."""
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
    _show_outcome(out, outcome, folder)
    return EXIT_DATA if outcome.manifest.accounting.rejected else EXIT_OK


def _show_outcome(out: OutputOptions, outcome: Outcome, folder: Path) -> None:
    """Warnings and the first rejects on stderr, what was written on stdout."""
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


def _convert_share(command: ConvertCommand, engine: ArrayEngine) -> int:
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
