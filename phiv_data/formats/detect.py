"""Detects the format of a file of rows by its first rows: phiv's own, or that of another tool.

    >>> detect_format(Path("llava_v1_5_mix665k.json"))
    'llava'

The keys of a row decide its kind, and the most specific kind decides for the file: one TRL row among ShareGPT rows
makes it TRL.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

from phiv_data.formats.files import is_array
from phiv_data.formats.text import IMG_TAG, MARKER
from phiv_data.sources.json_stream import read_json_array
from phiv_schemas import SourceError

_ROWS = 64
_MAX_LINE_BYTES = 2**24
_BOM = b"\xef\xbb\xbf"
_FORMAT_OF_KIND = {
    "phiv": "phiv",
    "trl": "trl",
    "swift": "swift",
    "llava": "llava",
    "with markers": "sharegpt",
    "images without markers": "swift",
    "text only": "sharegpt",
}
"""Kind of a row to format, the kind that decides first on top."""


def detect_format(path: Path) -> str | None:
    """A name of `FORMATS`, or "phiv"; None where the first rows are of no known kind."""
    kinds = {kind for row in _first_rows(path) if (kind := _kind_of(row))}
    return next((format for kind, format in _FORMAT_OF_KIND.items() if kind in kinds), None)


def _first_rows(path: Path) -> Iterator[Any]:
    """The values of the first rows, as far as they are JSON."""
    try:
        if is_array(path):
            yield from (row.value for row in islice(read_json_array(path), _ROWS))
            return
        with path.open("rb") as file:
            for raw in islice(iter(lambda: file.readline(_MAX_LINE_BYTES), b""), _ROWS):
                with suppress(ValueError, RecursionError):  # one bad line hides none of the others
                    yield json.loads(raw.removeprefix(_BOM))
    except (SourceError, ValueError, RecursionError):
        return


def _kind_of(row: Any) -> str | None:
    """A key of `_FORMAT_OF_KIND`; None for other rows."""
    if isinstance(row, list):
        return "trl" if row and _has(row[0], "role", "from") else None
    if not isinstance(row, dict):
        return None
    messages = next((row[name] for name in ("messages", "conversations", "conversation") if row.get(name)), None)
    if isinstance(messages, list) and messages and isinstance(messages[0], dict):
        return _kind_of_dialogue(row, messages)
    if "question_id" in row and "text" in row:
        return "llava"
    if "prompt" in row and ("completion" in row or "chosen" in row):
        return "trl"
    is_query = "query" in row or ("instruction" in row and "output" in row)
    return "swift" if is_query or ("response" in row and "history" in row) else None


def _kind_of_dialogue(row: Mapping[str, Any], messages: list[Any]) -> str | None:
    first = messages[0]
    if "user" in first and not _has(first, "role", "from"):
        return "phiv"
    if _has(first, "human"):
        return "swift"
    if _has(first, "from") and row.get("image"):
        return "llava"
    if not _has(first, "role", "from"):
        return None
    contents = [m.get("content", m.get("value")) for m in messages if isinstance(m, dict)]
    if any(isinstance(content, list) for content in contents):
        return "trl"
    if any(isinstance(content, str) and MARKER in content for content in contents):
        return "with markers"
    has_column = row.get("images") or row.get("image")
    if not has_column and any(isinstance(content, str) and IMG_TAG.search(content) for content in contents):
        return "swift"
    return "images without markers" if has_column else "text only"


def _has(value: Any, *keys: str) -> bool:
    return isinstance(value, dict) and any(key in value for key in keys)
