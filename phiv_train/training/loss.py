"""Next-token cross entropy, summed over supervised tokens and divided by their number in the whole global batch.

    loss_fn = TokenLoss(model.lm_head, family.hidden_states)          # Trainer(compute_loss_func=loss_fn)
    loss = loss_fn(outputs, labels, num_items_in_batch)

A mean of means weighs a token by how many others share its micro-batch: the gradient then depends on how rows were
split over micro-batches and processes. Divided by the one global count it does not. Logits exist for one chunk of
supervised tokens at a time and are computed again in the backward pass, so memory is chunk x vocabulary whatever the
length.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from phiv_train.families.base import IGNORE

# trl's measurements: 256 tokens per chunk cost no time and cut the loss's memory 4 to 14 times (trl pull 5575).
CHUNK = 256

Head = Callable[[Tensor], Tensor]


class TokenLoss:
    """`compute_loss_func` of transformers' Trainer: scalar loss of one micro-batch.

    `hidden_states` gives [B, L, D] of the model's outputs, of which `head` makes logits. `labels`
    int64 [B, L], not shifted, -100 where a token is not supervised; token 0 of every sample is -100, so packed
    neighbours never train each other. `num_items_in_batch`: supervised tokens of all micro-batches of all
    processes that make one optimizer step; None counts this one only.
    """

    def __init__(self, head: Head, hidden_states: Callable[[Any], Tensor], chunk: int = CHUNK) -> None:
        self.head, self.hidden_states, self.chunk = head, hidden_states, chunk

    def __call__(self, outputs: Any, labels: Tensor, num_items_in_batch: Tensor | int | None = None) -> Tensor:
        # The states that predict a labelled next token, [S, D], and that token, [S].
        hidden = self.hidden_states(outputs)
        following = labels[:, 1:].to(hidden.device)
        wanted = following != IGNORE
        states, targets = hidden[:, :-1][wanted], following[wanted]
        if len(targets):
            pieces = zip(torch.split(states, self.chunk), torch.split(targets, self.chunk), strict=True)
            losses = [checkpoint(_chunk_loss, some, ids, self.head, use_reentrant=False) for some, ids in pieces]
            total = torch.stack(losses).sum()
        else:  # every rank must still reach the head, or DDP waits for its gradient
            total = self.head(states.new_zeros(1, states.shape[-1])).sum() * 0 + states.sum() * 0
        return total / (max(len(targets), 1) if num_items_in_batch is None else num_items_in_batch)


def _chunk_loss(states: Tensor, targets: Tensor, head: Head) -> Tensor:
    """Sum of -log softmax(head(states))[target], in float32 or the states' float64."""
    logits = head(states)
    if logits.dtype in (torch.bfloat16, torch.float16):
        logits = logits.float()
    return torch.nn.functional.cross_entropy(logits, targets, reduction="sum")
