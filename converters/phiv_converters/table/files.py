"""Files of tables: found in a source, and read row by row in constant memory.

    for table in find_row_files(Path("data")):
        for row in read(table): row.number, row.values, row.problem

A row's number is its line in a text file (from 1), its row in a spreadsheet, else its place (from 1). Tables of Parquet
and Arrow are read by phiv_data.sources.hf_tables, without their images' bytes where these are not asked for.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any, Literal

from phiv_data.formats.files import explain_encoding, is_array, shorten
from phiv_data.sources.folders import walk
from phiv_data.sources.hf_layout import split_word
from phiv_data.sources.hf_tables import Table, find_tables, iter_rows
from phiv_data.sources.json_stream import MAX_ELEMENT_BYTES, read_rows
from phiv_data.storage.dataset import NON_RECORD_FILES
from phiv_data.storage.record_errors import list_keys
from phiv_data.utils.atomic import environment_problems
from phiv_data.utils.extras import install_hint
from phiv_data.utils.lines import LFS_MARK, UTF16_MARKS
from phiv_schemas.errors import EnvironmentProblem, SourceError

Kind = Literal["csv", "xlsx", "json", "table"]
KINDS: dict[str, Kind] = {
    ".csv": "csv",
    ".tsv": "csv",
    ".xlsx": "xlsx",
    ".parquet": "table",
    ".arrow": "table",
    ".jsonl": "json",
    ".ndjson": "json",
    ".json": "json",
}
LFS_POINTER = "is a Git LFS pointer, not the file", "Fetch the file with git lfs pull"
_PREFERRED: tuple[Kind, ...] = ("table", "csv", "xlsx", "json")
_DELIMITERS = ",\t;|"
_SHEET_ERRORS = ("#DIV/0!", "#N/A", "#NAME?", "#NULL!", "#NUM!", "#REF!", "#VALUE!")
_UNSAVED = "=?"  # no value of a cell: text that begins with = is a formula
_LISTINGS = {*NON_RECORD_FILES, "dataset_infos.json", "dataset_info.json", "dataset_dict.json", "state.json"}


@dataclass(frozen=True, slots=True)
class RowFile:
    """A file of rows. `name` is its path below the source; `split` what that says, "" where it says nothing.

    `reader` gives the rows of a file of another shape.
    """

    path: Path
    name: str
    kind: Kind
    split: str
    table: Table | None = None
    reader: Callable[[], Iterator[Row]] | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """One row: its cells by column, or why it cannot be read."""

    number: int
    values: Mapping[str, Any]
    problem: str = ""


def find_row_files(source: Path) -> tuple[tuple[RowFile, ...], tuple[str, ...]]:
    """The files of rows at or in `source`, by name, and the names of others that are tables too and are left alone.

    Of a folder with files called metadata these are taken; else those of one kind: Parquet and Arrow before csv before
    spreadsheets before JSON. SourceError where there is none.
    """
    if not source.exists():
        raise SourceError("--source", f"no such file or folder {str(source)!r}", "Check the path")
    root = source if source.is_dir() else source.parent
    if source.is_file():
        kind = KINDS.get(source.suffix.lower())
        if kind is None:
            raise SourceError(str(source), f"is no table ({', '.join(sorted(KINDS))})", "Pass the table")
        found = [source]
    else:
        files = [folder / entry.name for folder, listed in walk(source) for entry in listed if entry.is_file()]
        found = [path for path in files if path.suffix.lower() in KINDS and path.name not in _LISTINGS]
    metadata = [path for path in found if is_metadata(path.name)]
    kinds = {KINDS[path.suffix.lower()] for path in found}
    chosen_kind = next((kind for kind in _PREFERRED if kind in kinds), None)
    chosen = metadata or [path for path in found if KINDS[path.suffix.lower()] == chosen_kind]
    if not chosen:
        raise SourceError(str(source), f"no table in it ({', '.join(sorted(KINDS))})", "Pass the table")
    tables = {table.path: table for table in (find_tables(source) if chosen_kind == "table" and not metadata else ())}
    for path in chosen:
        if metadata and KINDS[path.suffix.lower()] == "table":
            tables |= {table.path: table for table in find_tables(path)}
    rows, unread = [], [path for path in found if path not in set(chosen)]
    for path in chosen:
        kind, table = KINDS[path.suffix.lower()], tables.get(path)
        if kind == "table" and table is None:
            unread.append(path)  # of another saved dataset: its state.json does not name it
            continue
        name = path.relative_to(root)
        word = next(filter(None, map(split_word, (path.stem, *reversed(name.parent.parts)))), None)
        split = word[0] if word else table.split if table and table.split != "train" else ""
        rows.append(RowFile(path, name.as_posix(), kind, split, table))
    return tuple(sorted(rows, key=lambda file: file.name)), tuple(path.relative_to(root).as_posix() for path in unread)


def is_metadata(name: str) -> bool:
    """True for the table that the hub's image folders have beside the images: metadata.csv, .jsonl or .parquet."""
    stem, _, suffix = name.lower().rpartition(".")
    return stem == "metadata" and f".{suffix}" in KINDS


def read(file: RowFile, columns: Sequence[str] | None = None) -> Iterator[Row]:
    """The rows in order; of a Parquet or Arrow table only `columns`, where they are given.

    SourceError where the file cannot be read from some place on.
    """
    if file.reader is not None:
        yield from file.reader()
    elif file.table is not None:
        names = tuple(columns) if columns is not None else file.table.columns
        for number, values in enumerate(iter_rows(file.table, names), start=1):
            yield Row(number, values)
    elif file.kind == "csv":
        yield from _read_csv(file.path)
    elif file.kind == "xlsx":
        yield from _read_xlsx(file.path)
    else:
        numbers = count(1) if is_array(file.path) else None  # elements of an array may share a line
        for row in read_rows(file.path):
            is_object = isinstance(row.value, dict)
            problem = row.problem or ("" if is_object else "is no object")
            yield Row(next(numbers) if numbers else row.line, row.value if is_object else {}, problem)


def _read_csv(path: Path) -> Iterator[Row]:
    """Lines of a text table: the delimiter is the one that cuts its first line most often."""
    csv.field_size_limit(MAX_ELEMENT_BYTES)
    with environment_problems(path), path.open("rb") as binary:
        head = binary.read(len(LFS_MARK))
        if head == LFS_MARK:
            raise SourceError(str(path), *LFS_POINTER)
        if head.startswith(UTF16_MARKS):
            raise SourceError(str(path), "is UTF-16", "Save it as UTF-8")
        binary.seek(0)
        text = io.TextIOWrapper(binary, encoding="utf-8-sig", newline="")
        try:
            first = text.readline(MAX_ELEMENT_BYTES)
            text.seek(0)
            delimiter = max(_DELIMITERS, key=lambda mark: len(next(csv.reader([first], delimiter=mark), [])))
            reader = csv.reader(text, delimiter=delimiter, strict=True)
            names = [name.strip() for name in next(reader, [])]
            yield from _rows_of_cells(names, _numbered(reader), path)
        except UnicodeDecodeError as error:
            what, hint = explain_encoding(path) or (f"is not UTF-8 ({error.reason})", "Save it as UTF-8")
            raise SourceError(str(path), what, hint) from error
        except csv.Error as error:
            where = f"{path}:{reader.line_num}"
            raise SourceError(where, f"the quotes of a cell are wrong ({error})", "Fix the row") from error


def is_pointer(path: Path) -> bool:
    """True for a file that Git LFS left in place of another."""
    with path.open("rb") as file:
        return file.read(len(LFS_MARK)) == LFS_MARK


def _numbered(reader: Any) -> Iterator[tuple[int, list[str]]]:
    """The rows that are not blank, each with the line it begins on."""
    before = reader.line_num
    for cells in reader:
        if cells:
            yield before + 1, cells
        before = reader.line_num


def _read_xlsx(path: Path) -> Iterator[Row]:
    """Rows of a workbook's first sheet, with the values that its formulas had when it was saved.

    A program that is no spreadsheet saves formulas without values: their rows cannot be read.
    """
    try:
        import openpyxl
    except ImportError as error:
        raise EnvironmentProblem(str(path), "needs openpyxl", install_hint("xlsx")) from error
    with environment_problems(path):
        if is_pointer(path):
            raise SourceError(str(path), *LFS_POINTER)
        try:
            book = openpyxl.load_workbook(path, read_only=True, data_only=True)
            formulas = openpyxl.load_workbook(path, read_only=True)
        except OSError:
            raise
        except Exception as error:  # openpyxl lets those of zipfile, XML and its own through
            raise SourceError(str(path), f"is no workbook that can be read ({error})", "Save it again") from error
        try:
            if others := [sheet.title for sheet in book.worksheets[1:] if any(sheet.iter_rows(values_only=True))]:
                what = f"has rows in other sheets than its first ({list_keys(others)}), which alone is read"
                raise SourceError(str(path), what, "Save each sheet as a file of its own")
            sheets = [one.worksheets[0].iter_rows(values_only=True) for one in (book, formulas)]
            numbered = enumerate(zip(*sheets, strict=True), start=1)
            cells = (
                (
                    i,
                    [
                        _UNSAVED if value is None and written is not None else value
                        for value, written in zip(*both, strict=True)
                    ],
                )
                for i, both in numbered
            )
            filled = (row for row in cells if any(cell is not None for cell in row[1]))
            names = ["" if cell is None else str(cell).strip() for cell in next(filled, (0, []))[1]]
            while names and not names[-1]:
                names.pop()
            width = len(names)  # a row of a sheet is as wide as the sheet's widest
            cut = ((i, row[:width] if all(one is None for one in row[width:]) else row) for i, row in filled)
            for row in _rows_of_cells(names, cut, path):
                failed = next((cell for cell in row.values.values() if cell in _SHEET_ERRORS), None)
                problem = f"a cell holds the spreadsheet's error {failed}" if failed else row.problem
                if _UNSAVED in row.values.values():
                    problem = "a cell holds a formula without its value: open the workbook in a spreadsheet, save it"
                yield replace(row, problem=problem)
        finally:
            with suppress(Exception):
                book.close()
                formulas.close()


def _rows_of_cells(names: list[str], rows: Iterator[tuple[int, list[Any]]], path: Path) -> Iterator[Row]:
    """Rows by the names in the first one. SourceError for names that are missing or there twice."""
    if len(set(names)) < len(names) or not all(names):
        again = next((name for name in names if names.count(name) > 1), "")
        what = f"its first row names a column {again!r} twice" if again else "its first row lacks the name of a column"
        raise SourceError(str(path), what, "The first row must name each column")
    if not names:
        raise SourceError(str(path), "is empty", "The first row must name each column")
    for at, (number, cells) in enumerate(rows):
        if not at and len(names) == 1 and len(cells) > 1:
            what = f"has {len(cells)} cells, and the first row one: a title ({shorten(names[0])!r})"
            raise SourceError(f"{path}:{number}", what, "The first row must name each column")
        problem = "" if len(cells) == len(names) else f"{len(cells)} cells in a table of {len(names)} columns"
        yield Row(number, {} if problem else dict(zip(names, cells, strict=True)), problem)
