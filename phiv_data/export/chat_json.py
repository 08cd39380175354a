"""Export in external chat formats, as JSON and a folder of images: LLaVA, ShareGPT (LLaMA-Factory), ms-swift, TRL.

    train.json or train.jsonl      a row per conversation; its image paths are relative to images/
    images/...                     the images, byte for byte, under phiv's own paths

`phiv_data.formats` defines what a row looks like and what it cannot hold.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from phiv_data.export.base import ExportReport, file_info, losses_of_media
from phiv_data.utils.atomic import atomic_write
from phiv_schemas.errors import ShardError

if TYPE_CHECKING:
    from phiv_data.export.dataset import ExportedDataset
    from phiv_schemas import FileInfo, SplitInfo

JsonLayout = Literal["json", "jsonl"]


@dataclass(frozen=True)
class _ChatExport:
    """The options and files that the four formats share."""

    layout: JsonLayout = "json"
    """One JSON array per split, or one JSON object per line."""
    image_prefix: str = ""
    """Written before every image's path, such as `/data/ucf101/images/`; default: relative to OUT/images."""

    name: ClassVar[str]

    def write(self, dataset: ExportedDataset, out: Path, report: ExportReport) -> Iterator[FileInfo]:
        """One file of rows per split, and the images that they name."""
        (out / "images").mkdir()
        for split in dataset.splits:
            yield _write_rows(self, dataset, split, out, report)


@dataclass(frozen=True)
class Llava(_ChatExport):
    """LLaVA json: conversations of human and gpt, `<image>` markers in the text (--image_folder OUT/images)."""

    name: ClassVar[str] = "llava"


@dataclass(frozen=True)
class ShareGpt(_ChatExport):
    """ShareGPT json for LLaMA-Factory, with its dataset_info.json (dataset_dir OUT, media_dir OUT/images)."""

    name: ClassVar[str] = "sharegpt"

    def write(self, dataset: ExportedDataset, out: Path, report: ExportReport) -> Iterator[FileInfo]:
        """The rows and images, and `dataset_info.json` with an entry per file."""
        from phiv_data.formats.sharegpt import dataset_info

        yield from super().write(dataset, out, report)
        entries = {
            f"{dataset.manifest.name}_{split.name}": dataset_info(f"{split.name}.{self.layout}")
            for split in dataset.splits
        }
        with atomic_write(out / "dataset_info.json") as file:
            file.write((json.dumps(entries, indent=2) + "\n").encode())
        yield file_info(out / "dataset_info.json", out, file)


@dataclass(frozen=True)
class Swift(_ChatExport):
    """Messages and images for ms-swift, jsonl (ROOT_IMAGE_DIR=OUT/images)."""

    layout: JsonLayout = "jsonl"
    """One JSON array per split, or one JSON object per line."""

    name: ClassVar[str] = "swift"


@dataclass(frozen=True)
class Trl(_ChatExport):
    """Messages for TRL (OpenAI's content parts) and images, jsonl."""

    layout: JsonLayout = "jsonl"
    """One JSON array per split, or one JSON object per line."""

    name: ClassVar[str] = "trl"


def _write_rows(
    writer: _ChatExport, dataset: ExportedDataset, split: SplitInfo, out: Path, report: ExportReport
) -> FileInfo:
    from phiv_data.formats import FORMATS, LOSSES

    render, losses = FORMATS[writer.name].render, FORMATS[writer.name].losses
    path = out / f"{split.name}.{writer.layout}"
    is_array, rows = writer.layout == "json", 0
    with atomic_write(path, durable=False) as file:
        for sample in (sample for shard in split.shards for sample in dataset.samples(shard)):
            report.add_losses([LOSSES[code] for code in losses(sample.conversation)])
            report.add_losses(losses_of_media(sample))
            for image in sample.images:  # once each
                target = out / "images" / image.meta.path
                if not target.is_file():
                    with atomic_write(target, durable=False) as image_file:
                        image_file.write(image.data)
                elif target.read_bytes() != image.data:
                    raise ShardError(image.meta.path, "two images have this path", "Convert the data again")
            record = render(sample.conversation)
            for key in ("image", "images"):
                if isinstance(value := record.get(key), str):
                    record[key] = writer.image_prefix + value
                elif value is not None:
                    record[key] = [writer.image_prefix + path for path in value]
            line = json.dumps(record)
            file.write((("[\n" if not rows else ",\n") if is_array else "").encode())
            file.write(f"{line}{'' if is_array else chr(10)}".encode())
            rows += 1
        if is_array:
            file.write(b"\n]\n" if rows else b"[]\n")
    return file_info(path, out, file)
