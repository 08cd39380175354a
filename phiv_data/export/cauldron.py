"""Export in the format of The Cauldron and FineVision: Parquet with the columns `images` and `texts`.

    images: list of images (struct<bytes, path>), all of the conversation
    texts:  list of {user, assistant, source}, one per turn

All images come first, then the turns; so the turn of an image and its position in the text are lost.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from phiv_data.export.base import ExportReport, hub_splits, losses_of_media
from phiv_data.export.parquet import parquet_name, write_parquet

if TYPE_CHECKING:
    import pyarrow as pa

    from phiv_data.export.dataset import ExportedDataset
    from phiv_data.storage.sample import Sample
    from phiv_schemas import FileInfo, ShardInfo

MAX_ROWS, MAX_BYTES = 100, 32 * 2**20
"""Limits of a row group; a larger row is one alone. Four times its bytes are in memory while it is made."""


@dataclass(frozen=True)
class CauldronExport:
    """Parquet in the format of The Cauldron and FineVision: columns images and texts."""

    name: ClassVar[str] = "cauldron"

    def write(self, dataset: ExportedDataset, out: Path, report: ExportReport) -> Iterator[FileInfo]:
        """One file per shard."""
        for split in hub_splits(dataset, report):
            for index, shard in enumerate(split.shards):
                path = out / parquet_name(split.name, index, len(split.shards))
                yield write_parquet(path, schema(), _row_groups(dataset, shard, report), out)


def to_row(sample: Sample) -> dict[str, Any]:
    """A sample as a row of `schema()`."""
    conversation = sample.conversation
    return {
        "images": [{"bytes": image.data, "path": image.meta.path} for image in sample.images],
        "texts": [
            {"user": turn.user, "assistant": turn.assistant, "source": conversation.source}
            for turn in conversation.turns
        ],
    }


def losses(sample: Sample) -> Iterator[str]:
    """What a row of this table cannot hold of a sample."""
    first, *later = sample.conversation.turns
    yield "record ids"
    if sample.conversation.system is not None:
        yield "system prompts"
    if any(turn.answers is not None for turn in (first, *later)):
        yield "accepted answers beside the chosen one"
    if any(turn.image_offsets is not None for turn in (first, *later)):
        yield "image positions inside the text"
    if any(turn.images for turn in later):
        yield "which turn shows which image"
    yield from losses_of_media(sample)


@cache
def schema() -> pa.Schema:
    """The Arrow schema, with the metadata that makes `images` images for `datasets`."""
    import pyarrow as pa

    text = {name: {"dtype": "string", "_type": "Value"} for name in ("user", "assistant", "source")}
    features = {
        "images": {"feature": {"_type": "Image"}, "_type": "List"},
        "texts": {"feature": text, "_type": "List"},
    }
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    texts = pa.struct([(name, pa.string()) for name in text])
    info = json.dumps({"info": {"features": features}})
    return pa.schema([("images", pa.list_(image)), ("texts", pa.list_(texts))], metadata={"huggingface": info})


def _row_groups(dataset: ExportedDataset, shard: ShardInfo, report: ExportReport) -> Iterator[pa.RecordBatch]:
    import pyarrow as pa

    rows: list[dict[str, Any]] = []
    size = 0
    for sample in dataset.samples(shard):
        report.add_losses(losses(sample))
        more = sum(len(image.data) for image in sample.images)
        if rows and (len(rows) == MAX_ROWS or size + more > MAX_BYTES):
            yield pa.RecordBatch.from_pylist(rows, schema=schema())
            rows, size = [], 0
        rows.append(to_row(sample))
        size += more
    if rows:
        yield pa.RecordBatch.from_pylist(rows, schema=schema())
