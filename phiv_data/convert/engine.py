"""The engine: raw dataset in, finished dataset out, whatever happens in between.

    plan      which row comes from which input (a pure function of inputs and options)
    tasks     convert inputs, each task idempotent and atomic, on any runner
    assemble  jsonl files, rejects, image hashes, from the tasks' reports in order
    shards    Arrow streams of the same rows, on the same runner
    publish   everything into place, manifest last

Stopped anywhere and started again, it ends with the same bytes as never stopped.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

from phiv_data.convert.assemble import AssembledFiles, assemble, build_shard, plan_shard_files, write_manifest
from phiv_data.convert.base import ConverterOptions, Inputs
from phiv_data.convert.plan import ConversionPlan, ConversionTask, list_inputs, make_plan
from phiv_data.convert.staging import PlanRecord, Workspace, begin, discard, locked, publish
from phiv_data.convert.tasks import ConversionJob, run_task, try_rows
from phiv_data.utils.process_pool import Killed, default_workers, find_killers, run_isolated, run_local
from phiv_data.utils.progress import Progress
from phiv_schemas import Manifest, PhivError, ShardInfo, UsageError

ProgressFactory = Callable[[str, int], Progress]


@dataclass(frozen=True, slots=True)
class Outcome:
    """The finished dataset, and whether this run made it or found it there."""

    manifest: Manifest
    found_finished: bool
    warnings: tuple[str, ...] = ()


def convert(
    options: ConverterOptions,
    out_dir: Path,
    *,
    num_workers: int | None = None,
    arrow: bool = True,
    overwrite: bool = False,
    verify: bool = False,
    include_unlabeled: bool = False,
    progress: ProgressFactory = Progress,
) -> Outcome:
    """Convert what `options` name into `out_dir`; a finished output of the same plan and source is left alone.

    `num_workers` processes; None is one per core, 0 works in this process. `overwrite` makes the output again, or
    replaces that of another plan. `verify` compares the source's files by sha256 instead of size and time.
    Raises UsageError, SourceError or EnvironmentProblem. Stopped, it keeps what is done for the next run.
    """
    workers = default_workers() if num_workers is None else num_workers
    if workers < 0:
        raise UsageError("--num_workers", f"must be 0 or more (found {workers})")
    output_options = {"arrow": arrow, "include_unlabeled": include_unlabeled}
    with locked(out_dir) as workspace:
        if workspace.staged() is not None:
            publish(workspace)  # an earlier run was stopped while it moved the finished files into place
            overwrite = False
        finished = None if overwrite else workspace.finished()
        if finished:  # the options alone, without reading the source, may show that it is theirs
            identity, is_same_code = options.identity(), finished.converter_version == options.version
            if identity is not None and is_same_code and finished.options == identity | output_options:
                discard(workspace)
                return Outcome(finished, found_finished=True)
        inputs, plan = _open(options, workspace, verify=verify)
        converter = plan.converter
        provenance = {  # for the manifest: how the output is made
            "options": converter.options() | output_options,
            "versions": {name: version(name) for name in ("phiv", "pyarrow", "pydantic")} | converter.versions(),
            "converter": f"{type(options).__module__}:{type(options).__qualname__}",
            "converter_version": converter.version,
        }
        wanted = PlanRecord(converter.name, plan.sha256, provenance, plan.source)
        if finished:
            warnings = _check_same(finished, wanted, workspace)
            discard(workspace)
            return Outcome(finished, found_finished=True, warnings=warnings)
        warnings = begin(workspace, wanted, overwrite=overwrite)
        job = _run_tasks(ConversionJob(plan, workspace, include_unlabeled), workers, progress)
        assembled = assemble(job)
        shards = _run_shards(job, assembled, workers, progress) if arrow else []
        write_manifest(job, inputs, assembled, shards, provenance)
        return Outcome(publish(workspace), found_finished=False, warnings=(*warnings, *inputs.warnings))


def _open(options: ConverterOptions, workspace: Workspace, *, verify: bool) -> tuple[Inputs, ConversionPlan]:
    """What the source holds, its items in the plan alone. A source that will not do leaves no files behind."""
    try:
        converter = options.open(workspace.source)
        inputs = list_inputs(converter)
        plan = make_plan(converter, inputs, workspace.items, workspace.source, verify=verify)
        return replace(inputs, items=()), plan
    except PhivError:
        shutil.rmtree(workspace.source, ignore_errors=True)
        raise


def _check_same(manifest: Manifest, wanted: PlanRecord, workspace: Workspace) -> tuple[str, ...]:
    """Warnings about a finished output that is the wanted one. UsageError with the difference where it is another."""
    options, record, hint = wanted.provenance["options"], workspace.finished_record(), ""
    keys = sorted(k for k in options.keys() | manifest.options.keys() if options.get(k) != manifest.options.get(k))
    if manifest.name == wanted.name and not keys and manifest.plan_sha256 == wanted.plan_sha256:
        if record is None or record.plan_sha256 != wanted.plan_sha256:
            what = "the source's files are compared by size only, as there is no record of their times"
            return (f"{what} (--overwrite converts again)",)
        if record.source.is_same(wanted.source):
            return ()
        if wanted.source.sha256 is not None and record.source.sha256 is None:
            keys = ["what is known of its source: it was made without --verify"]
        else:
            keys = ["the files of its source"]
            hint = ". --verify compares their contents" if record.source.sha256 and not wanted.source.sha256 else ""
    elif not keys:
        same_code = manifest.converter_version == wanted.provenance["converter_version"]
        keys = ["its inputs" if same_code else "the version of its converter"]
    raise UsageError(
        str(workspace.out_dir),
        f"holds a finished {manifest.name} conversion that differs in {', '.join(keys)}",
        f"Pass --overwrite to replace it, or another --out_dir{hint}",
    )


def _run_tasks(job: ConversionJob, num_workers: int, progress: ProgressFactory) -> ConversionJob:
    """Run every task. Inputs that kill the process that reads them end up as rejects, not as a dead run."""
    pending = [task.index for task in job.plan.tasks]
    with progress(f"{job.plan.converter.name}: convert", job.plan.num_items) as bar:
        while pending:
            killed: list[ConversionTask] = []
            for index, rows in run_isolated(run_task, job, pending, num_workers):
                if isinstance(rows, Killed):
                    killed.append(job.plan.tasks[index])
                else:
                    bar.add(rows)
            for task in killed:
                killers = find_killers(try_rows, (job, task), range(task.first, task.stop))
                job = replace(job, crashed=job.crashed.union(killers))
            pending = [task.index for task in killed]
    return job


def _run_shards(
    job: ConversionJob, assembled: AssembledFiles, num_workers: int, progress: ProgressFactory
) -> list[ShardInfo]:
    plan = plan_shard_files(job, assembled)
    infos: dict[int, ShardInfo] = {}
    indices = range(len(plan.shards))
    with progress(f"{job.plan.converter.name}: shards", sum(shard.num_rows for shard in plan.shards)) as bar:
        for index, info in run_local(build_shard, plan, indices, num_workers):
            infos[index] = info
            bar.add(info.rows)
    return [infos[index] for index in indices]
