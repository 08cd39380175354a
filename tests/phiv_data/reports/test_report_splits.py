"""How far splits are apart, and in which order they stand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phiv_data.reports.splits import distance, in_order
from phiv_schemas import SplitStats, Stats

columns = st.dictionaries(st.sampled_from("abcd"), st.integers(0, 50), max_size=4)


def test_the_distance_is_that_computed_by_hand() -> None:
    # 50%, 30%, 20%, 0% of train and 25%, 25%, 0%, 50% of val: apart by 25, 5, 20 and 50 points, of which half counts
    train, val = {"0": 5, "1": 3, "2-3": 2}, {"0": 1, "1": 1, "4-7": 2}
    assert distance(train, val) == 0.5
    assert distance({"1": 60, "2": 40}, {"1": 3, "2": 1}) == pytest.approx(0.15, abs=1e-15)


def test_nothing_is_at_no_distance_from_anything() -> None:
    assert distance({}, {"0": 1}) is None
    assert distance({"0": 1}, {"0": 0, "1": 0}) is None


@given(columns, columns, columns, st.integers(1, 9))
def test_the_distance_is_one_and_ignores_the_size(
    a: dict[str, int], b: dict[str, int], c: dict[str, int], times: int
) -> None:
    ab, bc, ac = distance(a, b), distance(b, c), distance(a, c)
    assert ab == distance(b, a)
    if ab is None or bc is None or ac is None:
        return
    assert distance(a, {label: times * count for label, count in a.items()}) == 0
    assert distance({label: times * count for label, count in a.items()}, b) == pytest.approx(ab, abs=1e-12)
    assert ac <= ab + bc + 1e-12
    assert 0 <= ab <= 1
    assert (ab == 1) == (not {label for label in a if a[label]} & {label for label in b if b[label]})


def test_train_comes_first_then_val_then_test_then_others_the_larger_before() -> None:
    rows = {"extra": 90, "nlvr2_test1": 2, "dev": 3, "validation": 30, "train": 5, "z": 91, "train-small": 1}
    stats = Stats(splits={name: SplitStats(rows=count) for name, count in rows.items()})
    assert in_order(stats) == ["train", "train-small", "validation", "dev", "nlvr2_test1", "z", "extra"]
