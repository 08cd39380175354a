"""Packed = unpacked, to the last bits, on every backend, on both sides of the RoPE switch."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from phi3v_samples import SWITCH, Toy, gradients, packed, padded, toy, toy_model
from torch import Tensor

from phiv_schemas.errors import UsageError
from phiv_train.families.phi3_vision.packing import find_packing, next_token_targets, segment_lengths, segment_starts

GRIDS = st.sampled_from([(1, 1), (1, 2), (2, 1), (2, 2)])
LAYOUT = st.lists(
    st.tuples(st.lists(GRIDS, max_size=2), st.lists(st.integers(1, 30), min_size=3, max_size=3)), min_size=1, max_size=5
)


@pytest.fixture(scope="module", params=["eager", "sdpa"])
def model(request: pytest.FixtureRequest) -> Any:
    return toy_model(request.param)


def one_by_one(model: Any, samples: list[Toy]) -> tuple[float, dict[str, Tensor]]:
    """Loss and gradients of the samples in calls of their own, weighted by their labels."""
    total = sum(int((s.labels[1:] != -100).sum()) for s in samples)
    loss = 0.0
    for sample in samples:
        out = model(**packed([sample]), num_items_in_batch=max(total, 1))
        out.loss.backward()
        loss += out.loss.item()
    return loss, gradients(model)


def assert_same(
    ours: tuple[float, dict[str, Tensor]], theirs: tuple[float, dict[str, Tensor]], limit: float = 1e-6
) -> None:
    assert abs(ours[0] - theirs[0]) < limit
    assert ours[1].keys() == theirs[1].keys()
    for name, gradient in theirs[1].items():
        torch.testing.assert_close(ours[1][name], gradient, rtol=0, atol=limit, msg=name)


def together(model: Any, batch: dict[str, Tensor]) -> tuple[float, dict[str, Tensor]]:
    loss = model(**batch).loss
    loss.backward()
    return loss.item(), gradients(model)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(LAYOUT, st.integers(0, 1000))
def test_packed_equals_unpacked(model: Any, layout: list[Any], seed: int) -> None:
    samples = [toy(model, grids, texts, seed + i) for i, (grids, texts) in enumerate(layout)]
    assert_same(together(model, packed(samples)), one_by_one(model, samples))


def mixed(model: Any) -> list[Toy]:
    """Below, at and above the switch; images in front, in the middle and none; one position."""
    at = [toy(model, [(1, 1)], [5, SWITCH - 5 - 13], 1), toy(model, [], [SWITCH + 1], 2)]
    samples = [*at, toy(model, [], [1], 3), toy(model, [(1, 2), (2, 2)], [2, 3, 9], 4), toy(model, [], [7], 5)]
    lengths = [len(s) for s in samples]
    assert SWITCH in lengths
    assert SWITCH + 1 in lengths
    return samples


@pytest.mark.parametrize("checkpointing", [False, True])
def test_packed_equals_unpacked_in_training_mode(model: Any, checkpointing: bool) -> None:
    samples = mixed(model)
    expected = one_by_one(model, samples)
    model.train()
    if checkpointing:
        model.activation_checkpointing_enable()
    try:
        assert_same(together(model, packed(samples)), expected)
    finally:
        model.eval()
        model.activation_checkpointing_disable()


@pytest.mark.parametrize("left", [False, True])
def test_padded_rows_equal_single_rows(model: Any, left: bool) -> None:
    # In float64 transformers' eager softmax, which is float32, overflows on fully masked rows.
    model = toy_model(model.config._attn_implementation, torch.float32)
    samples = mixed(model)
    assert_same(together(model, padded(samples, left=left)), one_by_one(model, samples), 1e-5)


def test_two_packed_rows_equal_one(model: Any) -> None:
    samples = [
        toy(model, [(1, 1)], [4, 6], 1),
        toy(model, [], [9], 2),
        toy(model, [], [9], 3),
        toy(model, [(1, 1)], [6, 4], 4),
    ]
    first, second = packed(samples[:2]), packed(samples[2:])
    both = {name: torch.cat([first[name], second[name]]) for name in first}
    assert_same(together(model, both), one_by_one(model, samples))


def test_a_neighbour_changes_nothing(model: Any) -> None:
    short, long = toy(model, [(1, 1)], [5, 9], 1), toy(model, [(2, 2)], [40, 40], 2)
    with torch.no_grad():
        alone = model(**packed([short])).logits
        for other in (long, toy(model, [], [3], 7)):
            after = model(**packed([other, short])).logits[:, len(other) :]
            before = model(**packed([short, other])).logits[:, : len(short)]
            torch.testing.assert_close(after, alone, rtol=0, atol=1e-12)
            torch.testing.assert_close(before, alone, rtol=0, atol=1e-12)


def test_rope_long_can_be_chosen_for_all_per_row_and_per_position(model: Any) -> None:
    batch = packed([toy(model, [], [20], 1)])
    with torch.no_grad():
        short = model(**batch).logits
        forced = model(**batch, rope_long=True).logits
        assert (short - forced).abs().max() > 1e-3
        for same in (torch.tensor([True]), torch.ones(1, 20, dtype=torch.bool)):
            assert torch.equal(model(**batch, rope_long=same).logits, forced)
        assert torch.equal(model(**batch, rope_long=torch.tensor([0])).logits, short)


def test_packed_rows_are_refused_where_they_would_leak(model: Any) -> None:
    batch = packed([toy(model, [], [5], 1), toy(model, [], [5], 2)])
    with pytest.raises(UsageError, match="packed rows cannot be cached"):
        model(**batch, use_cache=True)
    with pytest.raises(UsageError, match="Packs take no mask"):
        model(**batch, attention_mask=torch.ones(1, 10, dtype=torch.int64))


def test_positions_of_padding_are_no_pack() -> None:
    mask = torch.tensor([[0, 0, 1, 1, 1]])
    for positions in ([1, 1, 0, 1, 2], [0, 0, 0, 1, 2], [0, 1, 2, 3, 4]):
        assert find_packing(torch.tensor([positions]), mask) is None
    assert find_packing(torch.tensor([[0, 1, 2, 0, 0]]), mask.flip(1)) is None


@given(st.lists(st.lists(st.integers(1, 6), min_size=1, max_size=4), min_size=1, max_size=3))
def test_segments(rows: list[list[int]]) -> None:
    width = max(map(sum, rows))
    rows = [[*lengths, width - sum(lengths)] if sum(lengths) < width else lengths for lengths in rows]
    positions = torch.tensor([[p for n in lengths for p in range(n)] for lengths in rows])
    starts = segment_starts(positions)
    assert segment_lengths(starts).tolist() == [[n for n in lengths for _ in range(n)] for lengths in rows]
    labels = torch.arange(positions.numel()).view_as(positions)
    targets = next_token_targets(labels, starts)
    for row, lengths in enumerate(rows):
        expected = [p + 1 if p + 1 < n else None for n in lengths for p in range(n)]
        found = targets[row].tolist()
        assert all(
            t == (labels[row, i] + 1 if e is not None else -100)
            for i, (t, e) in enumerate(zip(found, expected, strict=True))
        )
