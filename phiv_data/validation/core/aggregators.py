"""Rules over many rows that need only counts: an `Aggregator` gets every good row, and reports findings at the end.

Rules that must find equal things in rows far apart (ids, images, questions) are `key_index.GroupRule`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol, Self, runtime_checkable

from phiv_data.validation.core.finding import Finding, RowContext
from phiv_schemas import Issue


class Aggregator(Protocol):
    """Counts over rows (a monoid). Of bounded size, picklable, and the same however the rows are divided.

    `merge` is associative and commutative; a new aggregator is its identity.
    """

    def observe(self, row: RowContext) -> None:
        """Count one good row."""

    def merge(self, other: Self) -> Self:
        """The aggregator of the rows of both; neither is changed."""

    def findings(self) -> Iterable[Issue]:
        """What is wrong with all the rows counted; `Finding(...).at(file)` makes an issue."""


@runtime_checkable
class StatsAggregator(Aggregator, Protocol):
    """One whose counts are part of the report's statistics."""

    def stats(self) -> dict[str, dict[str, dict[str, int]]]:
        """Split to field of `SplitStats` to bin to count."""


@runtime_checkable
class AggregatingRule(Protocol):
    """A row rule that also counts over all rows."""

    def __call__(self, row: RowContext) -> Iterable[Finding]:
        """What is wrong with one row."""

    def aggregator(self) -> Aggregator:
        """A new aggregator."""


@dataclass(slots=True)
class MissingImagesFolder:
    """PV101, once: rows name images, and there is no folder of images. It gets rows only where there is none."""

    first: tuple[str, int, str] | None = None
    """File, line and path of the first image."""
    hint: str = ""

    def observe(self, row: RowContext) -> None:
        """Keep the first row that names an image."""
        if (self.first is None or (row.file, row.line) < self.first[:2]) and (paths := row.conversation.image_paths):
            self.first = (row.file, row.line, paths[0])

    def merge(self, other: MissingImagesFolder) -> MissingImagesFolder:
        """The earlier of both."""
        return MissingImagesFolder(min((first for first in (self.first, other.first) if first), default=None))

    def findings(self) -> Iterator[Issue]:
        """At the first row."""
        if self.first:
            what = "no folder images/ beside the file, so no image was checked"
            yield Finding("PV101", None, what, self.hint or "Pass --images_root DIR").at(*self.first[:2])
