"""The sampler follows the plan: for any rank and start, the same rows as a run that was never stopped."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from phiv_train.batching.plan import PlannedRow, PlanSpec, make_plan
from phiv_train.batching.sampler import PlanSampler
from phiv_train.batching.schedule import Schedule

PACKS = 4


def schedule(epochs: int = 3, rows: int = 90, max_steps: int | None = None) -> Schedule:
    """A few epochs over rows of mixed lengths."""
    lengths = np.random.default_rng(5).integers(1, 40, rows)
    spec = PlanSpec(packs_per_step=PACKS, max_tokens=100, seed=3)
    return Schedule(tuple(make_plan(lengths, lengths // 2, spec, epoch=e) for e in range(epochs)), max_steps)


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 30), st.sampled_from([1, 2, 4]), st.sampled_from([1, 2, 4]))
def test_a_resumed_run_takes_the_remaining_steps(done: int, before: int, after: int) -> None:
    run = schedule()
    done = min(done, run.num_steps)
    whole = steps(run, before)
    assert steps(run, before)[:done] + steps(run, after, start=done) == whole
    for rank in range(after):  # and with the same ranks, the very same micro-batches
        uninterrupted = list(PlanSampler(run, rank=rank, world_size=after))
        resumed = list(PlanSampler(run, rank=rank, world_size=after, start=done))
        assert resumed == uninterrupted[done * PACKS // after :]


def steps(run: Schedule, world: int, start: int = 0) -> list[list[PlannedRow]]:
    """The sorted rows of every step, over all ranks."""
    ranks = [list(PlanSampler(run, rank=rank, world_size=world, start=start)) for rank in range(world)]
    per_rank = PACKS // world
    return [
        sorted(row for batches in ranks for pack in batches[s * per_rank : (s + 1) * per_rank] for row in pack)
        for s in range(run.num_steps - start)
    ]


@pytest.mark.parametrize("parts", [2, 3])
def test_packs_in_parts_are_the_rows_of_the_same_steps(parts: int) -> None:
    whole, split = schedule(), replace(schedule(), parts=parts)
    assert split.sha256 == whole.sha256
    for rank in (0, 1):
        packs = list(PlanSampler(whole, rank=rank, world_size=2))
        batches = list(PlanSampler(split, rank=rank, world_size=2))
        assert len(batches) == split.num_steps * split.accumulation(2) == parts * len(packs)
        assert all(batches)
        for number, pack in enumerate(packs):
            rows = [row for batch in batches[parts * number : parts * (number + 1)] for row in batch if row.weight]
            assert sorted(rows) == sorted(row for row in pack if row.weight)


def test_len_counts_what_iterating_yields() -> None:
    run = schedule()
    for start in (0, 5, run.num_steps):
        sampler = PlanSampler(run, rank=1, world_size=2, start=start)
        assert len(sampler) == len(list(sampler)) == (run.num_steps - start) * 2


def test_every_epoch_is_complete_and_in_its_own_order() -> None:
    run = schedule(epochs=2)
    rows = [row.index for pack in PlanSampler(run) for row in pack if row.weight]
    first, second = rows[: len(rows) // 2], rows[len(rows) // 2 :]
    assert sorted(first) == sorted(second) == list(range(90))
    assert first != second


def test_max_steps_ends_the_run_within_an_epoch() -> None:
    assert len(PlanSampler(schedule(max_steps=3))) == 3 * PACKS


@pytest.mark.parametrize("max_steps", [None, 3])
def test_rows_until_counts_what_the_first_steps_take(max_steps: int | None) -> None:
    run = schedule(epochs=2, max_steps=max_steps)
    counts = [sum(row.weight for row in rows) for rows in steps(run, 1)]
    assert [run.rows_until(step) for step in range(run.num_steps + 1)] == np.cumsum([0, *counts]).tolist()


def test_prefetching_does_not_move_the_sampler() -> None:
    sampler = PlanSampler(schedule())
    begun = iter(DataLoader(AskedRows(), batch_sampler=sampler, collate_fn=list))
    next(begun)
    assert next(iter(sampler)) == next(iter(PlanSampler(schedule())))


def test_a_framework_that_skips_batches_finds_the_same_place() -> None:
    accelerate = pytest.importorskip("accelerate")
    run = schedule()
    loader = DataLoader(AskedRows(), batch_sampler=PlanSampler(run, rank=1, world_size=2), collate_fn=list)
    skipped = accelerate.skip_first_batches(loader, 7 * 2)
    assert list(skipped) == list(PlanSampler(run, rank=1, world_size=2, start=7))


class AskedRows:
    """A dataset whose samples are the rows asked for."""

    def __getitem__(self, row: PlannedRow) -> PlannedRow:
        return row

    def __len__(self) -> int:
        return 90
