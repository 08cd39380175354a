"""A val split for sources that have none: whole groups of train, chosen by a hash.

    position = group_position("ffjw0228")            # 0.3127..., of the group's name alone
    limit = val_limit(positions, val_fraction)       # groups whose position is below it are val

What rows have in common makes them a group: a document, a source video, an image. A row is in val or in train whichever
other rows there are, so a part of a dataset splits as the whole does.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from itertools import chain
from math import inf, nextafter


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
