"""Which side each row is on: train, val or test, in the order of the rows, from what came before alone.

    assign(["cat", "dog", "cat"], {2: [0]}, shares=(8, 1, 1), seed=0)     # row 2 shares something with row 0
    [0, 0, 0]                                                            # so both are on one side

A row that shares something with earlier ones is on their side. Any other goes where its class lacks rows, and where
that leaves a choice, where the whole dataset does. So each class has its shares within one row, and no row moves when
others are appended; but a row that joins groups of two sides takes both to train, else to val: nothing that was
trained on is ever tested with.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate

from phiv_data.utils.groups import JoinedGroups, group_position

SIDES = ("train", "val", "test")
Shares = tuple[int, int, int]
"""Of train, val and test: whole numbers, as parts of their sum."""


def assign(
    classes: Sequence[str],
    partners: Mapping[int, Sequence[int]],
    shares: Shares,
    seed: int,
    kept: Mapping[int, int] | None = None,
) -> list[int]:
    """The side of each row, as an index of SIDES. `partners`: earlier rows that a row must be with, by row.

    `kept` are the sides of rows that have one already. They come first, or rows before them do not count them.
    """
    groups, members, kept = JoinedGroups[int](), dict[int, list[int]](), kept or {}
    sides, of_all, of_class = list[int](), _Counts(), defaultdict[str, _Counts](_Counts)
    for row, name in enumerate(classes):
        joined = sorted({groups.name(other) for other in partners.get(row, ())})
        found = {sides[group] for group in joined} | ({kept[row]} if row in kept else set())
        side = min(found) if found else _choose(of_class[name], of_all, shares, group_position(f"{seed}/{row}"))
        sides.append(side)
        for counts in (of_class[name], of_all):
            counts.rows[side] += 1
            counts.groups += not joined
        if not joined:
            continue
        together = _union(members, [*joined, row])
        for one in together if len(found) > 1 else ():
            for counts in (of_class[classes[one]], of_all):
                counts.rows[sides[one]] -= 1
                counts.rows[side] += 1
            sides[one] = side
        groups.join([row, *joined])
    return sides


def _union(members: dict[int, list[int]], groups: Sequence[int]) -> list[int]:
    """The rows of groups, which become one under the first of their names."""
    lists = sorted((members.pop(group, [group]) for group in groups), key=len)
    members[groups[0]] = together = lists.pop()  # the longest grows, so that a large group is not copied for each row
    for rows in lists:
        together.extend(rows)
    return together


@dataclass(slots=True)
class _Counts:
    """The rows of each side, in one class or in all, and the groups that they came in."""

    rows: list[int] = field(default_factory=lambda: [0, 0, 0])
    groups: int = 0

    def count_lacking(self, shares: Shares) -> tuple[list[int], int]:
        """What each side would lack with one more group of the average size, and that size, in the same unit."""
        groups, rows, whole = max(self.groups, 1), max(sum(self.rows), 1), sum(shares)
        total = sum(self.rows) * groups + rows
        return [
            share * total - whole * count * groups for share, count in zip(shares, self.rows, strict=True)
        ], whole * rows


def _choose(of_class: _Counts, of_all: _Counts, shares: Shares, position: float) -> int:
    """The side of a new group, by the counts of its class and of the whole dataset. `position`: 0 <= x < 1.

    Of the sides that may have it in its class, one that may have it in the dataset, more likely where more is lacking.
    """
    lacks, all_lack = of_class.count_lacking(shares), of_all.count_lacking(shares)
    allowed, wanted = _allow_sides(*lacks), _allow_sides(*all_lack)
    if both := [side for side in allowed if side in wanted]:
        allowed, lacks = both, all_lack
    ends = list(accumulate(lacks[0][side] for side in allowed))
    return allowed[min(bisect_right(ends, position * ends[-1]), len(allowed) - 1)]


def _allow_sides(lacks: list[int], group: int) -> list[int]:
    """The sides that may have a group: those that lack any part of one, or that which lacks most, and a whole one.

    All three lack one group together. So of single rows at most one side lacks a whole one, and none ever does for
    long: no side is off its share by a whole row.
    """
    if max(lacks) >= group:
        return [lacks.index(max(lacks))]
    return [side for side, parts in enumerate(lacks) if parts > 0]
