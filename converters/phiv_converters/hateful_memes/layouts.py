"""Where the rows and images of Hateful Memes are. Three layouts exist in the wild.

    [data/]{train,dev_seen,...}.jsonl, img/42953.png    official, phase 1 (dev, test) or final (seen, unseen)
    tables with image (or img), text, label, id         hub copies; neuralcatcher's `img` is a path and no image
    tables with images, texts                           The Cauldron: questions and answers already worded

Ids are numbers or strings, padded to five digits as file names are. A row is listed once, with its `MemeLocation`, and
read again when it is converted.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from phiv_converters.base import hint_for_converted, warn_of_missing_shards
from phiv_converters.yes_no import read_yes_no
from phiv_data.media.images import image_size
from phiv_data.media.reject import RejectInput
from phiv_data.sources.folders import entries
from phiv_data.sources.hf_tables import Table, class_names, find_tables, image_cell, iter_rows, read_row
from phiv_data.sources.image_index import ImageIndex, index_images, read_image, unpack
from phiv_data.sources.json_stream import read_rows, read_value, text_of, value_of
from phiv_schemas import SourceError

FILES = ("train", "dev", "dev_seen", "dev_unseen", "test", "test_seen", "test_unseen")
_ALIASES = {"validation": "dev", "valid": "dev", "val": "dev"}
_ARCHIVES = ("img.tar.gz", "img.tgz", "img.tar", "img.zip")


class MemeLocation(NamedTuple):
    """Where a row is: a span of bytes of a jsonl file, or a row of a table."""

    file: int
    at: int
    length: int
    line: int


class Meme(NamedTuple):
    """A row. `key` is the padded id, or the row's location; `user` is set where the question is worded already."""

    key: str
    text: Any
    label: bool | None
    img: str
    user: str = ""


@dataclass(frozen=True)
class MemeLayout:
    """A recognised source: jsonl files or tables, each with the split it becomes, and images by name.

    Errors call it `name`.
    """

    name: str
    root: Path
    files: tuple[Path | Table, ...]
    splits: tuple[str, ...]
    labels: tuple[tuple[str, ...], ...]
    images: ImageIndex
    description: str
    warnings: tuple[str, ...] = ()

    @property
    def is_official(self) -> bool:
        """True for jsonl files, False for tables."""
        return isinstance(self.files[0], Path)

    @property
    def is_cauldron(self) -> bool:
        return not isinstance(self.files[0], Path) and "texts" in self.files[0].columns

    def rows(self) -> Iterator[tuple[MemeLocation, Meme | RejectInput]]:
        """Every row, good or bad, read without the images."""
        for index, file in enumerate(self.files):
            found: Iterator[tuple[MemeLocation, Any, str]]
            if isinstance(file, Path):
                found = ((MemeLocation(index, r.offset, r.length, r.line), r.value, r.problem) for r in read_rows(file))
            else:
                cells = enumerate(iter_rows(file, _columns(file)))
                found = ((MemeLocation(index, number, 0, number + 1), row, "") for number, row in cells)
            for location, row, problem in found:
                try:
                    if problem:
                        raise RejectInput(self.where(location), "bad-row", problem)
                    yield location, self._parse(location, row)
                except RejectInput as reject:
                    yield location, reject

    def read(self, location: MemeLocation) -> Meme:
        """The row at `location`. RejectInput where it cannot be used."""
        file, where = self.files[location.file], self.where(location)
        if isinstance(file, Path):
            return self._parse(location, read_value(file, location.at, location.length, where=where))
        return self._parse(location, read_row(file, location.at, _columns(file)))

    def where(self, location: MemeLocation) -> str:
        return f"{self._name(location)}:{location.line}"

    def image(self, location: MemeLocation, meme: Meme) -> tuple[str, bytes]:
        """Name and bytes of the image: by its path in the row or by its id, or out of the table."""
        file, where = self.files[location.file], self.where(location)
        if isinstance(file, Path) or not (column := _image_column(file)):
            path = self.images.find(meme.img or f"{meme.key}.png", where=where)
            return path.name, read_image(path, where)
        cell = read_row(file, location.at, [column])[column]
        if column == "images":
            if len(cell or ()) != 1:
                raise RejectInput(where, "missing-image", f"the row has {len(cell or ())} images, not one")
            cell = cell[0]
        if isinstance(cell, str):  # a column called image that only names the file
            path = self.images.find(cell, where=where)
            return path.name, read_image(path, where)
        data, name = image_cell(cell, where)
        base = (name or "").replace("\\", "/").rpartition("/")[2]
        if not base:
            suffix = image_size(data, where=where).format.lower().replace("jpeg", "jpg")
            base = f"{meme.key.replace('/', '-').replace(':', '-')}.{suffix}"
        return base, data

    def has_image(self, location: MemeLocation, meme: Meme) -> bool:
        file = self.files[location.file]
        if isinstance(file, Path) or not _image_column(file):
            return (meme.img or f"{meme.key}.png") in self.images
        return True

    def image_files(self, location: MemeLocation, meme: Meme) -> list[Path]:
        """The file that `image` reads, those it cannot choose from, or where it would be; of a table itself."""
        file, name = self.files[location.file], meme.img or f"{meme.key}.png"
        if not isinstance(file, Path) and _image_column(file):
            return [file.path]
        return self.images.candidates(name) or [self.root / name]

    def size_bytes(self, location: MemeLocation, meme: Meme) -> int:
        """Of the row and its image, as far as it is there; of a table its whole size."""
        file = self.files[location.file]
        if not isinstance(file, Path):
            return file.path.stat().st_size
        try:
            return location.length + self.images.find(meme.img or f"{meme.key}.png").stat().st_size
        except (RejectInput, OSError):
            return location.length

    def fallback_key(self, location: MemeLocation) -> str:
        """Names a row without an id."""
        return f"{self._name(location)}:{location.line if location.length else location.at:08d}"

    def _name(self, location: MemeLocation) -> str:
        file = self.files[location.file]
        path = file if isinstance(file, Path) else file.path
        return path.relative_to(self.root).as_posix() if path.is_relative_to(self.root) else path.name

    def _parse(self, location: MemeLocation, row: Any) -> Meme:
        where = self.where(location)
        if self.is_cauldron:  # its first question as it is, as the recipe takes it
            user, _, is_yes = read_yes_no(row["texts"], 0, where)
            return Meme(self.fallback_key(location), None, is_yes, "", user)
        if not isinstance(row, dict):
            value_of(row, "id", (int, str), where)  # raises: it names what is there instead
        has_id = isinstance(self.files[location.file], Path) or row.get("id") is not None
        key = self.fallback_key(location)
        if has_id:
            key = str(value_of(row, "id", (int, str), where)).strip()
            text_of({"id": key}, "id", where)
            key = key.zfill(5) if key.isdecimal() and key.isascii() else key
        names_file = row.get("img") is not None and not isinstance(row["img"], (bytes, dict))
        img = value_of(row, "img", str, where) if names_file else ""
        return Meme(key, row.get("text"), hateful(row.get("label"), self.labels[location.file], where), img)


def hateful(label: Any, names: tuple[str, ...], where: str) -> bool | None:
    """The label, 0 or 1, as a boolean; None where there is none. `names` are those of a ClassLabel column."""
    if label is None or label in ("", -1):
        return None
    if type(label) is int and label < len(names) and any("hate" in name for name in names):
        return not names[label].lower().startswith(("no", "non"))
    for value, words in ((False, ("0", "0.0", "False")), (True, ("1", "1.0", "True"))):
        if str(label).strip() in words:
            return value
    raise RejectInput(where, "bad-row", f"label is neither 0 nor 1 (found {label!r})")


def _columns(table: Table) -> list[str]:
    """What is read of every row: not the images."""
    names = ["id", "text", "label", "texts", *([] if _image_column(table) == "img" else ["img"])]
    return [name for name in names if name in table.columns]


def _image_column(table: Table) -> str:
    """The column with images; "" where there is none. A column `img` of strings only names files."""
    if "images" in table.columns:
        return "images"
    if "image" in table.columns or "img" not in table.columns:
        return "image" if "image" in table.columns else ""
    first_rows = zip(iter_rows(table, ["img"]), range(3), strict=False)
    return "img" if any(isinstance(row["img"], (bytes, dict)) for row, _ in first_rows) else ""


# Finding ---------------------------------------------------------------------------------------------------------


def find_layout(root: Path, images: tuple[Path, ...], mapping: dict[str, str], work_dir: Path, name: str) -> MemeLayout:
    """The layout of `root`; errors call it `name`. `mapping` gives the split of each file or hub split.

    The official layout wins where both are there. SourceError where none is, or none of its files has a split.
    """
    files: list[Path | Table]
    missing: tuple[str, ...] = ()
    if official := _official_files(root):
        files, names = list(official), [path.stem for path in official]
        described = "official layout: "
        folder = official[0].parent
        archives = [folder / name for name in _ARCHIVES if (folder / name).is_file()]
        if archives and not (folder / "img").is_dir():
            images += (unpack(archives[0], work_dir),)
    else:
        tables = _find_meme_tables(root, name)
        missing = warn_of_missing_shards(tables)
        files, names = list(tables), [_ALIASES.get(table.split, table.split) for table in tables]
        described = f"hub layout: {_table_kind(tables[0])}, "
    chosen = [(file, mapping[of], of) for file, of in zip(files, names, strict=True) if of in mapping]
    if not chosen:
        hint = "Give some of them to --train, --val or --test"
        raise SourceError(name, f"no file has a split (found: {', '.join(names)})", hint)
    left = sorted(set(names) - mapping.keys())
    warnings = (f"files of no split were left alone: {', '.join(left)}",) if left else ()
    used, splits, used_names = zip(*chosen, strict=True)
    around = root if root.is_dir() else root.parent
    return MemeLayout(
        name,
        around,
        used,
        splits,
        tuple(() if isinstance(file, Path) else class_names(file).get("label", ()) for file in used),
        index_images(around, *images),
        described + ", ".join(f"{of} as {split}" for of, split in dict(zip(used_names, splits, strict=True)).items()),
        (*missing, *warnings),
    )


def _official_files(root: Path) -> list[Path]:
    if root.is_file():
        return [root] if root.suffix in (".jsonl", ".json") else []
    inner = [root / e.name for e in entries(root) if e.is_dir() and e.name != "__MACOSX"]
    for folder in (root, *(inner if len(inner) == 1 else ())):
        for data in (folder, folder / "data", folder / "hateful_memes"):
            if files := [data / f"{name}.jsonl" for name in FILES if (data / f"{name}.jsonl").is_file()]:
                return files
    return []


def _find_meme_tables(root: Path, name: str) -> list[Table]:
    tables = [table for table in find_tables(root) if _table_kind(table)]
    if len({table.config for table in tables}) > 1:
        tables = [table for table in tables if table.config == "hateful_memes"]
    if not tables:
        found = ", ".join(entry.name for entry in entries(root)[:8]) if root.is_dir() else root.name
        raise SourceError(
            name,
            f"neither {{train,dev_seen,...}}.jsonl with img/ nor tables of memes (found: {found or 'nothing'})",
            hint_for_converted(root, name)
            or "Pass the folder or zip of the official release, or the folder of a hub dataset",
        )
    return tables


def _table_kind(table: Table) -> str:
    columns = set(table.columns)
    if {"images", "texts"} <= columns:
        return "The Cauldron's images and texts"
    if "image" in columns and columns & {"label", "text"}:
        return "tables with image, text, label"
    return "tables with img, text, label" if {"img", "label"} <= columns else ""
