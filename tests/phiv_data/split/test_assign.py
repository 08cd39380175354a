"""Sides by what came before: classes have their shares, groups are whole, and rows that are appended move nothing."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from hypothesis import given
from hypothesis import strategies as st

from phiv_data.split.assign import SIDES, Shares, assign
from phiv_data.utils.groups import JoinedGroups

TRAIN, VAL, TEST = range(3)
seeds = st.integers(0, 5)
shares_of_three = st.tuples(st.integers(1, 20), st.integers(0, 10), st.integers(0, 10)).filter(lambda one: any(one[1:]))
names = st.lists(st.sampled_from("aaaabbc") | st.text(max_size=2), max_size=120)


@st.composite
def linked_rows(draw: st.DrawFn) -> tuple[list[str], dict[int, list[int]]]:
    """Classes of rows, and for some of them earlier rows that they share something with."""
    classes = draw(st.lists(st.sampled_from("abc"), min_size=1, max_size=40))
    ends = st.integers(0, len(classes) - 1)
    partners = defaultdict[int, list[int]](list)
    for one, other in draw(st.lists(st.tuples(ends, ends), max_size=30)):
        if one != other:
            partners[max(one, other)].append(min(one, other))
    return classes, dict(partners)


def groups_of(partners: Mapping[int, Sequence[int]], rows: int) -> JoinedGroups[int]:
    """The groups of the first rows."""
    groups = JoinedGroups[int]()
    for row, others in partners.items():
        if row < rows:
            groups.join([row, *others])
    return groups


def deviations(classes: Sequence[str], sides: Sequence[int], shares: Shares) -> list[float]:
    """Of each class and side, how far the rows are from the share."""
    by_class = defaultdict[str, list[int]](list)
    for name, side in zip(classes, sides, strict=True):
        by_class[name].append(side)
    return [
        abs(some.count(side) - len(some) * shares[side] / sum(shares))
        for some in by_class.values()
        for side in range(3)
    ]


@given(names, shares_of_three, seeds)
def test_each_class_has_its_shares_within_one_row(classes: list[str], shares: Shares, seed: int) -> None:
    sides = assign(classes, {}, shares, seed)
    assert all(by < 1 for by in deviations(classes, sides, shares))


@given(st.integers(1, 300), shares_of_three, seeds)
def test_rows_without_classes_have_the_shares_within_one_row(rows: int, shares: Shares, seed: int) -> None:
    texts = [f"answer {row}" for row in range(rows)]  # each its own: only all of them together can have shares
    sides = assign(texts, {}, shares, seed)
    assert all(by < 1 for by in deviations([""] * rows, sides, shares))


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 6)), max_size=60),
    st.integers(1, 19),
    st.sampled_from([VAL, TEST]),
    seeds,
)
def test_each_class_of_groups_has_its_share_within_the_largest_group(
    groups: list[tuple[str, int]], share: int, side: int, seed: int
) -> None:
    classes, partners = list[str](), dict[int, list[int]]()
    for name, size in groups:
        partners |= {len(classes) + i: [len(classes)] for i in range(1, size)}
        classes += [name] * size
    shares = (20 - share, share, 0) if side == VAL else (20 - share, 0, share)
    largest = max((size for _, size in groups), default=0)
    assert all(by < max(largest, 1) for by in deviations(classes, assign(classes, partners, shares, seed), shares))


@given(linked_rows(), shares_of_three, seeds)
def test_groups_are_on_one_side(rows: tuple[list[str], dict[int, list[int]]], shares: Shares, seed: int) -> None:
    classes, partners = rows
    sides, groups = assign(classes, partners, shares, seed), groups_of(partners, len(classes))
    assert all(sides[row] == sides[groups.name(row)] for row in range(len(classes)))
    assert {SIDES[side] for side in sides} <= {name for name, share in zip(SIDES, shares, strict=True) if share}


@given(linked_rows(), shares_of_three, seeds, st.data())
def test_rows_that_are_appended_move_only_groups_that_they_join_and_only_towards_train(
    rows: tuple[list[str], dict[int, list[int]]], shares: Shares, seed: int, data: st.DataObject
) -> None:
    classes, partners = rows
    count = data.draw(st.integers(0, len(classes)))
    before, after = assign(classes[:count], partners, shares, seed), assign(classes, partners, shares, seed)
    assert all(new <= old for old, new in zip(before, after, strict=False))
    groups = groups_of(partners, len(classes))
    joining = {groups.name(new) for new in range(count, len(classes)) if len({*partners.get(new, ())}) > 1}
    assert all(after[row] == before[row] for row in range(count) if groups.name(row) not in joining)


@given(linked_rows(), shares_of_three, seeds, st.data())
def test_rows_that_have_a_side_keep_it_but_where_groups_are_joined(
    rows: tuple[list[str], dict[int, list[int]]], shares: Shares, seed: int, data: st.DataObject
) -> None:
    classes, partners = rows
    count = data.draw(st.integers(0, len(classes)))
    kept = dict(enumerate(data.draw(st.lists(st.integers(0, 2), min_size=count, max_size=count))))
    sides, groups = assign(classes, partners, shares, seed, kept), groups_of(partners, len(classes))
    for row in range(len(classes)):
        given_sides = {kept[one] for one in kept if groups.name(one) == groups.name(row)}
        assert sides[row] == sides[groups.name(row)]
        assert not given_sides or sides[row] <= min(given_sides)
        if groups.name(row) == row and not any(row in others for others in partners.values()) and row in kept:
            assert sides[row] == kept[row]


def test_another_seed_gives_another_split() -> None:
    classes = ["a", "b"] * 50
    splits = {tuple(assign(classes, {}, (9, 1, 0), seed)) for seed in range(5)}
    assert len(splits) == 5
