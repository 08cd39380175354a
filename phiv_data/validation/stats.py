"""Histograms of the rows, with fixed bins: those of two halves add up to that of the whole."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from phiv_data.validation.found import RowContext
from phiv_schemas import Stats

MAX_CLASSES = 1000
MAX_CLASS_LENGTH = 64
_BINS = 65
_FINE = 16  # counts up to here have a bin each

Bounded = dict[str, int] | None
"""Counts of at most MAX_CLASSES names; None: there were more, and there is no way back."""


def _zeros() -> list[int]:
    return [0] * _BINS


@dataclass(slots=True)
class RowStats:
    """What `Stats` reports, as it is counted. `classes` are per split, of all turns with an answer."""

    rows_per_split: Counter[str] = field(default_factory=Counter)
    sources: Bounded = field(default_factory=dict)
    images: list[int] = field(default_factory=_zeros)
    turns: list[int] = field(default_factory=_zeros)
    user: list[int] = field(default_factory=_zeros)
    assistant: list[int] = field(default_factory=_zeros)
    classes: dict[str, Bounded] = field(default_factory=dict)

    def observe(self, row: RowContext) -> None:
        """Count one row."""
        turns = row.conversation.conversations
        self.rows_per_split[row.split] += 1
        self.sources = _count(self.sources, row.conversation.source)
        self.turns[_fine(len(turns))] += 1
        images, classes = 0, self.classes.get(row.split, {})
        for turn in turns:
            images += len(turn.images)
            self.user[len(turn.user).bit_length()] += 1
            if turn.assistant is not None:
                self.assistant[len(turn.assistant).bit_length()] += 1
                classes = _count(classes, turn.assistant)
        self.images[_fine(images)] += 1
        self.classes[row.split] = classes

    def merge(self, other: RowStats) -> RowStats:
        """The counts of both."""
        splits = self.classes.keys() | other.classes.keys()
        return RowStats(
            self.rows_per_split + other.rows_per_split,
            _sum(self.sources, other.sources),
            _add(self.images, other.images),
            _add(self.turns, other.turns),
            _add(self.user, other.user),
            _add(self.assistant, other.assistant),
            {split: _sum(self.classes.get(split, {}), other.classes.get(split, {})) for split in splits},
        )

    def report(self) -> Stats:
        """With names in place of bins. The fields about images are left empty."""
        return Stats(
            rows_per_split=dict(sorted(self.rows_per_split.items())),
            rows_per_source=_sorted(self.sources),
            images_per_row=histogram(self.images, fine=True),
            turns_per_row=histogram(self.turns, fine=True),
            user_characters=histogram(self.user),
            assistant_characters=histogram(self.assistant),
            classes={split: counts for split in sorted(self.classes) if (counts := _sorted(self.classes[split]))},
        )


def histogram(counts: Sequence[int], *, fine: bool = False) -> dict[str, int]:
    """Bin to count, from the first bin that holds anything to the last. `fine`: up to 16 each number has a bin.

    Other bins end before a power of two: 0, 1, 2-3, 4-7, ...: bin `n.bit_length()`.
    """
    held = [i for i, count in enumerate(counts) if count]
    label = _fine_label if fine else _label
    return {label(i): int(counts[i]) for i in range(held[0], held[-1] + 1)} if held else {}


def _fine(count: int) -> int:
    return count if count <= _FINE else min(_FINE - 4 + count.bit_length(), _BINS - 1)


def _fine_label(i: int) -> str:
    return str(i) if i <= _FINE else f"{_FINE + 1}-31" if i == _FINE + 1 else _label(i - _FINE + 4)


def _label(i: int) -> str:
    return str(i) if i < 2 else f"{1 << (i - 1)}-{(1 << i) - 1}"


def _count(counts: Bounded, name: str) -> Bounded:
    if counts is None:
        return None
    if name in counts:
        counts[name] += 1
    elif len(counts) == MAX_CLASSES or len(name) > MAX_CLASS_LENGTH:
        return None
    else:
        counts[name] = 1
    return counts


def _sum(a: Bounded, b: Bounded) -> Bounded:
    if a is None or b is None or len(both := {**a, **b}) > MAX_CLASSES:
        return None
    return {name: a.get(name, 0) + b.get(name, 0) for name in both}


def _add(a: list[int], b: list[int]) -> list[int]:
    return [x + y for x, y in zip(a, b, strict=True)]


def _sorted(counts: Bounded) -> dict[str, int]:
    return dict(sorted((counts or {}).items(), key=lambda item: (-item[1], item[0])))
