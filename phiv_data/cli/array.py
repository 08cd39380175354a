"""`phiv-convert --engine array` and `--status`: one task of an array job, and how far the job is."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from phiv_data.convert.array_status import ArrayStatus, find_status
from phiv_data.convert.shared_plan import spell_ranges
from phiv_data.utils.terminal import say
from phiv_schemas.errors import EXIT_DATA, EXIT_OK

SHOWN_FAILURES = 10


def show_status(out_dir: Path, form: str) -> int:
    """Print how far the job is. EXIT_DATA where tasks have failed."""
    status = find_status(out_dir)
    if form == "json":
        say(json.dumps(dataclasses.asdict(status)))
    else:
        say(*_lines(out_dir, status))
    return EXIT_DATA if status.failed else EXIT_OK


def _lines(out_dir: Path, status: ArrayStatus) -> list[str]:
    if status.is_finished:
        return [f"{out_dir}: finished, {status.rows} rows, {status.rejects} rejects ({status.name})"]
    never_begun = [task for task in status.missing if task not in status.failed]
    lines = [
        f"{out_dir}: {status.done} of {status.tasks} tasks done ({status.name})",
        f"  {status.inputs_done} of {status.inputs} inputs: {status.rows} rows, {status.rejects} rejects,"
        f" {status.bytes / 2**20:.1f} MiB of images",
    ]
    for task, why in list(status.failed.items())[:SHOWN_FAILURES]:
        lines.append(f"  task {task} failed: {why}")
    if len(status.failed) > SHOWN_FAILURES:
        lines.append(f"  {len(status.failed) - SHOWN_FAILURES} more failed")
    if never_begun:
        lines.append(f"  missing tasks: {spell_ranges(never_begun)}")
    if status.eta_s:
        lines.append(f"  about {status.eta_s / 60:.0f} min left at this pace")
    if status.missing:
        lines += [f"  to submit again: --array={status.array}"] if status.array else []
    else:
        lines.append("  nothing is missing: --finish makes the output")
    return lines
