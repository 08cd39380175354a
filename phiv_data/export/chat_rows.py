"""Rows of external chat formats, and their images as files: the part of `chat_json` that pydantic is imported for.

info = write_split("llava", "json", "", dataset, split, out, report, set())  # OUT/train.json, OUT/images/...
row = trl_row(sample)  # {"messages": [...], "images": [{"bytes": ...}]}
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path
from typing import Any

from phiv_data.export.base import ExportReport, file_info, losses_of_media
from phiv_data.export.dataset import ExportedDataset
from phiv_data.formats import FORMATS, LOSSES, Format
from phiv_data.formats.rendering import images_of
from phiv_data.storage.sample import Sample
from phiv_data.utils.atomic import atomic_write
from phiv_schemas import FileInfo, SplitInfo
from phiv_schemas.errors import ShardError

MAX_BYTES_BEFORE_IMAGES = 8 * 2**20
"""Of a jsonl, before its first row with images: `datasets` takes the types of the columns from the first 10 MiB."""


def write_split(
    name: str,
    layout: str,
    image_prefix: str,
    dataset: ExportedDataset,
    split: SplitInfo,
    out: Path,
    report: ExportReport,
    image_types: set[type],
) -> FileInfo:
    """The rows of a split in the format `name` as one file, and the images that they name, once each, in `out`/images.

    `layout` is "json" or "jsonl". `image_prefix` is written before every image's path.
    `image_types` gets the types that the rows' `image` has. ShardError where two images have one path.
    """
    format, path = FORMATS[name], out / f"{split.name}.{layout}"
    is_array, rows = layout == "json", 0
    with atomic_write(path, durable=False) as file:
        for sample in _samples(dataset, split) if is_array else _move_images_ahead(format, dataset, split, report):
            report.add_losses([LOSSES[code] for code in format.losses(sample.conversation)])
            report.add_losses(losses_of_media(sample))
            for image in sample.images:
                target = out / "images" / image.meta.path
                if not target.is_file():
                    with atomic_write(target, durable=False) as copy:
                        copy.write(image.data)
                elif target.read_bytes() != image.data:
                    raise ShardError(image.meta.path, "two images have this path", "Convert the data again")
            record = format.render(sample.conversation)
            for key in record.keys() & {"image", "images"}:
                value = record[key]
                paths = [image_prefix + path for path in ([value] if isinstance(value, str) else value)]
                record[key] = paths[0] if isinstance(value, str) else paths
                image_types.add(type(value))
            line = json.dumps(record)
            file.write((("[\n" if not rows else ",\n") if is_array else "").encode())
            file.write(f"{line}{'' if is_array else chr(10)}".encode())
            rows += 1
        if is_array:
            file.write(b"\n]\n" if rows else b"[]\n")
    return file_info(path, out, file)


def trl_row(sample: Sample) -> dict[str, Any]:
    """A row of TRL's table, with the images inside."""
    record = FORMATS["trl"].render(sample.conversation)
    images = sample.images[: len(record["images"])]  # those of the written turns
    return record | {"images": [{"bytes": image.data, "path": image.meta.path} for image in images]}


def _samples(dataset: ExportedDataset, split: SplitInfo) -> Iterator[Sample]:
    return chain.from_iterable(dataset.samples(shard) for shard in split.shards)


def _move_images_ahead(
    format: Format, dataset: ExportedDataset, split: SplitInfo, report: ExportReport
) -> Iterator[Sample]:
    """The rows in order, but for the first one with images: it moves to the front where `datasets` would see it too
    late. ms-swift, TRL and LLaMA-Factory read jsonl with it, and an image is a wrong type to it after text rows alone.
    """
    rows, size = _samples(dataset, split), 0
    ahead = _samples(replace(dataset, on_rows=lambda rows: None), split) if split.num_images else ()
    for number, sample in enumerate(ahead):
        if images_of(sample.conversation):  # the first row with images
            if size > MAX_BYTES_BEFORE_IMAGES:
                report.warnings.append(
                    f"{split.name}.jsonl: row {number + 1}, the first with images, is written first: `datasets` takes "
                    "the types of columns from the first 10 MiB"
                )
                yield sample
                yield from islice(rows, number)
                next(rows)
            break
        size += len(json.dumps(format.render(sample.conversation)))
    yield from rows
