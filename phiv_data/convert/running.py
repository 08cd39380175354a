"""A plan becomes staged files: its tasks done by an engine, what they report assembled, shards built.

job = run_tasks(job, range(len(plan.tasks)), engine, Progress)
assembled, shards = make_files(job, inputs, arrow, engine, Progress)
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import replace
from itertools import islice

from phiv_data.convert.assemble import AssembledFiles, assemble, build_shard, plan_shard_files
from phiv_data.convert.base import Inputs
from phiv_data.convert.staging import StagedDamage, discard
from phiv_data.convert.tasks import ConversionJob, check_images, find_fatal_inputs, run_task
from phiv_data.engines.base import Engine, Killed
from phiv_data.utils.progress import Progress
from phiv_schemas import EnvironmentProblem, PhivError, Reject, ShardInfo
from phiv_schemas.errors import EXIT_DATA

ProgressFactory = Callable[[str, int], Progress]
TaskFunction = Callable[[ConversionJob, int], int]
MAX_REJECTS_SHOWN = 10


class NothingWritten(PhivError):
    """No input gave a row: nothing is published, and a finished output stays.

    `rejects` are the first of them, `warnings` what else is to be said of the source.
    """

    exit_code = EXIT_DATA

    def __init__(
        self, where: str, what: str, hint: str, rejects: tuple[Reject, ...] = (), warnings: tuple[str, ...] = ()
    ) -> None:
        super().__init__(where, what, hint)
        self.rejects, self.warnings = rejects, warnings


def make_files(
    job: ConversionJob, inputs: Inputs, arrow: bool, engine: Engine, progress: ProgressFactory
) -> tuple[AssembledFiles, list[ShardInfo]]:
    """Stage everything but the manifest. What the disk has lost or changed meanwhile is made again, once."""
    for _ in range(2):
        job = run_tasks(job, range(len(job.plan.tasks)), engine, progress)
        try:
            assembled = assemble(job)
            if not any(assembled.task_rows.values()):
                raise _nothing_written(job, inputs, assembled)
            if arrow:  # which reads every image
                return assembled, _run_shards(job, assembled, engine, progress)
            os.sync()
            for _, result in engine.map(check_images, job, range(len(job.plan.tasks))):
                if isinstance(result, Killed):
                    raise EnvironmentProblem("worker processes", "one crashes on staged images", "Free memory")
            return assembled, []
        except StagedDamage as damage:
            damaged = damage
    what = f"does not keep what is written: {damaged} has changed"
    raise EnvironmentProblem(str(job.workspace.stage), what, "Check the disk, or choose another --out_dir")


def _nothing_written(job: ConversionJob, inputs: Inputs, assembled: AssembledFiles) -> NothingWritten:
    """The error, with the reasons; the work is discarded, so that the next run reads every input again."""
    with (job.workspace.stage / "rejects.jsonl").open("rb") as file:
        rejects = tuple(Reject.model_validate_json(line) for line in islice(file, MAX_REJECTS_SHOWN))
    discard(job.workspace)
    counts = [f"{count} {code}" for code, count in sorted(assembled.rejected.items())]
    counts += [f"{assembled.unlabeled} without an answer"] if assembled.unlabeled else []
    hint = "--include_unlabeled keeps rows without an answer" if assembled.unlabeled else "Correct that, then run again"
    what = f"no input gives a row, so nothing is written ({', '.join(counts)} of {job.plan.num_items} inputs)"
    return NothingWritten(str(job.workspace.out_dir), what, hint, rejects, inputs.warnings)


def run_tasks(
    job: ConversionJob,
    tasks: Iterable[int],
    engine: Engine,
    progress: ProgressFactory,
    function: TaskFunction = run_task,
) -> ConversionJob:
    """Run these tasks of the plan. Inputs that kill the process that reads them become rejects and end no run."""
    pending = list(tasks)
    total = sum(job.plan.tasks[index].stop - job.plan.tasks[index].first for index in pending)
    with progress(f"{job.plan.converter.name}: convert", total) as bar:
        while pending:
            killed: dict[int, int | None] = {}
            for index, result in engine.map(function, job, pending):
                if isinstance(result, Killed):
                    killed[index] = result.input
                else:
                    bar.add(result)
            fatal = dict(job.fatal)
            for index, found in engine.map(find_fatal_inputs, (job, killed), list(killed)):
                if isinstance(found, Killed):
                    raise EnvironmentProblem("worker processes", f"task {index} kills them in turns", "Free memory")
                fatal |= found
            job, pending = replace(job, fatal=fatal), list(killed)
    return job


def _run_shards(
    job: ConversionJob, assembled: AssembledFiles, engine: Engine, progress: ProgressFactory
) -> list[ShardInfo]:
    plan = plan_shard_files(job, assembled)
    infos: dict[int, ShardInfo] = {}
    indices = range(len(plan.shards))
    with progress(f"{job.plan.converter.name}: shards", sum(shard.num_rows for shard in plan.shards)) as bar:
        for index, info in engine.map(build_shard, plan, indices):
            if isinstance(info, Killed):
                raise EnvironmentProblem("worker processes", f"one crashes on {plan.shards[index].path}", "Free memory")
            infos[index] = info
            bar.add(info.rows)
    return [infos[index] for index in indices]
