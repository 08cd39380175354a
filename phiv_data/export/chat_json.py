"""Export in external chat formats, as JSON and a folder of images: LLaVA, ShareGPT (LLaMA-Factory), ms-swift, TRL.

    train.json or train.jsonl      a row per conversation; its image paths are relative to images/
    images/...                     the images, byte for byte, under phiv's own paths
    README.md                      by which `datasets.load_dataset(OUT)` opens the rows (without it: the images alone)
    data/*.parquet                 of trl: the same rows with their images inside, which load_dataset(OUT) opens

`phiv_data.formats` defines what a row looks like and what it cannot hold.
"""

from __future__ import annotations

import glob
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from phiv_data.export.base import ExportReport
from phiv_data.export.card import IMAGE, JSON, TEXT, list_of, split_names, write_card, write_text
from phiv_data.export.parquet import parquet_name, row_groups, table_schema, write_parquet

if TYPE_CHECKING:
    from phiv_data.export.dataset import ExportedDataset
    from phiv_schemas import FileInfo

JsonLayout = Literal["json", "jsonl"]


@dataclass(frozen=True)
class _ChatExport:
    """The options and files that the four formats share."""

    layout: JsonLayout = "json"
    """One JSON array per split, or one JSON object per line."""
    image_prefix: str = ""
    """Written before every image's path, such as `/data/ucf101/images/`; default: relative to OUT/images."""

    name: ClassVar[str]
    use: ClassVar[str]
    """The card's sentence on how to train with the export."""

    def write(self, dataset: ExportedDataset, out: Path, report: ExportReport) -> Iterator[FileInfo]:
        """One file of rows per split, the images that they name, and a card."""
        image_types = set[type]()
        yield from self._write_rows(dataset, out, report, image_types)
        data_files = {split.name: glob.escape(f"{split.name}.{self.layout}") for split in dataset.splits}
        yield write_card(dataset, out, data_files, self._features(image_types), self.use)

    def _write_rows(
        self, dataset: ExportedDataset, out: Path, report: ExportReport, image_types: set[type]
    ) -> Iterator[FileInfo]:
        """The rows and images; `image_types` gets the types that the rows' `image` has."""
        from phiv_data.export.chat_rows import write_split  # imports pydantic: not for --help

        (out / "images").mkdir()
        for split in dataset.splits:
            yield write_split(self.name, self.layout, self.image_prefix, dataset, split, out, report, image_types)

    def _features(self, image_types: set[type]) -> dict[str, Any]:
        """The columns of the rows."""
        messages = list_of({"role": TEXT, "content": TEXT})
        return {"id": TEXT, "source": TEXT, "messages": messages, "images": list_of(TEXT)}


@dataclass(frozen=True)
class Llava(_ChatExport):
    """LLaVA json: conversations of human and gpt, `<image>` markers in the text (--image_folder OUT/images)."""

    name: ClassVar[str] = "llava"
    use: ClassVar[str] = "LLaVA: `--data_path OUT/train.json --image_folder OUT/images`."

    def _features(self, image_types: set[type]) -> dict[str, Any]:
        """`image` is a path, a list of paths, or either, which only `datasets` from version 5 on can hold."""
        image = TEXT if image_types <= {str} else list_of(TEXT) if image_types == {list} else JSON
        turns = list_of({"from": TEXT, "value": TEXT})
        return {"id": TEXT, "source": TEXT, "image": image, "system_prompt": TEXT, "conversations": turns}


@dataclass(frozen=True)
class ShareGpt(_ChatExport):
    """ShareGPT json for LLaMA-Factory, with its dataset_info.json (dataset_dir OUT, media_dir OUT/images)."""

    name: ClassVar[str] = "sharegpt"
    use: ClassVar[str] = "LLaMA-Factory: `dataset_dir: OUT`, `media_dir: OUT/images`, `dataset`: see dataset_info.json."

    def write(self, dataset: ExportedDataset, out: Path, report: ExportReport) -> Iterator[FileInfo]:
        """The rows, images and card, and `dataset_info.json` with an entry per file."""
        from phiv_data.formats.sharegpt import dataset_info

        yield from super().write(dataset, out, report)
        entries = {
            f"{dataset.manifest.name}_{split.name}": dataset_info(f"{split.name}.{self.layout}")
            for split in dataset.splits
        }
        yield write_text(out / "dataset_info.json", json.dumps(entries, indent=2) + "\n")


@dataclass(frozen=True)
class Swift(_ChatExport):
    """Messages and images for ms-swift, jsonl (ROOT_IMAGE_DIR=OUT/images)."""

    layout: JsonLayout = "jsonl"
    """One JSON array per split, or one JSON object per line."""

    name: ClassVar[str] = "swift"
    use: ClassVar[str] = "ms-swift: `ROOT_IMAGE_DIR=OUT/images swift sft --dataset OUT/train.jsonl`."


@dataclass(frozen=True)
class Trl(_ChatExport):
    """Messages for TRL (OpenAI's content parts): Parquet with the images inside, and jsonl beside an image folder."""

    layout: JsonLayout = "jsonl"
    """One JSON array per split, or one JSON object per line."""

    name: ClassVar[str] = "trl"
    use: ClassVar[str] = (
        "TRL: `SFTTrainer(train_dataset=load_dataset('OUT', split='train'), ...)`. The rows are in data/ with their "
        "images, and once more as JSON beside images/, for scripts that open the images by path."
    )

    def write(self, dataset: ExportedDataset, out: Path, report: ExportReport) -> Iterator[FileInfo]:
        """The rows and images, and the same in Parquet, which is what the card names."""
        from phiv_data.export.chat_rows import trl_row

        yield from self._write_rows(dataset, out, report, set())
        messages = list_of({"role": TEXT, "content": list_of({"type": TEXT, "text": TEXT})})
        features = {"id": TEXT, "source": TEXT, "messages": messages, "images": list_of(IMAGE)}
        schema, names = table_schema(features), split_names(dataset)
        again = replace(dataset, on_rows=lambda rows: None)  # they are counted once
        for split in dataset.splits:
            for index, shard in enumerate(split.shards if split.rows else ()):
                path = out / parquet_name(names[split.name], index, len(split.shards))
                rows = (trl_row(sample) for sample in again.samples(shard))
                yield write_parquet(path, schema, row_groups(rows, schema), out)
        data_files = {split: f"data/{name}-*-of-*.parquet" for split, name in names.items()}
        yield write_card(dataset, out, data_files, features, self.use)
