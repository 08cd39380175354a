"""Fixes of jsonl files, line by line: a line without a fix keeps its bytes.

    fixed = mend_line(b'{"source": "s", "id": "a", ...}\n', renamed={})
    fixed.raw, fixed.changes

A line that would still break the format is left as it is, to be seen to by a person; so is one that is no JSON object.

The log has a line for each change, and `read_log` gives them back for `records.undo`:

    {"file": "val.jsonl", "line": 2, "fix": "missing", "json_path": "$.conversations[0].assistant", "after": null}
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from phiv_data.repair.records import ABSENT, Change, Paths, fix
from phiv_data.storage.jsonl import parse_line
from phiv_data.utils.atomic import HashingWriter, atomic_write
from phiv_data.utils.lines import BOM, UTF16_MARKS
from phiv_schemas import UsageError, check_image_path

MAX_EXAMPLES = 3
_STRING = re.compile(rb'"(?:[^"\\]|\\.)*+"')
_STEP = re.compile(r"\.(\w+)|\[(\d+)\]")


@dataclass(slots=True)
class Log:
    """Counts changes, and writes each as a line of JSON. `changed_rows` and `bad_rows` are different rows."""

    out: HashingWriter
    counts: dict[str, int] = field(default_factory=dict)
    examples: dict[str, list[str]] = field(default_factory=dict)
    changed_rows: int = 0
    rows: int = 0
    bad_rows: int = 0

    def row(self, file: str, line: int, fixed_line: FixedLine) -> None:
        """One line, with what was changed in it."""
        self.rows += fixed_line.is_row
        self.bad_rows += fixed_line.is_bad
        self.changed_rows += any(change.fix != "mark" for change in fixed_line.changes)
        for change in fixed_line.changes:
            self.counts[change.fix] = self.counts.get(change.fix, 0) + 1
            examples = self.examples.setdefault(change.fix, [])
            if len(examples) < MAX_EXAMPLES:
                examples.append(f"{file}:{line}: {change}")
            self.out.write(_log_line(file, line, change))


def _log_line(file: str, line: int, change: Change) -> bytes:
    before = {} if change.before is ABSENT else {"before": change.before}
    where = {"file": file, "line": line, "fix": change.fix, "json_path": change.json_path}
    return f"{json.dumps(where | before | {'after': change.after})}\n".encode()


def read_log(path: Path) -> Iterator[tuple[str, int, Change]]:
    """File, line and change of each line of a log, in the order they were made."""
    with path.open("rb") as lines:
        for raw in lines:
            one = json.loads(raw)
            steps = tuple(name or int(number) for name, number in _STEP.findall(one["json_path"]))
            yield one["file"], one["line"], Change(one["fix"], steps, one.get("before", ABSENT), one["after"])


@dataclass(frozen=True, slots=True)
class FixedLine:
    """A line as it is to be written, and what was changed. `is_bad`: it has errors, and keeps them.

    `record` is what it holds; None where that is no JSON, or nothing. `is_row`: it is no blank line.
    """

    raw: bytes
    changes: tuple[Change, ...] = ()
    record: Any = None
    is_bad: bool = False
    is_row: bool = True


def mend_line(raw: bytes, renamed: Paths, *, is_first: bool = False) -> FixedLine:
    """One line of a file, its end included. Blank lines are kept."""
    text, marks = _without_marks(raw) if is_first else (raw, ())
    if not text.strip():
        return FixedLine(text, marks, is_row=False)
    record = _loaded(text)
    try:
        fixed_line, changes = fix(record, renamed)
    except RecursionError:  # deeper than any record
        fixed_line, changes = record, []
    end = text[len(text.rstrip(b"\r\n")) :]
    line = json.dumps(fixed_line).encode() + end if changes else text
    if parse_line(line.rstrip(b"\r\n"), "", 1).conversation is None:
        return FixedLine(text, marks, record, is_bad=True)
    return FixedLine(line, (*marks, *changes), fixed_line)


def _without_marks(raw: bytes) -> tuple[bytes, tuple[Change, ...]]:
    """The first line of a file without byte order marks (PV006)."""
    text = raw
    while text.startswith(BOM):
        text = text.removeprefix(BOM)
    marks = raw[: len(raw) - len(text)].decode()
    return text, (Change("mark", (), marks, ""),) if marks else ()


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


def fixed_lines(path: Path, renamed: Paths) -> Iterator[tuple[int, FixedLine]]:
    """Every line of a file with its number. UsageError for UTF-16, whose line ends are no bytes."""
    with path.open("rb") as file:
        if file.read(2) in UTF16_MARKS:
            raise UsageError(str(path), "is UTF-16", "Save it as UTF-8 first")
        file.seek(0)
        for number, raw in enumerate(file, start=1):
            yield number, mend_line(raw, renamed, is_first=number == 1)


def fix_lines(source: Path, target: Path, renamed: Paths, log: Log, on_rows: Callable[[int], object]) -> HashingWriter:
    """Write the fixed lines of one file."""
    with atomic_write(target) as out:
        for number, fixed_line in fixed_lines(source, renamed):
            out.write(fixed_line.raw)
            log.row(source.name, number, fixed_line)
            on_rows(fixed_line.is_row)
    return out


def image_paths(record: Any) -> Iterator[str]:
    """The paths that a good record names."""
    return (path for turn in record["conversations"] for path in turn["images"])


def names_in(raw: bytes) -> Iterator[str]:
    """Every text of a line that could be an image's path, whatever the line is. For lines that stay as they are."""
    for string in _STRING.findall(raw):
        try:
            yield check_image_path(json.loads(string))
        except ValueError:
            continue


def copy_old_log(path: Path, files: Iterable[str], out: HashingWriter) -> None:
    """The changes of an earlier fixing stay in the log: those of `files`."""
    if path.is_file():
        names = set(files)
        with path.open("rb") as lines:
            out.write(b"".join(raw for raw in lines if json.loads(raw)["file"] in names))
