"""Fixes of jsonl files, line by line: a line without a fix keeps its bytes.

    raw, changes = mend_line(b'{"source": "s", "id": "a", ...}\n', number=1, renamed={})

A line that would still be wrong is left as it is, to be seen to by a person; so is one that is no JSON object.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from phiv_data.files import HashingWriter, atomic_write
from phiv_data.fixing.records import ABSENT, Change, Paths, mend
from phiv_data.jsonl import UTF16_MARKS, parse_line
from phiv_schemas import check_image_path

BOM = b"\xef\xbb\xbf"
MARK = Change("mark", (), "\ufeff", "")
"""The byte order mark of a file, taken away (PV006)."""
MAX_EXAMPLES = 3


@dataclass(slots=True)
class Log:
    """Counts changes, and writes each as a line of JSON: file, line, fix, json_path, before (if any), after."""

    out: HashingWriter
    counts: dict[str, int] = field(default_factory=dict)
    examples: dict[str, list[str]] = field(default_factory=dict)
    changed_rows: int = 0
    rows: int = 0
    bad_rows: int = 0

    def row(self, file: str, line: int, mended: Mended) -> None:
        """One row, with what was changed in it."""
        self.rows, self.bad_rows = self.rows + 1, self.bad_rows + mended.is_bad
        self.changed_rows += bool(mended.changes)
        for change in mended.changes:
            self.counts[change.fix] = self.counts.get(change.fix, 0) + 1
            examples = self.examples.setdefault(change.fix, [])
            if len(examples) < MAX_EXAMPLES:
                examples.append(f"{file}:{line}: {change}")
            self.out.write(_log_line(file, line, change))


def _log_line(file: str, line: int, change: Change) -> bytes:
    before = {} if change.before is ABSENT else {"before": change.before}
    where = {"file": file, "line": line, "fix": change.fix, "json_path": change.json_path}
    return f"{json.dumps(where | before | {'after': change.after})}\n".encode()


@dataclass(frozen=True, slots=True)
class Mended:
    """A line as it is to be written, and what was changed. `is_bad`: it has errors, and keeps them.

    `record` is what it holds; None where that is no JSON, or nothing.
    """

    raw: bytes
    changes: tuple[Change, ...] = ()
    record: Any = None
    is_bad: bool = False
    is_row: bool = True


def mend_line(raw: bytes, renamed: Paths, *, is_first: bool = False) -> Mended:
    """One line of a file, its end included. Blank lines are kept."""
    marks = (MARK,) if is_first and raw.startswith(BOM) else ()
    text = raw.removeprefix(BOM) if marks else raw
    if not text.strip():
        return Mended(text, marks, is_row=bool(marks))
    record = _loaded(text)
    try:
        mended, changes = mend(record, renamed)
    except RecursionError:  # deeper than any record
        mended, changes = record, []
    line = f"{json.dumps(mended)}\n".encode() if changes else text
    is_bad = parse_line(line.rstrip(b"\r\n"), "", 1).conversation is None
    if is_bad:
        return Mended(text, marks, record, is_bad=True)
    return Mended(line, (*marks, *changes), mended)


def _loaded(raw: bytes) -> Any:
    """The value of a line; None where it is no JSON, or holds a key twice, of which json would drop one."""
    try:
        return json.loads(raw, object_pairs_hook=_object)
    except (ValueError, RecursionError):
        return None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key stands twice")
    return found


def mended_lines(path: Path, renamed: Paths) -> Iterator[tuple[int, Mended]]:
    """Every line of a file with its number. A file in UTF-16 is one bad line: its line ends are no bytes."""
    with path.open("rb") as file:
        if file.read(2) in UTF16_MARKS:
            yield 1, Mended(path.read_bytes(), is_bad=True)
            return
        file.seek(0)
        for number, raw in enumerate(file, start=1):
            yield number, mend_line(raw, renamed, is_first=number == 1)


def fix_lines(source: Path, target: Path, renamed: Paths, log: Log, on_rows: Callable[[int], object]) -> HashingWriter:
    """Write the mended lines of one file."""
    with atomic_write(target) as out:
        for number, mended in mended_lines(source, renamed):
            out.write(mended.raw)
            if mended.is_row:
                log.row(source.name, number, mended)
                on_rows(1)
    return out


def image_paths(record: Any) -> Iterator[str]:
    """The paths that a record names, good or bad, as far as they are paths."""
    turns = record.get("conversations") if isinstance(record, dict) else None
    for turn in turns if isinstance(turns, list) else ():
        images = turn.get("images") if isinstance(turn, dict) else None
        yield from (path for path in (images if isinstance(images, list) else ()) if _is_path(path))


def _is_path(path: Any) -> bool:
    try:
        return isinstance(path, str) and bool(check_image_path(path))
    except ValueError:
        return False
