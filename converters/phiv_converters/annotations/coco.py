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

    SourceError for annotations that hold no captions (boxes, key points). Captions of no image are a bad row.
    """
    captions: dict[Any, list[str]] = {}
    for row in read_json_array(path, "annotations"):
        value = row.value if isinstance(row.value, dict) else {}
        if "caption" not in value:
            held = "boxes" if "bbox" in value else "other annotations"
            raise SourceError(f"{path}:{row.line}", f"holds {held}, not captions", "Pass a captions_*.json")
        captions.setdefault(_key(value.get("image_id")), []).append(value["caption"])
    number = 0
    for number, row in enumerate(read_json_array(path, "images"), start=1):
        value = row.value if isinstance(row.value, dict) else {}
        found = captions.pop(_key(value.get("id")), [])
        problem = row.problem or (
            "" if "file_name" in value else f"an image without file_name ({truncated_repr(value)})"
        )
        yield Row(number, {"image": value.get("file_name"), "answers": found}, problem)
    for place, image_id in enumerate(captions, start=number + 1):
        yield Row(place, {}, f"captions of an image that is not listed (image_id {image_id!r})")


def _key(value: Any) -> Any:
    return value if isinstance(value, int | str) else repr(value)
