"""Array jobs: many commands convert one source into one output folder, on a disk that their machines share.

    convert_share(options, out_dir, ArrayEngine("17/256"))    # each task: its share, several at once, in any order
    find_status(out_dir)                                      # array_status.py: what is done, what is missing
    convert(options, out_dir, finish=True)                    # the output, when nothing is missing

The first task lists the source and shares the plan; the others find it. Tasks hold the folder's lock together; who
plans or finishes holds it alone. A task that runs twice, even at the same time, writes the same bytes twice.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from phiv_data.convert.base import ConverterOptions
from phiv_data.convert.fingerprint import SourceRoots
from phiv_data.convert.opening import find_provenance, open_source
from phiv_data.convert.plan import ConversionPlan
from phiv_data.convert.running import ProgressFactory, run_tasks
from phiv_data.convert.shared_plan import (
    ArrayJob,
    find_missing,
    forget_failure,
    load_plan,
    note_failure,
    read_array,
    spell_command,
    write_array,
    write_plan,
)
from phiv_data.convert.staging import PlanRecord, Workspace, begin, locked
from phiv_data.convert.tasks import INPUT_TIMEOUT_S, ConversionJob, run_task
from phiv_data.engines.array import ArrayEngine, Share
from phiv_data.engines.local import LocalEngine
from phiv_data.engines.watchdog import check_limit
from phiv_data.utils.progress import Progress
from phiv_schemas import UsageError


@dataclass(frozen=True, slots=True)
class ShareOutcome:
    """What a task of an array has done: `tasks` of the plan are its own; how many of all are missing still."""

    share: Share
    tasks: int
    num_missing: int
    warnings: tuple[str, ...] = ()
    found_finished: bool = False


def convert_share(
    options: ConverterOptions,
    out_dir: Path,
    engine: ArrayEngine,
    *,
    arrow: bool = True,
    include_unlabeled: bool = False,
    verify: bool = False,
    input_timeout: float = INPUT_TIMEOUT_S,
    progress: ProgressFactory = Progress,
) -> ShareOutcome:
    """Do the array task's share of the plan, which the first of them makes.

    Raises UsageError where the folder holds something else, or an array with another command; what `convert` raises.
    """
    check_limit(input_timeout)
    engine.share(recorded=1)  # an array that cannot be is refused before a source is listed
    options, output = options.chosen(), {"arrow": arrow, "include_unlabeled": include_unlabeled}
    command = spell_command(options, output | {"verify": verify})
    with _joined(options, out_dir, command, output, verify) as (workspace, array, plan, warnings):
        if plan is None:
            return ShareOutcome(engine.share(1), 0, 0, found_finished=True)
        share = engine.share(array.array_tasks)
        if array.array_tasks != share.parts:
            write_array(workspace, dataclasses.replace(array, array_tasks=share.parts))
        job = ConversionJob(plan, workspace, include_unlabeled, {}, input_timeout, SourceRoots.of(options))
        tasks = share.of(range(len(plan.tasks)))
        run_tasks(job, tasks, LocalEngine(engine.num_workers), progress, run_noted_task)
        return ShareOutcome(share, len(tasks), len(find_missing(workspace, array)), warnings)


def run_noted_task(job: ConversionJob, index: int) -> int:
    """`run_task`; where it fails, `--status` will say why."""
    try:
        rows = run_task(job, index)
    except Exception as error:
        note_failure(job.workspace, index, error)
        raise
    forget_failure(job.workspace, index)
    return rows


@contextmanager
def _joined(
    options: ConverterOptions, out_dir: Path, command: dict[str, str], output: dict[str, bool], verify: bool
) -> Iterator[tuple[Workspace, ArrayJob, ConversionPlan | None, tuple[str, ...]]]:
    """The plan that is shared, made where it is missing; the lock is held with others inside the block.

    The plan is None where the output is finished.
    """
    warnings, roots = tuple[str, ...](), SourceRoots.of(options)
    while True:
        if read_array(Workspace(out_dir)) is not None:
            with locked(out_dir, shared=True, wait=True) as workspace:
                if (array := read_array(workspace)) is not None:  # it has not been finished meanwhile
                    yield workspace, array, load_plan(workspace, array, command), warnings
                    return
        with locked(out_dir, wait=True) as workspace:
            if read_array(workspace) is not None:  # another task was faster
                continue
            if workspace.is_publishing:
                raise UsageError(str(out_dir), "is complete but for its last step", "Run --finish")
            if workspace.finished() is not None:
                _check_finished(options, workspace, output)
                yield workspace, ArrayJob("", command, ()), None, ()
                return
            _, plan = open_source(options, workspace, roots, verify=verify)
            provenance = find_provenance(options, plan.converter, output)
            wanted = PlanRecord(plan.converter.name, plan.sha256, provenance, plan.source)
            warnings = begin(workspace, wanted, overwrite=False)
            write_plan(workspace, plan, command)


def _check_finished(options: ConverterOptions, workspace: Workspace, output: dict[str, bool]) -> None:
    """UsageError unless the finished output is by this converter with these options, as far as it has them."""
    manifest = workspace.finished()
    assert manifest is not None
    kind = type(options)
    recorded = {field.name for field in dataclasses.fields(options) if field.name in manifest.options}  # type: ignore[arg-type]  # a dataclass
    given = {name: getattr(options, name) for name in recorded} | output
    differing = sorted(name for name, value in given.items() if manifest.options[name] != _plain(value))
    if manifest.converter != f"{kind.__module__}:{kind.__qualname__}" or differing:
        what = f"holds a finished {manifest.name} conversion that differs in {', '.join(differing) or 'its converter'}"
        hint = "Pass another --out_dir, or remove it: an array replaces no output"
        raise UsageError(str(workspace.out_dir), what, hint)


def _plain(value: Any) -> Any:
    """A value of an option as JSON has it."""
    return list(value) if isinstance(value, tuple) else value
