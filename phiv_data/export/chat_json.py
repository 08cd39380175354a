"""Rows of other trainers as JSON, with the images in a folder: LLaVA, ShareGPT (LLaMA-Factory), ms-swift, TRL.

    train.json or train.jsonl      a row per conversation; its image paths start in images/
    images/...                     the images, byte for byte, under phiv's own paths

What a row looks like, and what it cannot carry, is said by `phiv_data.formats`; nothing of it is decided here.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from phiv_data.export.base import ExportedDataset, ExportReport, file_info, losses_of_media
from phiv_data.utils.atomic import atomic_write
from phiv_schemas.errors import ShardError

if TYPE_CHECKING:
    from phiv_data.storage.sample import EncodedImage, Sample
    from phiv_schemas import FileInfo, SplitInfo

Layout = Literal["json", "jsonl"]


@dataclass(frozen=True)
class _Rows:
    """What the four formats share."""

    layout: Layout = "json"
    """One JSON array per split, or one JSON object per line."""
    image_prefix: str = ""
    """Written before every image's path, such as `/data/ucf101/images/`; by default paths start in OUT/images."""

    name: ClassVar[str]

    def write(self, source: ExportedDataset, out: Path, tally: ExportReport) -> Iterator[FileInfo]:
        """A file of rows per split, and the images they name."""
        (out / "images").mkdir()
        for split in source.splits:
            yield _write_rows(self, source, split, out, tally)


@dataclass(frozen=True)
class Llava(_Rows):
    """LLaVA json: conversations of human and gpt, `<image>` markers in the text (--image_folder OUT/images)."""

    name: ClassVar[str] = "llava"


@dataclass(frozen=True)
class ShareGpt(_Rows):
    """ShareGPT json for LLaMA-Factory, with its dataset_info.json (dataset_dir OUT, media_dir OUT/images)."""

    name: ClassVar[str] = "sharegpt"

    def write(self, source: ExportedDataset, out: Path, tally: ExportReport) -> Iterator[FileInfo]:
        """The rows, and the entry of each file in `dataset_info.json`."""
        from phiv_data.formats.sharegpt import dataset_info

        yield from super().write(source, out, tally)
        entries = {
            f"{source.manifest.name}_{split.name}": dataset_info(f"{split.name}.{self.layout}")
            for split in source.splits
        }
        with atomic_write(out / "dataset_info.json") as file:
            file.write((json.dumps(entries, indent=2) + "\n").encode())
        yield file_info(out / "dataset_info.json", out, file)


@dataclass(frozen=True)
class Swift(_Rows):
    """Messages and images for ms-swift, jsonl (ROOT_IMAGE_DIR=OUT/images)."""

    layout: Layout = "jsonl"
    """One JSON array per split, or one JSON object per line."""

    name: ClassVar[str] = "swift"


@dataclass(frozen=True)
class Trl(_Rows):
    """Messages for TRL (OpenAI's content parts) and images, jsonl."""

    layout: Layout = "jsonl"
    """One JSON array per split, or one JSON object per line."""

    name: ClassVar[str] = "trl"


def _write_rows(writer: _Rows, source: ExportedDataset, split: SplitInfo, out: Path, tally: ExportReport) -> FileInfo:
    from phiv_data.formats import FORMATS, LOSSES

    render, losses = FORMATS[writer.name].render, FORMATS[writer.name].losses
    path = out / f"{split.name}.{writer.layout}"
    is_array, rows = writer.layout == "json", 0
    with atomic_write(path, durable=False) as file:
        for sample in _samples(source, split):
            tally.count([LOSSES[code] for code in losses(sample.conversation)])
            tally.count(losses_of_media(sample))
            for image in sample.images:
                _write_image(out / "images", image)
            line = json.dumps(_with_prefix(render(sample.conversation), writer.image_prefix))
            file.write((("[\n" if not rows else ",\n") if is_array else "").encode())
            file.write(f"{line}{'' if is_array else chr(10)}".encode())
            rows += 1
        if is_array:
            file.write(b"\n]\n" if rows else b"[]\n")
    return file_info(path, out, file)


def _samples(source: ExportedDataset, split: SplitInfo) -> Iterator[Sample]:
    for shard in split.shards:
        yield from source.samples(shard)


def _with_prefix(record: dict[str, Any], prefix: str) -> dict[str, Any]:
    for key in ("image", "images"):
        if isinstance(value := record.get(key), str):
            record[key] = prefix + value
        elif value is not None:
            record[key] = [prefix + path for path in value]
    return record


def _write_image(folder: Path, image: EncodedImage) -> None:
    """Write an image once; ShardError where another image has its path."""
    path = folder / image.meta.path
    if path.is_file():
        if path.read_bytes() != image.data:
            raise ShardError(image.meta.path, "two images have this path", "Convert the data again")
        return
    with atomic_write(path, durable=False) as file:
        file.write(image.data)
