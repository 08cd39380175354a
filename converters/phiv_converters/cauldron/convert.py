"""The Cauldron and FineVision: tables whose rows are dialogues, with columns `images` and `texts`.

    phiv-convert cauldron --source the_cauldron/nlvr2 --out_dir out             a config's Parquet or saved folder
    phiv-convert cauldron --source the_cauldron --config nlvr2 --out_dir out    the same, out of all of them

Before, a row of `train-00000-of-00001.parquet`:

    {"images": [{"bytes": b"\\x89PNG...", "path": "page_7.png"}],
     "texts": [{"user": "What is shown?", "assistant": "A form.", "source": "docvqa"}]}

After, a record:

    {"id": "train-0000000000", "source": "docvqa", "conversations": [{
      "images": ["train/1f/2e3d4c5b6a79880a1b2c-page_7.png"], "user": "What is shown?", "assistant": "A form."}]}

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
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from phiv_converters.base import hint_for_converted, refuse_exports, warn_of_missing_shards
from phiv_converters.cauldron.options import CauldronOptions
from phiv_data.convert.base import Converter, Inputs, Item
from phiv_data.export.base import suffix
from phiv_data.media.images import image_size
from phiv_data.media.reject import RejectInput
from phiv_data.sources.hf_tables import Table, find_tables, image_cell, iter_rows, read_row
from phiv_data.sources.image_index import checked_image, open_source
from phiv_data.storage.sample import Draft
from phiv_data.utils.groups import JoinedGroups
from phiv_schemas import Turn, check_image_path
from phiv_schemas.conversation import check_name
from phiv_schemas.errors import SourceError, UsageError

COLUMNS = ("images", "texts")
MAX_KEPT_NAME = 180
"""Bytes; a longer name of an image is left out, so that hash and name fit a file name."""


def open_cauldron(flags: CauldronOptions, work_dir: Path) -> CauldronConverter:
    """Find the tables and check their columns. SourceError where there is none, or one without the two columns."""
    fixed = flags.identity()
    if not flags.source.exists():
        raise SourceError("--source", f"no such file or folder {str(flags.source)!r}", "Check the path")
    refuse_exports(flags.source, "cauldron")
    root = open_source(flags.source, work_dir, sha256=fixed["source"]) if fixed else flags.source
    tables = find_tables(root)
    if not tables:
        hint = "Pass a folder with Parquet files, or one that save_to_disk wrote"
        what = f"no tables in {str(flags.source)!r}"
        raise SourceError("--source", what, hint_for_converted(root, str(flags.source)) or hint)
    if flags.config is not None:
        configs = sorted({table.config for table in tables if table.config})
        tables = tuple(table for table in tables if table.config == flags.config)
        if not tables:
            raise UsageError("--config", f"no config {flags.config!r} (found: {', '.join(configs) or 'none'})")
    for table in tables:
        if missing := [name for name in COLUMNS if name not in table.columns]:
            found = ", ".join(table.columns)[:200]
            what = f"has no column {' and '.join(missing)} (found: {found})"
            hint = "This converter reads The Cauldron and FineVision"
            raise SourceError(str(table.path), what, hint_for_converted(root, str(flags.source)) or hint)
    return CauldronConverter(flags, root, tables, fixed)


class CauldronRow(NamedTuple):
    """Where a row is: the table's number, and the row's in it."""

    table: int
    row: int


@dataclass(frozen=True)
class CauldronConverter(Converter):
    """Opened tables: lists their rows and turns one into a draft."""

    flags: CauldronOptions
    root: Path
    tables: tuple[Table, ...]
    fixed: dict[str, Any] | None
    name: str = "cauldron"
    splits: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        found = {_split(table) for table in self.tables}
        self.flags.shares.check_source(found)
        if self.flags.val_fraction and "val" in found:
            raise UsageError("--val_fraction", "the source has a val split of its own", "Leave it out")
        found.update(self.flags.shares.splits_made())
        first = [name for name in ("train", "val", "test") if name in found]
        object.__setattr__(self, "splits", (*first, *sorted(found - set(first))))

    def describe(self) -> str:
        """The tables found."""
        kinds = " and ".join(sorted({table.kind for table in self.tables}))
        configs = sorted({table.config for table in self.tables if table.config})
        of = f" of {', '.join(configs[:5])}{', ...' if len(configs) > 5 else ''}" if configs else ""
        return f"The Cauldron's tables: {len(self.tables)} {kinds} files{of} with columns images and texts"

    def options(self) -> dict[str, Any]:
        """Everything that affects the output; of a folder also a hash of its files' names and sizes."""
        if self.fixed is not None:
            return self.fixed
        files = [[_name(self.root, table), table.path.stat().st_size, table.num_rows] for table in self.tables]
        return self.flags.output_options() | {"tables_sha256": hashlib.sha256(json.dumps(files).encode()).hexdigest()}

    def versions(self) -> dict[str, str]:
        """None but the core's: bytes are copied."""
        return {}

    def inputs(self) -> Inputs:
        """Every row of every table; warnings about columns that are not read, and shards that are missing."""
        # The rows of a table are of one split, or of several where some of train move to val and test.
        parts, shares = list[TableRows](), self.flags.shares
        is_split = bool(shares.splits_made())
        positions = self._positions([i for i, t in enumerate(self.tables) if is_split and _split(t) == "train"])
        limits = shares.limits(array("d", chain.from_iterable(positions.values())))
        for number, table in enumerate(self.tables):
            split, name = _split(table), _name(self.root, table)
            size = table.path.stat().st_size // max(table.num_rows, 1)
            if number not in positions:
                parts.append(TableRows(split, name, number, range(table.num_rows), size, table.path))
                continue
            rows = {split: array("Q") for split in ("train", *shares.splits_made())}
            for row, position in enumerate(positions[number]):
                rows[limits.split_of(position)].append(row)
            parts += [TableRows(part, name, number, rows[part], size, table.path) for part in rows]
        order = {split: rank for rank, split in enumerate(self.splits)}
        parts.sort(key=lambda part: (order[part.split], f"{part.name}:"))
        warnings = []
        if unread := sorted({name for table in self.tables for name in table.columns} - {*COLUMNS, "source"}):
            warnings.append(f"columns that are not read: {', '.join(unread)}")
        warnings += warn_of_missing_shards(self.tables)
        return Inputs(chain.from_iterable(part.items() for part in parts), warnings=tuple(warnings))

    def draft(self, item: Item) -> Draft:
        """One row as one conversation."""
        table = self.tables[item.payload.table]
        row = read_row(table, item.payload.row, (*COLUMNS, "source") if "source" in table.columns else COLUMNS)
        images = []
        for number, cell in enumerate(row["images"] or ()):
            where = f"{item.key}: image {number}"
            data, name = image_cell(cell, where)
            images.append(checked_image(_image_path(item.split, data, name, where), data, where))
        turns = self._turns(row["texts"], tuple(image.meta.path for image in images), item.key)
        return Draft(turns, tuple(images), source=_record_source(row, table, self.name))

    def _turns(self, texts: Any, images: tuple[str, ...], where: str) -> tuple[Turn, ...]:
        """A turn per pair; RejectInput `bad-turns` where there is none, or an answer follows a missing one."""
        pairs: list[tuple[str, str | None]] = []
        for pair in texts or ():
            user, answer = (pair.get("user"), pair.get("assistant")) if isinstance(pair, dict) else (None, None)
            if not isinstance(user, str) or not isinstance(answer, str | None):
                raise RejectInput(where, "bad-row", f"a pair has no user text (found {str(pair)[:60]!r})")
            pairs.append((user, answer))
        if not pairs:
            raise RejectInput(where, "bad-turns", "the row has no texts")
        pairs = pairs[:1] if self.flags.turns == "first" else pairs
        labeled = [answer is not None for _, answer in pairs]
        if labeled != sorted(labeled, reverse=True):
            raise RejectInput(where, "bad-turns", "an answer follows a question without one")
        return tuple(
            Turn(images=() if i else images, user=user, assistant=answer) for i, (user, answer) in enumerate(pairs)
        )

    def _positions(self, numbers: Sequence[int]) -> dict[int, array[float]]:
        """The positions in 0..1 of the rows of some tables: one for all rows that share an image."""
        first_digests, joined = dict[int, bytearray](), JoinedGroups[str]()
        for number in numbers:
            first_digests[number] = bytearray()
            for cells in iter_rows(self.tables[number], COLUMNS):
                found = [cell.get("bytes") if isinstance(cell, dict) else cell for cell in cells["images"] or ()]
                shared = [data for data in found if isinstance(data, bytes)]
                shared = shared or [json.dumps(cells["texts"], default=str).encode()]
                digests = [hashlib.sha256(data).digest() for data in shared]
                first_digests[number] += digests[0]
                if len(digests) > 1:
                    joined.join([digest.hex() for digest in digests])
        positions = {}
        for number, digests_of_rows in first_digests.items():
            names = (digests_of_rows[at : at + 32].hex() for at in range(0, len(digests_of_rows), 32))
            positions[number] = array("d", (self.flags.shares.position(joined.name(name)) for name in names))
        return positions


class TableRows(NamedTuple):
    """Some rows of a table, which go to one split; 8 bytes each at most."""

    split: str
    name: str
    table: int
    rows: Sequence[int]
    row_bytes: int
    path: Path

    def items(self) -> Iterator[Item]:
        """The inputs, in the order of the rows. Their content is the table itself."""
        for row in self.rows:
            yield Item(self.split, f"{self.name}:{row:08d}", self.path, CauldronRow(self.table, row), self.row_bytes)


def _split(table: Table) -> str:
    return "val" if table.split == "validation" else table.split


def _name(root: Path, table: Table) -> str:
    """The table's path below the source; its own name where it is the source."""
    return table.path.name if table.path == root else table.path.relative_to(root).as_posix()


def _image_path(split: str, data: bytes, name: str | None, where: str) -> str:
    """`train/1f/2e3d...-page_7.png`: the hash keeps apart images of one name, and brings equal ones together."""
    digest = hashlib.sha256(data).hexdigest()
    stem = f"{split}/{digest[:2]}/{digest[2:22]}"
    kept = PurePosixPath((name or "").replace("\\", "/")).name
    try:
        if kept and len(kept.encode()) <= MAX_KEPT_NAME:
            return check_image_path(f"{stem}-{kept}")
    except ValueError:  # control characters, half a surrogate pair
        pass
    return f"{stem}.{suffix(image_size(data, where=where).format)}"


def _record_source(row: dict[str, Any], table: Table, default: str) -> str:
    """The sources of a row's texts, several joined by `+`; of the row; the config's name; `cauldron`."""
    named = [pair.get("source") for pair in row["texts"]]
    joined = "+".join(dict.fromkeys(source for source in named if isinstance(source, str) and source.strip()))
    for name in (joined, row.get("source"), table.config):
        try:
            return check_name(str(name or "").strip())
        except ValueError:
            continue
    return default
