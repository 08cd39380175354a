"""One task of a conversion: turn a run of inputs into staged images and a report.

`run_task` is idempotent and atomic: its report appears last and whole, and the same task gives the same bytes
whoever runs it, how often and in which order.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from phiv_data.convert.base import Item
from phiv_data.convert.fingerprint import SourceRoots
from phiv_data.convert.kept import KeptRows, kept_rows
from phiv_data.convert.plan import ConversionPlan, ConversionTask, load_absent_files, load_items, row_id
from phiv_data.convert.staging import StagedDamage, Workspace, read_report, write_report
from phiv_data.convert.task_report import TaskReport, WrittenRow
from phiv_data.engines.base import CRASHED, TIMEOUT
from phiv_data.engines.local import find_killers
from phiv_data.engines.watchdog import reading
from phiv_data.media.reject import RejectInput
from phiv_data.storage.sample import EncodedImage, Sample
from phiv_data.utils.atomic import atomic_write, find_environment_problem
from phiv_schemas import Conversation, ImageMeta, Reject, SourceError

INPUT_TIMEOUT_S = 300.0


@dataclass(frozen=True, slots=True)
class ConversionJob:
    """What every task of a conversion shares; pickled to each worker once."""

    plan: ConversionPlan
    workspace: Workspace
    include_unlabeled: bool = False
    fatal: Mapping[int, str] = field(default_factory=dict)
    """Inputs at these indices are rejected unseen, by this code: they kill the process that reads them."""
    input_timeout: float = 0
    """Seconds that one input may take by `engines.watchdog`; 0 is without a limit."""
    roots: SourceRoots = field(default_factory=SourceRoots)
    kept: KeptRows | None = None
    """Where rows of unchanged inputs are taken from."""


def run_task(job: ConversionJob, index: int) -> int:
    """Do task `index`, unless its report is there and its images are as it says. The number of its inputs."""
    task = job.plan.tasks[index]
    if not _is_done(job, task):
        report = convert_rows(job, task, range(task.first, task.stop))
        job.workspace.discard_shard_reports(task.split)  # of an earlier run, which had other bytes
        write_report(job.workspace.task_report(index), report.model_dump_json(exclude_defaults=True))
    return task.stop - task.first


def _is_done(job: ConversionJob, task: ConversionTask) -> bool:
    """Whether an earlier run has done the task, and the disk has kept every byte of it.

    Images are not synced one by one: that takes 1.2 s for the 256 images of a task, where writing them takes 0.1 s.
    After a power cut, those that did not reach the disk are found here and made again.
    """
    try:
        check_images(job, task.index)
    except (OSError, ValueError):
        return False
    return True


def check_images(job: ConversionJob, index: int) -> None:
    """Read every image of a finished task. StagedDamage where one is not as it was written."""
    found = {meta.path: meta for row in load_report(job, job.plan.tasks[index]).rows for meta in row.media}
    for meta in found.values():
        _read_staged(job, meta)


def _read_staged(job: ConversionJob, meta: ImageMeta) -> bytes:
    """The bytes of a staged image. StagedDamage where they are not those that were written."""
    try:
        data = (job.workspace.staged_images / meta.path).read_bytes()
    except FileNotFoundError as error:
        raise StagedDamage(meta.path) from error
    if hashlib.sha256(data).hexdigest() != meta.sha256:
        raise StagedDamage(meta.path)
    return data


def find_fatal_inputs(shared: tuple[ConversionJob, Mapping[int, int | None]], index: int) -> dict[int, str]:
    """The inputs of task `index` that kill a process which reads them alone, and how. In processes of its own.

    `shared` holds for each such task the input that was read when it killed its process, as far as that is known.
    """
    job, suspects = shared
    task = job.plan.tasks[index]
    return find_killers(_try_rows, (job, task), range(task.first, task.stop), suspects[index])


def _try_rows(task: tuple[ConversionJob, ConversionTask], indices: Sequence[int]) -> None:
    """Make some rows of a task and keep nothing of them but staged images: a probe for inputs that kill."""
    convert_rows(*task, indices)


def convert_rows(job: ConversionJob, task: ConversionTask, indices: Sequence[int]) -> TaskReport:
    """Make or take the rows at `indices`, which are of `task`: images are staged, records and rejects returned."""
    rows: list[WrittenRow] = []
    rejects: list[Reject] = []
    unlabeled: list[int] = []
    num_kept, items = 0, load_items(task)
    kept = dict(kept_rows(job.kept, task)) if job.kept else {}
    for index in indices:
        item = items[index - task.first]
        result: WrittenRow | Reject | None
        try:
            result = _take(job, kept[index], item, index)
            num_kept += 1
        except (LookupError, OSError, StagedDamage):  # a new input, or what is kept of it is not as it was
            result = _make(job, task, item, index)
        if result is None:
            unlabeled.append(index)
        elif isinstance(result, Reject):
            rejects.append(result)
        else:
            rows.append(result)
    return TaskReport(rows=rows, rejects=rejects, unlabeled=unlabeled, num_kept=num_kept)


def _make(job: ConversionJob, task: ConversionTask, item: Item, index: int) -> WrittenRow | Reject | None:
    """What becomes of an input, its images staged; None where it has no answer."""
    try:
        sample, has_own_id = _convert_twice(job, task, item, index)
    except RejectInput as reject:
        key = item.key.encode("utf-8", "backslashreplace").decode()  # a name on disk need not be UTF-8
        return Reject(id=row_id(item, index), split=item.split, input=key, code=reject.code, reason=reject.reason)
    conversation, images = sample.conversation, sample.images
    if not conversation.is_labeled and not job.include_unlabeled:
        return None
    for image in {image.meta.path: image for image in images}.values():
        _stage(job.workspace.staged_images / image.meta.path, image.data)
    media = [image.meta for image in images]
    return WrittenRow(input=index, conversation=conversation, media=media, has_own_id=has_own_id)


def _take(job: ConversionJob, row: WrittenRow | None, item: Item, index: int) -> WrittenRow | None:
    """What became of an input in an earlier output: its row, as that of the input at `index`, with its images staged.

    None where it has no answer. LookupError where that row was not kept; OSError or StagedDamage where an image of the
    earlier output is not as it was.
    """
    assert job.kept is not None, "there are kept rows"
    if row is None and job.include_unlabeled:
        raise LookupError("rows without an answer were left out")
    if row is None or not (row.conversation.is_labeled or job.include_unlabeled):
        return None
    for meta in {meta.path: meta for meta in row.media}.values():
        path = job.kept.images / meta.path
        data = path.read_bytes()
        if path.is_symlink() or hashlib.sha256(data).hexdigest() != meta.sha256:
            raise StagedDamage(meta.path)
        _stage(job.workspace.staged_images / meta.path, data, link=path)
    named = {} if row.has_own_id else {"id": row_id(item, index)}
    conversation = row.conversation.model_copy(update=named)
    return row.model_copy(update={"input": index, "conversation": conversation})


def load_report(job: ConversionJob, task: ConversionTask) -> TaskReport:
    """The report of a finished task. StagedDamage where it is not as it was written."""
    return TaskReport.model_validate_json(read_report(job.workspace.task_report(task.index)))


def iter_samples(job: ConversionJob, task: ConversionTask, rows: slice) -> Iterator[Sample]:
    """The rows of a finished task as samples, image bytes read from the stage. StagedDamage where these changed."""
    for row in load_report(job, task).rows[rows]:
        images = [EncodedImage(meta, _read_staged(job, meta)) for meta in row.media]
        yield Sample(row.conversation, tuple(images))


def _convert_twice(job: ConversionJob, task: ConversionTask, item: Item, index: int) -> tuple[Sample, bool]:
    """The sample of an input, and whether its id is its own.

    RejectInput only where a second reading fails too, and the source is there. EnvironmentProblem where the source or
    the machine fails: a file that is away for a moment is no bad input.
    """
    for is_last in (False, True):
        try:
            return _convert(job, item, index)
        except SystemExit as stop:
            what = f"its converter ends the program at input {item.key!r} (exit {stop.code})"
            raise SourceError(job.plan.converter.name, what, "Tell its author") from stop
        except Exception as error:  # a converter may let anything through
            parts = item.content if isinstance(item.content, tuple) else (item.content,)
            files = {part for part in parts if isinstance(part, Path)}
            job.roots.check(files and files - load_absent_files(task))
            if problem := find_environment_problem(error, item.key):
                raise problem from error
            if is_last or not isinstance(error, RejectInput):
                raise
    raise AssertionError("the last attempt returns or raises")


def _convert(job: ConversionJob, item: Item, index: int) -> tuple[Sample, bool]:
    converter = job.plan.converter
    if job.fatal.get(index) == CRASHED:
        raise RejectInput(item.key, "crashed", "reading it kills the process, alone and again (a decoder bug)")
    if job.fatal.get(index) == TIMEOUT:
        seconds = f"{job.input_timeout:g} s"
        raise RejectInput(item.key, "timeout", f"reading it does not end within {seconds}, alone and again")
    with reading(index, job.input_timeout):
        draft = converter.draft(item)
    conversation = Conversation(
        id=row_id(item, index) if draft.id is None else draft.id,
        source=converter.record_source if draft.source is None else draft.source,
        conversations=draft.turns,
        system=draft.system,
    )
    paths = tuple(image.meta.path for image in draft.images)
    assert paths == conversation.image_paths, f"{item.key}: images and turns disagree"
    return Sample(conversation, draft.images), draft.id is not None


def _stage(path: Path, data: bytes, link: Path | None = None) -> None:
    """Write an image to the stage, unless another row has: a page of a document has many questions.

    Other bytes under the same path are written over what is there: `assemble` sees both reports and raises an error.
    `link` is a file with these bytes on the same disk, which is linked where the disk can.
    """
    try:  # the bytes too are compared: a power cut can leave others of the same length
        is_there = path.stat().st_size == len(data) and path.read_bytes() == data
    except OSError:
        is_there = False
    if not is_there and link is not None:
        with suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            os.link(link, path)
            return
    if not is_there:
        with atomic_write(path, durable=False) as file:
            file.write(data)
