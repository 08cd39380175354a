"""Export in the format of The Cauldron and FineVision: Parquet with the columns `images` and `texts`.

    images: list of images (struct<bytes, path>), all of the conversation
    texts:  list of {user, assistant, source}, one per turn

All images come first, then the turns; so the turn of an image and its position in the text are lost.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from phiv_data.export.base import ExportReport, hub_splits, losses_of_media
from phiv_data.export.card import IMAGE, TEXT, list_of, write_card
from phiv_data.export.parquet import parquet_name, row_groups, table_schema, write_parquet

if TYPE_CHECKING:
    from phiv_data.export.dataset import ExportedDataset
    from phiv_data.storage.sample import Sample
    from phiv_schemas import FileInfo, ShardInfo


@dataclass(frozen=True)
class CauldronExport:
    """Parquet in the format of The Cauldron and FineVision: columns images and texts."""

    name: ClassVar[str] = "cauldron"

    def write(self, dataset: ExportedDataset, out: Path, report: ExportReport) -> Iterator[FileInfo]:
        """One file per shard, and a card."""
        schema = table_schema(features())
        for split in hub_splits(dataset, report):
            for index, shard in enumerate(split.shards):
                path = out / parquet_name(split.name, index, len(split.shards))
                yield write_parquet(path, schema, row_groups(_rows(dataset, shard, report), schema), out)
        data_files = {split.name: f"data/{split.name}-*-of-*.parquet" for split in dataset.splits}
        yield write_card(dataset, out, data_files, features(), "`images` has all images of a row, `texts` its turns.")


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


def features() -> dict[str, Any]:
    """The columns."""
    return {"images": list_of(IMAGE), "texts": list_of({"user": TEXT, "assistant": TEXT, "source": TEXT})}


def _rows(dataset: ExportedDataset, shard: ShardInfo, report: ExportReport) -> Iterator[dict[str, Any]]:
    for sample in dataset.samples(shard):
        report.add_losses(losses(sample))
        yield to_row(sample)
