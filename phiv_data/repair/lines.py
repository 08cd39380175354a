r"""Fixes of jsonl files, line by line, and the log of changes: a line without a fix keeps its bytes.

    fixed = fix_line(b'{"source": "s", "id": "a", ...}\n', renamed={})
    fixed.raw, fixed.changes

A line that would still break the format is left as it is, for a person to correct; so is one that is no JSON object.

The log has a line for each change. The first change of each line also holds the line as it was, for `repair.undo`:

    {"file": "val.jsonl", "line": 2, "fix": "missing", "json_path": "$.conversations[0].assistant", "after": null,
     "line_before": "{\"id\": ...}\n"}

Its last line is a digest of the others, `{"sha256": ...}`: a log that was cut, or emptied, must not undo a part alone.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from phiv_data.repair.records import ABSENT, Change, RenamedPaths, fix
from phiv_data.storage.jsonl import parse_line
from phiv_data.utils.atomic import HashingWriter, atomic_write
from phiv_data.utils.lines import BOM, UTF16_MARKS
from phiv_schemas import UsageError, check_image_path

MAX_EXAMPLES = 3
_STRING = re.compile(rb'"(?:[^"\\]|\\.)*+"')
_STEP = re.compile(r"\.(\w+)|\[(\d+)\]")


# One line ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class FixedLine:
    """A line as the copy has it (`raw`), as it was (`original`), and what was changed. Both include the line's end.

    `record` is what it holds; None where that is not JSON, or nothing. `is_bad`: it has errors, and keeps them.
    `is_row`: it is not blank.
    """

    original: bytes
    raw: bytes
    changes: tuple[Change, ...] = ()
    record: Any = None
    is_bad: bool = False
    is_row: bool = True


def fix_line(
    raw: bytes, renamed: RenamedPaths, *, names: Mapping[str, str] | None = None, is_first: bool = False
) -> FixedLine:
    """Fix one line of a file, its end included. Blank lines are kept. Byte order marks (PV006) are looked for in the
    first line only."""
    text, marks = raw, list[Change]()
    if is_first and (text := without_marks(raw)) != raw:
        marks.append(Change("mark", (), raw[: len(raw) - len(text)].decode(), ""))
    if not text.strip():
        return FixedLine(raw, text, tuple(marks), is_row=False)
    try:
        record = json.loads(text, object_pairs_hook=_object)
    except (ValueError, RecursionError):  # not JSON, or a key is there twice, of which json would drop one
        record = None
    try:
        fixed, changes = fix(record, renamed, names)
    except RecursionError:  # deeper than any record
        fixed, changes = record, []
    end = text[len(text.rstrip(b"\r\n")) :]
    line = json.dumps(fixed).encode() + end if changes else text
    if parse_line(line.rstrip(b"\r\n"), "", 1).conversation is None:
        return FixedLine(raw, text, tuple(marks), record, is_bad=True)
    return FixedLine(raw, line, (*marks, *changes), fixed)


def without_marks(raw: bytes) -> bytes:
    """The first line of a file without byte order marks."""
    while raw.startswith(BOM):
        raw = raw.removeprefix(BOM)
    return raw


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    keys = dict(pairs)
    if len(keys) < len(pairs):
        raise ValueError("a key is there twice")
    return keys


# A file --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RowNames:
    """What rows without `id` or `source` get, as phiv-convert jsonl gives it; `first` is the index of the first row."""

    split: str
    first: int
    source: str

    def of(self, index: int) -> dict[str, str]:
        """Of the row at an index of the file, from 0."""
        return {"id": f"{self.split}-{self.first + index:010d}", "source": self.source}


def iter_fixed_lines(
    path: Path, renamed: RenamedPaths, names: RowNames | None = None
) -> Iterator[tuple[int, FixedLine]]:
    """Every line of a file with its number. UsageError for UTF-16, whose line ends are not single bytes."""
    num_rows = 0
    with path.open("rb") as file:
        if file.read(2) in UTF16_MARKS:
            raise UsageError(str(path), "is UTF-16", "Save it as UTF-8 first")
        file.seek(0)
        for number, raw in enumerate(file, start=1):
            line = fix_line(raw, renamed, names=names.of(num_rows) if names else None, is_first=number == 1)
            num_rows += line.is_row
            yield number, line


def fix_lines(
    source: Path,
    target: Path,
    renamed: RenamedPaths,
    log: FixLog,
    on_rows: Callable[[int], object],
    names: RowNames | None = None,
) -> HashingWriter:
    """Write the fixed lines of one file."""
    with atomic_write(target) as out:
        for number, line in iter_fixed_lines(source, renamed, names):
            out.write(line.raw)
            log.add(source.name, number, line)
            on_rows(line.is_row)
    return out


def image_paths(record: Any) -> Iterator[str]:
    """The paths that a good record names."""
    return (path for turn in record["conversations"] for path in turn["images"])


def possible_image_paths(raw: bytes) -> Iterator[str]:
    """Every string of a line that could be an image's path, whatever the line is. For lines that stay as they are."""
    for string in _STRING.findall(raw):
        try:
            yield check_image_path(json.loads(string))
        except ValueError:
            continue


# The log -------------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class FixLog:
    """Counts changes, and writes each as a line of JSON. `changed_rows` and `bad_rows` are different rows."""

    out: HashingWriter
    counts: dict[str, int] = field(default_factory=dict)
    examples: dict[str, list[str]] = field(default_factory=dict)
    changed_rows: int = 0
    rows: int = 0
    bad_rows: int = 0

    def add(self, file: str, line: int, fixed: FixedLine) -> None:
        """Add one line of a file: count it, and write what was changed in it."""
        self.rows += fixed.is_row
        self.bad_rows += fixed.is_bad
        self.changed_rows += any(change.fix != "mark" for change in fixed.changes)
        for i, change in enumerate(fixed.changes):
            self.counts[change.fix] = self.counts.get(change.fix, 0) + 1
            examples = self.examples.setdefault(change.fix, [])
            if len(examples) < MAX_EXAMPLES:
                examples.append(f"{file}:{line}: {change}")
            entry = {"file": file, "line": line, "fix": change.fix, "json_path": change.json_path}
            entry |= {} if change.before is ABSENT else {"before": change.before}
            entry |= {"after": change.after}
            if i == 0:  # bytes that are not UTF-8 become lone surrogates, which JSON escapes
                entry["line_before"] = fixed.original.decode("utf-8", "surrogateescape")
            self.out.write(f"{json.dumps(entry)}\n".encode())


def copy_old_log(path: Path, files: Iterable[str], out: HashingWriter) -> None:
    """Keep the changes of an earlier fix in the log: those of `files`."""
    if path.is_file():
        names = set(files)
        with path.open("rb") as lines:
            try:
                out.writelines(raw for raw, entry in read_log(lines) if entry.file in names)
            except DamagedLog as damage:
                hint = "Move it away: the copy then cannot be undone further than this"
                raise UsageError(f"{path}:{damage.line}", damage.what, hint) from None


def last_line(sha256: str) -> bytes:
    """What ends a log whose other lines have this sha256."""
    return f"{json.dumps({'sha256': sha256})}\n".encode()


def is_log_entry(raw: bytes) -> bool:
    """False for the last line of a log."""
    return not raw.startswith(b'{"sha256"')


class DamagedLog(ValueError):
    """A log that is not as --fix wrote it: `what` is wrong with its line `line`."""

    def __init__(self, line: int, what: str) -> None:
        super().__init__(line, what)
        self.line, self.what = line, what


def read_log(lines: Iterable[bytes]) -> Iterator[tuple[bytes, LogEntry]]:
    """The lines of a log, less the last, and what they say. DamagedLog, be it after them all, where it is not whole."""
    digest, last, number = hashlib.sha256(), b"", 0
    for number, raw in enumerate(lines, start=1):
        if last:
            raise DamagedLog(number, "is not a line of the log of fixes, which ends before it")
        if not is_log_entry(raw):
            last = raw
            continue
        try:
            entry = parse_log_entry(raw)
        except ValueError:
            raise DamagedLog(number, "is not a line of the log of fixes") from None
        digest.update(raw)
        yield raw, entry
    if last != last_line(digest.hexdigest()):
        what = "is not the digest of the lines before it" if last else "is missing: the log was cut or emptied"
        raise DamagedLog(number + (not last), what)


class LogEntry(NamedTuple):
    """One line of the log. `line_before`: the whole line as it was, where this is its first change."""

    file: str
    line: int
    change: Change
    line_before: bytes | None


def parse_log_entry(raw: bytes) -> LogEntry:
    """A line of the log. ValueError for anything else."""
    try:
        entry = json.loads(raw)
        steps = tuple(name or int(number) for name, number in _STEP.findall(entry["json_path"]))
        change = Change(entry["fix"], steps, entry.get("before", ABSENT), entry["after"])
        text = entry.get("line_before")
        line_before = None if text is None else text.encode("utf-8", "surrogateescape")
        return LogEntry(str(entry["file"]), int(entry["line"]), change, line_before)
    except (LookupError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError("not an entry of a log of fixes") from error
