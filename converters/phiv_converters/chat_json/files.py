"""The files of rows of another tool, their rows by offset, and the images they name."""

from __future__ import annotations

import hashlib
import os
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from phiv_data.convert.base import Inputs, Item
from phiv_data.formats.files import (
    INFO,
    SUFFIXES,
    Root,
    decode_data_uri,
    is_array,
    is_data_uri,
    is_url,
    locate_image,
    read_entries,
    shorten,
)
from phiv_data.formats.text import MARKER
from phiv_data.media.reject import RejectInput
from phiv_data.sources.hf_layout import standard_split
from phiv_data.sources.image_index import read_image
from phiv_data.sources.json_stream import JsonRow, read_json_array, read_json_lines
from phiv_data.utils.atomic import environment_problems, sha256_file
from phiv_schemas.errors import SourceError

if TYPE_CHECKING:
    from phiv_converters.chat_json.convert import Interchange
    from phiv_data.formats import ParsedRow

# Files ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RowFile:
    """A file of rows. `name` is its path below the source; `entry` what dataset_info.json says of it."""

    path: Path
    name: str
    split: str
    is_array: bool
    sha256: str
    entry: dict[str, Any] | None = None

    @property
    def kind(self) -> str:
        """What it is, for a person."""
        return ("JSON array" if self.is_array else "JSON lines") + (", by dataset_info.json" if self.entry else "")


def find_files(source: Path, split: str | None) -> tuple[RowFile, ...]:
    """The files of rows at or in `source`, by name. SourceError where there is none, or one holds no rows."""
    if not source.exists():
        raise SourceError("--source", f"no such file or folder {str(source)!r}", "Check the path")
    if source.is_file():
        paths, root = [source], source.parent
    else:
        paths, root = _files_of(source) or [f for d in _folders_of(source) for f in _files_of(d)], source
    if not paths:
        raise SourceError(str(source), "no *.json or *.jsonl file in it or its folders", "Pass the file of rows")
    files = [_file(path, path.relative_to(root).as_posix(), split) for path in paths]
    return tuple(sorted(files, key=lambda file: f"{file.name}:"))  # as the keys of their rows are sorted


def find_described(source: Path, split: str | None, dataset: str | None) -> tuple[RowFile, ...]:
    """As `find_files`, with the entry of dataset_info.json that names each file; only `dataset`'s where it is given."""
    if source.name == INFO:
        source = source.parent
    folder = source if source.is_dir() else source.parent
    entries = read_entries(folder / INFO)
    if dataset is None:
        by_name = {entry.get("file_name"): entry for entry in reversed(entries.values())}
        return tuple(replace(file, entry=by_name.get(file.path.name)) for file in find_files(source, split))
    if dataset not in entries:
        known = ", ".join(list(entries)[:8]) or "no entry"
        raise SourceError(str(folder / INFO), f"no entry {dataset!r} (found {known})", "Pass one of them as --dataset")
    name = entries[dataset].get("file_name")
    if not isinstance(name, str):
        hint = "Download it, and pass the file as --source"
        raise SourceError(str(folder / INFO), f"entry {dataset!r} names no file", hint)
    if not (folder / name).exists():
        hint = "Get it, or pass the file of rows as --source"
        raise SourceError(str(folder / INFO), f"entry {dataset!r} names {name!r}, which is not beside it", hint)
    return tuple(replace(file, entry=entries[dataset]) for file in find_files(folder / name, split))


def _files_of(folder: Path) -> list[Path]:
    named = [path for path in _listed(folder) if path.suffix.lower() in SUFFIXES and path.is_file()]
    return [path for path in named if path.name != INFO and not path.name.startswith(".")]


def _folders_of(folder: Path) -> list[Path]:
    return [path for path in _listed(folder) if path.is_dir()]


def _listed(folder: Path) -> list[Path]:
    with environment_problems(folder):
        return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def _file(path: Path, name: str, split: str | None) -> RowFile:
    if path.suffix.lower() not in SUFFIXES:
        raise SourceError(str(path), "is no *.json or *.jsonl file", "Pass the file of rows")
    if split is None:
        told = [standard_split(part) for part in (path.stem, *Path(name).parent.parts)]
        split = next((word for word in told if word in ("train", "val", "test")), "train")
    with environment_problems(path):
        return RowFile(path, name, split, is_array(path), sha256_file(path))


# Rows ----------------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Rows(Sequence[Item]):
    """The rows of all files as items that are made when asked for: 36 bytes a row are kept, and its images' paths."""

    files: tuple[RowFile, ...]
    file: array[int] = field(default_factory=lambda: array("I"))
    number: array[int] = field(default_factory=lambda: array("I"))
    offset: array[int] = field(default_factory=lambda: array("Q"))
    length: array[int] = field(default_factory=lambda: array("I"))
    path_end: array[int] = field(default_factory=lambda: array("Q"))
    paths: bytearray = field(default_factory=bytearray)

    def add(self, file: int, number: int, row: Row, images: Iterable[Path]) -> None:
        """Take row `number` of `files[file]`, with the files of its images."""
        self.paths += b"".join(os.fsencode(path) + b"\0" for path in images)
        values = (file, number, row.offset, row.length, len(self.paths))
        for column, value in zip(self._columns(), values, strict=True):
            column.append(value)

    def __len__(self) -> int:
        return len(self.file)

    @overload
    def __getitem__(self, i: int) -> Item: ...
    @overload
    def __getitem__(self, i: slice) -> Sequence[Item]: ...
    def __getitem__(self, i: int | slice) -> Item | Sequence[Item]:
        if isinstance(i, slice):
            return [self[k] for k in range(*i.indices(len(self)))]
        i = range(len(self))[i]
        file, number, offset, length, end = (column[i] for column in self._columns())
        images = bytes(self.paths[self.path_end[i - 1] if i else 0 : end]).split(b"\0")[:-1]
        content: list[bytes | Path] = [self.files[file].sha256.encode()]
        content += [Path(os.fsdecode(image)) for image in images]
        size = None if images else length
        return Item(
            self.files[file].split, row_key(self.files[file], number), tuple(content), (file, offset, length), size
        )

    def _columns(self) -> tuple[array[int], ...]:
        return self.file, self.number, self.offset, self.length, self.path_end


def row_key(file: RowFile, number: int) -> str:
    """The name of a row: its file and number, from 0, so that keys sort as the rows stand."""
    return f"{file.name}:{number:08d}"


def list_rows(source: Interchange) -> Inputs:
    """Every row of every file, in the order of splits and files, and what a person should know of what is left out."""
    rank = {split: i for i, split in enumerate(source.splits)}
    rows, remarks, codes = Rows(source.files), Remarks(source.options_.keep_ids), Counter[str]()
    first = ""
    for i in sorted(range(len(source.files)), key=lambda i: (rank[source.files[i].split], i)):
        file = source.files[i]
        for number, row in enumerate(read_file(file)):
            images, where = list[Path](), row_key(file, number)
            try:
                parsed = parsed_row(source, i, row, where)
                images = [
                    path for ref in dict.fromkeys(parsed.image_refs) for path in _files_of_image(ref, source, file)
                ]
                remarks.add(parsed)
            except RejectInput as reject:
                codes[reject.code] += 1
                first = first or str(reject)
            rows.add(i, number, row, images)
    if len(rows) == codes["bad-row"] and first:
        hint = "Pass rows of that format, or convert with that of the file"
        raise SourceError(source.describe(), f"none of them is one (first: {first})", hint)
    return Inputs(rows, warnings=remarks.notices())


def read_file(file: RowFile) -> Iterator[JsonRow]:
    """The rows of a file, in order, blank lines left out."""
    yield from read_json_array(file.path) if file.is_array else read_json_lines(file.path)


def parsed_row(source: Interchange, file: int, row: JsonRow, where: str) -> ParsedRow:
    """What a listed row says. RejectInput where it is no JSON, or cannot be used."""
    if row.problem:
        raise RejectInput(where, "bad-row", f"line {row.line} is {row.problem}")
    return source.parse(file, row.value, where)


@dataclass(slots=True)
class Remarks:
    """What is left out of rows that are used, counted."""

    keeps_ids: bool
    unread: Counter[str] = field(default_factory=Counter)
    with_id: int = 0
    literal: int = 0

    def add(self, row: ParsedRow) -> None:
        """Count what a row holds that the record will not."""
        self.unread.update(row.unread)
        self.with_id += row.id is not None
        self.literal += not row.image_refs and any(MARKER in turn.user for turn in row.turns)

    def notices(self) -> tuple[str, ...]:
        """One line for each kind."""
        lines = [f"{count} rows have {key!r}, which is left out" for key, count in sorted(self.unread.items())]
        if self.with_id and not self.keeps_ids:
            lines.append(f"{self.with_id} rows have an id, which is left out (--keep_ids keeps it)")
        if self.literal:
            lines.append(f"{self.literal} rows without images have {MARKER} in their text: it is kept as text")
        return tuple(lines)


def _files_of_image(ref: str, source: Interchange, file: RowFile) -> list[Path]:
    """The file of an image, if there is one: when it changes, it is seen."""
    try:
        found = locate(ref, roots_of(file, source.options_.images), source.options_.strip_folders)
    except (OSError, ValueError):
        return []
    return [found[0]] if found else []


# Images ------------------------------------------------------------------------------------------------------------


def roots_of(file: RowFile, images: Path | None) -> tuple[Root, ...]:
    """--images first, then the folder of the rows: two files of rows in two folders may name two images alike.

    Without --images also the folder `images` beside the rows, where phiv-export puts them.
    """
    folder, name = file.path.parent, file.name.rpartition("/")[0]
    beside: tuple[Root, ...] = ((folder, name),)
    if images is not None:
        return ((images, ""), *beside)
    return (*beside, (folder / "images", name)) if (folder / "images").is_dir() else beside


def find_image(ref: str, roots: Sequence[Root], strip: int, where: str) -> tuple[str, bytes]:
    """An image's name under images/, without its split, and its bytes.

    RejectInput `missing-image` where it is not there or an address, `bad-row` where a `data:` URI is broken.
    """
    if is_data_uri(ref):
        data = decode_data_uri(ref, where)
        return _invented_name(data, where), data
    if is_url(ref):
        what = f"{shorten(ref)!r} is an address: phiv downloads no images. Download it, and name the file instead"
        raise RejectInput(where, "missing-image", what)
    try:
        found = locate_image(ref, roots, strip)
    except (OSError, ValueError) as error:
        raise RejectInput(where, "missing-image", f"no file {shorten(ref)!r} ({error})") from error
    if found is None:
        hint = "pass the folder that its path starts from as --images"
        raise RejectInput(where, "missing-image", f"no file {shorten(ref)!r} in the source: {hint}")
    path, name = found
    return name, read_image(path, where)


def _invented_name(data: bytes, where: str) -> str:
    """A name for bytes that have none: their hash, and a suffix that says what they are."""
    from phiv_data.media.images import image_size

    suffix = image_size(data, where=where).format.lower().replace("jpeg", "jpg")
    return f"data/{hashlib.sha256(data).hexdigest()[:32]}.{suffix}"
