"""JSON of official releases, row by row in constant memory: lines, or the elements of an array.

    for row in read_rows(root / "train.json"):          # true line numbers, byte spans, broken lines reported
        row.line, row.offset, row.length, row.value
    read_value(path, row.offset, row.length)            # the same row later, in another process
    text_of(row.value, "question", where="train.json:7")

Rejects here are `bad-row`: not JSON, or a field that is missing or of the wrong type.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from phiv_data.media.reject import RejectInput
from phiv_data.storage.record_errors import list_keys, truncated_repr
from phiv_data.utils.atomic import environment_problems
from phiv_data.utils.lines import BOM, UTF16_MARKS, numbered_lines
from phiv_schemas.errors import SourceError

MAX_ELEMENT_BYTES = 64 << 20
"""A single row of a JSON file is never larger; where it seems to be, the file is broken."""

_CHUNK = 1 << 16
_SPACE = b" \t\r\n"
_BLANK = re.compile(rb"[ \t\r\n]*")


@dataclass(frozen=True, slots=True)
class JsonRow:
    """One value of a file: the 1-based line it begins on, its bytes' span, and what it holds.

    `problem` is why a row cannot be used: it is not JSON, and `value` is None, or an object of it has a key twice, and
    `value` has the last of each.
    """

    line: int
    offset: int
    length: int
    value: Any
    problem: str = ""


def read_rows(path: Path, key: str | None = None) -> Iterator[JsonRow]:
    """JSON lines, or the elements of a JSON array where the file is one or `key` names one in it."""
    with environment_problems(path), path.open("rb") as file:
        _start(file, path)
        is_array = key is not None or file.read(_CHUNK).lstrip()[:1] == b"["
    return read_json_array(path, key) if is_array else read_json_lines(path)


def read_json_lines(path: Path) -> Iterator[JsonRow]:
    """Every non-blank line, good or bad. SourceError for a web page, a Git LFS pointer or UTF-16 under this name."""
    reader = _RowReader()
    with environment_problems(path), path.open("rb") as file:
        _start(file, path)
        file.seek(0)
        for number, offset, raw in numbered_lines(file, max_bytes=MAX_ELEMENT_BYTES + 1):
            if len(raw) > MAX_ELEMENT_BYTES:
                raise SourceError(f"{path}:{number}", f"a line of over {MAX_ELEMENT_BYTES} bytes", "One row per line")
            if body := raw.strip(_SPACE):
                start = offset + len(raw) - len(raw.lstrip(_SPACE))
                yield reader.read(number, start, body)


def read_json_array(path: Path, key: str | None = None) -> Iterator[JsonRow]:
    """The elements of a JSON array, one at a time: the whole file, or the array at `key` of the object in it.

    Memory is that of the largest element. SourceError, with the line, where the file is not such JSON or is cut.
    """
    with environment_problems(path), path.open("rb") as file:
        window = _Window(file, path, offset=_start(file, path))
        if key is not None:  # go to its value in the object that begins here
            window.expect(b"{", "an object")
            while True:
                if window.peek() == b"}":
                    raise window.error(f"the object has no {key!r}")
                name = window.element().value
                window.expect(b":", "a colon")
                if name == key:
                    break
                window.element()
                if window.peek() == b",":
                    window.skip(1)
        window.expect(b"[", "an array")
        while window.peek() != b"]":
            yield window.element()
            if window.peek() != b"]":
                window.expect(b",", "a comma")
                if window.peek() == b"]":
                    raise window.error("a comma before the end of the array")
        window.expect(b"]", "the end of the array")
        if key is None and not window.at_end():
            raise window.error("the file continues after the end of its array")


def read_value(path: Path, offset: int, length: int, *, where: str = "") -> Any:
    """The JSON value at a span that a `Row` named. RejectInput `bad-row` where it is not JSON (any more)."""
    with environment_problems(path), path.open("rb") as file:
        file.seek(offset)
        row = _RowReader().read(0, offset, file.read(length))
    if row.problem:
        raise RejectInput(where or path.name, "bad-row", row.problem)
    return row.value


def value_of(row: Any, name: str, kinds: type | tuple[type, ...], where: str) -> Any:
    """`row[name]`, of one of `kinds` (bool is no int here). RejectInput `bad-row` that names what is there instead."""
    kinds = kinds if isinstance(kinds, tuple) else (kinds,)
    if not isinstance(row, dict):
        raise RejectInput(where, "bad-row", f"not an object (found {truncated_repr(row)})")
    if name not in row:
        raise RejectInput(where, "bad-row", f"no {name!r} (found {list_keys(row) or 'nothing'})")
    if type(row[name]) not in kinds:
        wanted = " or ".join(kind.__name__ for kind in kinds)
        raise RejectInput(where, "bad-row", f"{name!r} is not {wanted} (found {truncated_repr(row[name])})")
    return row[name]


def text_of(row: Any, name: str, where: str) -> str:
    """`row[name]` as text that is not blank and can be written as UTF-8. RejectInput `bad-row` otherwise."""
    text: str = value_of(row, name, str, where)
    if not text.strip():
        raise RejectInput(where, "bad-row", f"{name!r} is empty")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise RejectInput(where, "bad-row", f"{name!r} holds half a surrogate pair at {error.start}") from error
    return text


class _RowReader:
    """Reads rows, and reports keys that an object has twice."""

    def __init__(self) -> None:
        self._repeats: list[str] = []
        self._decoder = json.JSONDecoder(object_pairs_hook=self._as_object)  # making one takes as long as a short row

    def read(self, number: int, offset: int, raw: bytes) -> JsonRow:
        """The row of these bytes, or what is wrong with them."""
        self._repeats.clear()
        try:
            value = self._decoder.decode(raw.decode("utf-8"))
            shown = truncated_repr(self._repeats[0]) if self._repeats else ""
            problem = f"duplicate key {shown}: keep one, readers take the last" if shown else ""
            return JsonRow(number, offset, len(raw), value, problem)
        except UnicodeDecodeError as error:
            reason = f"byte 0x{raw[error.start]:02x} at byte {error.start + 1} is not UTF-8"
        except json.JSONDecodeError as error:
            reason = f"not valid JSON: {error.msg} at character {error.pos + 1}"
        except (RecursionError, ValueError) as error:  # ValueError: an integer of more digits than Python takes
            reason = f"not readable as JSON: {error}"
        return JsonRow(number, offset, len(raw), None, reason)

    def _as_object(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            names = [name for name, _ in pairs]
            self._repeats.append(next(name for name in names if names.count(name) > 1))
        return found


def _start(file: BinaryIO, path: Path) -> int:
    """The offset of the first byte of text. SourceError for what is known to be saved under a JSON file's name."""
    head = file.read(512)
    begins = len(BOM) if head.startswith(BOM) else 0
    text = head[begins:].lstrip().lower()
    if text.startswith((b"<!doctype", b"<html", b"<?xml")):
        raise SourceError(
            str(path), "is a web page: a login, licence or error page saved under its name", "Get it again"
        )
    if text.startswith(b"version https://git-lfs"):
        raise SourceError(str(path), "is a Git LFS pointer, not the file", "Fetch the file with git lfs pull")
    if head.startswith(UTF16_MARKS):
        raise SourceError(str(path), "is UTF-16", "Save it as UTF-8")
    file.seek(begins)
    return begins


@dataclass(slots=True)
class _Window:
    """A stretch of a file in memory; `text` is `data` as latin-1, where one character is one byte."""

    file: BinaryIO
    path: Path
    offset: int
    line: int = 1
    data: bytes = b""
    text: str = ""
    at: int = 0
    ended: bool = False
    reader: _RowReader = field(default_factory=_RowReader)

    def more(self, size: int = 0) -> bool:
        """Read on, dropping what lies behind. False at the end of the file."""
        read = self.file.read(size or _CHUNK)
        self.offset += self.at
        self.data, self.at, self.ended = self.data[self.at :] + read, 0, not read
        self.text = self.data.decode("latin-1")
        return bool(read)

    def skip(self, count: int) -> None:
        self.line += self.data.count(b"\n", self.at, self.at + count)
        self.at += count

    def at_end(self) -> bool:
        """Go to the next byte that is no white space. True when there is none."""
        while True:
            blank = _BLANK.match(self.data, self.at)
            assert blank is not None, "matches everywhere"
            self.skip(blank.end() - self.at)
            if self.at < len(self.data):
                return False
            if not self.more():
                return True

    def peek(self) -> bytes:
        """The next byte that is no white space. SourceError at the end of the file."""
        if self.at_end():
            raise self.error("the file ends before the array does: it is cut")
        return self.data[self.at : self.at + 1]

    def expect(self, byte: bytes, what: str) -> None:
        found = self.peek()
        if found != byte:
            raise self.error(f"expected {what} (found {found.decode('latin-1')!r})")
        self.skip(1)

    def element(self) -> JsonRow:
        """The value that begins here."""
        self.peek()
        size = _CHUNK
        while True:
            end, reason, is_cut = self._parse()
            # It ends there however the file continues: `1`, `1.` and `1e` may be the start of a number.
            if end is not None and (self.ended or self.data[end : end + 1] in _DELIMITERS or len(self.data) - end > 2):
                break
            if self.ended or not is_cut or len(self.data) - self.at > MAX_ELEMENT_BYTES:
                raise self.error(f"not valid JSON: {reason or 'a value that does not end'}")
            self.more(size)
            size *= 2
        row = self.reader.read(self.line, self.offset + self.at, self.data[self.at : end])
        if row.problem and row.value is None:
            raise self.error(row.problem)
        self.skip(row.length)
        return row

    def _parse(self) -> tuple[int | None, str, bool]:
        """(end of the value, or None; what is wrong; whether more of the file might fix it)."""
        try:
            return _DECODER.raw_decode(self.text, self.at)[1], "", True
        except json.JSONDecodeError as error:
            near_end = error.pos >= len(self.text) - 16 or error.msg.startswith("Unterminated string")
            return None, error.msg, near_end
        except (RecursionError, ValueError) as error:
            return None, str(error), False

    def error(self, what: str) -> SourceError:
        return SourceError(f"{self.path}:{self.line}", what, "Get the file again, or fix it")


_DELIMITERS = (b",", b"]", b"}", b":", b" ", b"\t", b"\r", b"\n")
_DECODER = json.JSONDecoder()
