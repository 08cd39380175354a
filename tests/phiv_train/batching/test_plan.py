"""Properties of a plan: every row once, no budget exceeded, the same steps for any number of ranks, exact resume."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phiv_schemas.errors import UsageError
from phiv_train.batching.bin_packing import batch_padded, pack_rows
from phiv_train.batching.plan import Plan, PlannedRow, PlanSpec, make_plan

MAX_TOKENS = 64
PROPERTY = settings(deadline=None, max_examples=150)


@st.composite
def specs(draw: st.DrawFn) -> PlanSpec:
    """Any spec over budgets that single rows of at most MAX_TOKENS fit."""
    return PlanSpec(
        packs_per_step=draw(st.sampled_from([1, 2, 3, 4, 6, 8, 12])),
        layout=draw(st.sampled_from(["packed", "padded"])),
        max_tokens=draw(st.sampled_from([MAX_TOKENS, 100, 1000])),
        max_rows=draw(st.sampled_from([None, 1, 3])),
        max_image_tokens=draw(st.sampled_from([None, MAX_TOKENS, 70])),
        seed=draw(st.integers(0, 5)),
        shuffle=draw(st.booleans()),
        largest_first=draw(st.booleans()),
    )


def indices(plan: Plan, packs: Iterable[int]) -> list[int]:
    """Numbers of the rows of some packs, padding examples left out."""
    return [row.index for pack_rows in packs for row in plan.rows(pack_rows) if row.weight]


@st.composite
def row_loads(draw: st.DrawFn) -> tuple[list[int], list[int]]:
    """(lengths, image tokens) of 1 to 80 rows."""
    lengths = draw(st.lists(st.integers(1, MAX_TOKENS), min_size=1, max_size=80))
    return lengths, [draw(st.integers(0, length)) for length in lengths]


@PROPERTY
@given(row_loads(), specs(), st.integers(0, 2))
def test_every_row_is_in_the_epoch_exactly_once(loads: Any, spec: PlanSpec, epoch: int) -> None:
    plan = make_plan(*loads, spec, epoch=epoch)
    assert sorted(indices(plan, range(plan.num_packs))) == list(range(len(loads[0])))


@PROPERTY
@given(row_loads(), specs(), st.integers(0, 2))
def test_no_pack_exceeds_a_budget(loads: Any, spec: PlanSpec, epoch: int) -> None:
    lengths, images = loads
    plan = make_plan(lengths, images, spec, epoch=epoch)
    for p in range(plan.num_packs):
        rows = indices(plan, [p])
        own = [lengths[row] for row in rows]
        computed = sum(own) if spec.layout == "packed" else max(own, default=0) * len(own)
        assert computed == plan.padded_tokens[p] <= (spec.max_tokens or computed)
        assert len(rows) <= (spec.max_rows or len(rows))
        assert sum(images[row] for row in rows) == plan.image_tokens[p] <= (spec.max_image_tokens or 10**9)


@PROPERTY
@given(row_loads(), specs())
def test_a_step_has_all_its_packs_and_padding_examples_only_where_rows_run_out(loads: Any, spec: PlanSpec) -> None:
    plan = make_plan(*loads, spec, epoch=1)  # in epoch 0 a pack of the last step may move to the first
    assert plan.num_packs == plan.num_steps * spec.packs_per_step
    counts = [len(indices(plan, [p])) for p in range(plan.num_packs)]
    assert all(plan.rows(p) for p in range(plan.num_packs))
    last = counts[-spec.packs_per_step :]
    assert 0 not in counts[: -spec.packs_per_step]
    assert 0 not in last or max(last) == 1  # while two rows share a pack of the last step, it can be split
    assert plan.summary().padding_packs == counts.count(0)


@PROPERTY
@given(row_loads(), specs())
def test_a_padding_example_is_the_shortest_row_alone(loads: Any, spec: PlanSpec) -> None:
    plan = make_plan(*loads, spec)
    packs = [plan.rows(p) for p in range(plan.num_packs)]
    padding = [rows for rows in packs if any(row.weight == 0 for row in rows)]
    assert all(len(rows) == 1 and loads[0][rows[0].index] == min(loads[0]) for rows in padding)


@PROPERTY
@given(row_loads(), specs(), st.sampled_from([1, 2, 3, 4, 6, 12]))
def test_ranks_together_take_the_packs_of_the_step_for_any_split(loads: Any, spec: PlanSpec, world: int) -> None:
    plan = make_plan(*loads, spec)
    if spec.packs_per_step % world:
        with pytest.raises(UsageError, match="do not divide among"):
            plan.packs_for_rank(0, 0, world)
        return
    for step in range(plan.num_steps):
        taken = [plan.packs_for_rank(step, rank, world) for rank in range(world)]
        whole = list(range(step * spec.packs_per_step, (step + 1) * spec.packs_per_step))
        assert sorted(pack_rows for packs in taken for pack_rows in packs) == whole
        for together in zip(*taken, strict=True):  # what runs at the same time are neighbours in the order of size
            assert max(together) - min(together) == world - 1


def test_packs_are_dealt_in_alternating_direction() -> None:
    spec = PlanSpec(packs_per_step=6, layout="padded", max_rows=1)
    plan = make_plan([9, 8, 7, 3, 2, 1], [0] * 6, spec)
    loads = [[plan.padded_tokens[p] for p in plan.packs_for_rank(0, rank, 2)] for rank in (0, 1)]
    assert loads == [[9, 3, 2], [8, 7, 1]]
    assert [plan.packs_for_rank(0, rank, 3) for rank in range(3)] == [[0, 5], [1, 4], [2, 3]]


@PROPERTY
@given(row_loads(), specs())
def test_packs_of_a_step_run_from_large_to_small(loads: Any, spec: PlanSpec) -> None:
    plan = make_plan(*loads, spec)
    steps = np.stack([plan.image_tokens, plan.padded_tokens], axis=1).reshape(plan.num_steps, spec.packs_per_step, 2)
    for packs in steps.tolist():
        assert packs == sorted(packs, reverse=True)


@PROPERTY
@given(row_loads(), specs(), st.integers(0, 3))
def test_a_plan_is_a_function_of_its_inputs(loads: Any, spec: PlanSpec, epoch: int) -> None:
    plan = make_plan(*loads, spec, epoch=epoch)
    again = make_plan(np.array(loads[0]), np.array(loads[1]), spec, epoch=epoch)
    assert plan.sha256 == again.sha256
    assert plan.summary() == again.summary()
    assert [plan.rows(p) for p in range(plan.num_packs)] == [again.rows(p) for p in range(again.num_packs)]


def test_the_order_of_a_seed_never_changes() -> None:
    # Frozen: a checkpoint of an older version must find its rows again.
    plan = make_plan(np.arange(1, 25), np.zeros(24), PlanSpec(packs_per_step=2, max_tokens=64, seed=7), epoch=1)
    assert plan.sha256 == "359545e09af21fd702821d6ac1c01f8911e72e11e31d5e2feb287117ed57ef53"


def test_epochs_and_seeds_differ() -> None:
    lengths = np.arange(1, 200) % 50 + 1
    plans = [
        make_plan(lengths, 0 * lengths, PlanSpec(packs_per_step=2, max_tokens=64, seed=seed), epoch=epoch)
        for seed in (0, 1)
        for epoch in (0, 1)
    ]
    assert len({plan.sha256 for plan in plans}) == 4
    assert len({tuple(indices(plan, [6, 7])) for plan in plans}) == 4


def test_without_shuffle_padded_batches_keep_the_order_of_rows_of_one_length() -> None:
    spec = PlanSpec(packs_per_step=1, layout="padded", max_rows=3, shuffle=False, largest_first=False)
    plan = make_plan([5] * 7, [0] * 7, spec)
    assert [indices(plan, [p]) for p in range(3)] == [[0, 1, 2], [3, 4, 5], [6]]
    assert plan.rows(2) == [PlannedRow(6, weight=1)]


@PROPERTY
@given(row_loads(), specs())
def test_the_largest_packs_run_in_the_first_step_of_epoch_0_only(loads: Any, spec: PlanSpec) -> None:
    first, second = make_plan(*loads, spec, epoch=0), make_plan(*loads, spec, epoch=1)
    p = spec.packs_per_step
    if spec.largest_first and p > 1:
        assert first.padded_tokens[:p].max() == first.padded_tokens.max()
        assert first.image_tokens[:p].max() == first.image_tokens.max()
    assert make_plan(*loads, replace(spec, largest_first=False), epoch=1).order.tolist() == second.order.tolist()


def test_only_the_selected_rows_are_planned() -> None:
    spec = PlanSpec(packs_per_step=2, max_tokens=10)
    plan = make_plan([4, 99, 5, 6, 7], [0] * 5, spec, rows=[0, 2, 4])
    assert sorted(plan.order.tolist()) == [0, 2, 4]


def test_a_row_over_a_budget_is_refused_by_number() -> None:
    with pytest.raises(UsageError, match=r"row 1 has 99, over max_tokens 10\. Raise max_tokens"):
        make_plan([4, 99], [0, 0], PlanSpec(packs_per_step=1, max_tokens=10))
    with pytest.raises(UsageError, match=r"row 0 has 4, over max_image_tokens 3"):
        make_plan([4, 9], [4, 0], PlanSpec(packs_per_step=1, max_tokens=10, max_image_tokens=3))
    with pytest.raises(UsageError, match="no rows"):
        make_plan([], [], PlanSpec(packs_per_step=1, max_tokens=10))
    with pytest.raises(UsageError, match="needs max_tokens"):
        PlanSpec(packs_per_step=1)


def test_the_summary_adds_up() -> None:
    spec = PlanSpec(packs_per_step=2, layout="padded", max_rows=2, largest_first=False)
    plan = make_plan([10, 4, 10, 8], [3, 0, 3, 3], spec)
    summary = plan.summary()
    assert (summary.rows, summary.packs, summary.steps) == (4, 2, 1)
    assert (summary.tokens, summary.padded_tokens, summary.padding) == (32, 36, 1 - 32 / 36)
    assert (summary.max_pack_tokens, summary.max_pack_image_tokens, summary.longest_row) == (20, 6, 10)
    assert summary.rows_per_step == 4
    assert summary.fill is None


# -- packing --------------------------------------------------------------------------------------------------------


def best_fit_decreasing(lengths: np.ndarray, limit: int) -> int:
    """The readable version: how many packs best fit decreasing needs over all rows at once."""
    space: list[int] = []
    for length in sorted(lengths.tolist(), reverse=True):
        fitting = [i for i, left in enumerate(space) if left >= length]
        if fitting:
            space[min(fitting, key=space.__getitem__)] -= length
        else:
            space.append(limit - length)
    return len(space)


DISTRIBUTIONS = {
    "log-normal": lambda draw, n: np.clip(draw.lognormal(6, 0.8, n).astype(int), 20, 8192),
    "clips and text": lambda draw, n: np.where(draw.random(n) < 0.5, 2504, draw.integers(10, 900, n)),
    "tiny rows": lambda draw, n: draw.integers(1, 90, n),
    "uniform": lambda draw, n: draw.integers(50, 8193, n),
    "one length": lambda draw, n: np.full(n, 2504),
    "halves": lambda draw, n: draw.integers(3000, 5000, n),
}  # fmt: skip


@pytest.mark.parametrize("kind", DISTRIBUTIONS)
def test_packing_needs_hardly_more_packs_than_best_fit_over_all_rows(kind: str) -> None:
    lengths = DISTRIBUTIONS[kind](np.random.default_rng(0), 3000)
    number = pack_rows(lengths[:, None], np.array([8192]))
    assert set(number) == set(range(number.max() + 1))
    assert np.bincount(number, weights=lengths).max() <= 8192
    assert number.max() + 1 <= best_fit_decreasing(lengths, 8192) * 1.015 + 1


@pytest.mark.parametrize("kind", ["log-normal", "clips and text", "tiny rows"])
def test_mixed_lengths_fill_98_percent(kind: str) -> None:
    lengths = DISTRIBUTIONS[kind](np.random.default_rng(1), 20_000)
    plan = make_plan(lengths, lengths // 2, PlanSpec(packs_per_step=4, max_tokens=8192))
    assert plan.summary().fill >= 0.98


def test_packs_hold_both_short_and_long_rows() -> None:
    # Sorting the whole set would give packs of one length each; the means of our packs spread about as at random.
    lengths = DISTRIBUTIONS["log-normal"](np.random.default_rng(2), 20_000)
    plan = make_plan(lengths, 0 * lengths, PlanSpec(packs_per_step=8, max_tokens=8192, largest_first=False))
    packs = np.arange(plan.num_packs).reshape(plan.num_steps, 8)
    means = [lengths[indices(plan, packs_of_step)].mean() for packs_of_step in packs[:-1]]
    rows_per_step = len(lengths) / plan.num_steps
    assert np.std(means) < 1.2 * lengths.std() / np.sqrt(rows_per_step)


@PROPERTY
@given(st.lists(st.tuples(st.integers(1, 50), st.integers(0, 50)), min_size=1, max_size=300))
def test_two_budgets_hold_at_once(rows: list[tuple[int, int]]) -> None:
    costs, limits = np.array(rows), np.array([60, 50])
    number = pack_rows(costs, limits)
    for column, limit in zip(costs.T, limits, strict=True):
        assert np.bincount(number, weights=column).max() <= limit


@PROPERTY
@given(st.lists(st.integers(1, 50), min_size=1, max_size=300), st.integers(1, 5), st.sampled_from([None, 50, 120]))
def test_a_padded_batch_is_closed_only_when_the_next_row_does_not_fit(
    lengths: list[int], most: int, limit: int | None
) -> None:
    number = batch_padded(np.array(lengths), max_rows=most, max_tokens=limit)
    groups = [sorted(np.array(lengths)[number == k].tolist(), reverse=True) for k in range(number.max() + 1)]
    for own in groups:
        assert len(own) <= most
        assert limit is None or own[0] * len(own) <= limit
    for own, following in pairwise(groups):
        full = len(own) == most or (limit is not None and own[0] * (len(own) + 1) > limit)
        assert full or following[0] > own[-1]  # or a window of the order ended there
