"""From finished tasks to the files of a dataset: jsonl, image hashes, rejects, shards, card, manifest.

Everything here reads the tasks' reports in the plan's order, so who ran them leaves no trace.
"""

from __future__ import annotations

import os
from array import array
from bisect import bisect_left, bisect_right
from collections import Counter
from dataclasses import dataclass, field
from itertools import accumulate, chain
from pathlib import Path
from typing import Any

from phiv_data.convert.base import Inputs
from phiv_data.convert.plan import ConversionTask, load_items
from phiv_data.convert.staging import IMAGE_SIZES, MANIFEST, read_report, write_report
from phiv_data.convert.task_report import WrittenRow
from phiv_data.convert.tasks import ConversionJob, iter_samples, load_report
from phiv_data.storage.card import dataset_card
from phiv_data.storage.dataset import CARD, FIXES
from phiv_data.storage.shards import plan_shards, shard_name, write_dataset_dict, write_hf_files, write_shard
from phiv_data.utils.atomic import TMP_PREFIX, HashingWriter, atomic_write, sha256_file
from phiv_data.utils.seen_index import SeenIndex, open_seen_index
from phiv_schemas import Accounting, FileInfo, Manifest, ShardInfo, SourceError, SplitInfo


@dataclass(slots=True)
class AssembledFiles:
    """What the tasks' reports add up to."""

    splits: dict[str, SplitInfo] = field(default_factory=dict)
    row_sizes: dict[str, array[int]] = field(default_factory=dict)  # bytes of text and images, by split
    task_rows: dict[int, int] = field(default_factory=dict)  # written rows, by task
    rejected: Counter[str] = field(default_factory=Counter)
    rejected_of: Counter[str] = field(default_factory=Counter)  # inputs, by split
    unlabeled_of: Counter[str] = field(default_factory=Counter)
    first_unlabeled: str | None = None  # its key
    num_kept: int = 0  # inputs whose result was taken from an earlier output
    identical: list[list[str]] = field(default_factory=list)  # groups of names of inputs with the same bytes
    rejects: FileInfo | None = None
    image_hashes: FileInfo | None = None

    @property
    def unlabeled(self) -> int:
        """Inputs without an answer, over all splits."""
        return self.unlabeled_of.total()


def assemble(job: ConversionJob) -> AssembledFiles:
    """Stage the jsonl files, `rejects.jsonl` and `images.sha256`, and return what they hold."""
    stage, assembled = job.workspace.stage, AssembledFiles()
    with open_seen_index(job.workspace.seen_index) as seen_index:
        sizes_file = job.workspace.parts / IMAGE_SIZES
        with atomic_write(stage / "rejects.jsonl") as rejects, atomic_write(sizes_file, durable=False) as image_sizes:
            for split in job.plan.splits:
                _assemble_split(job, split, assembled, seen_index, rejects, image_sizes)
        with atomic_write(stage / "images.sha256") as hashes:
            for path, sha256 in seen_index.registered():
                hashes.write(f"{sha256}  images/{path}\n".encode())
        assembled.identical = seen_index.identical_sources()
    assembled.rejects = file_info("rejects.jsonl", rejects)
    assembled.image_hashes = file_info("images.sha256", hashes)
    return assembled


def _assemble_split(
    job: ConversionJob,
    split: str,
    assembled: AssembledFiles,
    seen_index: SeenIndex,
    rejects: HashingWriter,
    image_sizes: HashingWriter,
) -> None:
    name, images_before = f"{job.plan.converter.name}_{split}.jsonl", seen_index.num_registered
    sizes = assembled.row_sizes[split] = array("Q")
    with atomic_write(job.workspace.stage / name) as jsonl:
        for task in _tasks_of(job, split):
            report = load_report(job, task)
            assembled.task_rows[task.index] = len(report.rows)
            assembled.unlabeled_of[split] += len(report.unlabeled)
            if report.unlabeled and assembled.first_unlabeled is None:
                assembled.first_unlabeled = load_items(task)[report.unlabeled[0] - task.first].key
            assembled.num_kept += report.num_kept
            for row in report.rows:
                size = jsonl.write(f"{row.conversation.to_line()}\n".encode())
                sizes.append(size + sum(meta.size_bytes for meta in row.media))
                _note(job, seen_index, row, image_sizes)
            for reject in report.rejects:
                rejects.write(f"{reject.model_dump_json()}\n".encode())
                assembled.rejected[reject.code] += 1
            assembled.rejected_of[split] += len(report.rejects)
    images = seen_index.num_registered - images_before
    assembled.splits[split] = SplitInfo(name=split, rows=len(sizes), num_images=images, jsonl=file_info(name, jsonl))


def _note(job: ConversionJob, seen_index: SeenIndex, row: WrittenRow, image_sizes: HashingWriter) -> None:
    """Enter the row's id, images with their sizes, and sources. SourceError where an id or a path has two meanings."""
    row_id = row.conversation.id
    if not seen_index.register_id(row_id):
        what = f"two rows have the id {row_id!r} (one may have got it by its number)"
        raise SourceError(job.plan.converter.name, what, "Give every row an id of its own, or none")
    for meta in row.media:
        before = seen_index.register(meta.path, meta.sha256, row_id)
        if before is None:
            image_sizes.write(meta.size_bytes.to_bytes(8, "little"))
        elif before[0] != meta.sha256:
            what = f"two images have this path, one of row {before[1]!r}, another of row {row_id!r}"
            raise SourceError(f"images/{meta.path}", what, "Rename one of them in the source")
        if meta.source is not None and meta.source_sha256 is not None:
            seen_index.add_source(meta.source_sha256, meta.source)


def _tasks_of(job: ConversionJob, split: str) -> list[ConversionTask]:
    return [task for task in job.plan.tasks if task.split == split]


def file_info(path: str, writer: HashingWriter) -> FileInfo:
    """The size and hash of a file that was just written, under its name in the dataset."""
    return FileInfo(path=path, size_bytes=writer.size_bytes, sha256=writer.sha256)


# Shards ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ShardSpec:
    """One shard to write: which rows of which tasks' reports."""

    split: str
    index: int
    path: str
    pieces: tuple[tuple[ConversionTask, slice], ...]
    num_rows: int


@dataclass(frozen=True, slots=True)
class ShardPlan:
    """What every shard task shares."""

    job: ConversionJob
    shards: tuple[ShardSpec, ...]


def plan_shard_files(job: ConversionJob, assembled: AssembledFiles) -> ShardPlan:
    """The shards of every split, sized by the bytes of their rows."""
    shards: list[ShardSpec] = []
    for split in assembled.splits:
        tasks = _tasks_of(job, split)
        starts = [0, *accumulate(assembled.task_rows[task.index] for task in tasks)]
        ranges = plan_shards(assembled.row_sizes[split])
        for number, rows in enumerate(ranges):
            # Where the split's rows `rows` lie in its tasks' reports; `starts[i]` is the first row of `tasks[i]`.
            some = range(bisect_right(starts, rows.start) - 1, bisect_left(starts, rows.stop))
            pieces = tuple((tasks[i], slice(max(rows.start - starts[i], 0), rows.stop - starts[i])) for i in some)
            path = f"arrow/{split}/{shard_name(number, len(ranges))}"
            shards.append(ShardSpec(split, number, path, pieces, len(rows)))
    return ShardPlan(job, tuple(shards))


def build_shard(jobs: ShardPlan, index: int) -> ShardInfo:
    """Write shard `index` from the staged images, unless an earlier run did and the disk has kept every byte."""
    spec, workspace = jobs.shards[index], jobs.job.workspace
    report, path = workspace.shard_report(spec.split, spec.index), workspace.stage / spec.path
    try:
        info = ShardInfo.model_validate_json(read_report(report))
        if (info.path, info.rows, info.sha256) == (spec.path, spec.num_rows, sha256_file(path)):
            return info
    except (FileNotFoundError, ValueError):
        pass
    samples = chain.from_iterable(iter_samples(jobs.job, task, rows) for task, rows in spec.pieces)
    info = write_shard(path, samples).model_copy(update={"path": spec.path})
    write_report(report, info.model_dump_json())
    return info


# Manifest --------------------------------------------------------------------------------------------------------


def write_manifest(
    job: ConversionJob, inputs: Inputs, assembled: AssembledFiles, shards: list[ShardInfo], provenance: dict[str, Any]
) -> None:
    """Stage the loader files of the `datasets` library, the dataset card and, last in the stage, the manifest."""
    stage, converter = job.workspace.stage, job.plan.converter
    for path in stage.rglob(f"{TMP_PREFIX}*"):  # what a killed worker left half-written
        path.unlink()
    (stage / "images").mkdir(exist_ok=True)
    os.sync()  # images are not synced one by one; what a staged manifest names must survive a power cut
    by_split = {name: [s for s in shards if s.path.split("/")[1] == name] for name in assembled.splits}
    # Each input that is given more than once, then the times it is given again.
    duplicates: dict[str, list[str]] = {}
    for first, again in sorted(inputs.duplicates):
        duplicates.setdefault(first, [first]).append(again)
    assert assembled.rejects is not None
    assert assembled.image_hashes is not None
    manifest = Manifest(
        name=converter.name,
        source=converter.describe(),
        synthetic=converter.synthetic,
        plan_sha256=job.plan.sha256,
        accounting=Accounting(
            inputs=job.plan.num_items + len(inputs.duplicates),
            written=sum(split.rows for split in assembled.splits.values()),
            rejected=dict(sorted(assembled.rejected.items())),
            unlabeled=assembled.unlabeled,
            duplicates=len(inputs.duplicates),
            absent=inputs.absent,
            identical=sum(len(group) - 1 for group in assembled.identical),
        ),
        splits=[split.model_copy(update={"shards": by_split[name]}) for name, split in assembled.splits.items()],
        rejects=assembled.rejects,
        image_hashes=assembled.image_hashes,
        identical_inputs=assembled.identical,
        duplicate_inputs=list(duplicates.values()),
        sharing=converter.sharing,
        **provenance,
    )
    finish_dataset(stage, manifest)


def finish_dataset(folder: Path, manifest: Manifest) -> None:
    """Write the loader files of the `datasets` library where there are shards, the dataset card and the manifest.

    The manifest names every file of the folder but the images, which images.sha256 lists.
    """
    if any(split.shards for split in manifest.splits):
        arrow = folder / "arrow"
        for split in manifest.splits:
            write_hf_files(arrow / split.name, split.name, split.shards, name=manifest.name)
        write_dataset_dict(arrow, [split.name for split in manifest.splits])
        loader_files = [_info_of(folder, file) for file in sorted(arrow.rglob("*.json"))]
        manifest = manifest.model_copy(update={"loader_files": loader_files})
    with atomic_write(folder / CARD) as card:
        card.write(dataset_card(manifest).encode())
    other_files = [_info_of(folder, folder / name) for name in (CARD, FIXES) if (folder / name).is_file()]
    with atomic_write(folder / MANIFEST) as file:
        file.write(manifest.model_copy(update={"other_files": other_files}).to_bytes())


def _info_of(folder: Path, file: Path) -> FileInfo:
    return FileInfo(path=file.relative_to(folder).as_posix(), size_bytes=file.stat().st_size, sha256=sha256_file(file))
