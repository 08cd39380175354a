"""Names what holds no rows that phiv can read, in one line: a table, YAML, COCO, an archive, a Git LFS pointer.

    files = find_rows(Path("data.csv"), "auto")
    UsageError: data.csv: is a table (columns image, question, answer), not JSON lines. Write each row as ...

A file that is meant to be JSON lines and has broken lines is not named but checked.
"""

from __future__ import annotations

import csv
import json
import re
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

from phiv_data.formats.files import SUFFIXES, explain_encoding, explain_shape
from phiv_data.formats.recognise import recognise
from phiv_data.sources.folders import find_files
from phiv_data.storage.dataset import MANIFEST, NON_RECORD_FILES
from phiv_data.storage.record_errors import list_keys
from phiv_data.utils.lines import BOM, LFS_MARK, UTF16_MARKS
from phiv_data.validation.inputs.chat_dataset import ChatFile, find_chat_files
from phiv_data.validation.rules.image import declared_format
from phiv_schemas import SourceError, UsageError

_UNPACK = "Unpack or convert it first: phiv-convert reads many formats"
_OWN_ROWS = "Write a JSON object a row, as docs/own_data.md shows, then: phiv-convert jsonl"
_BINARY = {
    LFS_MARK: ("is a Git LFS pointer: the content was not downloaded", "Run git lfs pull"),
    b"PAR1": ("is a Parquet file, not jsonl", _UNPACK),
    b"ARROW1": ("is an Arrow IPC file, where phiv's shards are Arrow IPC streams, not jsonl", _UNPACK),
    b"\x1f\x8b": ("is gzip, not jsonl", _UNPACK),
    b"PK\x03\x04": ("is a zip archive, not jsonl", _UNPACK),
    b"BZh": ("is bzip2, not jsonl", _UNPACK),
    b"\xfd7zXZ": ("is xz, not jsonl", _UNPACK),
    b"\x28\xb5\x2f\xfd": ("is zstd, not jsonl", _UNPACK),
    b"\x89PNG": ("is a PNG image, not jsonl", "Pass the file of rows that names it"),
    b"\xff\xd8\xff": ("is a JPEG image, not jsonl", "Pass the file of rows that names it"),
    b"%PDF": ("is a PDF document, not jsonl", _OWN_ROWS),
    b"SQLite format 3": ("is a SQLite database, not jsonl", _OWN_ROWS),
    b"\xd0\xcf\x11\xe0": ("is an Excel workbook, not jsonl", _OWN_ROWS),
}
_HEAD_BYTES = 2**16
_MAX_JSON_BYTES = 2**28
_ROWS = 64
_ROW_KEYS = {"conversations", "messages", "conversation", "query", "instruction", "prompt", "response", "question_id"}
_NAME_VALUE = re.compile(rb"[\w-]+:(?:\s.*)?")


def find_rows(path: Path, input_format: str = "auto") -> list[ChatFile]:
    """The files to read as an external chat format, as `find_chat_files` gives them.

    UsageError that names the kind where `path` holds no rows.
    """
    if path.is_file() and path.suffix != ".arrow" and (kind := _name_file(path, input_format)):
        raise UsageError(str(path), kind[0], _way_out(path, kind[1]))
    try:
        files = find_chat_files(path, input_format)
    except (UsageError, SourceError) as error:
        if path.is_file() and error.where == str(path) and (kind := _name_json(path)):
            raise UsageError(str(path), kind[0], _way_out(path, kind[1])) from error
        raise
    if path.is_dir() and not files and input_format == "auto" and (kind := _name_folder(path)):
        raise UsageError(str(path), kind[0], _way_out(path, kind[1]))
    return files


def _way_out(path: Path, hint: str) -> str:
    """The command that converts `path`, where one is known; else `hint`."""
    found = recognise(path) if path.is_dir() or _OWN_ROWS in hint or _UNPACK in hint else None
    return f"Convert it: phiv-convert {found.arguments(path)} --out_dir OUT" if found else hint


def _name_file(path: Path, input_format: str) -> tuple[str, str] | None:
    """What a file is that holds no JSON, or JSON of a known other kind; and what to do. None for any other."""
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
    if path.suffix.lower() in (".xlsx", ".ods") and head.startswith(b"PK\x03\x04"):
        return "is a spreadsheet, not jsonl", f"Save it as CSV. {_OWN_ROWS}"
    if binary := next((kind for mark, kind in _BINARY.items() if head.startswith(mark)), None):
        return binary
    if input_format != "auto" or head.startswith(UTF16_MARKS):
        return None
    lines = [line.strip() for line in head.removeprefix(BOM).splitlines() if line.strip()][:_ROWS]
    suffix = path.suffix.lower()
    if not any(line.startswith((b"{", b"[", b'"{')) for line in lines):
        return _name_text(lines, suffix)
    return _name_rows(lines) if suffix in (".jsonl", ".ndjson") else None


def _name_text(lines: list[bytes], suffix: str) -> tuple[str, str] | None:
    if suffix in (".yaml", ".yml") or (len(lines) > 1 and all(map(_NAME_VALUE.fullmatch, lines[:3]))):
        return "is YAML, not JSON lines", "Pass the file of rows that it names"
    counts = [{sep: line.count(sep) for sep in (b"\t", b",", b";")} for line in lines[:5]]
    same = [sep for sep in (b"\t", b",", b";") if len(counts) > 1 and counts[0][sep] and counts[0] == counts[1]]
    if suffix in (".csv", ".tsv") or same:
        separator = (same or [b"\t" if suffix == ".tsv" else b","])[0].decode()
        header = lines[0].decode("utf-8", "replace") if lines else ""
        columns = ", ".join(name[:30] for name in next(csv.reader([header], delimiter=separator), [])[:8])
        return f"is a table (columns {columns}), not JSON lines", _OWN_ROWS
    if lines and lines[0].startswith(b"<"):
        return "is XML or HTML, not JSON lines", _OWN_ROWS
    return None if suffix in SUFFIXES or not lines else ("is text, not JSON lines", _OWN_ROWS)


def _name_rows(lines: list[bytes]) -> tuple[str, str] | None:
    """What rows are that no format has. None where one of them may be a row of a format, or is broken."""
    rows: list[Any] = []
    for whole in (lines, lines[:-1]):  # the last may be cut
        with suppress(ValueError, RecursionError):
            rows = [json.loads(line) for line in whole]
            break
    if not rows or not all(isinstance(row, dict) for row in rows):
        return None
    keys = set[str]().union(*rows)
    is_predicted = {"prompt", "predict", "label"} <= keys  # generated_predictions.jsonl of LLaMA-Factory
    if is_predicted or ({"question_id", "text"} <= keys and keys & {"answer_id", "model_id"}):
        return "holds the answers of a model, not questions or rows", "Pass the file of questions, or convert its rows"
    if keys & _ROW_KEYS or keys & {"id", "source"} == {"id", "source"}:
        return None
    hint = "docs/interchange.md shows the rows of each format that phiv reads"
    if "file_name" in keys:
        return f"is the metadata of an image folder (keys {list_keys(keys)}), no rows of a format", _OWN_ROWS
    return f"holds rows of no format that phiv reads (keys {list_keys(keys)})", f"{_OWN_ROWS}; {hint}"


# JSON of other shapes -----------------------------------------------------------------------------------------------


def _name_json(path: Path) -> tuple[str, str] | None:
    """What a JSON file is that holds no rows of a format, and what to do."""
    if path.stat().st_size > _MAX_JSON_BYTES:
        return None
    try:
        value = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        return explain_shape(path) or explain_encoding(path)
    if not isinstance(value, dict):
        rows = [row for row in islice(value, _ROWS) if isinstance(row, dict)] if isinstance(value, list) else []
        names = set[str]().union(*rows)
        if not rows:
            return "holds no rows", "Pass the file of rows"
        if "data" in names and names & {"annotations", "completions", "predictions"}:
            return "is an export of Label Studio", _OWN_ROWS
        return f"holds rows of no format that phiv reads (keys {list_keys(names)})", _OWN_ROWS
    keys = value.keys()
    if "annotations" in keys and keys & {"images", "categories"}:
        return "holds the annotations of COCO", _OWN_ROWS
    if "questions" in keys:
        return "holds the questions of VQA", _OWN_ROWS
    another = f"is one JSON object (keys {list_keys(keys)}), not rows of data", "Pass the file of rows"
    return explain_shape(path) or another


# Folders ------------------------------------------------------------------------------------------------------------


def _name_folder(folder: Path) -> tuple[str, str] | None:
    """What a folder is that holds no rows. None where there is something to check."""
    there = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    jsonl = [path for path in there if path.suffix == ".jsonl" and path.is_file()]
    is_other = jsonl and not any(path.name in NON_RECORD_FILES for path in jsonl)
    if (
        (jsonl and not (is_other and all(_name_file(path, "auto") for path in jsonl)))
        or any((folder / name).exists() for name in (MANIFEST, "images.sha256"))
        or find_files(folder, "*.arrow")
        or find_files(folder, "*/*.arrow")
    ):
        return None
    for path in there:
        if path.is_file() and (kind := _name_file(path, "auto") or (path.suffix == ".json" and _name_json(path))):
            return f"holds no rows; {path.name} {kind[0]}", kind[1]
    classes = [path.name for path in there if path.is_dir() and any(map(_is_image, path.iterdir()))]
    if not classes:  # train/cat/1.jpg
        below = (inner for path in there if path.is_dir() for inner in sorted(path.iterdir()) if inner.is_dir())
        classes = list(dict.fromkeys(path.name for path in below if any(map(_is_image, path.iterdir()))))
    if classes:
        names = ", ".join(classes[:3]) + (", ..." if len(classes) > 3 else "")
        return f"is a folder of images by class ({names}), without rows", _OWN_ROWS
    return None


def _is_image(path: Path) -> bool:
    return bool(declared_format(path.name)[0])
