"""Where the rows and images of Hateful Memes are. Three layouts exist in the wild.

    [data/]{train,dev_seen,...}.jsonl, img/42953.png    official, phase 1 (dev, test) or final (seen, unseen)
    tables with image (or img), text, label, id         hub copies; neuralcatcher's `img` is a path and no image
    tables with images, texts                           The Cauldron: questions and answers already worded

Ids are numbers or strings, padded to five digits as file names are. A row is listed once, as a `Place`, and read
again when it is converted.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from phiv_data.media.reject import RejectInput
from phiv_data.sources.image_index import ImageIndex, index_images, read_image, unpack
from phiv_data.sources.json_stream import read_rows, read_value, text_of, typed
from phiv_schemas import SourceError

if TYPE_CHECKING:
    from phiv_data.convert.base import Duplicate, Inputs
    from phiv_data.sources.hf_tables import Table

FILES = ("train", "dev", "dev_seen", "dev_unseen", "test", "test_seen", "test_unseen")
_ALIASES = {"validation": "dev", "valid": "dev", "val": "dev"}
_ARCHIVES = ("img.tar.gz", "img.tgz", "img.tar", "img.zip")


class Place(NamedTuple):
    """Where a row is: a span of bytes of a jsonl file, or a row of a table."""

    file: int
    at: int
    length: int
    line: int


class Meme(NamedTuple):
    """A row. `key` is the padded id, or the row's place; `user` is set where the question is worded already."""

    key: str
    text: Any
    label: bool | None
    img: str
    user: str = ""


@dataclass(frozen=True)
class Layout:
    """A source that was recognised: jsonl files or tables, each with the split it becomes, and images by name."""

    root: Path
    files: tuple[Path | Table, ...]
    splits: tuple[str, ...]
    labels: tuple[tuple[str, ...], ...]
    images: ImageIndex
    description: str
    notices: tuple[str, ...] = ()

    @property
    def is_cauldron(self) -> bool:
        return not isinstance(self.files[0], Path) and "texts" in self.files[0].columns

    def rows(self) -> Iterator[tuple[Place, Meme | RejectInput]]:
        """Every row, good or bad, read without the images."""
        for index, file in enumerate(self.files):
            for place, row, problem in _rows(index, file):
                yield place, self._caught(place, row, problem)

    def read(self, place: Place) -> Meme:
        """The row at `place`. RejectInput where it cannot be used."""
        from phiv_data.sources.hf_tables import read_row

        file, where = self.files[place.file], self.where(place)
        if isinstance(file, Path):
            return self._meme(place, read_value(file, place.at, place.length, where=where))
        return self._meme(place, read_row(file, place.at, _columns(file)))

    def where(self, place: Place) -> str:
        return f"{self._name(place)}:{place.line}"

    def image(self, place: Place, meme: Meme) -> tuple[str, bytes]:
        """Name and bytes of the image: by its path in the row or by its id, or out of the table."""
        from phiv_data.sources.hf_tables import image_cell, read_row

        file, where = self.files[place.file], self.where(place)
        if isinstance(file, Path) or not (column := _image_column(file)):
            path = self.images.find(meme.img or f"{meme.key}.png", where=where)
            return path.name, read_image(path, where)
        cell = read_row(file, place.at, [column])[column]
        if column == "images":
            if len(cell or ()) != 1:
                raise RejectInput(where, "missing-image", f"the row has {len(cell or ())} images, not one")
            cell = cell[0]
        if isinstance(cell, str):  # a column called image that only names the file
            path = self.images.find(cell, where=where)
            return path.name, read_image(path, where)
        data, name = image_cell(cell, where)
        return _base(name) or _invented(meme.key, data, where), data

    def has_image(self, place: Place, meme: Meme) -> bool:
        file = self.files[place.file]
        if isinstance(file, Path) or not _image_column(file):
            return (meme.img or f"{meme.key}.png") in self.images
        return True

    def image_file(self, place: Place, meme: Meme) -> Path:
        """The file that `image` reads, or where it would be."""
        file = self.files[place.file]
        if not isinstance(file, Path) and _image_column(file):
            return file.path
        try:
            return self.images.find(meme.img or f"{meme.key}.png")
        except RejectInput:
            return self.root / (meme.img or f"{meme.key}.png")

    def size_bytes(self, place: Place, meme: Meme) -> int:
        """Of the row and its image, as far as it is there; of a table its whole size."""
        file = self.files[place.file]
        if not isinstance(file, Path):
            return file.path.stat().st_size
        try:
            return place.length + self.images.find(meme.img or f"{meme.key}.png").stat().st_size
        except (RejectInput, OSError):
            return place.length

    def fallback_key(self, place: Place) -> str:
        """Names a row without an id."""
        return f"{self._name(place)}:{place.line if place.length else place.at:08d}"

    def _name(self, place: Place) -> str:
        file = self.files[place.file]
        path = file if isinstance(file, Path) else file.path
        return path.relative_to(self.root).as_posix() if path.is_relative_to(self.root) else path.name

    def _caught(self, place: Place, row: Any, problem: str) -> Meme | RejectInput:
        if problem:
            return RejectInput(self.where(place), "bad-row", problem)
        try:
            return self._meme(place, row)
        except RejectInput as reject:
            return reject

    def _meme(self, place: Place, row: Any) -> Meme:
        where = self.where(place)
        if self.is_cauldron:
            return _worded(row, self.fallback_key(place), where)
        if not isinstance(row, dict):
            typed(row, "id", (int, str), where)  # says what is there instead
        has_id = isinstance(self.files[place.file], Path) or row.get("id") is not None
        key = _padded(row, where) if has_id else self.fallback_key(place)
        img = typed(row, "img", str, where) if row.get("img") is not None and _is_text(row["img"]) else ""
        return Meme(key, row.get("text"), hateful(row.get("label"), self.labels[place.file], where), img)


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


def _padded(row: dict[str, Any], where: str) -> str:
    name = str(typed(row, "id", (int, str), where)).strip()
    text_of({"id": name}, "id", where)
    return name.zfill(5) if name.isdecimal() and name.isascii() else name


def _worded(row: dict[str, Any], key: str, where: str) -> Meme:
    """A row of The Cauldron: its first question as it is, as the recipe takes it, and yes or no."""
    texts = row["texts"]
    if not texts:
        raise RejectInput(where, "bad-turns", "the row has no texts")
    user, assistant = text_of(texts[0], "user", where), texts[0].get("assistant") or None
    word = str(assistant).strip().strip(".").lower()
    if assistant is not None and word not in ("yes", "no"):
        raise RejectInput(where, "bad-row", f"the answer is neither yes nor no (found {assistant!r})")
    return Meme(key, None, None if assistant is None else word == "yes", "", user)


def _rows(index: int, file: Path | Table) -> Iterator[tuple[Place, Any, str]]:
    from phiv_data.sources.hf_tables import iter_rows

    if isinstance(file, Path):
        for row in read_rows(file):
            yield Place(index, row.offset, row.length, row.line), row.value, row.problem
        return
    for number, found in enumerate(iter_rows(file, _columns(file))):
        yield Place(index, number, 0, number + 1), found, ""


def _columns(table: Table) -> list[str]:
    """What is read of every row: not the images."""
    names = ["id", "text", "label", "texts", *([] if _image_column(table) == "img" else ["img"])]
    return [name for name in names if name in table.columns]


def _image_column(table: Table) -> str:
    """The column with images; "" where there is none. A column `img` of strings only names files."""
    if "images" in table.columns:
        return "images"
    return "image" if "image" in table.columns else "" if _holds_text(table, "img") else "img"


def _holds_text(table: Table, name: str) -> bool:
    from phiv_data.sources.hf_tables import iter_rows

    if name not in table.columns:
        return True
    return all(_is_text(row[name]) for row, _ in zip(iter_rows(table, [name]), range(3), strict=False))


def _is_text(value: Any) -> bool:
    return not isinstance(value, (bytes, dict))


def _base(name: str | None) -> str:
    return (name or "").replace("\\", "/").rpartition("/")[2]


def _invented(key: str, data: bytes, where: str) -> str:
    from phiv_data.media.images import image_size

    kind = image_size(data, where=where).format
    return f"{key.replace('/', '-').replace(':', '-')}.{'jpg' if kind == 'JPEG' else kind.lower()}"


# Listing ---------------------------------------------------------------------------------------------------------


@dataclass
class _Listing:
    """Memes by split and key as they come; `places` of those that can be used."""

    layout: Layout
    memes: dict[tuple[str, str], tuple[Place, Meme]] = field(default_factory=dict)
    rejects: list[tuple[str, Place, RejectInput]] = field(default_factory=list)
    duplicates: list[Duplicate] = field(default_factory=list)
    split_of: dict[str, tuple[str, Place]] = field(default_factory=dict)

    def add(self, place: Place, meme: Meme) -> None:
        """Take one row. Of a meme given twice, the row with a label stays."""
        from phiv_data.convert.base import Duplicate

        split, where = self.layout.splits[place.file], self.layout.where
        other, before = self.split_of.setdefault(meme.key, (split, place))
        if other != split:
            what = f"meme {meme.key} is in {other} ({where(before)}) and in {split} ({where(place)})"
            raise SourceError(self.layout.root.name, what, "Give the files that share memes to one split")
        first, kept = self.memes.setdefault((split, meme.key), (place, meme))
        if first == place:
            return
        if meme.text != kept.text or (None not in (meme.label, kept.label) and meme.label != kept.label):
            what = f"meme {meme.key} is on {where(first)} too, with another text or label"
            self.rejects.append((split, place, RejectInput(where(place), "bad-row", what)))
        elif kept.label is None and meme.label is not None:
            self.memes[split, meme.key] = (place, meme)
            self.duplicates.append(Duplicate(where(place), where(first)))
        else:
            self.duplicates.append(Duplicate(where(first), where(place)))


def list_inputs(layout: Layout, source: str) -> Inputs:
    """Items by id; a row that cannot be used is one of its own, with the reason as payload."""
    from phiv_data.convert.base import Inputs, Item

    listing = _Listing(layout)
    for place, meme in layout.rows():
        if isinstance(meme, RejectInput):
            listing.rejects.append((layout.splits[place.file], place, meme))
        else:
            listing.add(place, meme)
    if not any(layout.has_image(place, meme) for place, meme in listing.memes.values()):
        found = f"{len(listing.memes) + len(listing.rejects)} rows in {layout.description}"
        hint = "Pass the official img/ folder or its archive as --images"
        raise SourceError(source, f"no row has its image ({found})", hint)
    items = [
        Item(split, key, (repr(meme).encode(), layout.image_file(place, meme)), place, layout.size_bytes(place, meme))
        for (split, key), (place, meme) in listing.memes.items()
    ]
    items += [
        Item(split, layout.fallback_key(place), str(error).encode(), error, place.length)
        for split, place, error in listing.rejects
    ]
    items.sort(key=lambda item: item.key)
    return Inputs(items, warnings=layout.notices, duplicates=tuple(listing.duplicates))


# Finding ---------------------------------------------------------------------------------------------------------


def find_layout(root: Path, images: tuple[Path, ...], mapping: dict[str, str], scratch: Path, name: str) -> Layout:
    """The layout of `root`, called `name` in errors. `mapping` gives the split of each file or hub split.

    The official layout wins where both are there. SourceError where none is, or none of its files has a split.
    """
    found = _official_files(root)
    if found:
        names = [path.stem for path in found]
        files: list[Path | Table] = list(found)
        described = "official layout: "
        images += _packed_images(found[0].parent, scratch)
    else:
        tables = _tables(root, name)
        names = [_ALIASES.get(table.split, table.split) for table in tables]
        files = list(tables)
        described = f"hub layout: {_kind(tables[0])}, "
    chosen = [(file, mapping[of], of) for file, of in zip(files, names, strict=True) if of in mapping]
    if not chosen:
        hint = "Give some of them to --train, --val or --test"
        raise SourceError(name, f"no file has a split (found: {', '.join(names)})", hint)
    left = sorted(set(names) - mapping.keys())
    notices = (f"files of no split were left alone: {', '.join(left)}",) if left else ()
    used, splits, used_names = zip(*chosen, strict=True)
    around = root if root.is_dir() else root.parent
    return Layout(
        around,
        used,
        splits,
        tuple(_labels(file) for file in used),
        index_images(around, *images),
        described + ", ".join(f"{of} as {split}" for of, split in dict(zip(used_names, splits, strict=True)).items()),
        notices,
    )


def _official_files(root: Path) -> list[Path]:
    if root.is_file():
        return [root] if root.suffix in (".jsonl", ".json") else []
    inner = sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith((".", "__MACOSX")))
    for folder in (root, *(inner if len(inner) == 1 else ())):
        for data in (folder, folder / "data", folder / "hateful_memes"):
            if files := [data / f"{name}.jsonl" for name in FILES if (data / f"{name}.jsonl").is_file()]:
                return files
    return []


def _packed_images(folder: Path, scratch: Path) -> tuple[Path, ...]:
    """The images' own archive, unpacked, where the release holds one and no folder of that name."""
    archives = [folder / name for name in _ARCHIVES if (folder / name).is_file()]
    return (unpack(archives[0], scratch),) if archives and not (folder / "img").is_dir() else ()


def _tables(root: Path, name: str) -> list[Table]:
    from phiv_data.sources.hf_tables import find_tables

    tables = [table for table in find_tables(root) if _kind(table)]
    if len({table.config for table in tables}) > 1:
        tables = [table for table in tables if table.config == "hateful_memes"]
    if not tables:
        found = ", ".join(sorted(path.name for path in root.iterdir())[:8]) if root.is_dir() else root.name
        raise SourceError(
            name,
            f"neither {{train,dev_seen,...}}.jsonl with img/ nor tables of memes (found: {found or 'nothing'})",
            "Pass the folder or zip of the official release, or the folder of a hub dataset",
        )
    return tables


def _kind(table: Table) -> str:
    columns = set(table.columns)
    if {"images", "texts"} <= columns:
        return "The Cauldron's images and texts"
    if "image" in columns and columns & {"label", "text"}:
        return "tables with image, text, label"
    return "tables with img, text, label" if {"img", "label"} <= columns else ""


def _labels(file: Path | Table) -> tuple[str, ...]:
    from phiv_data.sources.hf_tables import class_names

    return () if isinstance(file, Path) else class_names(file).get("label", ())
