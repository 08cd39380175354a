"""Where DocVQA's questions and pages are. Official files are read as they lie; tables become such files first.

    train_v1.0_withQT.json, val_..., test_v1.0.json    spdocvqa_qas.zip, with the pages of spdocvqa_images.tar.gz
    {train,val,test}/{documents/, <split>_v1.0.json}   the older download
    spdocvqa_qas.zip, spdocvqa_images.tar.gz           both, still packed, in one folder
    tables with question (or query), answers, image    lmms-lab, HuggingFaceM4, pixparse, nielsr
    tables with images, texts                          The Cauldron: questions and answers already worded

Rows say `documents/pybv0228_81.png` whatever the pages' folder is called, so pages are found by base name.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from phiv_data.media.reject import RejectInput
from phiv_data.sources.archives import extract
from phiv_data.sources.hf_layout import named_tables, standard_split
from phiv_data.sources.image_index import ImageIndex, index_images
from phiv_data.sources.json_stream import read_rows, read_value, text_of, typed
from phiv_data.utils.atomic import environment_problems, sha256_file
from phiv_schemas import SourceError

SPLITS = ("train", "val", "test")
_NAME = re.compile(r"^(train|val|test)_v\d.*\.json$", re.IGNORECASE)
_HEAD = re.compile(rb'"dataset_split"\s*:\s*"(\w+)"')
_SQUAD = re.compile(rb'\s*\[\s*\{\s*"(context|boxes)"')
_ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz")
_DEPTH = 3


class Place(NamedTuple):
    """Where a row is: a span of bytes of a row file, its line (of a table, its row) and its number, both from 1."""

    file: int
    offset: int
    length: int
    line: int
    number: int


class Question(NamedTuple):
    """A row. `answers` is None where the dataset gives none; `page` is the image's file name."""

    id: int | None
    text: str
    answers: tuple[str, ...] | None
    page: str
    image: str
    document: str
    is_worded: bool


@dataclass(frozen=True, slots=True)
class RowFile:
    """A JSON file of rows: JSON lines, or the array at `key`. `name` stands for it in messages."""

    path: Path
    split: str
    name: str
    key: str | None


@dataclass(frozen=True)
class Layout:
    """A source that was recognised; `name` is what the user calls it."""

    name: str
    files: tuple[RowFile, ...]
    images: ImageIndex
    description: str
    notices: tuple[str, ...] = ()

    @property
    def splits(self) -> tuple[str, ...]:
        return tuple(split for split in SPLITS if any(file.split == split for file in self.files))

    def rows(self) -> Iterator[tuple[str, Place, Question | RejectInput]]:
        """Every row with its split, good or bad."""
        for index, file in enumerate(self.files):
            for number, row in enumerate(read_rows(file.path, file.key), 1):
                place = Place(index, row.offset, row.length, _line_of(row.value, row.line), number)
                where = self.where(place)
                if row.problem:
                    yield file.split, place, RejectInput(where, "bad-row", row.problem)
                    continue
                try:
                    yield file.split, place, parse(row.value, where)
                except RejectInput as reject:
                    yield file.split, place, reject

    def read(self, place: Place) -> Question:
        """The row at `place`. RejectInput where it cannot be used."""
        where = self.where(place)
        return parse(read_value(self.files[place.file].path, place.offset, place.length, where=where), where)

    def where(self, place: Place) -> str:
        """`file:line`; where a file keeps all rows on one line, which of them."""
        row = f": row {place.number}" if place.line == 1 < place.number else f":{place.line}"
        return self.files[place.file].name + row

    def key(self, place: Place, question: Question) -> str:
        """The question id in ten digits, the same in every layout; file and place of the row where there is none."""
        return self.row_key(place) if question.id is None else f"{question.id:010d}"

    def row_key(self, place: Place) -> str:
        return f"{self.files[place.file].name}:{place.number:08d}"

    def find_page(self, place: Place, question: Question) -> Path:
        """The page's file. RejectInput `missing-image` or `ambiguous-image`."""
        return self.images.find(f"{self.files[place.file].split}/{question.image}", where=self.where(place))

    def page_file(self, place: Place, question: Question) -> Path:
        """The page's file, or where it would be."""
        try:
            return self.find_page(place, question)
        except RejectInput:
            return self.files[place.file].path.parent / question.image

    def page_size(self, place: Place, question: Question) -> int:
        """Bytes of the page; 0 where it is not there."""
        try:
            return self.find_page(place, question).stat().st_size
        except (RejectInput, OSError):
            return 0


# Rows ------------------------------------------------------------------------------------------------------------


def parse(row: Any, where: str) -> Question:
    """A row of an official file, or of a table written as one. RejectInput `bad-row`, or what a table's row lacks."""
    if isinstance(row, dict) and (problem := row.get("problem")):
        raise RejectInput(where, problem[0], problem[1])
    text = text_of(row, "question", where)
    image = text_of(row, "image", where).replace("\\", "/")
    page = image.rpartition("/")[2]
    document = next((str(row[name]) for name in ("ucsf_document_id", "docId") if row.get(name)), page)
    return Question(_id(row, where), text, _answers(row, where), page, image, document, row.get("is_worded") is True)


def _id(row: dict[str, Any], where: str) -> int | None:
    """The official question id: an int, or its digits. None where the row names none."""
    value = row.get("questionId")
    if value is None:
        return None
    if type(value) is int and value >= 0:
        return value
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= 18:
        return int(value)
    raise RejectInput(where, "bad-row", f"questionId is not a number (found {value!r})")


def _answers(row: dict[str, Any], where: str) -> tuple[str, ...] | None:
    """Every accepted answer, as spelled; None where there are none (test)."""
    if row.get("answers") is None:
        return None
    answers = typed(row, "answers", list, where)
    for i, answer in enumerate(answers):
        if not isinstance(answer, str):
            raise RejectInput(where, "bad-row", f"answers[{i}] is not text (found {answer!r})")
    if not any(answer.strip() for answer in answers):
        return None
    return tuple(text_of({f"answers[{i}]": answer}, f"answers[{i}]", where) for i, answer in enumerate(answers))


def _line_of(row: Any, line: int) -> int:
    number = row.get("row") if isinstance(row, dict) else None
    return number if type(number) is int else line


# Finding ---------------------------------------------------------------------------------------------------------


def find_layout(root: Path, images: tuple[Path, ...], scratch: Path, name: str) -> Layout:
    """The layout of `root`, called `name` in errors. Pages are looked for below it and in `images`.

    The official layout wins where both are there. SourceError where none is.
    """
    if root.is_file() and root.suffix.lower() in (".json", ".jsonl"):
        return _official([_row_file(root, name)], (root.absolute().parent, *images), name)
    if root.is_dir():
        folders = [root, *_unpacked(root, scratch)]
        if files := [file for folder in folders for file in _official_files(folder, name)]:
            return _official(files, (*folders, *images), name)
    from phiv_converters.docvqa.tables import find_table_layout

    if layout := find_table_layout(root, scratch, name):
        return layout
    raise _unknown(root, name)


def _official(files: list[RowFile], folders: tuple[Path, ...], name: str) -> Layout:
    """One file a split: the one with question types, else the first by name."""
    best: dict[str, RowFile] = {}
    for file in sorted(files, key=lambda file: ("withqt" not in file.name.lower(), file.name, str(file.path))):
        best.setdefault(file.split, file)
    chosen = tuple(best[split] for split in SPLITS if split in best)
    left = sorted(file.name for file in files if file not in chosen)
    notices = (f"other files of the same splits were left alone: {', '.join(left)}",) if left else ()
    described = f"official layout: {', '.join(file.name for file in chosen)}"
    return Layout(name, chosen, index_images(*folders), described, notices)


def _official_files(root: Path, name: str) -> list[RowFile]:
    """Files of questions at most three folders deep, known by name or by their first lines."""
    found = [path for path in _json_files(root, _DEPTH) if _NAME.match(path.name) or _HEAD.search(_head(path))]
    return [_row_file(path, name) for path in found]


def _row_file(path: Path, name: str) -> RowFile:
    """SourceError for JSON of another shape. The split is what the file says, else what its name says."""
    head = _head(path)
    if _SQUAD.match(head):
        what = f"{path.name} holds questions over OCR text (SQuAD or LayoutLM form), which names no pages"
        raise SourceError(name, what, "Pass the official release (val_v1.0_withQT.json with its pages) or a hub table")
    told = _HEAD.search(head)
    word = told[1].decode() if told else (_NAME.match(path.name) or [path.stem, path.stem])[1]
    split = standard_split(word.lower())
    if split not in SPLITS:
        raise SourceError(f"{path.name}", f"its split is none of train, val and test (found {word!r})", "Rename it")
    return RowFile(path, split, path.name, "data" if head.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] == b"{" and told else None)


def _json_files(folder: Path, depth: int) -> Iterator[Path]:
    """`*.json` below `folder`, without the thousands of files with OCR results."""
    with environment_problems(folder), os.scandir(folder) as scan:
        entries = sorted((e for e in scan if not e.name.startswith(".")), key=lambda entry: entry.name)
    for entry in entries:
        if entry.is_dir():
            if depth > 0 and "ocr" not in entry.name.lower():
                yield from _json_files(Path(entry.path), depth - 1)
        elif entry.name.lower().endswith(".json"):
            yield Path(entry.path)


def _head(path: Path) -> bytes:
    with environment_problems(path), path.open("rb") as file:
        return file.read(4096)


def _unpacked(root: Path, scratch: Path) -> list[Path]:
    """Archives that lie in `root`, unpacked below `scratch`: those of questions or pages that are not unpacked yet."""
    if any(True for _ in named_tables(root)):
        return []
    archives = sorted(p for p in root.iterdir() if p.name.lower().endswith(_ARCHIVES) and p.is_file())
    wanted = [path for path in archives if "ocr" not in path.name.lower() and not path.name.startswith(".")]
    if any(_NAME.match(path.name) for path in _json_files(root, _DEPTH)):
        wanted = [path for path in wanted if "qas" not in path.name.lower()]
    if wanted and _has_pages(root):
        wanted = [path for path in wanted if "qas" in path.name.lower()]
    folders = [scratch / f"unpacked-{sha256_file(path)[:16]}" for path in wanted]
    return [folder if folder.is_dir() else extract(path, folder) for path, folder in zip(wanted, folders, strict=True)]


def _has_pages(root: Path) -> bool:
    return any(
        name.lower().endswith((".png", ".jpg", ".jpeg"))
        for _, _, names in os.walk(root, followlinks=True)
        for name in names
    )


def _unknown(root: Path, name: str) -> SourceError:
    if root.is_dir():
        for path in _json_files(root, 1):
            _row_file(path, name) if _SQUAD.match(_head(path)) else None
    found = ", ".join(sorted(path.name for path in root.iterdir())[:8]) if root.is_dir() else root.name
    return SourceError(
        name,
        f"neither {{train,val,test}}_v1.0.json nor tables of DocVQA (found: {found or 'nothing'})",
        "Pass the folder of the official release, or of a hub dataset (parquet or save_to_disk)",
    )
