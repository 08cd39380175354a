"""Statistics of the rows of each split: histograms with fixed bins, so that those of parts add up."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from phiv_data.validation.core.finding import RowContext
from phiv_schemas import SplitStats, Stats

MAX_CLASSES = 1000
MAX_CLASS_LENGTH = 64
_FINE = 16  # counts up to here have a bin each

Bounded = Counter[str] | None
"""Counts of at most MAX_CLASSES names; None once there were more, or longer ones."""
Bins = Counter[int]


@dataclass(slots=True)
class SplitCounts:
    """The counts behind `SplitStats`. `classes` are the answers of all turns that have one."""

    rows: int = 0
    sources: Bounded = field(default_factory=Counter)
    images: Bins = field(default_factory=Counter)
    turns: Bins = field(default_factory=Counter)
    user: Bins = field(default_factory=Counter)
    assistant: Bins = field(default_factory=Counter)
    classes: Bounded = field(default_factory=Counter)

    def observe(self, rows: Sequence[RowContext]) -> None:
        """Count rows. Counters count whole lists, which is several times faster than row by row."""
        records = [row.conversation for row in rows]
        turns = [turn for record in records for turn in record.conversations]
        answers = [turn.assistant for turn in turns if turn.assistant is not None]
        self.rows += len(rows)
        self.sources = _count(self.sources, [record.source for record in records])
        _add(self.turns, [len(record.conversations) for record in records], fine_bin)
        _add(self.images, [len(record.image_paths) for record in records], fine_bin)
        _add(self.user, [len(turn.user) for turn in turns], int.bit_length)
        _add(self.assistant, map(len, answers), int.bit_length)
        self.classes = _count(self.classes, answers)

    def merge(self, other: SplitCounts) -> SplitCounts:
        """The counts of both."""
        return SplitCounts(
            self.rows + other.rows,
            _sum(self.sources, other.sources),
            self.images + other.images,
            self.turns + other.turns,
            self.user + other.user,
            self.assistant + other.assistant,
            _sum(self.classes, other.classes),
        )


@dataclass(slots=True)
class RowStats:
    """The counts of every split. `merge` is associative and commutative; `RowStats()` is its identity."""

    splits: dict[str, SplitCounts] = field(default_factory=dict)

    def observe(self, split: str, rows: Sequence[RowContext]) -> None:
        """Count rows of a split."""
        if rows:  # a split without rows has no counts: they would show how rows were divided
            self.splits.setdefault(split, SplitCounts()).observe(rows)

    def merge(self, other: RowStats) -> RowStats:
        """The counts of both; neither is changed."""
        both = self.splits.keys() & other.splits.keys()
        return RowStats(
            {**self.splits, **other.splits, **{name: self.splits[name].merge(other.splits[name]) for name in both}}
        )

    def report(self) -> Stats:
        """The statistics, with bins by name. What is measured elsewhere, of images and tokens, is left empty."""
        counts = dict(sorted(self.splits.items()))
        images = histograms({name: one.images for name, one in counts.items()}, fine=True)
        turns = histograms({name: one.turns for name, one in counts.items()}, fine=True)
        user = histograms({name: one.user for name, one in counts.items()})
        assistant = histograms({name: one.assistant for name, one in counts.items()})
        return Stats(
            splits={
                name: SplitStats(
                    rows=one.rows,
                    rows_per_source=_sort_counts(one.sources),
                    images_per_row=images[name],
                    turns_per_row=turns[name],
                    user_characters=user[name],
                    assistant_characters=assistant[name],
                    classes=_sort_counts(one.classes),
                )
                for name, one in counts.items()
            }
        )


def with_fields(stats: Stats, fields: Mapping[str, Mapping[str, Any]]) -> Stats:
    """`stats` with more fields of its splits: split to field to value."""
    splits = {name: one.model_copy(update=dict(fields.get(name, {}))) for name, one in stats.splits.items()}
    return stats.model_copy(update={"splits": splits})


def histograms(counts: Mapping[str, Mapping[int, int]], *, fine: bool = False) -> dict[str, dict[str, int]]:
    """For each split bin to count: the same bins for all, from the first that is not empty in any split to the last.

    Bins end before a power of two: 0, 1, 2-3, 4-7, ...: bin `n.bit_length()`. `fine`: those of `fine_bin`.
    """
    filled = [i for bins in counts.values() for i, count in bins.items() if count]
    labels = {}
    for i in range(min(filled), max(filled) + 1) if filled else ():
        bits = i - _FINE + 4 if fine else i
        labels[i] = str(i) if i <= (_FINE if fine else 1) else f"{1 << (bits - 1)}-{(1 << bits) - 1}"
        if fine and i == _FINE + 1:
            labels[i] = f"{_FINE + 1}-31"
    return {split: {label: int(bins.get(i, 0)) for i, label in labels.items()} for split, bins in counts.items()}


def fine_bin(count: int) -> int:
    """The bin of a count: each number up to 16 has its own."""
    return count if count <= _FINE else _FINE - 4 + count.bit_length()


def _add(bins: Bins, numbers: Iterable[int], bin_of: Callable[[int], int]) -> None:
    for number, count in Counter(numbers).items():
        bins[bin_of(number)] += count


def _count(counts: Bounded, names: Iterable[str]) -> Bounded:
    return None if counts is None else _sum(counts, Counter(names))


def _sum(a: Bounded, b: Bounded) -> Bounded:
    if a is None or b is None:
        return None
    both = a + b
    return None if len(both) > MAX_CLASSES or max(map(len, b), default=0) > MAX_CLASS_LENGTH else both


def _sort_counts(counts: Bounded) -> dict[str, int]:
    return dict(sorted((counts or {}).items(), key=lambda item: (-item[1], item[0])))
