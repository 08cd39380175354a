"""Rows of external chat formats as a piece of work: each becomes a record in memory, as their converter reads it.

    for line in read_chat_rows(rows):            # Lines as of a jsonl file, each with a record or its issues
        line.number, line.conversation, line.issues
    original = original_paths(rows, {7})         # phiv's JSON paths to the row's own, for issues of other rules

A file is JSON lines, or one JSON array. Rows of lines have their line's number; elements of an array the line they
begin on, where no two begin on one line, else their place in the array, from 1.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import msgspec

from phiv_data.formats import FORMATS, ParsedRow, sharegpt
from phiv_data.formats.fields import RejectRow
from phiv_data.formats.text import MARKER, Image, read_markers
from phiv_data.storage.jsonl import Line, parse_line
from phiv_data.storage.record_errors import duplicate_key_paths, short_repr
from phiv_data.utils.atomic import environment_problems
from phiv_data.utils.lines import numbered_lines
from phiv_data.validation.core.finding import Finding, value_at
from phiv_data.validation.inputs.chat_images import AddressCounts
from phiv_data.validation.inputs.fast_parse import FastRecord, FastTurn
from phiv_data.validation.inputs.jsonl_range import check_lines
from phiv_data.validation.partial_result import PartialResult, ResultBuilder
from phiv_data.validation.tasks import CheckContext
from phiv_schemas import Conversation, Issue, Turn

IMG_CONTEXT = "<IMG_CONTEXT>"
"""Where xtuner's rows, which are TRL's otherwise, have their images."""

Parse = Callable[[Any, str], ParsedRow]
OriginalPath = Callable[[str], str | None]
_CODES = {"marker-mismatch": "PV501", "bad-turns": "PV502", "bad-row": "PV503"}  # all others are PV504
_HINTS = {
    "PV501": f"Put one {MARKER} for each image into what the user says",
    "PV502": "User and assistant take turns, and the user begins",
    "PV503": "docs/interchange.md shows the rows of each format",
    "PV504": "The row is not checked further, and phiv-convert leaves it out",
}
_GAP = re.compile(r"[ \t\r\n,]*")
_NOT_JSON = ("PV001", "PV004", "PV005")


@dataclass(frozen=True, slots=True)
class ChatRange:
    """Bytes `start` to `end` of a file of rows, a piece of work: whole lines, or whole elements of an array.

    `line` is the one that `start` is in. `element` counts the elements of an array, from 1: the first is number
    `element` of the file; None where rows are numbered by their lines. `entry`: that of the file in dataset_info.json.
    """

    split: str
    file: str
    path: Path
    format: str
    start: int
    end: int
    line: int = 1
    is_array: bool = False
    element: int | None = None
    entry: Mapping[str, Any] | None = None

    @property
    def first_line(self) -> int:
        """The number of its first row, or a smaller one."""
        return self.line if self.element is None else self.element

    def __str__(self) -> str:
        return f"{self.file}, from row {self.first_line}"

    def check(self, context: CheckContext) -> PartialResult:
        """Check every row as a record, and the images it names; images that are addresses are counted (PV505)."""
        builder = ResultBuilder(self.file, self.split, context.settings, {"addresses": AddressCounts()})
        for _ in check_lines(read_chat_rows(self), builder, context):
            pass
        return builder.result()

    def records(self, lines: set[int]) -> Iterator[tuple[int, Conversation]]:
        """The rows so numbered as records; those that cannot be read are left out."""
        if max(lines) >= self.first_line:
            for line in read_chat_rows(self):
                if line.number in lines and line.conversation:
                    yield line.number, full_record(line.conversation)


def read_chat_rows(rows: ChatRange) -> Iterator[Line]:
    """Every row, good or bad."""
    parse = parser(rows)
    for number, value, problems in _values(rows):
        yield Line(number, 0, None, problems) if problems else _parse_row(value, rows, number, parse)


def parser(rows: ChatRange) -> Parse:
    """The parser of a row: a strict one, since a row whose images must be guessed is broken."""
    parse = FORMATS[rows.format].parse
    if rows.format == "trl":
        return partial(parse, marker=IMG_CONTEXT)
    if rows.format == "sharegpt" and rows.entry is not None:
        return partial(parse, names=sharegpt.names_of(rows.entry, rows.file))
    return parse


def _parse_row(value: Any, rows: ChatRange, number: int, parse: Parse) -> Line:
    try:
        row = parse(value, rows.file)
    except RejectRow as reject:
        code = _CODES.get(reject.code, "PV504")
        path = row_path(value, reject.path) if reject.path else None
        return Line(
            number, 0, None, (Finding(code, path, reject.message, reject.hint or _HINTS[code]).at(rows.file, number),)
        )
    # Tools take a marker in a row without images for one: LLaVA and LLaMA-Factory stop, or shift other images; ms-swift
    # reads it as text, and TRL has no markers.
    texts = []
    if rows.format in ("llava", "sharegpt") and not row.image_refs:
        texts = [(turn.user, turn.paths.user) for turn in row.turns] + [(row.system or "", row.system_path)]
        texts += [(turn.assistant or "", turn.paths.assistant) for turn in row.turns]
    misplaced: list[Issue] = []
    for text, place in texts:
        content = value_at(value, row_path(value, place)) if MARKER in text else ""
        if isinstance(content, str) and any(isinstance(piece, Image) for piece in read_markers(content)):
            what, hint = f"{MARKER} in a row without images", "Add the image, or cut it"
            misplaced.append(Finding("PV501", row_path(value, place), what, hint).at(rows.file, number))
    return Line(number, 0, None if misplaced else conversation(row, rows, number), tuple(misplaced))


def conversation(row: ParsedRow, rows: ChatRange, number: int) -> Conversation:
    """The record of a row, with the attributes of one and none of its methods. Its images are references as in the row,
    so it is not validated; its id is its file and number, since ids of other tools may repeat."""
    turns = tuple([FastTurn(t.images, t.user, t.assistant, t.answers, t.image_offsets) for t in row.turns])
    return cast(Conversation, FastRecord(f"{rows.file}:{number}", row.source or rows.format, turns, row.system))


def full_record(record: Conversation) -> Conversation:
    """A record of `read_chat_rows` with all its methods."""
    turns = tuple([Turn.model_construct(**msgspec.structs.asdict(cast(FastTurn, turn))) for turn in record.turns])
    return Conversation.model_construct(id=record.id, source=record.source, conversations=turns, system=record.system)


# Values of a file ---------------------------------------------------------------------------------------------------

_Value = tuple[int, Any, tuple[Issue, ...]]
"""A row's number, its value, and what is wrong with it as JSON."""


def _values(rows: ChatRange) -> Iterator[_Value]:
    reader = _JsonReader(rows.file)
    with environment_problems(rows.path), rows.path.open("rb") as file:
        file.seek(rows.start)
        if not rows.is_array:
            for number, _, raw in numbered_lines(file, first=rows.line, end=rows.end):
                if not raw.isspace():
                    yield reader.line(raw.strip(), number, is_cut=not raw.endswith(b"\n"))
            return
        text = file.read(rows.end - rows.start).decode()  # begins and ends with an element
        at, line, count = 0, rows.line, 0
        while at < len(text):
            number = line if rows.element is None else rows.element + count
            value, end = reader.element(text, at, number)
            yield value
            gap = _GAP.match(text, end)
            assert gap is not None, "matches everywhere"
            line += text.count("\n", at, gap.end())
            at, count = gap.end(), count + 1


class _JsonReader:
    """Reads JSON, and reports keys that an object has twice."""

    def __init__(self, file: str) -> None:
        self._file, self._repeats = file, False
        self._decoder = json.JSONDecoder(object_pairs_hook=self._object)

    def line(self, raw: bytes, number: int, *, is_cut: bool) -> _Value:
        """The value of a line."""
        try:
            text = raw.decode()
            value = self._decoder.decode(text)
        except (ValueError, RecursionError) as error:
            issues = parse_line(raw, self._file, number, is_cut=is_cut).issues
            known = tuple(issue for issue in issues if issue.code in _NOT_JSON)
            return number, None, known or (self._unreadable(error, number),)
        return number, value, self._find_repeats(text, number)

    def element(self, text: str, at: int, number: int) -> tuple[_Value, int]:
        """The value at a position, and where it ends; what cannot be read extends to the end."""
        try:
            value, end = self._decoder.raw_decode(text, at)
        except (ValueError, RecursionError) as error:
            return (number, None, (self._unreadable(error, number),)), len(text)
        return (number, value, self._find_repeats(text[at:end] if self._repeats else "", number)), end

    def _unreadable(self, error: Exception, number: int) -> Issue:
        return Finding("PV001", None, f"not readable as JSON: {error}").at(self._file, number)

    def _object(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        self._repeats |= len(found) < len(pairs)
        return found

    def _find_repeats(self, text: str, number: int) -> tuple[Issue, ...]:
        repeats, self._repeats = self._repeats, False
        found = duplicate_key_paths(text.encode("utf-8", "surrogatepass")) if repeats else ()
        hint = "Keep one: readers take the last without a word"
        return tuple(
            Finding("PV003", path, f"duplicate key {short_repr(key)}", hint).at(self._file, number)
            for path, key in found
        )


def rows_to_show(rows: ChatRange, numbers: set[int]) -> Iterator[tuple[int, Conversation | None, str]]:
    """Each of the rows so numbered as a record; as JSON text where it is none."""
    parse = parser(rows)
    for number, value, _ in _values(rows):
        if number in numbers:
            record = _parse_row(value, rows, number, parse).conversation
            text = "" if record else json.dumps(value, ensure_ascii=False)
            yield number, record and full_record(record), text


# Paths --------------------------------------------------------------------------------------------------------------

_OURS = re.compile(r"\$\.conversations\[(\d+)\](?:\.(user|assistant|images)(?:\[(\d+)\])?)?")


def row_path(value: Any, path: str) -> str:
    """A parser's path as a JSON path of the row; a row that is a list itself is read as its `messages`."""
    return f"$.{path}" if isinstance(value, dict) else f"${path.removeprefix('messages')}"


def original_paths(rows: ChatRange, numbers: set[int]) -> dict[int, OriginalPath]:
    """For each of the rows so numbered, a function from phiv's path to its own. Unreadable rows are left out."""
    found: dict[int, OriginalPath] = {}
    parse = parser(rows)
    for number, value, _ in _values(rows):
        if number in numbers:
            try:
                found[number] = partial(original_path, value, parse(value, rows.file))
            except RejectRow:
                continue
    return found


def original_path(value: Any, row: ParsedRow, path: str) -> str | None:
    """The row's own path of what phiv's record has at `path`; None where the row has no such place."""
    if path == "$.system":
        return row_path(value, row.system_path)
    match = _OURS.fullmatch(path)
    if match is None or int(match[1]) >= len(row.turns):
        return None
    places = row.turns[int(match[1])].paths
    if match[2] == "images":
        return row_path(value, places.images[int(match[3])] if match[3] else places.user)
    own = places.assistant if match[2] == "assistant" else places.user
    return row_path(value, own if match[2] else own.rpartition(".")[0] or own)
