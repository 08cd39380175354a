"""Rules about equal things in rows far apart, in little memory: ids, images, questions, whole records.

    >>> IDS = GroupRule(
    ...     keys=lambda row: ((digest(row.conversation.id), b"", 0),),
    ...     check_group=lambda rows: ((row, Finding("PV201", "$.id", ...)) for row in rows[1:]))

A row gives keys: (16 bytes that are equal when the things are, up to 16 bytes of value, a number that says which turn
or image). They leave a worker as packed bytes, and are kept in memory up to `SPILL_BYTES`, then on disk in 128 files
by seven bits of the key. In the end each file is sorted, and `check_group` gets every group of two or more equal keys,
by file name, line and position: an external group-by. 48 bytes a key; digests of 16 bytes do not collide by chance. The
conversion's seen_index (SQLite) answers at once, row by row; this answers at the end, and takes blocks from any number
of workers.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from phiv_data.validation.core.finding import Finding, RowContext

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SPILL_BYTES = 2**23
_BUCKETS = 128  # a file each for every rule; opening one takes as long as checking ten rows
_ENTRY = struct.Struct("<16s16sQI")
_FIELDS = [("hi", "<u8"), ("lo", "<u8"), ("value", "V16"), ("line", "<u8"), ("position", "<u4")]

Key = tuple[bytes, bytes, int]
QUOTED = "\0"
"""Placeholder in a message for the text at the finding's JSON path, which keys do not contain: it is read again at the
end."""


def digest(text: str | bytes) -> bytes:
    """16 bytes that identify a text."""
    return blake2b(text if isinstance(text, bytes) else text.encode()).digest()[:16]  # faster than digest_size=16


@dataclass(frozen=True, slots=True)
class Occurrence:
    """A row that gave a key. `value` is as given, filled with zero bytes up to 16; `position` is the key's number."""

    file: str
    split: str
    line: int
    position: int
    value: bytes

    @property
    def location(self) -> str:
        """`file:line`, for messages."""
        return f"{self.file}:{self.line}"


@dataclass(frozen=True, slots=True)
class GroupRule:
    """A rule over groups of rows with equal keys: `check_group` yields findings with the row of the group they are in.

    Without `check_group` the keys are only kept, for an `IndexRule`. `of_images`: only for rows whose images are known.
    """

    keys: Callable[[RowContext], Iterable[Key]]
    check_group: Callable[[Sequence[Occurrence]], Iterable[tuple[Occurrence, Finding]]] | None = None
    of_images: bool = False


@dataclass(frozen=True, slots=True)
class KeyBlock:
    """The keys that some rows of one file gave for one rule, packed."""

    rule: str
    file: str
    split: str
    data: bytes


def pack(keys: Callable[[RowContext], Iterable[Key]], rows: Iterable[RowContext]) -> bytes:
    """The keys of rows as the entries of a block."""
    entry = _ENTRY.pack
    return b"".join([entry(key, value, row.line, position) for row in rows for key, value, position in keys(row)])


@dataclass(slots=True)
class KeyIndex:
    """All keys of a validation, by rule. `new_folder` makes the folder to write to, once, when memory is full.

    In entries, `place` is the number of a file and split.
    """

    new_folder: Callable[[], Path]
    spill_bytes: int = SPILL_BYTES
    _places: dict[tuple[str, str], int] = field(default_factory=dict)
    _held: dict[str, list[NDArray[Any]]] = field(default_factory=dict)
    _held_bytes: int = 0
    _spilled: set[str] = field(default_factory=set)
    _folder: Path | None = None

    def add(self, blocks: Iterable[KeyBlock]) -> None:
        """Add the keys that workers packed."""
        import numpy as np

        for block in blocks:
            place = self._places.setdefault((block.file, block.split), len(self._places))
            packed = np.frombuffer(block.data, _FIELDS)
            entries = np.empty(len(packed), [*_FIELDS, ("place", "<u4")])
            for name, _ in _FIELDS:
                entries[name] = packed[name]
            entries["place"] = place
            self._held.setdefault(block.rule, []).append(entries)
            self._held_bytes += entries.nbytes
        if self._held_bytes > self.spill_bytes:
            self._spill()

    def has(self, rule: str) -> bool:
        """True when any row gave a key of the rule."""
        return rule in self._held or rule in self._spilled

    def groups(self, rule: str) -> Iterator[Sequence[Occurrence]]:
        """Every group of two or more equal keys of a rule, each by file name, line and position."""
        import numpy as np

        places = list(self._places)
        for entries in self.sorted_entries(rule):
            same = (entries["hi"][1:] == entries["hi"][:-1]) & (entries["lo"][1:] == entries["lo"][:-1])
            if not same.any():
                continue
            edges = np.flatnonzero(~np.concatenate(([False], same, [False])))
            starts = edges[:-1][np.diff(edges) > 1]
            ends = edges[1:][np.diff(edges) > 1]
            yield from (_Group(entries[start:end], places) for start, end in zip(starts, ends, strict=True))

    def first_entries(self, rule: str) -> Iterator[NDArray[Any]]:
        """The first entry of every distinct key of a rule, in parts: arrays of hi, lo, value, line, position, place."""
        import numpy as np

        for entries in self.sorted_entries(rule):
            new = (entries["hi"][1:] != entries["hi"][:-1]) | (entries["lo"][1:] != entries["lo"][:-1])
            yield entries[np.concatenate(([True], new))]

    def splits(self) -> list[str]:
        """The split of each number that entries have as `place`."""
        return [split for _, split in self._places]

    def ranks(self) -> NDArray[np.int64]:
        """The order of each number that entries have as `place`: by file name, then split."""
        import numpy as np

        ranks = np.empty(len(self._places), np.int64)
        ranks[[self._places[place] for place in sorted(self._places)]] = np.arange(len(self._places))
        return ranks

    def occurrence(self, entry: Any) -> Occurrence:
        """The row of an entry; its value is left out."""
        file, split = list(self._places)[entry["place"]]
        return Occurrence(file, split, int(entry["line"]), int(entry["position"]), b"")

    def sorted_entries(self, rule: str) -> Iterator[NDArray[Any]]:
        """All entries, in parts that share no key, each sorted by key, file, line and position. No part is empty."""
        import numpy as np

        parts: Iterable[NDArray[Any]] = ()
        if rule in self._spilled:
            self._spill()
            assert self._folder
            dtype = np.dtype([*_FIELDS, ("place", "<u4")])
            parts = (np.fromfile(path, dtype) for path in sorted(self._folder.glob(f"{rule}.*")))
        elif held := self._held.get(rule):
            parts = (np.concatenate(held),)
        ranks = self.ranks()
        for entries in parts:
            order = (entries["position"], entries["line"], ranks[entries["place"]], entries["lo"], entries["hi"])
            yield entries[np.lexsort(order)]

    def _spill(self) -> None:
        """Append what is in memory to the files, one for each value of the key's highest bits."""
        import numpy as np

        self._folder = self._folder or self.new_folder()
        for rule, held in self._held.items():
            entries = np.concatenate(held)
            bucket = (entries["hi"] >> np.uint64(57)).astype(np.int64)
            entries = entries[np.argsort(bucket, kind="stable")]
            ends = np.cumsum(np.bincount(bucket, minlength=_BUCKETS))
            for b, part in enumerate(np.split(entries, ends[:-1])):
                if len(part):
                    with (self._folder / f"{rule}.{b:03d}").open("ab") as file:
                        file.write(part.tobytes())
            self._spilled.add(rule)
        self._held, self._held_bytes = {}, 0


class _Group(Sequence[Occurrence]):
    """Entries as Occurrence, made on access: a group may contain every row there is."""

    def __init__(self, entries: NDArray[Any], places: list[tuple[str, str]]) -> None:
        self._entries, self._places = entries, places

    def __len__(self) -> int:
        return len(self._entries)

    @overload
    def __getitem__(self, index: int) -> Occurrence: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Occurrence]: ...
    def __getitem__(self, index: int | slice) -> Occurrence | Sequence[Occurrence]:
        if isinstance(index, slice):
            return _Group(self._entries[index], self._places)
        one: np.void = self._entries[index]
        file, split = self._places[one["place"]]
        return Occurrence(file, split, int(one["line"]), int(one["position"]), one["value"].tobytes())


IndexRule = Callable[[KeyIndex], Iterable[tuple[Occurrence, Finding]]]
"""A rule over all keys, for things that are similar, not equal."""
