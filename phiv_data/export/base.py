"""The parts that all export formats share: the dataset they read, the report they fill, the protocol they implement.

    dataset = open_dataset(Path("out"), splits=("val",))
    for split in dataset.splits:
        for shard in split.shards:
            for sample in dataset.samples(shard):   # one shard is mapped at a time: constant memory
                ...

Each shard's sha256 is checked before it is read: a damaged shard must not be exported.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from phiv_data.utils.atomic import HashingWriter, sha256_file
from phiv_schemas.errors import ShardError, UsageError

if TYPE_CHECKING:
    import pyarrow as pa

    from phiv_data.storage.sample import Sample
    from phiv_schemas import FileInfo, Manifest, ShardInfo, SplitInfo

SUFFIXES = {"JPEG": "jpg", "MPO": "jpg", "JPEG2000": "jp2", "TIFF": "tif"}
"""Suffix of an image's real format where it is not the format's name in lower case."""

PROVENANCE = "where images come from (input file, frame, time)"
_HUB_SPLIT = re.compile(r"\w+(\.\w+)*")


@dataclass(frozen=True, slots=True)
class ExportedDataset:
    """A converted dataset, or some of its splits, to be exported."""

    folder: Path
    manifest: Manifest
    manifest_sha256: str
    splits: tuple[SplitInfo, ...]
    on_rows: Callable[[int], object] = lambda rows: None

    def samples(self, shard: ShardInfo) -> Iterator[Sample]:
        """The rows of a shard. ShardError where it is not the one in the manifest, or breaks the contract."""
        from phiv_data.storage.shards import to_sample

        for batch in self.batches(shard):
            for row in range(batch.num_rows):
                try:
                    yield to_sample(batch.slice(row, 1).to_pylist()[0])
                except ValueError as error:  # pydantic's is one
                    raise ShardError(str(self.folder / shard.path), f"breaks the contract ({error})") from error

    def batches(self, shard: ShardInfo) -> Iterator[pa.RecordBatch]:
        """The Arrow batches of a shard: at most 100 rows or 64 MiB each, a larger row alone."""
        from phiv_data.storage.dataset import check_shard
        from phiv_data.storage.shards import open_shard

        check_shard(self.folder, shard, "sha256")
        rows = 0
        for batch in open_shard(self.folder / shard.path):
            yield batch
            self.on_rows(batch.num_rows)
            rows += batch.num_rows
        if rows != shard.rows:
            raise ShardError(str(self.folder / shard.path), f"has {rows} rows (the manifest has {shard.rows})")


@dataclass(slots=True)
class ExportReport:
    """What an export reports: the number of rows that lose something, by what it is, and warnings."""

    losses: Counter[str] = field(default_factory=Counter)
    warnings: list[str] = field(default_factory=list)

    def add_losses(self, losses: Iterable[str]) -> None:
        """Count one row that loses these, each once."""
        self.losses.update(set(losses))


class Writer(Protocol):
    """One format with its options: a frozen dataclass whose fields are flags of `phiv-export NAME`."""

    @property
    def name(self) -> str:
        """The format: `hub`."""
        ...

    def write(self, dataset: ExportedDataset, out: Path, report: ExportReport) -> Iterable[FileInfo]:
        """Write everything into the empty folder `out`. Yields the files that a reader opens, without the images."""
        ...


def open_dataset(data: Path, splits: tuple[str, ...] = ()) -> ExportedDataset:
    """The dataset phiv-convert wrote to `data`, and its `splits` (all when empty).

    ShardError where it is unfinished or has no shards, UsageError for a split it does not have.
    """
    from phiv_data.storage.dataset import MANIFEST, read_manifest

    manifest = read_manifest(data)
    names = [split.name for split in manifest.splits]
    for name in splits:
        if name not in names:
            raise UsageError("--split", f"no split {name!r} (found: {', '.join(names) or 'none'})")
    selected = tuple(split for split in manifest.splits if not splits or split.name in splits)
    for split in selected:
        if split.rows and not split.shards:
            raise ShardError(str(data), f"split {split.name!r} has no shards", "Convert it without --no_arrow")
    return ExportedDataset(data, manifest, sha256_file(data / MANIFEST), selected)


def losses_of_media(sample: Sample) -> tuple[str, ...]:
    """What a row loses in formats that have no field for the provenance of images."""
    kept = ("source", "source_sha256", "frame_index", "timestamp", "decoder")
    known = any(getattr(image.meta, name) is not None for image in sample.images for name in kept)
    return (PROVENANCE,) if known else ()


def suffix(format: str) -> str:
    """The file suffix of Pillow's format name, without a dot: `JPEG` gives `jpg`."""
    return SUFFIXES.get(format, re.sub(r"[^a-z0-9]", "", format.lower()) or "bin")


def file_info(path: Path, root: Path, written: HashingWriter) -> FileInfo:
    """The name, size and hash of a file that was just written."""
    from phiv_schemas import FileInfo

    return FileInfo(path=path.relative_to(root).as_posix(), size_bytes=written.size_bytes, sha256=written.sha256)


def hub_splits(dataset: ExportedDataset, report: ExportReport) -> tuple[SplitInfo, ...]:
    """The splits that `datasets` can open: not those without rows. UsageError for a name it refuses."""
    for split in dataset.splits:
        if not _HUB_SPLIT.fullmatch(split.name):
            what = f"the hub takes no split named {split.name!r} (letters, digits, _ and dots only)"
            raise UsageError(str(dataset.folder), what, "Choose others with --split, or another format")
        if not split.rows:
            report.warnings.append(f"split {split.name!r} has no rows, so no file: `datasets` opens no empty split")
    return tuple(split for split in dataset.splits if split.rows)
