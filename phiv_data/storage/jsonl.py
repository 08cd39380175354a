"""Reading and writing jsonl, with true line numbers and every error of a record.

    >>> for conversation in read_jsonl(Path("out/ucf101_val.jsonl")):   # stops at the first error
    ...     conversation.turns[0].user
    RecordError: ucf101_val.jsonl:17: $.conversations[0].images[3]: must be a string (found 3)

    >>> for line in read_lines(Path("out/ucf101_val.jsonl")):           # continues after errors
    ...     line.number, line.offset, line.conversation, line.issues

Lines end at `\\n` only; blank lines count but hold no record; `\\r\\n` and a byte order mark are understood.

Three parsers turn a line into a record. `parse_line` here is the reference: pydantic reads the bytes (2 to 3 times
faster than json.loads and a model) and reports every error of the line. `validation.inputs.fast_parse.quick` is asked
first by the validator: msgspec, ten times faster, accepts only lines that `parse_line` accepts, with equal content, and
leaves every other line to it. `phiv_converters.own_jsonl` reads a user's own file: it lets `id` and `source` be absent
and turns errors into rejects, through the same `parse_line`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator
from math import inf
from pathlib import Path

import msgspec
from pydantic import ValidationError

from phiv_data.storage.record_errors import duplicate_key_paths, schema_issues
from phiv_data.utils.atomic import atomic_write, environment_problems
from phiv_data.utils.lines import BOM, UTF16_MARKS
from phiv_schemas import Conversation, FileInfo, Issue, RecordError, UsageError

_SURROGATE = re.compile(r"surrogate|hex escape|unicode code point", re.IGNORECASE)
_POSITION = re.compile(r" at line 1 column (\d+)$")


NO_ID, NO_SOURCE = " (no id)", "(no source)"
"""What stands in a record for the id and source that its line lacks, where it may: an id ends in NO_ID."""

FastParse = Callable[[bytes], tuple[Conversation, tuple[()], bool] | None]
"""A line's `conversation, issues, is_plain`, or None where only `parse_line` can decide."""


class Line(msgspec.Struct, gc=False):  # made for every row: a third of the time of a dataclass
    """One non-blank line: its 1-based number, the byte it starts at, and what it holds.

    `conversation` is None when `issues` hold an error; warnings may stand beside a conversation. `is_plain`: its text
    is known to be ordinary ASCII only.
    """

    number: int
    offset: int
    conversation: Conversation | None
    issues: tuple[Issue, ...] = ()
    is_plain: bool = False


def read_jsonl(path: Path | str) -> Iterator[Conversation]:
    """The records of a file, in order. RecordError at the first bad one; UsageError when there is no such file."""
    return _records(read_lines(path))


def read_lines(path: Path | str, *, name: str | None = None) -> Iterator[Line]:
    """Every non-blank line, good or bad. `name` is what issues call the file (default: its own name)."""
    path = Path(path)
    if not path.is_file():
        raise UsageError(str(path), "is a folder, not a jsonl file" if path.is_dir() else "no such file")
    return read_range(path, name or path.name)


def read_range(
    path: Path,
    name: str,
    start: int = 0,
    end: float = inf,
    first: int = 1,
    quick: FastParse | None = None,
    *,
    may_lack_names: bool = False,
) -> Iterator[Line]:
    """The non-blank lines of a byte range that begins and ends at line ends; line `first` starts at byte `start`.

    `quick` is asked first: a record it gives is taken as it is, and not parsed again. `may_lack_names`:
    see `parse_line`.
    """
    with environment_problems(path), path.open("rb") as file:
        offset = file.seek(start)
        for number, raw in enumerate(file, first):  # as `numbered_lines`, here for speed
            if offset >= end:
                return
            at, offset = offset, offset + len(raw)
            if is_marked := number == 1 and raw.startswith(BOM):  # the mark is no part of the line
                raw, at = raw.removeprefix(BOM), at + len(BOM)
            if quick and not is_marked and (record := quick(raw)):
                yield Line(number, at, *record)
            elif number == 1 and raw.startswith(UTF16_MARKS):
                what, hint = "the file is UTF-16", "Save it as UTF-8"
                yield Line(1, 0, None, (Issue(code="PV005", file=name, line=1, message=what, hint=hint),))
                return
            elif is_marked or not raw.isspace():
                warnings: tuple[Issue, ...] = ()
                if is_marked:
                    what, hint = "the file begins with a byte order mark", "Save it as plain UTF-8"
                    warnings = (Issue(code="PV006", severity="warning", file=name, line=1, message=what, hint=hint),)
                text, is_cut = raw.rstrip(b"\r\n"), not raw.endswith(b"\n")
                parsed = parse_line(text, name, number, is_cut=is_cut, may_lack_names=may_lack_names)
                yield Line(number, at, parsed.conversation, warnings + parsed.issues)


def parse_line(
    raw: bytes, file: str, number: int | None = None, *, is_cut: bool = False, may_lack_names: bool = False
) -> Line:
    """One line's bytes as a record or as all its issues. `is_cut`: it ends the file without a newline.

    `may_lack_names`: it may lack `id` and `source`, as rows that `phiv-convert jsonl` reads may.
    """
    try:
        conversation = Conversation.model_validate_json(raw)
    except ValidationError as error:
        errors = error.errors(include_url=False, include_input=False)
        lacks_names = all(one["type"] == "missing" and one["loc"] in (("id",), ("source",)) for one in errors)
        if may_lack_names and lacks_names and not (repeated := tuple(_repeated_keys(raw, file, number))):
            names = {"id": f"{file}:{number}{NO_ID}", "source": NO_SOURCE}
            return parse_line(json.dumps(names | json.loads(raw)).encode(), file, number)
        first = errors[0]
        if first["type"] != "json_invalid":
            issues = (*_repeated_keys(raw, file, number), *schema_issues(error, file, number))
        else:
            code, message, hint = _json_problem(raw, first["ctx"]["error"], is_cut)
            issues = (Issue(code=code, file=file, line=number, message=message, hint=hint),)
        return Line(number or 0, 0, None, issues)
    if _may_repeat_a_key(raw, conversation) and (repeated := tuple(_repeated_keys(raw, file, number))):
        return Line(number or 0, 0, None, repeated)
    return Line(number or 0, 0, conversation)


def write_jsonl(path: Path | str, conversations: Iterable[Conversation]) -> FileInfo:
    """Write a file, whole or not at all; the bytes of Microsoft's recipe: `json.dumps(record)` and a newline each.

    The returned `path` is the file's name. EnvironmentProblem for a full disk and the like.
    """
    path = Path(path)
    with atomic_write(path) as out:
        for conversation in conversations:
            out.write(f"{conversation.to_line()}\n".encode("ascii"))
    return FileInfo(path=path.name, size_bytes=out.size_bytes, sha256=out.sha256)


def _records(lines: Iterator[Line]) -> Iterator[Conversation]:
    for line in lines:
        if line.conversation is None:
            raise record_error(line.issues)
        yield line.conversation


def record_error(issues: Iterable[Issue]) -> RecordError:
    """The errors among `issues` as one exception: the first, and how many more there are."""
    first, *more = [issue for issue in issues if issue.severity == "error"]
    where = f"{first.file}:{first.line}" if first.line else first.file
    where += f": {first.json_path}" if first.json_path else ""
    also = f" (and {len(more)} more in this record)" if more else ""
    return RecordError(where, first.message + also, first.hint)


def _may_repeat_a_key(raw: bytes, conversation: Conversation) -> bool:
    """False when the number of quotes proves that no key occurs twice, which costs 1 µs instead of 10.

    A valid record without repeats has two quotes per key and per string; a repeated key adds at least two, and
    so does an escaped quote inside text, which then only costs the slow check.
    """
    strings = 5 if conversation.system is None else 7  # id, source and their keys, the key conversations
    for turn in conversation.conversations:
        strings += 3 + len(turn.images) + (1 if turn.assistant is None else 2)
        strings += 1 if turn.image_offsets is not None else 0
        strings += 1 + len(turn.answers) if turn.answers is not None else 0
    return raw.count(b'"') != 2 * strings


def _repeated_keys(raw: bytes, file: str, number: int | None) -> Iterator[Issue]:
    for path, key in duplicate_key_paths(raw):
        yield Issue(
            code="PV003", file=file, line=number, json_path=path, message=f"duplicate key {key[:60]!r}",
            hint="Keep one: readers take the last without a word",
        )  # fmt: skip


def _json_problem(raw: bytes, reason: str, is_cut: bool) -> tuple[str, str, str]:
    """`(code, message, hint)` of a line that is not JSON."""
    position = _POSITION.search(reason)
    where = f" at byte {position[1]}" if position else ""
    reason = _POSITION.sub("", reason).replace("EOF while", "the line ends while")
    if (nul := raw.find(b"\0")) >= 0:
        return "PV005", f"a NUL byte at byte {nul + 1} of the line", "The file was damaged, or is not text"
    try:
        raw.decode("utf-8")
    except UnicodeDecodeError as error:
        bad = f"byte 0x{raw[error.start]:02x} at byte {error.start + 1} of the line is not UTF-8"
        return "PV005", bad, "Save the file as UTF-8"
    if is_cut:
        return "PV004", f"the last line is cut off after {len(raw)} bytes", "Copy or write the file again"
    if _SURROGATE.search(reason):
        return "PV005", f"a \\u escape that is not valid Unicode{where}", "Escape surrogates in pairs"
    hint = "Write one whole record per line" if raw.strip() in (b"[", b"{") else ""
    return "PV001", f"not valid JSON: {reason}{where}", hint
