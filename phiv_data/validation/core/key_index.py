"""Rules that find equal things in rows far apart, in little memory: ids, images, questions, whole records.

    >>> IDS = KeyRule(
    ...     keys=lambda row: ((digest(row.conversation.id), b"", 0),),
    ...     judge=lambda group: ((seen, Found("PV201", "$.id", ...)) for seen in group[1:]))

A row gives keys: (16 bytes that are equal when the things are, up to 16 bytes of value, a number that says which turn
or image). They leave a worker as packed bytes, and are kept in memory up to `SPILL_BYTES`, then on disk in 128 files
by seven bits of the key; in the end each file is sorted, and `judge` sees every group of two or more equal keys, by
file name, line and item. 48 bytes a key; digests of 16 bytes do not collide by chance. The conversion's seen_index
(SQLite) answers at once, row by row; this answers at the end, and writes in blocks from any number of workers.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from phiv_data.validation.core.finding import Found, RowContext

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SPILL_BYTES = 2**23
_BUCKETS = 128  # a file each for every rule; opening one takes as long as checking ten rows
_ENTRY = struct.Struct("<16s16sQI")
_FIELDS = [("hi", "<u8"), ("lo", "<u8"), ("value", "V16"), ("line", "<u8"), ("item", "<u4")]

Key = tuple[bytes, bytes, int]
QUOTED = "\0"
"""Stands in a message for the text at the finding's JSON path, which keys do not hold; it is read again in the end."""


def digest(text: str | bytes) -> bytes:
    """16 bytes that stand for a text."""
    return blake2b(text if isinstance(text, bytes) else text.encode()).digest()[:16]  # faster than digest_size=16


@dataclass(frozen=True, slots=True)
class Seen:
    """Where a key was seen. `value` is as given, filled with zero bytes up to 16."""

    file: str
    split: str
    line: int
    item: int
    value: bytes


@dataclass(frozen=True, slots=True)
class KeyRule:
    """A rule over groups of rows with equal keys: `judge` yields what is wrong with which of a group.

    Without `judge` the keys are only kept, for an `IndexRule`. `of_images`: asked only of rows whose images are known.
    """

    keys: Callable[[RowContext], Iterable[Key]]
    judge: Callable[[Sequence[Seen]], Iterable[tuple[Seen, Found]]] | None = None
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
    return b"".join([entry(key, value, row.line, item) for row in rows for key, value, item in keys(row)])


@dataclass(slots=True)
class KeyIndex:
    """All keys of a validation, by rule. `new_folder` makes the place to write to, once, when memory is full."""

    new_folder: Callable[[], Path]
    spill_bytes: int = SPILL_BYTES
    _places: dict[tuple[str, str], int] = field(default_factory=dict)
    _held: dict[str, list[NDArray[Any]]] = field(default_factory=dict)
    _held_bytes: int = 0
    _spilled: set[str] = field(default_factory=set)
    _folder: Path | None = None

    def add(self, blocks: Iterable[KeyBlock]) -> None:
        """Take in what workers gave."""
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

    def groups(self, rule: str) -> Iterator[Sequence[Seen]]:
        """Every group of two or more equal keys of a rule, each by file name, line and item."""
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

    def firsts(self, rule: str) -> Iterator[NDArray[Any]]:
        """The first entry of every different key of a rule, in parts: arrays with hi, lo, value, line, item, place."""
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

    def seen(self, entry: Any) -> Seen:
        """Where an entry was seen; its value is left out."""
        file, split = list(self._places)[entry["place"]]
        return Seen(file, split, int(entry["line"]), int(entry["item"]), b"")

    def sorted_entries(self, rule: str) -> Iterator[NDArray[Any]]:
        """All entries, in parts that share no key, each sorted by key, then file, line and item. No part is empty."""
        import numpy as np

        ranks = self.ranks()
        for entries in self._parts(rule):
            order = (entries["item"], entries["line"], ranks[entries["place"]], entries["lo"], entries["hi"])
            yield entries[np.lexsort(order)]

    def _parts(self, rule: str) -> Iterator[NDArray[Any]]:
        import numpy as np

        if rule in self._spilled:
            self._spill()
            dtype = np.dtype([*_FIELDS, ("place", "<u4")])
            yield from (np.fromfile(path, dtype) for path in sorted(self._place().glob(f"{rule}.*")))
        elif held := self._held.get(rule):
            yield np.concatenate(held)

    def _spill(self) -> None:
        """Write what is held behind the files of earlier times, a file for each value of the key's highest bits."""
        import numpy as np

        for rule, held in self._held.items():
            entries = np.concatenate(held)
            bucket = (entries["hi"] >> np.uint64(57)).astype(np.int64)
            entries = entries[np.argsort(bucket, kind="stable")]
            ends = np.cumsum(np.bincount(bucket, minlength=_BUCKETS))
            for b, part in enumerate(np.split(entries, ends[:-1])):
                if len(part):
                    with (self._place() / f"{rule}.{b:03d}").open("ab") as file:
                        file.write(part.tobytes())
            self._spilled.add(rule)
        self._held, self._held_bytes = {}, 0

    def _place(self) -> Path:
        self._folder = self._folder or self.new_folder()
        return self._folder


class _Group(Sequence[Seen]):
    """Entries as Seen, made when looked at: a group may hold every row there is."""

    def __init__(self, entries: NDArray[Any], places: list[tuple[str, str]]) -> None:
        self._entries, self._places = entries, places

    def __len__(self) -> int:
        return len(self._entries)

    @overload
    def __getitem__(self, index: int) -> Seen: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Seen]: ...
    def __getitem__(self, index: int | slice) -> Seen | Sequence[Seen]:
        if isinstance(index, slice):
            return _Group(self._entries[index], self._places)
        one: np.void = self._entries[index]
        file, split = self._places[one["place"]]
        return Seen(file, split, int(one["line"]), int(one["item"]), one["value"].tobytes())


IndexRule = Callable[[KeyIndex], Iterable[tuple[Seen, Found]]]
"""A rule over all keys, for things that are close to each other, not equal."""
