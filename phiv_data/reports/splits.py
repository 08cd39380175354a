"""How the splits of a dataset differ: the others are compared with the first in order.

    >>> in_order(report.stats)
    ['train', 'val', 'test']
    >>> distance({"1": 60, "2": 40}, {"1": 3, "2": 1})  # 60% and 75% of the rows have one image
    0.15

`distance` is the total variation distance: the share of a split that would have to move to other bins to
match the other split. 0: the same shares; 1: nothing in common.
"""

from __future__ import annotations

from collections.abc import Mapping

from phiv_data.validation.rules.leakage import split_kind
from phiv_schemas import Stats

MAX_SPLITS = 6  # to compare
_NO_ROLE = 3


def in_order(stats: Stats) -> list[str]:
    """The splits: those of train, then val, then test, then others, the largest of each first."""
    roles = {name: _NO_ROLE if (one := split_kind(name)) is None else one for name in stats.splits}
    return sorted(stats.splits, key=lambda name: (roles[name], -stats.splits[name].rows, name))


def distance(a: Mapping[str, int], b: Mapping[str, int]) -> float | None:
    """Half the sum of the differences of shares, from 0 to 1; None where either counted nothing."""
    of_a, of_b = sum(a.values()), sum(b.values())
    if not of_a or not of_b:
        return None
    apart = sum(abs(a.get(label, 0) * of_b - b.get(label, 0) * of_a) for label in a.keys() | b.keys())
    return apart / (2 * of_a * of_b)
