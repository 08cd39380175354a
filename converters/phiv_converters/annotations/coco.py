"""COCO captions: `images` with file names, `annotations` with a caption each."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from phiv_converters.table.files import Row
from phiv_data.sources.json_stream import read_json_array
from phiv_data.storage.record_errors import truncated_repr
from phiv_schemas.errors import SourceError


def read_coco(path: Path) -> Iterator[Row]:
    """A row for each image of the file, in its order: its file name and its captions.

    A caption that cannot be read, or is of no image that is listed, is a bad row behind them. SourceError where no
    annotation has a caption (boxes, key points).
    """
    captions: dict[Any, list[str]] = {}
    bad: list[str] = []
    is_boxes = False
    for row in read_json_array(path, "annotations"):
        value = row.value if isinstance(row.value, dict) else {}
        if row.problem or "caption" not in value:
            is_boxes = is_boxes or "bbox" in value
            bad.append(f"the annotation in line {row.line}: {row.problem or 'has no caption'}")
            continue
        captions.setdefault(_key(value.get("image_id")), []).append(value["caption"])
    if bad and not captions:
        held = "boxes" if is_boxes else "other annotations"
        raise SourceError(str(path), f"holds {held}, not captions ({bad[0]})", "Pass a captions_*.json")
    number = 0
    for number, row in enumerate(read_json_array(path, "images"), start=1):
        value = row.value if isinstance(row.value, dict) else {}
        found = captions.pop(_key(value.get("id")), [])
        problem = row.problem or (
            "" if "file_name" in value else f"an image without file_name ({truncated_repr(value)})"
        )
        yield Row(number, {"image": value.get("file_name"), "answers": found}, problem)
    bad += [f"captions of an image that is not listed (image_id {image_id!r})" for image_id in captions]
    for place, problem in enumerate(bad, start=number + 1):
        yield Row(place, {}, problem)


def _key(value: Any) -> Any:
    return value if isinstance(value, int | str) else repr(value)
