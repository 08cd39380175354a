"""Files of external chat formats: how they are laid out, and how the images that their rows name are found.

is_array(path)                       one JSON array, or a value a line
read_entries(folder)                 LLaMA-Factory's dataset_info.json
locate_image("../images/a.jpg", roots, 0)  the file that a path means, and its safe name
"""

from __future__ import annotations

import base64
import binascii
import codecs
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote, unquote_to_bytes

from phiv_data.formats.fields import texts_of
from phiv_data.media.reject import RejectInput
from phiv_data.sources.json_stream import MAX_ELEMENT_BYTES, read_json_array, read_value
from phiv_data.storage.record_errors import list_keys, truncated_repr
from phiv_data.utils.atomic import environment_problems
from phiv_data.utils.lines import BOM
from phiv_schemas.errors import SourceError

INFO = "dataset_info.json"
SUFFIXES = (".json", ".jsonl", ".ndjson")
MAX_FIRST_LINE = 1 << 20
"""A first line that is longer and begins an array is the whole array, not the first of several lines."""


def is_array(path: Path) -> bool:
    """True for one array, False for a value a line. SourceError for JSON of another shape, such as one object."""
    with environment_problems(path), path.open("rb") as file:
        head = file.read(MAX_FIRST_LINE).removeprefix(BOM).lstrip()
    first, newline, rest = head.partition(b"\n")
    if first[:1] == b"[":
        if rest.strip():
            try:
                json.loads(first)
            except (ValueError, RecursionError):
                return True
            return False
        # All of it is one line, or the first line is longer than that: an array of rows, or a row that is a list.
        return not _is_message(next((row.value for row in read_json_array(path)), None))
    if newline and first.strip() == b"{":
        unreadable = "is no JSON lines: its first line is '{' alone", "Write one row per line"
        raise SourceError(str(path), *(explain_shape(path) or unreadable))
    return False


def _is_message(value: Any) -> bool:
    is_bare = isinstance(value, dict) and ("role" in value or "from" in value)
    return is_bare and not {"messages", "conversations", "conversation"} & set(value)


def explain_encoding(path: Path) -> tuple[str, str] | None:
    """Which byte of a file is not UTF-8, and what to do; None where all of its first 64 MiB are."""
    with environment_problems(path), path.open("rb") as file:
        raw = file.read(MAX_ELEMENT_BYTES)
    try:
        codecs.getincrementaldecoder("utf-8")().decode(raw)  # may end within a character
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        what = f"byte 0x{raw[error.start]:02x} at byte {error.start + 1} (line {line}) is not UTF-8"
        return what, "Save it as UTF-8"
    return None


def explain_shape(path: Path) -> tuple[str, str] | None:
    """What a file holds that is neither an array of rows nor a row a line, and what to do; None where it may be that.

    Files of over 64 MiB are not read to the end.
    """
    with environment_problems(path), path.open("rb") as file:
        text = file.read(MAX_ELEMENT_BYTES).removeprefix(BOM).decode("utf-8", "replace").lstrip()
    try:
        value, end = json.JSONDecoder().raw_decode(text)
    except (ValueError, RecursionError):
        return None
    jq, first_line = "Write a row per line: jq -c {} IN.json > OUT.jsonl", text[:end].partition("\n")
    if isinstance(value, list):
        if any(_is_message(item) for item in value[:1]) and text[:end].count("\n"):
            return "is one row, a list of messages over several lines", jq.format(".")
        return None
    if not isinstance(value, dict):
        return None
    if text[end:].lstrip()[:1] in ("{", ","):
        if not first_line[1]:
            return None  # a value a line
        return "is objects one after another, over several lines each", jq.format(".")
    if text[end:].strip():
        return None
    return _explain_object(value, jq, spans_lines=bool(first_line[1]))


def _explain_object(value: dict[str, Any], jq: str, *, spans_lines: bool) -> tuple[str, str] | None:
    """`explain_shape` for a file that is one object."""
    if is_row(value):
        return ("is one row over several lines", jq.format(".")) if spans_lines else None
    lists = [key for key, item in value.items() if isinstance(item, list) and any(map(is_row, item[:1]))]
    if lists:
        return f"is one object, with rows under {truncated_repr(lists[0])}", jq.format(f"'.[{json.dumps(lists[0])}][]'")
    if value and all(is_row(item) for item in list(value.values())[:8]):
        keys = ", ".join(truncated_repr(key) for key in list(value)[:2])
        return f"is one object of rows by key ({keys}, ...)", jq.format("'.[]'")
    if not spans_lines:
        return None
    if any(text.endswith(SUFFIXES) for text in texts_of(value)):
        return "is one JSON object, not rows of data", "Pass the file of rows that it names"
    return f"is one JSON object, and no row (found {list_keys(value) or 'no keys'})", "Pass JSON lines, or an array"


def is_row(value: Any) -> bool:
    """True for a row of any format: it has messages, a query or a prompt."""
    if isinstance(value, list):
        return any(_is_message(item) for item in value[:1])
    keys = set(value) if isinstance(value, dict) else set()
    is_dialogue = any(isinstance(value[name], list) for name in keys & {"messages", "conversations", "conversation"})
    return is_dialogue or bool(keys & {"query", "prompt", "instruction", "question", "question_id", "chosen"})


def read_entries(path: Path) -> dict[str, dict[str, Any]]:
    """The entries of a dataset_info.json by name; none where there is no such file. SourceError where it is none."""
    if not path.is_file():
        return {}
    try:
        start = len(BOM) if path.read_bytes().startswith(BOM) else 0
        read = read_value(path, start, path.stat().st_size)
        return {name: entry for name, entry in read.items() if isinstance(entry, dict)}
    except (RejectInput, AttributeError) as error:
        what = error.reason if isinstance(error, RejectInput) else error
        raise SourceError(str(path), f"is no object of datasets ({what})", "Fix it, or move it away") from error


# Images ------------------------------------------------------------------------------------------------------------


_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://|https?:/", re.IGNORECASE)  # a name with a colon is none
_DRIVE = re.compile(r"[A-Za-z]:[\\/]")
_DATA = re.compile(r"data:([^,]*),", re.IGNORECASE)


Root = tuple[Path, str]
"""A folder to search, and the prefix of the names of images found there."""


def is_data_uri(ref: str) -> bool:
    """True for an image that is its own reference: a `data:` URI."""
    return _DATA.match(ref) is not None


def is_url(ref: str) -> bool:
    """True for `https://` and the like."""
    return not is_data_uri(ref) and not ref.startswith("file:") and bool(_URL.match(ref)) and not _DRIVE.match(ref)


def locate_image(ref: str, roots: Sequence[Root], strip: int) -> tuple[Path, str] | None:
    """The file that a path means and its safe name: below the first of `roots` that has it, or at its absolute path."""
    if _DATA.match(ref):
        return None
    path = strip_folders(ref, strip)
    for root, before in roots:
        if (root / path).exists():
            return root / path, safe_name(path if is_absolute(path) else f"{before}/{path}".lstrip("/"))
    return None


def safe_name(path: str) -> str:
    """A relative path without `..`, another for each file: `/a.jpg` is `_root/a.jpg`, `../a.jpg` is `_up/a.jpg`."""
    parts: list[str] = ["_root"] if is_absolute(path) else []
    for part in (path.replace(":/", "/", 1) if is_absolute(path) else path).split("/"):
        if part == ".." and parts and parts[-1] not in ("_up", "_root"):
            parts.pop()
        elif part not in ("", "."):
            parts.append("_up" if part == ".." else part)
    return "/".join(parts)


def is_absolute(path: str) -> bool:
    """True for `/a` and `C:/a`."""
    return path.startswith("/") or _DRIVE.match(path) is not None


def strip_folders(ref: str, strip: int) -> str:
    """A reference as a path with forward slashes, less its first `strip` folders."""
    path = unquote(ref.removeprefix("file://")) if ref.startswith("file:") else ref
    path = path.replace("\\", "/")
    if not strip:
        return path
    parts = [part for part in path.split("/") if part not in ("", ".")]
    return "/".join(parts[min(strip, len(parts) - 1) :])


def decode_data_uri(ref: str, where: str) -> bytes:
    """The bytes of a `data:` URI, with line breaks or without. RejectInput `bad-row` where it is broken."""
    head = _DATA.match(ref)
    assert head is not None
    body = ref[head.end() :]
    try:
        if not head[1].lower().endswith(";base64"):
            return unquote_to_bytes(body)
        body = "".join((unquote(body) if "%" in body else body).split())
        return base64.b64decode(body + "=" * (-len(body) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        what = f"the image {shorten(ref, 40)!r} is not base64 ({error})"
        raise RejectInput(where, "bad-row", what) from error


def shorten(text: str, length: int = 120) -> str:
    """Enough of a reference to find it by."""
    return text if len(text) <= length else text[: length - 3] + "..."
