"""The val split that is made of train: whole groups, by a hash of each alone, and neither split empty."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from phiv_converters.val_split import val_limit
from phiv_data.utils.groups import JoinedGroups, group_position

POSITIONS = st.lists(st.floats(0, 1, exclude_max=True), min_size=2, max_size=20, unique=True)


def test_a_position_depends_on_the_name_alone() -> None:
    assert group_position("ffjw0228") == 0.4711077997945381
    assert group_position("\udcff") != group_position("\udcfe")  # names on disk need not be UTF-8
    shares = [group_position(str(i)) < 0.05 for i in range(10_000)]
    assert 400 < sum(shares) < 600


@given(POSITIONS, st.floats(0, 1, exclude_min=True, exclude_max=True))
def test_neither_split_is_empty_and_the_fraction_is_kept_where_it_can_be(positions: list[float], share: float) -> None:
    limit = val_limit(positions, share)
    val = [position for position in positions if position < limit]
    assert 0 < len(val) < len(positions)
    wanted = [position for position in positions if position < share]
    if 0 < len(wanted) < len(positions):
        assert val == wanted


def test_one_group_stays_in_train_and_zero_makes_no_val() -> None:
    assert val_limit([0.01, 0.01], 0.5) == 0
    assert val_limit([], 0.5) == 0
    assert val_limit([0.01, 0.9], 0) == 0


@given(st.lists(st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=3), max_size=8), st.randoms())
def test_rows_are_in_one_group_exactly_where_a_chain_of_shared_things_joins_them(rows, random) -> None:  # type: ignore[no-untyped-def]
    groups, shuffled = JoinedGroups[str](), JoinedGroups[str]()
    for row in rows:
        groups.join(row)
    for row in random.sample(rows, len(rows)):
        shuffled.join(row)
    sets = [set(row) for row in rows]
    for _ in rows:  # the closure, by hand
        sets = [set().union(*(other for other in sets if one & other)) for one in sets]
    for row, found in zip(rows, sets, strict=True):
        assert groups.name(row[0]) == shuffled.name(row[-1]) == min(found)
