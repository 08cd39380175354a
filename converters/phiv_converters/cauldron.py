"""The Cauldron and FineVision: tables whose rows are dialogues, with columns `images` and `texts`.

    phiv-convert cauldron --source the_cauldron/nlvr2 --out_dir out             a config's Parquet or saved folder
    phiv-convert cauldron --source the_cauldron --config nlvr2 --out_dir out    the same, out of all of them

A row becomes one conversation: a turn per pair of user and assistant, all images in the first turn, as these datasets
mean it; their bytes are copied. Texts are taken as they are. The record's source is the `source` of its texts
(The Cauldron) or of its row (FineVision), else the config's name. Images are stored once however many rows show them:
`<split>/<hash>-<the source's own name>`.
"""

from __future__ import annotations

import hashlib
import json
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, overload

from phiv_data.convert.base import Converter, ConverterOptions
from phiv_schemas.errors import SourceError, UsageError

if TYPE_CHECKING:
    from phiv_data.convert.base import Inputs, Item
    from phiv_data.sources.hf_tables import Table
    from phiv_data.storage.sample import Draft, EncodedImage
    from phiv_schemas import Turn

COLUMNS = ("images", "texts")
MAX_KEPT_NAME = 180
"""Bytes; a longer name of an image is left out, so that hash and name fit a file name."""


@dataclass(frozen=True)
class CauldronOptions(ConverterOptions):
    """Tables of The Cauldron or FineVision (columns images and texts) to conversations."""

    source: Path
    """Folder, archive or file: Parquet files, a save_to_disk folder, or a folder of such per config."""
    config: str | None = None
    """Convert this config (sub-folder) only; by default all that are there."""
    turns: Literal["all", "first"] = "all"
    """All pairs of a row, or its first one only."""
    val_fraction: float = 0.0
    """Move about this share of train to val, by the hash of a row's first image (or its texts where it has none):
    rows that begin with the same image stay together. Reads every image once more."""

    def __post_init__(self) -> None:
        if not 0.0 <= self.val_fraction < 1.0:
            raise UsageError("--val_fraction", f"must be at least 0 and below 1 (found {self.val_fraction})")

    def identity(self) -> dict[str, Any] | None:
        """The options with the hash of an archive; None for a folder or a table, which can change."""
        from phiv_data.sources.image_index import sources_sha256

        found = sources_sha256(self.source)
        return None if found is None else self.shape() | {"source": found}

    def shape(self) -> dict[str, Any]:
        """The options that shape the output, as plain JSON values."""
        return {"config": self.config, "turns": self.turns, "val_fraction": self.val_fraction}

    def open(self, scratch: Path) -> Cauldron:
        """Find the tables and check their columns."""
        from phiv_data.sources.hf_tables import find_tables
        from phiv_data.sources.image_index import open_source

        identity = self.identity()
        if not self.source.exists():
            raise SourceError("--source", f"no such file or folder {str(self.source)!r}", "Check the path")
        root = open_source(self.source, scratch, sha256=identity["source"]) if identity else self.source
        return Cauldron(self, root, _chosen(find_tables(root), self), identity)


class _Place(NamedTuple):
    """Where a row is: the table's number, and the row's in it."""

    table: int
    row: int


@dataclass(frozen=True)
class Cauldron(Converter):
    """Opened tables: lists their rows and turns one into a draft."""

    options_: CauldronOptions
    root: Path
    tables: tuple[Table, ...]
    fixed_identity: dict[str, Any] | None
    name: str = "cauldron"
    synthetic: bool = False
    splits: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        found = {_split(table) for table in self.tables}
        if self.options_.val_fraction:
            if "val" in found:
                raise UsageError("--val_fraction", "the source has a val split of its own", "Leave it out")
            found.add("val")
        first = [name for name in ("train", "val", "test") if name in found]
        object.__setattr__(self, "splits", (*first, *sorted(found - set(first))))

    @property
    def record_source(self) -> str:
        """`cauldron`; rows name their own."""
        return self.name

    def describe(self) -> str:
        """The tables found."""
        kinds = " and ".join(sorted({table.kind for table in self.tables}))
        configs = sorted({table.config for table in self.tables if table.config})
        of = f" of {', '.join(configs[:5])}{', ...' if len(configs) > 5 else ''}" if configs else ""
        return f"The Cauldron's tables: {len(self.tables)} {kinds} files{of} with columns images and texts"

    def options(self) -> dict[str, Any]:
        """Everything that shapes the output; of a folder also a hash of its files' names and sizes."""
        if self.fixed_identity is not None:
            return self.fixed_identity
        files = [[_name(self.root, table), table.path.stat().st_size, table.num_rows] for table in self.tables]
        return self.options_.shape() | {"tables_sha256": hashlib.sha256(json.dumps(files).encode()).hexdigest()}

    def versions(self) -> dict[str, str]:
        """None but the core's: bytes are copied."""
        return {}

    def inputs(self) -> Inputs:
        """Every row of every table; columns that are not read and shards that are not there are told."""
        from phiv_data.convert.base import Inputs

        parts = [part for number in range(len(self.tables)) for part in self._parts(number)]
        order = {split: rank for rank, split in enumerate(self.splits)}
        parts.sort(key=lambda part: (order[part.split], f"{part.name}:"))
        return Inputs(_Rows(parts), warnings=tuple(_notices(self.tables)))

    def draft(self, item: Item) -> Draft:
        """One row as one conversation."""
        from phiv_data.sources.hf_tables import read_row
        from phiv_data.storage.sample import Draft

        table = self.tables[item.payload.table]
        row = read_row(table, item.payload.row, _columns(table))
        images = tuple(_images(row["images"], item))
        return Draft(self._turns(row["texts"], images, item.key), images, source=_source(row, table, self.name))

    def _turns(self, texts: Any, images: tuple[EncodedImage, ...], where: str) -> tuple[Turn, ...]:
        """A turn per pair; RejectInput `bad-turns` where there is none, or an answer follows a missing one."""
        from phiv_data.media.reject import RejectInput
        from phiv_schemas import Turn

        pairs = [_pair(pair, where) for pair in texts or ()]
        if not pairs:
            raise RejectInput(where, "bad-turns", "the row has no texts")
        pairs = pairs[:1] if self.options_.turns == "first" else pairs
        labeled = [answer is not None for _, answer in pairs]
        if labeled != sorted(labeled, reverse=True):
            raise RejectInput(where, "bad-turns", "an answer follows a question without one")
        paths = tuple(image.meta.path for image in images)
        return tuple(
            Turn(images=() if i else paths, user=user, assistant=answer) for i, (user, answer) in enumerate(pairs)
        )

    def _parts(self, number: int) -> Iterator[_Part]:
        """The rows of a table: one part, or two where some of them move to val."""
        table = self.tables[number]
        split, name = _split(table), _name(self.root, table)
        size = table.path.stat().st_size // max(table.num_rows, 1)
        if split != "train" or not self.options_.val_fraction:
            yield _Part(split, name, number, range(table.num_rows), size, table.path)
            return
        rows = {"train": array("Q"), "val": array("Q")}
        for row, share in enumerate(_shares(table)):
            rows["val" if share < self.options_.val_fraction else "train"].append(row)
        yield from (_Part(split, name, number, rows[split], size, table.path) for split in rows)


class _Part(NamedTuple):
    """Some rows of a table, which go to one split; 8 bytes each at most."""

    split: str
    name: str
    table: int
    rows: Sequence[int]
    row_bytes: int
    path: Path

    def item(self, index: int) -> Item:
        from phiv_data.convert.base import Item

        row = self.rows[index]
        return Item(self.split, f"{self.name}:{row:08d}", self.path, _Place(self.table, row), self.row_bytes)


class _Rows(Sequence["Item"]):
    """The items, in the order of their splits and keys, made when they are asked for."""

    def __init__(self, parts: list[_Part]) -> None:
        self.parts = [part for part in parts if len(part.rows)]

    def __len__(self) -> int:
        return sum(len(part.rows) for part in self.parts)

    def __iter__(self) -> Iterator[Item]:
        return (part.item(index) for part in self.parts for index in range(len(part.rows)))

    @overload
    def __getitem__(self, index: int) -> Item: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Item]: ...
    def __getitem__(self, index: int | slice) -> Item | Sequence[Item]:
        if isinstance(index, slice):
            return [self[i] for i in range(len(self))[index]]
        left = range(len(self))[index]
        for part in self.parts:
            if left < len(part.rows):
                return part.item(left)
            left -= len(part.rows)
        raise AssertionError("range() has checked the index")


def _chosen(tables: tuple[Table, ...], options: CauldronOptions) -> tuple[Table, ...]:
    """The tables of the config; SourceError where there is none, or one without the two columns."""
    if not tables:
        what = f"no tables in {str(options.source)!r}"
        raise SourceError("--source", what, "Pass a folder with Parquet files, or one that save_to_disk wrote")
    if options.config is not None:
        configs = sorted({table.config for table in tables if table.config})
        tables = tuple(table for table in tables if table.config == options.config)
        if not tables:
            raise UsageError("--config", f"no config {options.config!r} (found: {', '.join(configs) or 'none'})")
    for table in tables:
        if missing := [name for name in COLUMNS if name not in table.columns]:
            found = ", ".join(table.columns)[:200]
            what = f"has no column {' and '.join(missing)} (found: {found})"
            raise SourceError(str(table.path), what, "This converter reads The Cauldron and FineVision")
    return tables


def _split(table: Table) -> str:
    return "val" if table.split == "validation" else table.split


def _name(root: Path, table: Table) -> str:
    """The table's place below the source; its own name where it is the source."""
    return table.path.name if table.path == root else table.path.relative_to(root).as_posix()


def _columns(table: Table) -> tuple[str, ...]:
    return (*COLUMNS, "source") if "source" in table.columns else COLUMNS


def _notices(tables: tuple[Table, ...]) -> Iterator[str]:
    from phiv_data.sources.hf_tables import missing_shards

    unread = sorted({name for table in tables for name in table.columns} - {*COLUMNS, "source"})
    if unread:
        yield f"columns that are not read: {', '.join(unread)}"
    if missing := missing_shards(tables):
        yield f"{len(missing)} files of the source are not there, the first is {missing[0]}"


def _shares(table: Table) -> Iterator[float]:
    """For each row a number in 0..1 that depends on its first image alone, or on its texts where it has none."""
    from phiv_data.sources.hf_tables import iter_rows

    for row in iter_rows(table, COLUMNS):
        cell = (row["images"] or [None])[0]
        data = cell.get("bytes") if isinstance(cell, dict) else cell
        seed = data if isinstance(data, bytes) else json.dumps(row["texts"], default=str).encode()
        yield int.from_bytes(hashlib.sha256(seed).digest()[:8]) / 2**64


def _images(cells: Any, item: Item) -> Iterator[EncodedImage]:
    from phiv_data.sources.hf_tables import image_cell
    from phiv_data.sources.image_index import checked_image

    for number, cell in enumerate(cells or ()):
        where = f"{item.key}: image {number}"
        data, name = image_cell(cell, where)
        yield checked_image(_path(item.split, data, name, where), data, where)


def _path(split: str, data: bytes, name: str | None, where: str) -> str:
    """`train/1f/2e3d...-page_7.png`: the hash keeps apart images of one name, and brings equal ones together."""
    from phiv_data.export.base import suffix
    from phiv_data.media.images import image_size
    from phiv_schemas import check_image_path

    digest = hashlib.sha256(data).hexdigest()
    stem = f"{split}/{digest[:2]}/{digest[2:22]}"
    kept = PurePosixPath((name or "").replace("\\", "/")).name
    try:
        if kept and len(kept.encode()) <= MAX_KEPT_NAME:
            return check_image_path(f"{stem}-{kept}")
    except ValueError:  # control characters, half a surrogate pair
        pass
    return f"{stem}.{suffix(image_size(data, where=where).format)}"


def _pair(pair: Any, where: str) -> tuple[str, str | None]:
    from phiv_data.media.reject import RejectInput

    user, answer = (pair.get("user"), pair.get("assistant")) if isinstance(pair, dict) else (None, None)
    if not isinstance(user, str) or not isinstance(answer, str | None):
        raise RejectInput(where, "bad-row", f"a pair has no user text (found {str(pair)[:60]!r})")
    return user, answer


def _source(row: dict[str, Any], table: Table, default: str) -> str:
    """The sources of a row's texts, several joined by `+`; of the row; the config's name; `cauldron`."""
    from phiv_schemas.conversation import check_name

    named = [pair.get("source") for pair in row["texts"]]
    joined = "+".join(dict.fromkeys(source for source in named if isinstance(source, str) and source.strip()))
    for name in (joined, row.get("source"), table.config):
        try:
            return check_name(str(name or "").strip())
        except ValueError:
            continue
    return default
