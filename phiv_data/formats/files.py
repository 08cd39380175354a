"""Files of external chat formats: how they are laid out, and how the images that their rows name are found.

is_array(path)                       one JSON array, or a value a line
read_entries(folder)                 LLaMA-Factory's dataset_info.json
locate_image("../images/a.jpg", roots, 0)  the file that a path means, and its safe name
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote, unquote_to_bytes

from phiv_data.media.reject import RejectInput
from phiv_data.utils.atomic import environment_problems
from phiv_data.utils.lines import BOM
from phiv_schemas.errors import SourceError

INFO = "dataset_info.json"
SUFFIXES = (".json", ".jsonl", ".ndjson")
MAX_FIRST_LINE = 1 << 20
"""A first line that is longer and begins an array is the whole array, not the first of several lines."""


def is_array(path: Path) -> bool:
    """True for one array, False for a value a line. SourceError for one object over several lines."""
    with environment_problems(path), path.open("rb") as file:
        head = file.read(MAX_FIRST_LINE).removeprefix(BOM).lstrip()
    first, newline, rest = head.partition(b"\n")
    if first[:1] == b"[":
        if not rest.strip():
            return True
        try:
            json.loads(first)
        except (ValueError, RecursionError):
            return True
        return False
    if newline and first.strip() == b"{":
        raise SourceError(str(path), "is one JSON object, not rows of data", "Pass the file of rows that it names")
    return False


def read_entries(path: Path) -> dict[str, dict[str, Any]]:
    """The entries of a dataset_info.json by name; none where there is no such file. SourceError where it is none."""
    if not path.is_file():
        return {}
    try:
        with environment_problems(path):
            read = json.loads(path.read_bytes())
        return {name: entry for name, entry in read.items() if isinstance(entry, dict)}
    except (ValueError, AttributeError) as error:
        raise SourceError(str(path), f"is no object of datasets ({error})", "Fix it, or move it away") from error


# Images ------------------------------------------------------------------------------------------------------------


_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:")
_DRIVE = re.compile(r"[A-Za-z]:[\\/]")
_DATA = re.compile(r"data:([^,]*),", re.IGNORECASE)


Root = tuple[Path, str]
"""A folder to search, and the prefix of the names of images found there."""


def is_data_uri(ref: str) -> bool:
    """True for an image that is its own reference: a `data:` URI."""
    return _DATA.match(ref) is not None


def is_url(ref: str) -> bool:
    """True for `https:` and the like."""
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
    """The bytes of a `data:` URI. RejectInput `bad-row` where it is broken."""
    head = _DATA.match(ref)
    assert head is not None
    body = ref[head.end() :]
    try:
        return base64.b64decode(body, validate=True) if head[1].lower().endswith(";base64") else unquote_to_bytes(body)
    except (binascii.Error, ValueError) as error:
        raise RejectInput(where, "bad-row", f"a data: image is not base64 ({error})") from error


def shorten(text: str) -> str:
    """Enough of a reference to find it by."""
    return text if len(text) <= 120 else text[:117] + "..."
