"""Val and test for sources that have none: whole groups of train, chosen by a hash.

    shares = Shares(val=0.05, test=0.1)
    position = shares.position("ffjw0228")           # 0.3127..., of the group's name and the seed alone
    shares.limits(positions).split_of(position)      # "train": val is below 0.05, test from there to 0.15

What rows have in common makes them a group: a document, a source video, an image. A row is on its side whichever
other rows there are, so a part of a dataset splits as the whole does. Light: `phiv-convert --help` imports this.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import chain
from math import inf, nan, nextafter
from typing import Any, NamedTuple

from phiv_data.utils.groups import JoinedGroups, group_position
from phiv_schemas.errors import UsageError


class SplitLimits(NamedTuple):
    """Positions below `val` are val; from there to `test`, test."""

    val: float = 0.0
    test: float = 0.0

    def split_of(self, position: float) -> str:
        """The split of a group of train."""
        return "val" if position < self.val else "test" if position < self.test else "train"


class Shares(NamedTuple):
    """How much of train becomes val and test, and the seed of the groups' positions."""

    val: float
    test: float = 0.0
    seed: int = 0

    def position(self, group: str) -> float:
        """Where a group is in 0 <= x < 1: with seed 0 its `group_position`, whatever the converter."""
        return group_position(f"{self.seed}:{group}" if self.seed else group)

    def limits(self, positions: Collection[float]) -> SplitLimits:
        """Of groups at these positions: `val_limit`, and the same for test among those that are not val."""
        val = val_limit(positions, self.val)
        rest = [position for position in positions if position >= val] if self.test else []
        return SplitLimits(val, max(val, val_limit(rest, val + self.test)))

    def splits_made(self) -> tuple[str, ...]:
        """The splits that are made beside train."""
        return ("val",) * bool(self.val) + ("test",) * bool(self.test)

    def flags(self) -> dict[str, Any]:
        """The flags that say so, for the options of another converter."""
        return {"val_fraction": self.val, "test_fraction": self.test, "seed": self.seed}

    def check_source(self, own: Iterable[str]) -> None:
        """UsageError where test is asked for and the source, which has the splits `own`, has val or test."""
        if self.test and (found := {"val", "test"} & {*own}):
            what = f"makes test where the source has neither val nor test (found {' and '.join(sorted(found))})"
            raise UsageError("--test_fraction", what, "Leave it out; phiv-split makes other splits of the output")


NO_SHARES = Shares(0.0)
"""All rows stay in train."""


@dataclass(slots=True)
class RowGroups:
    """Groups of rows with something in common (an image), be it over other rows: `add` each row, then `positions`.

    Eight bytes a row, and about 200 for each thing of a row that has several. Things of one position are on one side.
    """

    shares: Shares
    _joined: JoinedGroups[str] = field(default_factory=JoinedGroups)
    _firsts: array[float] = field(default_factory=lambda: array("d"))

    def add(self, names: Sequence[str]) -> None:
        """Add the next row by what it has; one that has nothing stays in train."""
        self._firsts.append(self.shares.position(names[0]) if names else nan)
        if len(names) > 1:
            self._joined.join(names)

    def positions(self) -> array[float]:
        """That of each row's group in 0..1; nan where it has none."""
        joined, position = self._joined, self.shares.position
        moved = {position(name): position(group) for name in joined.parents if (group := joined.name(name)) != name}
        return array("d", (moved.get(first, first) for first in self._firsts))


def val_limit(positions: Iterable[float], fraction: float) -> float:
    """Groups below it are val: `fraction`, but where that would leave train or val empty.

    Then the lowest group alone is val, or the highest alone is train; a single group stays in train.
    """
    lowest, highest = inf, -inf
    for position in positions:
        lowest, highest = min(lowest, position), max(highest, position)
    if not fraction or lowest >= highest:
        return 0.0
    return min(max(fraction, nextafter(lowest, 1)), highest)


def class_limits(members: Iterable[tuple[str, float]], shares: Shares) -> dict[str, SplitLimits]:
    """`Shares.limits` for each class of (class, position) pairs: a class of five or more is in train and in val.

    Of a smaller class the shares themselves decide, so that train keeps most of it; where that leaves all of train or
    of what is made of it empty, the limits of all classes together.
    """
    positions: dict[str, array[float]] = {}
    for name, position in members:
        positions.setdefault(name, array("d")).append(position)
    plain = SplitLimits(shares.val, shares.val + shares.test)
    limits = {name: shares.limits(found) if len(found) >= 5 else plain for name, found in positions.items()}
    sides = {position < limits[name].test for name, found in positions.items() for position in found}
    if len(sides) == 2 or not shares.splits_made():
        return limits
    return dict.fromkeys(positions, shares.limits(array("d", chain.from_iterable(positions.values()))))


def val_warning(made: Iterable[str], groups: str) -> str:
    """What a person is to know of the splits that rows of train were `made` into, by whole `groups`: `documents`."""
    splits = Counter(made)
    num_val, num_test = splits["val"], splits["test"]
    if not num_val + num_test:
        return f"no val in the source, and none was made: train has fewer than two {groups}"
    test = f" and {num_test} test" if num_test else ""
    rows = f"{num_val} of {splits.total()} rows, by whole {groups}, are val{test}"
    return f"no val in the source: {rows}. --val_fraction 0 keeps them in train"
