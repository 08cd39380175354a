"""Histograms of the rows, with fixed bins: those of two halves add up to that of the whole."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from phiv_data.validation.found import RowContext
from phiv_schemas import Stats

MAX_CLASSES = 1000
MAX_CLASS_LENGTH = 64
_FINE = 16  # counts up to here have a bin each

Bounded = Counter[str] | None
"""Counts of at most MAX_CLASSES names; None: there were more, or longer ones, and there is no way back."""
Bins = Counter[int]


@dataclass(slots=True)
class RowStats:
    """What `Stats` reports, as it is counted. `classes` are per split, of all turns with an answer."""

    rows_per_split: Counter[str] = field(default_factory=Counter)
    sources: Bounded = field(default_factory=Counter)
    images: Bins = field(default_factory=Counter)
    turns: Bins = field(default_factory=Counter)
    user: Bins = field(default_factory=Counter)
    assistant: Bins = field(default_factory=Counter)
    classes: dict[str, Bounded] = field(default_factory=dict)

    def observe(self, split: str, rows: Sequence[RowContext]) -> None:
        """Count rows of a split. Counters count whole lists, which is several times faster than row by row."""
        if not rows:
            return  # a count of nothing is no count: it would tell how rows were divided
        records = [row.conversation for row in rows]
        turns = [turn for record in records for turn in record.conversations]
        answers = [turn.assistant for turn in turns if turn.assistant is not None]
        self.rows_per_split[split] += len(rows)
        self.sources = _count(self.sources, [record.source for record in records])
        self.turns.update([fine_bin(len(record.conversations)) for record in records])
        self.images.update([fine_bin(len(record.image_paths)) for record in records])
        self.user.update([len(turn.user).bit_length() for turn in turns])
        self.assistant.update([len(answer).bit_length() for answer in answers])
        self.classes[split] = _count(self.classes.get(split, Counter()), answers)

    def merge(self, other: RowStats) -> RowStats:
        """The counts of both."""
        splits = self.classes.keys() | other.classes.keys()
        none = Counter[str]()
        return RowStats(
            self.rows_per_split + other.rows_per_split,
            _sum(self.sources, other.sources),
            self.images + other.images,
            self.turns + other.turns,
            self.user + other.user,
            self.assistant + other.assistant,
            {split: _sum(self.classes.get(split, none), other.classes.get(split, none)) for split in splits},
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


def histogram(counts: Mapping[int, int], *, fine: bool = False) -> dict[str, int]:
    """Bin to count, from the first bin that holds anything to the last.

    Bins end before a power of two: 0, 1, 2-3, 4-7, ...: bin `n.bit_length()`. `fine`: those of `fine_bin`.
    """
    held = [i for i, count in counts.items() if count]
    label = _fine_label if fine else _label
    return {label(i): int(counts.get(i, 0)) for i in range(min(held), max(held) + 1)} if held else {}


def fine_bin(count: int) -> int:
    """The bin of a count: up to 16 each number has one."""
    return count if count <= _FINE else _FINE - 4 + count.bit_length()


def _fine_label(i: int) -> str:
    return str(i) if i <= _FINE else f"{_FINE + 1}-31" if i == _FINE + 1 else _label(i - _FINE + 4)


def _label(i: int) -> str:
    return str(i) if i < 2 else f"{1 << (i - 1)}-{(1 << i) - 1}"


def _count(counts: Bounded, names: Iterable[str]) -> Bounded:
    return None if counts is None else _sum(counts, Counter(names))


def _sum(a: Bounded, b: Bounded) -> Bounded:
    if a is None or b is None:
        return None
    both = a + b
    return None if len(both) > MAX_CLASSES or max(map(len, b), default=0) > MAX_CLASS_LENGTH else both


def _sorted(counts: Bounded) -> dict[str, int]:
    return dict(sorted((counts or {}).items(), key=lambda item: (-item[1], item[0])))
