"""The loss: plain cross entropy to the last digit, blind to chunks, packs and splits."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from phiv_train.families.base import IGNORE
from phiv_train.training.loss import TokenLoss

VOCAB, WIDTH = 11, 7


def batch(seed: int, lengths: list[int], supervised: float = 0.6) -> tuple[Tensor, Tensor]:
    """Hidden states [1, sum of lengths, WIDTH] and labels of packed samples; position 0 of each is not labelled."""
    draw = torch.Generator().manual_seed(seed)
    total = sum(lengths)
    hidden = torch.randn(1, total, WIDTH, generator=draw, dtype=torch.float64)
    labels = torch.randint(0, VOCAB, (1, total), generator=draw)
    labels[torch.rand(1, total, generator=draw) > supervised] = IGNORE
    starts = torch.tensor([0, *torch.tensor(lengths).cumsum(0)[:-1].tolist()])
    labels[0, starts] = IGNORE
    return hidden, labels


def head(seed: int = 0) -> nn.Linear:
    torch.manual_seed(seed)
    return nn.Linear(WIDTH, VOCAB, bias=False, dtype=torch.float64)


def outputs(hidden: Tensor) -> Any:
    return SimpleNamespace(last_hidden_state=hidden, logits=None)


def hidden_states(outputs: Any) -> Tensor:
    hidden: Tensor = outputs.last_hidden_state
    return hidden


def plain(logits: Tensor, labels: Tensor) -> Tensor:
    """transformers' causal loss: mean over labels of the next position."""
    return nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=IGNORE)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 99), st.lists(st.integers(2, 30), min_size=1, max_size=5), st.sampled_from([1, 3, 256]))
def test_equals_plain_cross_entropy_with_its_gradients(seed: int, lengths: list[int], chunk: int) -> None:
    hidden, labels = batch(seed, lengths)
    labels[0, 1] = 3
    linear = head()
    mine, other = hidden.clone().requires_grad_(), hidden.clone().requires_grad_()
    loss = TokenLoss(linear, hidden_states, chunk)(outputs(mine), labels)
    expected = plain(linear(other), labels)
    assert abs(float(loss - expected)) < 1e-10
    (got,) = torch.autograd.grad(loss, mine)
    (wanted,) = torch.autograd.grad(expected, other)
    assert torch.allclose(got, wanted, atol=1e-12, rtol=0)


def test_splits_of_a_batch_add_up_to_the_whole() -> None:
    lengths = [5, 17, 9, 30]
    hidden, labels = batch(3, lengths)
    linear, items = head(), int((labels != IGNORE).sum())
    whole = TokenLoss(linear, hidden_states)(outputs(hidden), labels, items)
    parts = zip(hidden.split(lengths, 1), labels.split(lengths, 1), strict=True)
    total = sum(TokenLoss(linear, hidden_states)(outputs(h), y, torch.tensor(float(items))) for h, y in parts)
    assert abs(float(whole - total)) < 1e-12


def test_a_neighbour_in_the_pack_teaches_nothing() -> None:
    hidden, labels = batch(1, [6, 8])
    loss = TokenLoss(head(), hidden_states)
    before = loss(outputs(hidden), labels)
    hidden[0, 5] += 100.0  # the last position of the first sample predicts nothing
    assert float(loss(outputs(hidden), labels)) == float(before)


def test_without_labels_it_is_zero_and_reaches_the_head() -> None:
    hidden, labels = batch(1, [6])
    linear = head()
    hidden.requires_grad_()
    loss = TokenLoss(linear, hidden_states)(outputs(hidden), torch.full_like(labels, IGNORE), torch.tensor(4.0))
    loss.backward()
    assert float(loss) == 0.0
    assert linear.weight.grad is not None
    assert float(linear.weight.grad.abs().sum()) == 0.0
    assert hidden.grad is not None


def test_a_family_may_give_what_an_identity_head_takes() -> None:
    hidden, labels = batch(2, [9, 4])
    linear = head()
    given_logits = SimpleNamespace(logits=linear(hidden))
    assert torch.allclose(
        TokenLoss(nn.Identity(), lambda made: made.logits)(given_logits, labels),
        plain(linear(hidden), labels),
        atol=1e-12,
    )


def test_logits_exist_for_a_chunk_at_a_time() -> None:
    hidden, labels = batch(4, [100], supervised=0.5)
    seen: list[int] = []
    linear = head()

    def watched(states: Tensor) -> Tensor:
        seen.append(len(states))
        return linear(states)

    TokenLoss(watched, hidden_states, chunk=8)(outputs(hidden.requires_grad_()), labels).backward()
    supervised = int((labels[:, 1:] != IGNORE).sum())
    assert max(seen) <= 8
    assert sum(seen) == 2 * supervised  # forward, and again in the backward pass: nothing is kept


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_half_precision_logits_are_summed_in_float32(dtype: torch.dtype) -> None:
    hidden, labels = batch(5, [40])
    linear = head().to(dtype)
    loss = TokenLoss(linear, hidden_states)(outputs(hidden.to(dtype)), labels)
    assert loss.dtype == torch.float32
