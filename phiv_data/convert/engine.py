"""The engine: raw dataset in, finished dataset out, whatever happens in between.

    plan     which row comes from which input (a pure function of sorted inputs and options)
    tasks    convert inputs, each task idempotent and atomic, on any runner
    collect  jsonl files, rejects, image hashes, from the tasks' reports in order
    shards   Arrow streams of the same rows, on the same runner
    publish  everything into place, manifest last

Stopped anywhere and started again, it ends with the same bytes as never stopped.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from phiv_data.convert.assemble import Collected, build_shard, collect, shard_jobs, write_manifest
from phiv_data.convert.base import Converter, ConverterOptions, Inputs
from phiv_data.convert.plan import Plan, Task, make_plan, spool
from phiv_data.convert.staging import Workspace, begin, discard, locked, publish
from phiv_data.convert.tasks import Job, run_task, try_rows
from phiv_data.utils.process_pool import Killed, default_workers, find_killers, run_isolated, run_local
from phiv_data.utils.progress import Progress
from phiv_schemas import Manifest, PhivError, ShardInfo, UsageError

ProgressFactory = Callable[[str, int], Progress]


@dataclass(frozen=True, slots=True)
class Outcome:
    """The finished dataset, and whether this run made it or found it there."""

    manifest: Manifest
    found_finished: bool
    notices: tuple[str, ...] = ()


def convert(
    options: ConverterOptions,
    out_dir: Path,
    *,
    num_workers: int | None = None,
    arrow: bool = True,
    overwrite: bool = False,
    include_unlabeled: bool = False,
    progress: ProgressFactory = Progress,
) -> Outcome:
    """Convert what `options` name into `out_dir`; a finished output of the same plan is left alone.

    `num_workers` processes; None is one per core, 0 works in this process. `overwrite` makes the output again, or
    replaces that of another plan.
    Raises UsageError, SourceError or EnvironmentProblem. Stopped, it keeps what is done for the next run.
    """
    workers = default_workers() if num_workers is None else num_workers
    if workers < 0:
        raise UsageError("--num_workers", f"must be 0 or more (found {workers})")
    shape = {"arrow": arrow, "include_unlabeled": include_unlabeled}
    with locked(out_dir) as workspace:
        if workspace.staged() is not None:
            publish(workspace)  # an earlier run was stopped while it moved the finished files into place
            overwrite = False
        finished = None if overwrite else workspace.finished()
        if finished and _proves_same(finished, options, shape):
            return _found(workspace, finished)
        inputs, plan = _open(options, workspace)
        if finished:
            _check_same(finished, plan, shape, out_dir)
            return _found(workspace, finished)
        recipe = {"options": plan.converter.options() | shape, "versions": _versions(plan.converter)}
        begin(workspace, plan.sha256, recipe, overwrite=overwrite)
        plan = spool(plan, workspace.items)
        job = _run_tasks(Job(plan, workspace, include_unlabeled), workers, progress)
        collected = collect(job)
        shards = _run_shards(job, collected, workers, progress) if arrow else []
        write_manifest(job, inputs, collected, shards, recipe | {"sharing": getattr(options, "sharing", None)})
        return Outcome(publish(workspace), found_finished=False, notices=inputs.notices)


def _run_tasks(job: Job, num_workers: int, progress: ProgressFactory) -> Job:
    """Run every task. Inputs that kill the process that reads them end up as rejects, not as a dead run."""
    pending = [task.index for task in job.plan.tasks]
    with progress(f"{job.plan.converter.name}: convert", job.plan.num_items) as bar:
        while pending:
            killed: list[Task] = []
            for index, rows in run_isolated(run_task, job, pending, num_workers):
                if isinstance(rows, Killed):
                    killed.append(job.plan.tasks[index])
                else:
                    bar.add(rows)
            for task in killed:
                killers = find_killers(try_rows, (job, task), range(task.first, task.stop))
                job = job.without(job.crashed.union(killers))
            pending = [task.index for task in killed]
    return job


def _run_shards(job: Job, collected: Collected, num_workers: int, progress: ProgressFactory) -> list[ShardInfo]:
    jobs = shard_jobs(job, collected)
    infos: dict[int, ShardInfo] = {}
    indices = range(len(jobs.shards))
    with progress(f"{job.plan.converter.name}: shards", sum(shard.num_rows for shard in jobs.shards)) as bar:
        for index, info in run_local(build_shard, jobs, indices, num_workers):
            infos[index] = info
            bar.add(info.rows)
    return [infos[index] for index in indices]


def _open(options: ConverterOptions, workspace: Workspace) -> tuple[Inputs, Plan]:
    """What the source holds, its items in the plan alone. A source that will not do leaves no scratch behind."""
    try:
        converter = options.open(workspace.scratch)
        inputs = converter.inputs()
        return replace(inputs, items=()), make_plan(converter, inputs)
    except PhivError:
        shutil.rmtree(workspace.scratch, ignore_errors=True)
        raise


def _found(workspace: Workspace, manifest: Manifest) -> Outcome:
    discard(workspace)
    return Outcome(manifest, found_finished=True)


def _proves_same(manifest: Manifest, options: ConverterOptions, shape: dict[str, Any]) -> bool:
    """True when the options alone, without a look at the source, show that `manifest` is theirs."""
    identity = options.identity()
    return identity is not None and manifest.options == identity | shape


def _check_same(manifest: Manifest, plan: Plan, shape: dict[str, Any], out_dir: Path) -> None:
    wanted = plan.converter.options() | shape
    if (manifest.name, manifest.plan_sha256, manifest.options) == (plan.converter.name, plan.sha256, wanted):
        return
    keys = sorted(k for k in wanted.keys() | manifest.options.keys() if wanted.get(k) != manifest.options.get(k))
    raise UsageError(
        str(out_dir),
        f"holds a finished {manifest.name} conversion that differs in {', '.join(keys) or 'its inputs'}",
        "Pass --overwrite to replace it, or another --out_dir",
    )


def _versions(converter: Converter) -> dict[str, str]:
    from importlib.metadata import version

    return {name: version(name) for name in ("phiv", "pyarrow", "pydantic")} | converter.versions()
