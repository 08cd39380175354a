"""A val split for sources that have none: whole groups of train, chosen by a hash.

    position = group_position("ffjw0228")            # 0.3127..., of the group's name alone
    limit = val_limit(positions, val_fraction)       # groups whose position is below it are val

What rows have in common makes them a group: a document, a source video, an image. A row is in val or in train whichever
other rows there are, so a part of a dataset splits as the whole does.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import chain
from math import inf, nextafter


def group_position(group: str) -> float:
    """A fixed number in 0 <= x < 1 for a group: the first eight bytes of the sha256 of its name.

    Of rows with one image that name is the image's sha256 (hex), whichever converter reads it.
    """
    digest = hashlib.sha256(group.encode("utf-8", "surrogatepass")).digest()
    return (int.from_bytes(digest[:8], "big") >> 11) / 2**53


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


def class_limits(members: Iterable[tuple[str, float]], fraction: float) -> dict[str, float]:
    """`val_limit` for each class of (class, position) pairs: a class of five or more is in train and in val.

    Of a smaller class `fraction` itself decides, so that train keeps most of it; where that leaves all of train or of
    val empty, `val_limit` of all classes together.
    """
    positions: dict[str, array[float]] = {}
    for name, position in members:
        positions.setdefault(name, array("d")).append(position)
    limits = {name: val_limit(found, fraction) if len(found) >= 5 else fraction for name, found in positions.items()}
    sides = {position < limits[name] for name, found in positions.items() for position in found}
    if len(sides) == 2 or not fraction:
        return limits
    return dict.fromkeys(positions, val_limit(chain.from_iterable(positions.values()), fraction))


def val_warning(num_val: int, num_rows: int, groups: str) -> str:
    """What a person is to know of a val split that was made of whole `groups`: of `documents`."""
    if not num_val:
        return f"no val in the source, and none was made: train has fewer than two {groups}"
    rows = f"{num_val} of {num_rows} rows, by whole {groups}, are val"
    return f"no val in the source: {rows}. --val_fraction 0 keeps them in train"


@dataclass(slots=True)
class JoinedGroups:
    """Groups of rows that share anything: `join` what each row has, then ask for the `name` of its group.

    Rows that have one thing alone need no `join`.
    """

    parents: dict[str, str] = field(default_factory=dict)

    def join(self, names: Sequence[str]) -> None:
        """Rows that have any of `names` are one group."""
        roots = [self.name(name) for name in names]
        self.parents |= dict.fromkeys(roots, min(roots))

    def name(self, name: str) -> str:
        """The smallest name in the group of `name`: it does not depend on the order of the rows."""
        root = name
        while (parent := self.parents.get(root, root)) != root:
            root = parent
        while name != root:
            self.parents[name], name = root, self.parents[name]
        return root
