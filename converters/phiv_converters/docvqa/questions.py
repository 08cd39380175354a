"""DocVQA's questions: the layout that lists and reads them, and what a row contains.

A row is listed once, with its `QuestionLocation`, and read again from there when it is converted.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from phiv_data.media.reject import RejectInput
from phiv_data.sources.image_index import ImageIndex
from phiv_data.sources.json_stream import read_rows, read_value, text_of, value_of

SPLITS = ("train", "val", "test")


class QuestionLocation(NamedTuple):
    """Where a row is: a span of bytes of a row file, its line (of a table, its row) and its number, both from 1."""

    file: int
    offset: int
    length: int
    line: int
    number: int


class DocvqaQuestion(NamedTuple):
    """A row. `answers` is None where the dataset gives none; `page` is the image's file name."""

    id: int | None
    text: str
    answers: tuple[str, ...] | None
    page: str
    image: str
    document: str
    is_worded: bool


@dataclass(frozen=True, slots=True)
class QuestionFile:
    """A JSON file of rows: JSON lines, or the array at `key`. Messages call it `name`."""

    path: Path
    split: str
    name: str
    key: str | None


@dataclass(frozen=True)
class DocvqaLayout:
    """A recognised source; errors call it `name`."""

    name: str
    files: tuple[QuestionFile, ...]
    images: ImageIndex
    description: str
    warnings: tuple[str, ...] = ()

    @property
    def splits(self) -> tuple[str, ...]:
        return tuple(split for split in SPLITS if any(file.split == split for file in self.files))

    def rows(self) -> Iterator[tuple[str, QuestionLocation, DocvqaQuestion | RejectInput]]:
        """Every row with its split, good or bad."""
        for index, file in enumerate(self.files):
            for number, row in enumerate(read_rows(file.path, file.key), 1):
                numbered = row.value.get("row") if isinstance(row.value, dict) else None  # rows written from a table
                line = numbered if type(numbered) is int else row.line
                location = QuestionLocation(index, row.offset, row.length, line, number)
                where = self.where(location)
                if row.problem:
                    yield file.split, location, RejectInput(where, "bad-row", row.problem)
                    continue
                try:
                    yield file.split, location, parse(row.value, where)
                except RejectInput as reject:
                    yield file.split, location, reject

    def read(self, location: QuestionLocation) -> DocvqaQuestion:
        """The row at `location`. RejectInput where it cannot be used."""
        where = self.where(location)
        return parse(read_value(self.files[location.file].path, location.offset, location.length, where=where), where)

    def where(self, location: QuestionLocation) -> str:
        """`file:line`; where a file keeps all rows on one line, which of them."""
        row = f": row {location.number}" if location.line == 1 < location.number else f":{location.line}"
        return self.files[location.file].name + row

    def key(self, location: QuestionLocation, question: DocvqaQuestion) -> str:
        """The question id in ten digits, the same in every layout; its file and number where there is none."""
        return self.row_key(location) if question.id is None else f"{question.id:010d}"

    def row_key(self, location: QuestionLocation) -> str:
        return f"{self.files[location.file].name}:{location.number:08d}"

    def find_page(self, location: QuestionLocation, question: DocvqaQuestion) -> Path:
        """The page's file. RejectInput `missing-image` or `ambiguous-image`."""
        return self.images.find(f"{self.files[location.file].split}/{question.image}", where=self.where(location))

    def page_file(self, location: QuestionLocation, question: DocvqaQuestion) -> Path:
        """The page's file, or where it would be."""
        try:
            return self.find_page(location, question)
        except RejectInput:
            return self.files[location.file].path.parent / question.image


_DOCUMENT = ("ucsf_document_id", "docId", "page_digest")  # the last is of tables that name neither document nor page


# Rows ------------------------------------------------------------------------------------------------------------


def parse(row: Any, where: str) -> DocvqaQuestion:
    """A row of an official file, or of a table written as one. RejectInput `bad-row`, or what a table's row lacks."""
    if isinstance(row, dict) and (problem := row.get("problem")):
        raise RejectInput(where, problem[0], problem[1])
    text = text_of(row, "question", where)
    image = text_of(row, "image", where).replace("\\", "/")
    page = image.rpartition("/")[2]
    document = next((str(row[name]) for name in _DOCUMENT if row.get(name)), page)
    is_worded = row.get("is_worded") is True
    number = row.get("questionId")  # the official id: an int, or its digits; some tables have none
    if isinstance(number, str) and number.isascii() and number.isdigit() and len(number) <= 18:
        number = int(number)
    if number is not None and not (type(number) is int and number >= 0):
        raise RejectInput(where, "bad-row", f"questionId is not a number (found {number!r})")
    return DocvqaQuestion(number, text, _answers(row, where), page, image, document, is_worded)


def _answers(row: dict[str, Any], where: str) -> tuple[str, ...] | None:
    """Every accepted answer, as spelled; None where there are none (test)."""
    if row.get("answers") is None:
        return None
    answers = value_of(row, "answers", list, where)
    for i, answer in enumerate(answers):
        if not isinstance(answer, str):
            raise RejectInput(where, "bad-row", f"answers[{i}] is not text (found {answer!r})")
    if not any(answer.strip() for answer in answers):
        return None
    return tuple(text_of({f"answers[{i}]": answer}, f"answers[{i}]", where) for i, answer in enumerate(answers))
