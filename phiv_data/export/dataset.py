"""The dataset that is exported, shard by shard.

    dataset = open_dataset(Path("out"), splits=("val",))
    for split in dataset.splits:
        for shard in split.shards:
            for sample in dataset.samples(shard):   # one shard is mapped at a time: constant memory
                ...

Each shard's sha256 is checked before it is read: a damaged shard must not be exported.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from phiv_data.storage.dataset import MANIFEST, check_shard, read_manifest
from phiv_data.storage.sample import Sample
from phiv_data.storage.shards import hf_features, open_shard, schema, to_sample
from phiv_data.utils.atomic import sha256_file
from phiv_schemas import Manifest, ShardInfo, SplitInfo
from phiv_schemas.errors import ShardError, UsageError


@dataclass(frozen=True, slots=True)
class ExportedDataset:
    """A converted dataset, or some of its splits, to be exported."""

    folder: Path
    manifest: Manifest
    manifest_sha256: str
    splits: tuple[SplitInfo, ...]
    on_rows: Callable[[int], object] = lambda rows: None

    @property
    def schema(self) -> pa.Schema:
        """The columns of every shard."""
        return schema()

    @property
    def features(self) -> dict[str, Any]:
        """The same columns as `datasets` describes them."""
        return hf_features()

    def samples(self, shard: ShardInfo) -> Iterator[Sample]:
        """The rows of a shard. ShardError where it is not the one in the manifest, or breaks the contract."""
        for batch in self.batches(shard):
            for row in range(batch.num_rows):
                try:
                    yield to_sample(batch.slice(row, 1).to_pylist()[0])
                except ValueError as error:  # pydantic's is one
                    raise ShardError(str(self.folder / shard.path), f"breaks the contract ({error})") from error

    def batches(self, shard: ShardInfo) -> Iterator[pa.RecordBatch]:
        """The Arrow batches of a shard: at most 100 rows or 64 MiB each, a larger row alone."""
        check_shard(self.folder, shard, "sha256")
        rows = 0
        for batch in open_shard(self.folder / shard.path):
            yield batch
            self.on_rows(batch.num_rows)
            rows += batch.num_rows
        if rows != shard.rows:
            raise ShardError(str(self.folder / shard.path), f"has {rows} rows (the manifest has {shard.rows})")


def open_dataset(data: Path, splits: tuple[str, ...] = ()) -> ExportedDataset:
    """The dataset phiv-convert wrote to `data`, and its `splits` (all when empty).

    ShardError where it is unfinished or has no shards, UsageError for a split it does not have.
    """
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
