"""The oracle: training written out in plain PyTorch, with nothing of transformers' Trainer, of packing or of chunks.

Every row is run alone, in full logits; a step's loss is the sum of its tokens' losses over the number of its supervised
tokens. Slow and plain on purpose: what the trainer does in packs, micro-batches and processes must equal this.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from phiv_train.batching.schedule import Schedule
from phiv_train.config import TrainConfig

IGNORE = -100


@dataclass
class History:
    """What happened: the loss of every step, the gradients of the first (before clipping), and the weights."""

    losses: list[float] = field(default_factory=list)
    first_gradients: dict[str, Tensor] = field(default_factory=dict)
    weights: dict[str, Tensor] = field(default_factory=dict)


def reference_loop(
    model: nn.Module, family: Any, processor: Any, dataset: Any, schedule: Schedule, config: TrainConfig
) -> History:
    """Train `model`, whose requires_grad are set, through all steps of the schedule."""
    history = History()
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    moments = {name: (torch.zeros_like(p), torch.zeros_like(p)) for name, p in trained.items()}
    model.train()
    for step in range(schedule.num_steps):
        plan, inside = schedule.locate(step)
        rows = [row for pack in plan.packs_for_rank(inside) for row in plan.rows(pack)]
        loss = step_gradients(model, family, processor, [dataset[row.index] for row in rows if row.weight])
        history.losses.append(loss)
        if step == 0:
            history.first_gradients = {name: p.grad.clone() for name, p in trained.items() if p.grad is not None}
        clip(list(trained.values()), config.max_grad_norm)
        rate = config.learning_rate * rate_factor(step, schedule.num_steps, config)
        for name, parameter in trained.items():
            adamw(parameter, *moments[name], step + 1, rate, config)
            parameter.grad = None
    history.weights = {name: p.detach().clone() for name, p in trained.items()}
    return history


def step_gradients(model: nn.Module, family: Any, processor: Any, samples: list[Any]) -> float:
    """Gradients of one step, into `.grad`; returns the loss."""
    rows = [row_inputs(family, processor, sample) for sample in samples]
    supervised = sum(int((labels != IGNORE).sum()) for _, labels in rows)
    total = 0.0
    for inputs, labels in rows:
        logits = model(**inputs).logits
        loss = summed_cross_entropy(logits[0, :-1], labels[0, 1:]) / supervised
        loss.backward()
        total += float(loss.detach())
    return total


def row_inputs(family: Any, processor: Any, sample: Any) -> tuple[dict[str, Any], Tensor]:
    """One row alone: the model's arguments, and its labels."""
    images = [image.open() for image in sample.images]
    encoded = family.encode(sample.conversation, images, processor)
    inputs = family.collate([encoded], processor, layout="right")
    labels = inputs.pop("labels")
    return inputs, labels


def summed_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """-log softmax, written out, over the targets that are not -100."""
    wanted = targets != IGNORE
    chosen, ids = logits[wanted], targets[wanted]
    return (torch.logsumexp(chosen, dim=-1) - chosen.gather(1, ids[:, None])[:, 0]).sum()


def clip(parameters: list[Tensor], limit: float) -> None:
    """Scale all gradients so that their joint norm is at most `limit`; 0 leaves them."""
    if not limit:
        return
    grads = [p.grad for p in parameters if p.grad is not None]
    norm = math.sqrt(sum(float((g.double() ** 2).sum()) for g in grads))
    for grad in grads:
        grad.mul_(min(1.0, limit / (norm + 1e-6)))


def rate_factor(step: int, steps: int, config: TrainConfig) -> float:
    """Linear warm-up, then linear decay to 0: the factor of step `step`, counted from 0."""
    warmup = config.num_warmup_steps(steps)
    if step < warmup:
        return step / max(1, warmup)
    return (steps - step) / max(1, steps - warmup)


def adamw(p: Tensor, mean: Tensor, square: Tensor, step: int, rate: float, config: TrainConfig) -> None:
    """One AdamW update (Loshchilov & Hutter 2019); vectors are not decayed."""
    if p.grad is None:
        return
    beta1, beta2 = config.adam_beta1, config.adam_beta2
    with torch.no_grad():
        p.mul_(1 - rate * (config.wd if p.ndim > 1 else 0.0))
        mean.mul_(beta1).add_(p.grad, alpha=1 - beta1)
        square.mul_(beta2).addcmul_(p.grad, p.grad, value=1 - beta2)
        unbiased_mean = mean / (1 - beta1**step)
        unbiased_square = square / (1 - beta2**step)
        p.sub_(rate * unbiased_mean / (unbiased_square.sqrt() + config.adam_epsilon))
