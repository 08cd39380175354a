"""The engine: raw dataset in, finished dataset out, whatever happens in between.

    plan      which row comes from which input (a pure function of inputs and options)
    tasks     convert inputs, each task idempotent and atomic, on any runner
    assemble  jsonl files, rejects, image hashes, from the tasks' reports in order
    shards    Arrow streams of the same rows, on the same runner
    publish   everything into place, manifest last

Stopped anywhere and started again, it ends with the same bytes as never stopped.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from phiv_data.convert.assemble import AssembledFiles, write_manifest
from phiv_data.convert.base import ConverterOptions
from phiv_data.convert.fingerprint import SourceRoots
from phiv_data.convert.kept import MADE_OTHERWISE, KeptRows, find_kept, spell_basis, write_index
from phiv_data.convert.opening import find_provenance, open_source
from phiv_data.convert.plan import ConversionPlan
from phiv_data.convert.running import NothingWritten as NothingWritten
from phiv_data.convert.running import ProgressFactory, make_files
from phiv_data.convert.shared_plan import check_finishable
from phiv_data.convert.staging import (
    IMAGE_SIZES,
    PlanRecord,
    Workspace,
    begin,
    discard,
    locked,
    publish,
    take_back_if_damaged,
)
from phiv_data.convert.tasks import INPUT_TIMEOUT_S, ConversionJob
from phiv_data.engines.base import Engine
from phiv_data.engines.local import LocalEngine
from phiv_data.engines.watchdog import check_limit
from phiv_data.storage.damage import dataset_files, find_damage
from phiv_data.utils.progress import Progress
from phiv_schemas import FileInfo, Manifest, ShardError, UsageError


@dataclass(frozen=True, slots=True)
class Outcome:
    """The finished dataset, and whether this run made it or found it there."""

    manifest: Manifest
    found_finished: bool
    warnings: tuple[str, ...] = ()
    num_kept: int | None = None
    """With `update`, how many inputs of an earlier output were kept; None where nothing could be."""
    first_unlabeled: str | None = None
    """The first input without an answer, where this run left some out."""


def convert(
    options: ConverterOptions,
    out_dir: Path,
    *,
    engine: Engine | None = None,
    num_workers: int | None = None,
    arrow: bool = True,
    overwrite: bool = False,
    update: bool = False,
    retry_failed: bool = False,
    verify: bool = False,
    finish: bool = False,
    include_unlabeled: bool = False,
    input_timeout: float = INPUT_TIMEOUT_S,
    is_partial: bool = False,
    progress: ProgressFactory = Progress,
) -> Outcome:
    """Convert what `options` name into `out_dir`; a finished output of the same plan and source is left alone.

    `engine` does the work; None is this machine with `num_workers` processes (None: one per core, 0: this process).
    `overwrite` makes the output again, or replaces that of another plan; `update` replaces it too, but converts only
    inputs that are new, have changed or were rejected, with the same result. Where nothing has changed it does nothing;
    `retry_failed` converts those that were rejected even then. `verify` compares the source's files by sha256 instead
    of size and time. `finish` makes the output of what the tasks of an array job have done, and nothing else. An input
    that takes longer than `input_timeout` seconds of its own (`engines.watchdog`) is rejected; 0 is without a limit.
    `is_partial`: a finished output may lack files here, because it is kept in an object store.

    Raises UsageError, SourceError, EnvironmentProblem, ShardError for a finished output that is damaged, or
    NothingWritten where no input gives a row. Stopped, it keeps what is done for the next run.
    """
    check_limit(input_timeout)
    engine = engine or LocalEngine(num_workers)
    update = update or retry_failed
    if finish and (overwrite or update):
        raise UsageError("--finish", "does not go with --overwrite and --update: it converts nothing", "Leave them out")
    if overwrite and update:
        raise UsageError("--update", "cannot be combined with --overwrite, which converts all again", "Pass one")
    with locked(out_dir, wait=finish) as workspace:
        if workspace.is_publishing and take_back_if_damaged(workspace) is None:  # an earlier run was stopped there
            publish(workspace)
            overwrite = False
        finished = None if overwrite else workspace.finished()
        asked = _Asked(options.chosen(), arrow, include_unlabeled, overwrite, update, retry_failed, finish, is_partial)
        return asked.make(workspace, finished, engine, verify, input_timeout, progress)


@dataclass(frozen=True, slots=True)
class _Asked:
    """What `convert` is asked for."""

    options: ConverterOptions
    arrow: bool
    include_unlabeled: bool
    overwrite: bool
    update: bool
    retry_failed: bool
    finish: bool
    is_partial: bool

    def make(
        self,
        workspace: Workspace,
        finished: Manifest | None,
        engine: Engine,
        verify: bool,
        input_timeout: float,
        progress: ProgressFactory,
    ) -> Outcome:
        """Make the output, or find that `finished` is it."""
        roots = SourceRoots.of(self.options)
        output_options = {"arrow": self.arrow, "include_unlabeled": self.include_unlabeled}
        damage = self._find_damage(workspace, finished)
        if finished and self._is_theirs(finished, output_options) and not self._retries(finished) and damage is None:
            discard(workspace)
            return Outcome(finished, found_finished=True)
        if self.finish and not finished:
            check_finishable(workspace)
        inputs, plan = open_source(self.options, workspace, roots, verify=verify)
        provenance = find_provenance(self.options, plan.converter, output_options)
        wanted = PlanRecord(plan.converter.name, plan.sha256, provenance, plan.source)
        basis = spell_basis(plan.converter, provenance, (*roots.folders(), workspace.source.absolute()))
        if finished and (warnings := self._warnings_if_same(workspace, finished, wanted, damage)) is not None:
            return Outcome(finished, found_finished=True, warnings=warnings)
        kept = find_kept(workspace, plan, basis) if finished else ""
        if self.finish:
            check_finishable(workspace, wanted, plan)
        warnings = begin(workspace, wanted, overwrite=self.overwrite or finished is not None)
        if isinstance(kept, str) and finished:
            warnings += (_explain_again(finished, wanted, kept),)
        if damage:
            warnings += (f"the earlier output is damaged ({damage}): what has changed in it is made again",)
        taken = kept if isinstance(kept, KeptRows) else None
        job = ConversionJob(plan, workspace, self.include_unlabeled, {}, input_timeout, roots, taken)
        assembled, shards = make_files(job, inputs, self.arrow, engine, progress)
        write_index(workspace, plan, basis)
        write_manifest(job, inputs, assembled, shards, provenance)
        return _outcome(job, assembled, publish(workspace), (*warnings, *inputs.warnings))

    def _find_damage(self, workspace: Workspace, finished: Manifest | None) -> str | None:
        """What the finished output has lost, by the sizes of its files."""
        if finished is None or self.is_partial:
            return None
        return find_damage(workspace.out_dir, dataset_files(workspace.out_dir, finished, workspace.kept / IMAGE_SIZES))

    def _is_theirs(self, finished: Manifest, output_options: dict[str, bool]) -> bool:
        """Whether the options alone, without reading the source, show that a finished output is theirs."""
        identity, is_same_code = self.options.identity(), finished.converter_version == self.options.version
        return identity is not None and is_same_code and finished.options == identity | output_options

    def _retries(self, finished: Manifest) -> bool:
        return self.retry_failed and bool(finished.accounting.rejected)

    def _warnings_if_same(
        self, workspace: Workspace, finished: Manifest, wanted: PlanRecord, damage: str | None
    ) -> tuple[str, ...] | None:
        """The warnings of a finished output that is the wanted one; None where it is to be made again.

        UsageError where it is another one, and not to be replaced; ShardError where it is damaged.
        """
        difference, warnings = _compare(finished, wanted, workspace)
        if difference and not (self.update and finished.converter == wanted.provenance["converter"]):
            raise difference  # the output of another converter was not meant
        if difference or (self.update and (warnings or damage)) or self._retries(finished):
            return None
        discard(workspace)
        if damage:
            raise _damaged(workspace.out_dir, damage)
        return warnings


def _damaged(out_dir: Path, damage: str) -> ShardError:
    hint = f"--update makes it whole, --overwrite converts all again; phiv-validate {out_dir} reads every byte"
    return ShardError(str(out_dir), f"a finished conversion is damaged: {damage}", hint)


def _outcome(job: ConversionJob, assembled: AssembledFiles, manifest: Manifest, warnings: tuple[str, ...]) -> Outcome:
    """What a run that wrote a dataset is to say of it."""
    warnings += tuple(_explain_lost_rows(job.plan, assembled))
    num_kept = assembled.num_kept if job.kept else None
    return Outcome(manifest, False, warnings, num_kept, assembled.first_unlabeled)


def _explain_lost_rows(plan: ConversionPlan, assembled: AssembledFiles) -> Iterator[str]:
    """A line for each split that its rejects left empty, or with another share of the rows than was planned.

    Splits are chosen before an input is read. A published test has no answers: that it is left out needs no line.
    """
    planned = Counter[str]()
    for task in plan.tasks:
        planned[task.split] += task.stop - task.first
    num_rows = sum(split.rows for split in assembled.splits.values())
    num_labelled = planned.total() - assembled.unlabeled
    way_out = "Correct them, then pass --update; or phiv-split makes other splits of the output"
    for name, inputs in planned.items():
        rows, rejected, unlabeled = (
            assembled.splits[name].rows,
            assembled.rejected_of[name],
            assembled.unlabeled_of[name],
        )
        lost = f"rejected: {rejected} of its {inputs} inputs" + f", without an answer: {unlabeled}" * bool(unlabeled)
        if not rows and (name != "test" or rejected):
            yield f"{name} has no rows ({lost})" + f". {way_out}" * bool(rejected)
        elif rows and name != "train" and assembled.rejected:
            share, asked = rows / num_rows, (inputs - unlabeled) / num_labelled
            if not asked / 2 <= share <= asked * 2:
                yield f"{name} has {share:.1%} of the rows, {asked:.1%} were planned ({lost}). {way_out}"


def read_rejects(path: Path, info: FileInfo) -> list[bytes]:
    """The lines of a finished output's rejects.jsonl. ShardError where it is not as the manifest says."""
    data = path.read_bytes() if path.is_file() else None
    if data is None or sha256(data).hexdigest() != info.sha256:
        what = "is missing" if data is None else "was changed: its sha256 is not the manifest's"
        raise ShardError(str(path), what, "--overwrite converts again")
    return data.splitlines()


def _compare(manifest: Manifest, wanted: PlanRecord, workspace: Workspace) -> tuple[UsageError | None, tuple[str, ...]]:
    """The error that says how a finished output differs from the wanted one; None, and warnings, where it does not."""
    keys, record, hint = _differing_options(manifest, wanted), workspace.finished_record(), ""
    if manifest.name == wanted.name and not keys and manifest.plan_sha256 == wanted.plan_sha256:
        if record is None or record.plan_sha256 != wanted.plan_sha256:
            what = "the source's files are compared by size only, as there is no record of their times"
            return None, (f"{what} (--overwrite converts again)",)
        if record.source.is_same(wanted.source):
            return None, ()
        if wanted.source.sha256 is not None and record.source.sha256 is None:
            keys = ["what is known of its source: it was made without --verify"]
        else:
            keys = ["the files of its source"]
            hint = ". --verify compares their contents" if record.source.sha256 and not wanted.source.sha256 else ""
    elif not keys:
        same_code = manifest.converter_version == wanted.provenance["converter_version"]
        keys = ["its inputs" if same_code else "the version of its converter"]
    is_same_converter = manifest.converter == wanted.provenance["converter"]
    update = "--update to convert only what is new or has changed, " * is_same_converter
    difference = UsageError(
        str(workspace.out_dir),
        f"holds a finished {manifest.name} conversion that differs in {', '.join(keys)}",
        f"Pass --overwrite to replace it, {update}or another --out_dir{hint}",
    )
    return difference, ()


def _differing_options(manifest: Manifest, wanted: PlanRecord) -> list[str]:
    """The options of a finished output that are not the wanted ones."""
    options = wanted.provenance["options"]
    return sorted(k for k in options.keys() | manifest.options.keys() if options.get(k) != manifest.options.get(k))


def _explain_again(manifest: Manifest, wanted: PlanRecord, why: str) -> str:
    """The warning of an update that can keep nothing; `why` is that of `find_kept`."""
    if why == MADE_OTHERWISE:
        keys = ["its name"] if manifest.name != wanted.name else []
        keys += _differing_options(manifest, wanted)
        keys += [f"the version of {key}" for key, value in wanted.provenance["versions"].items()
                 if manifest.versions.get(key) != value]  # fmt: skip
        keys += ["its converter"] if manifest.converter_version != wanted.provenance["converter_version"] else []
        why = f"differs in {', '.join(keys) or 'what all its rows depend on'}"
    return f"the earlier output {why}: every input is converted again"
