"""How far an array job is, read from its reports while its tasks run.

>>> find_status(Path("out")).array                                           # doctest: +SKIP
'3,17-19'
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import msgspec

from phiv_data.convert.shared_plan import ArrayJob, find_missing, read_array, read_failures, spell_array
from phiv_data.convert.staging import StagedDamage, Workspace, read_report
from phiv_schemas import Manifest, UsageError


@dataclass(frozen=True, slots=True)
class ArrayStatus:
    """How far an array job is. `failed` and `missing` are tasks of the plan, `array` the tasks to submit again.

    `eta_s` are the seconds that are left at the pace of all tasks so far; None where that is not known.
    """

    name: str
    inputs: int
    inputs_done: int
    rows: int
    rejects: int
    is_finished: bool = False
    tasks: int = 0
    done: int = 0
    failed: dict[int, str] = field(default_factory=dict)
    missing: tuple[int, ...] = ()
    bytes: int = 0
    eta_s: float | None = None
    array: str = ""


def find_status(out_dir: Path) -> ArrayStatus:
    """What the tasks of an array job have done so far. UsageError where there is none, and no finished output."""
    workspace = Workspace(out_dir)
    if (array := read_array(workspace)) is not None:
        return _status_of(workspace, array)
    if (manifest := workspace.finished()) is not None:
        return _finished(manifest)
    raise UsageError(str(out_dir), "holds no array job and no finished conversion", "Check --out_dir")


def _finished(manifest: Manifest) -> ArrayStatus:
    done = manifest.accounting
    inputs = done.inputs - done.duplicates
    return ArrayStatus(manifest.name, inputs, inputs, done.written, sum(done.rejected.values()), is_finished=True)


def _status_of(workspace: Workspace, array: ArrayJob) -> ArrayStatus:
    tasks = {*range(len(array.inputs))}
    reports = {task: _read(workspace, task) for task in sorted(tasks.difference(find_missing(workspace, array)))}
    done = {task: report for task, report in reports.items() if report is not None}
    missing = sorted(tasks.difference(done))
    inputs_done, times = sum(array.inputs[task] for task in done), [report.written_at for report in done.values()]
    left = sum(array.inputs) - inputs_done
    return ArrayStatus(
        name=array.name,
        inputs=sum(array.inputs),
        inputs_done=inputs_done,
        rows=sum(report.rows for report in done.values()),
        rejects=sum(report.rejects for report in done.values()),
        tasks=len(array.inputs),
        done=len(done),
        failed={task: why for task, why in read_failures(workspace).items() if task not in done},
        missing=tuple(missing),
        bytes=sum(report.bytes for report in done.values()),
        eta_s=(max(times) - min(times)) * left / inputs_done if len(times) > 1 else None,
        array=spell_array(missing, array),
    )


# Of a report ------------------------------------------------------------------------------------------------------


class _Media(msgspec.Struct):
    size_bytes: int


class _Row(msgspec.Struct):
    media: list[_Media]


class _Report(msgspec.Struct):
    """What of a task's report is counted."""

    rows: list[_Row]
    rejects: list[msgspec.Raw]


class _Counts(NamedTuple):
    written_at: float
    rows: int
    rejects: int
    bytes: int


def _read(workspace: Workspace, task: int) -> _Counts | None:
    """The counts of a task's report; None where it is damaged, or was taken away just now."""
    path = workspace.task_report(task)
    try:
        report, written_at = msgspec.json.decode(read_report(path), type=_Report), path.stat().st_mtime
    except (FileNotFoundError, StagedDamage):
        return None
    size = sum(media.size_bytes for row in report.rows for media in row.media)
    return _Counts(written_at, len(report.rows), len(report.rejects), size)
