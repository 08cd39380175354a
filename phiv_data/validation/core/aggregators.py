"""Rules over many rows that need only counts: a Tally sees every good row, and says at the end what it found.

Rules that must find equal things in rows far apart (ids, images, questions) are `keys.KeyRule`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Protocol, Self, runtime_checkable

from phiv_data.validation.core.finding import Found, RowContext
from phiv_schemas import Issue


class Tally(Protocol):
    """Counts over rows. Of bounded size, picklable, and the same however the rows are divided.

    `merge` is associative and does not care for order; a new tally is its identity.
    """

    def observe(self, row: RowContext) -> None:
        """See one good row."""

    def merge(self, other: Self) -> Self:
        """The tally of the rows of both; neither is changed."""

    def findings(self) -> Iterable[Issue]:
        """What is wrong with all the rows seen; `Found(...).at(file)` makes an issue."""


@runtime_checkable
class MeasuringTally(Tally, Protocol):
    """One whose counts stand among the statistics of the report."""

    def stats(self) -> dict[str, dict[str, dict[str, int]]]:
        """Split to field of `SplitStats` to bin to count."""


@runtime_checkable
class CountingRule(Protocol):
    """A row rule that brings a tally; both are asked."""

    def __call__(self, row: RowContext) -> Iterable[Found]:
        """What is wrong with one row."""

    def tally(self) -> Tally:
        """A new one."""


@dataclass(slots=True)
class Unlabeled:
    """PV403: rows without an answer, counted by file."""

    rows: Counter[str] = field(default_factory=Counter)

    def observe(self, row: RowContext) -> None:
        """Count it when it has no answer: labels come first, so the last turn tells."""
        if row.conversation.conversations[-1].assistant is None:
            self.rows[row.file] += 1

    def merge(self, other: Unlabeled) -> Unlabeled:
        """The counts of both."""
        return Unlabeled(self.rows + other.rows)

    def findings(self) -> Iterator[Issue]:
        """One for each file that has such rows."""
        for file, count in sorted(self.rows.items()):
            what = "1 row has no answer" if count == 1 else f"{count} rows have no answer"
            yield Found("PV403", None, what).at(file)


@dataclass(slots=True)
class NoImagesFolder:
    """PV101, once: rows name images, and there is no folder of images. Shown rows only where there is none."""

    first: tuple[str, int] | None = None

    def observe(self, row: RowContext) -> None:
        """Keep the first row that names an image."""
        if (self.first is None or (row.file, row.line) < self.first) and row.conversation.image_paths:
            self.first = (row.file, row.line)

    def merge(self, other: NoImagesFolder) -> NoImagesFolder:
        """The earlier of both."""
        return NoImagesFolder(min((first for first in (self.first, other.first) if first), default=None))

    def findings(self) -> Iterator[Issue]:
        """At the first row."""
        if self.first:
            what = "no folder images/ beside the file, so no image was checked"
            yield Found("PV101", None, what, "Pass --images_root DIR").at(*self.first)
