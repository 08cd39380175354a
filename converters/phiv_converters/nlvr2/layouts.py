"""Where the rows and images of NLVR2 are. Three layouts exist in the wild.

    [nlvr2/]data/{train,dev,test1,test2}.json     official: a JSON object a line, `label` the string "True"/"False";
    <any folders>/dev-850-0-img0.png, -img1.png     images flat or in bucket folders, PNG by name only
    tables with left_image, right_image           HuggingFaceM4/NLVR2 (sentence, label), lmms-lab (question, answer)
    tables with images, texts                     The Cauldron: questions and answers already worded

A row is listed once, with its `SentenceLocation`, and read again when it is converted.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

from phiv_converters.base import hint_for_converted, warn_of_missing_shards
from phiv_converters.yes_no import read_yes_no
from phiv_data.media.images import image_size
from phiv_data.media.reject import RejectInput
from phiv_data.sources.folders import entries
from phiv_data.sources.hf_tables import Table, class_names, find_tables, image_cell, iter_rows, read_row
from phiv_data.sources.image_index import ImageIndex, index_images, read_image
from phiv_data.sources.json_stream import read_rows, read_value, text_of, value_of
from phiv_schemas import SourceError

Subset = Literal["all", "balanced", "unbalanced"]
SETS = ("train", "dev", "test1", "test2")
_IDENTIFIER = re.compile(r"([A-Za-z0-9]+-\d+-\d+)-\d+")
_SPLITS = {
    "train": "train",
    **dict.fromkeys(("dev", "validation", "val", "balanced_dev", "unbalanced_dev"), "dev"),
    **dict.fromkeys(("test", "test1", "test_public", "balanced_test_public", "unbalanced_test_public"), "test1"),
    **dict.fromkeys(("test2", "test_unseen", "balanced_test_unseen", "unbalanced_test_unseen"), "test2"),
}


class SentenceLocation(NamedTuple):
    """Where a row is: a span of bytes of a JSON file, or a row of a table (and one of its texts)."""

    file: int
    at: int
    length: int
    line: int
    turn: int = 0


class Nlvr2Example(NamedTuple):
    """A row. `identifier` is empty where there is none; `user`, `assistant` are set where they are worded already."""

    identifier: str
    sentence: str
    label: bool | None
    directory: str = ""
    user: str = ""
    assistant: str | None = None

    @property
    def pair(self) -> str:
        """`split-set-pair`, which names the images."""
        return self.identifier.rpartition("-")[0]

    @property
    def image_set(self) -> str:
        """`split-set`: the eight images that a writer saw. It must not be in two splits."""
        return self.pair.rpartition("-")[0]


class Nlvr2Row(NamedTuple):
    """A listed row: of which official set, where it is, and what it contains or what is wrong with it.

    `key` and `group` name it and its pair where it has no identifier.
    """

    set_name: str
    location: SentenceLocation
    key: str
    group: str
    example: Nlvr2Example | RejectInput


# The official files ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Nlvr2Annotations:
    """Official JSON files, and the images below the source's folder; errors call the source `name`."""

    name: str
    files: tuple[Path, ...]
    image_index: ImageIndex
    description: str
    warnings: tuple[str, ...] = ()

    @property
    def sets(self) -> tuple[str, ...]:
        return tuple(name for name in SETS if name in map(_set_of, self.files))

    def rows(self) -> Iterator[Nlvr2Row]:
        """Every row, good or bad."""
        for index, file in enumerate(self.files):
            for row in read_rows(file):
                where = f"{file.name}:{row.line}"
                location = SentenceLocation(index, row.offset, row.length, row.line)
                key = f"{file.name}:{row.line:08d}"
                example = _parse_row(_parse_official, row.value, where, row.problem)
                yield Nlvr2Row(_set_of(file), location, key, key, example)

    def read(self, location: SentenceLocation) -> Nlvr2Example:
        """The row at `location`. RejectInput where it cannot be used."""
        file = self.files[location.file]
        where = self.where(location)
        return _parse_official(read_value(file, location.at, location.length, where=where), where)

    def where(self, location: SentenceLocation) -> str:
        return f"{self.files[location.file].name}:{location.line}"

    def images(self, location: SentenceLocation, example: Nlvr2Example) -> list[tuple[str, bytes]]:
        """Names and bytes of the left and the right image."""
        names = [f"{example.pair}-img{side}.png" for side in (0, 1)]
        where = self.where(location)
        return [(name, read_image(self.image_index.find(name, where=where), where)) for name in names]

    def image_files(self, location: SentenceLocation, example: Nlvr2Example) -> list[Path]:
        """The files that `images` reads, those it cannot choose from, or where they would be."""
        folder, names = self.files[location.file].parent, [f"{example.pair}-img{side}.png" for side in (0, 1)]
        return [file for name in names for file in self.image_index.candidates(name) or [folder / name]]

    def size_bytes(self, location: SentenceLocation, example: Nlvr2Example) -> int:
        """Of the row and its images, as far as they are there."""
        size = location.length
        for name in (f"{example.pair}-img{side}.png" for side in (0, 1)):
            with contextlib.suppress(RejectInput, OSError):
                size += self.image_index.find(name).stat().st_size
        return size

    def has_images(self, example: Nlvr2Example) -> bool:
        return f"{example.pair}-img0.png" in self.image_index


def _parse_official(row: Any, where: str) -> Nlvr2Example:
    identifier = text_of(row, "identifier", where)
    if not _IDENTIFIER.fullmatch(identifier):
        raise RejectInput(where, "bad-row", f"identifier is not split-set-pair-sentence (found {identifier!r})")
    directory = value_of(row, "directory", (int, str), where) if row.get("directory") is not None else ""
    return Nlvr2Example(identifier, text_of(row, "sentence", where), truth(row.get("label"), where), str(directory))


def truth(label: Any, where: str) -> bool | None:
    """The label as a boolean; the official files write it as a string. None where there is none."""
    if label is None or label == "":
        return None
    if isinstance(label, str) and label.strip().lower() in ("true", "false"):
        return label.strip().lower() == "true"
    if isinstance(label, bool):
        return label
    raise RejectInput(where, "bad-row", f"label is neither 'True' nor 'False' (found {label!r})")


def _parse_row(
    parse: Callable[[Any, str], Nlvr2Example], row: Any, where: str, problem: str = ""
) -> Nlvr2Example | RejectInput:
    if problem:
        return RejectInput(where, "bad-row", problem)
    try:
        return parse(row, where)
    except RejectInput as reject:
        return reject


def _set_of(file: Path) -> str:
    return file.stem.removeprefix("un").removeprefix("balanced_")


# Tables of the hub ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Nlvr2Tables:
    """Tables with the images in them, of either hub layout; errors call the source `name`."""

    name: str
    root: Path
    tables: tuple[Table, ...]
    labels: tuple[tuple[str, ...], ...]
    description: str
    warnings: tuple[str, ...] = ()

    @property
    def sets(self) -> tuple[str, ...]:
        return tuple(name for name in SETS if any(_SPLITS[table.split] == name for table in self.tables))

    @property
    def is_cauldron(self) -> bool:
        return "texts" in self.tables[0].columns

    def rows(self) -> Iterator[Nlvr2Row]:
        """Every row, or every text of The Cauldron's rows, read without the images."""
        for index, table in enumerate(self.tables):
            for number, row in enumerate(iter_rows(table, self._columns(table))):
                for turn in range(max(len(row["texts"] or ()), 1) if self.is_cauldron else 1):
                    location = SentenceLocation(index, number, 0, number + 1, turn)
                    group = f"{self._name(table)}:{number:08d}"
                    key = f"{group}-{turn}" if self.is_cauldron else group
                    example = _parse_row(partial(self._parse, location), row, self.where(location))
                    yield Nlvr2Row(_SPLITS[table.split], location, key, group, example)

    def read(self, location: SentenceLocation) -> Nlvr2Example:
        """The row at `location`. RejectInput where it cannot be used."""
        table = self.tables[location.file]
        return self._parse(location, read_row(table, location.at, self._columns(table)), self.where(location))

    def where(self, location: SentenceLocation) -> str:
        return f"{self._name(self.tables[location.file])}:{location.line}"

    def images(self, location: SentenceLocation, example: Nlvr2Example) -> list[tuple[str, bytes]]:
        """Names and bytes of the left and the right image: the official names where the row has an identifier."""
        table, where = self.tables[location.file], self.where(location)
        columns = ["images"] if self.is_cauldron else ["left_image", "right_image"]
        row = read_row(table, location.at, columns)
        cells = list(row["images"] or ()) if self.is_cauldron else [row[name] for name in columns]
        if len(cells) != 2:
            raise RejectInput(where, "missing-image", f"the row has {len(cells)} images, not two")
        images = []
        for side, cell in enumerate(cells):
            data, given = image_cell(cell, where)
            name = (given or "").replace("\\", "/").rpartition("/")[2]
            if example.identifier:
                name = f"{example.pair}-img{side}.png"
            elif not re.fullmatch(r"[A-Za-z0-9]+-\d+-\d+-img[01]\.\w+", name):
                kind = image_size(data, where=table.path.name).format
                suffix = {"JPEG": "jpg", "TIFF": "tif"}.get(kind, kind.lower())
                name = f"{table.path.stem}-{location.at:08d}-img{side}.{suffix}"
            images.append((name, data))
        return images

    def image_files(self, location: SentenceLocation, example: Nlvr2Example) -> list[Path]:
        """The table itself."""
        return [self.tables[location.file].path]

    def size_bytes(self, location: SentenceLocation, example: Nlvr2Example) -> int:
        return self.tables[location.file].path.stat().st_size

    def has_images(self, example: Nlvr2Example) -> bool:
        return True

    def _columns(self, table: Table) -> list[str]:
        wanted = ("identifier", "question_id", "sentence", "question", "label", "answer", "directory", "texts")
        return [name for name in wanted if name in table.columns]

    def _name(self, table: Table) -> str:
        path = table.path
        return path.relative_to(self.root).as_posix() if path.is_relative_to(self.root) else path.name

    def _parse(self, location: SentenceLocation, row: dict[str, Any], where: str) -> Nlvr2Example:
        if self.is_cauldron:  # its question as it is, and the sentence that is quoted in it
            user, assistant, is_yes = read_yes_no(row["texts"], location.turn, where)
            quoted = re.search(r'"(.+)"', user, re.DOTALL)
            return Nlvr2Example("", quoted[1] if quoted else "", is_yes, "", user, assistant)
        found = [str(row.get(name) or "") for name in ("identifier", "question_id")]
        label = row.get("label", row.get("answer"))
        if type(label) is int:
            names = self.labels[location.file]
            label = names[label] if 0 <= label < len(names) else None if label == -1 else label
        return Nlvr2Example(
            next((name for name in found if _IDENTIFIER.fullmatch(name)), ""),
            text_of(row, "sentence" if "sentence" in row else "question", where),
            truth(label, where),
            "" if row.get("directory") is None else str(row["directory"]),
        )


Nlvr2Layout: TypeAlias = Nlvr2Annotations | Nlvr2Tables


# Finding ---------------------------------------------------------------------------------------------------------


def find_layout(root: Path, images: tuple[Path, ...], subset: Subset, name: str) -> Nlvr2Layout:
    """The layout of `root`, with images below it and in `images`; errors call it `name`.

    The official layout wins where both are there. SourceError where none is.
    """
    if files := _official_files(root, subset):
        around = root
        if root.is_file():
            folder = root.absolute().parent
            around = folder.parent if folder.name == "data" else folder
        described = f"official layout: {', '.join(file.name for file in files)}"
        described += f" ({subset} subsets)" if subset != "all" else ""
        return Nlvr2Annotations(name, tuple(files), index_images(around, *images), described)
    tables = [table for table in find_tables(root) if _table_kind(table)]
    if not tables:
        found = ", ".join(entry.name for entry in entries(root)[:8]) if root.is_dir() else root.name
        raise SourceError(
            name,
            f"neither data/{{train,dev,test1,test2}}.json nor tables of NLVR2 (found: {found or 'nothing'})",
            hint_for_converted(root, name)
            or "Pass the folder of the official repository, or of a hub dataset (parquet or save_to_disk)",
        )
    if len({table.config for table in tables}) > 1:
        tables = [table for table in tables if table.config == "nlvr2"]
    if subset != "all":
        tables = [table for table in tables if table.split == "train" or table.split.startswith(f"{subset}_")]
    if not tables or len({_table_kind(table) for table in tables}) > 1:
        raise SourceError(name, "several hub datasets are here, or none of this subset", "Pass the folder of one")
    if unknown := sorted({table.split for table in tables} - _SPLITS.keys()):
        raise SourceError(name, f"no split of NLVR2 is called {unknown[0]!r}", f"Known: {', '.join(_SPLITS)}")
    is_cauldron = _table_kind(tables[0]) == "cauldron"
    kind = "The Cauldron's images and texts" if is_cauldron else "tables with left_image, right_image"
    described = f"hub layout: {kind} ({', '.join(sorted({table.split for table in tables}))})"
    labels = tuple(class_names(table).get("label", ()) for table in tables)
    return Nlvr2Tables(
        name, root if root.is_dir() else root.parent, tuple(tables), labels, described, warn_of_missing_shards(tables)
    )


def _official_files(root: Path, subset: Subset) -> list[Path]:
    if root.is_file():
        return [root] if root.suffix in (".json", ".jsonl") and _set_of(root) in SETS else []
    inner = [root / entry.name for entry in entries(root) if entry.is_dir()]
    for folder in (root, *(inner if len(inner) == 1 else ())):
        for data in (folder / "nlvr2/data", folder / "data", folder):
            names = [name if subset == "all" or name == "train" else f"{subset}/{subset}_{name}" for name in SETS]
            if files := [data / f"{name}.json" for name in names if (data / f"{name}.json").is_file()]:
                return files
    return []


def _table_kind(table: Table) -> str:
    if {"images", "texts"} <= set(table.columns):
        return "cauldron"
    return "pairs" if {"left_image", "right_image"} <= set(table.columns) else ""
