"""About how much memory one process needs, per strategy, from names and shapes alone.

    for estimate in estimates(skeleton, parts, config, workload, sharding="zero2", world_size=8):
        print(estimate.strategy, estimate.total)

Counted: weights, gradients and AdamW's averages by their real sizes; activations by the usual formula for
checkpointed decoders (one hidden state per layer, and one layer's working set). Not counted: the allocator's slack
and communication buffers, so take a tenth more. `bytes` are of one process.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from torch import nn

from phiv_train.config import TrainConfig
from phiv_train.training.trainable import Parts, frozen_parts, lora_targets, match_names, part_of_parameter

_STRATEGIES: dict[str, dict[str, Any]] = {
    "full": {},
    "frozen": {"freeze_vision_model": True},
    "lora": {"use_lora": True},
    "qlora": {"use_lora": True, "use_qlora": True},
}
_NONE = {"use_lora": False, "use_qlora": False, "freeze_vision_model": False, "freeze": (), "lora_parts": ()}
# NF4: half a byte per number and a float32 scale per 64 of them.
_BYTES_4BIT = 0.5 + 4 / 64


@dataclass(frozen=True, slots=True)
class Workload:
    """The largest micro-batch: positions of the decoder, and how many of them images take."""

    positions: int
    image_tokens: int


@dataclass(frozen=True, slots=True)
class Estimate:
    """Bytes of one process."""

    strategy: str
    weights: float
    gradients: float
    optimizer: float
    activations: float

    @property
    def total(self) -> float:
        """All of it."""
        return self.weights + self.gradients + self.optimizer + self.activations


def estimates(
    model: nn.Module, parts: Parts, config: TrainConfig, work: Workload, *, half: bool, sharding: str, world_size: int
) -> list[Estimate]:
    """One estimate per strategy. `half`: the compute precision has 16 bits."""
    out = []
    modules, owner = dict(model.named_modules()), part_of_parameter(model, parts)
    total = sum(p.numel() for p in model.parameters())
    unused = {name for part in parts.values() for name in match_names(owner, part.unused)}
    for name, settings in _STRATEGIES.items():
        variant = config.model_copy(update=_NONE | settings)
        # ZeRO-2 is the recipe's way for full training; adapters are small and go with DDP.
        way = "whole" if variant.lora and sharding == "zero2" else sharding
        if variant.lora:  # rank * (in + out) per wrapped module
            wrapped = [modules[target] for target in lora_targets(parts, variant)]
            trained = sum(variant.lora_rank * sum(next(module.parameters()).shape) for module in wrapped)
            frozen = total
        else:
            idle = frozen_parts(parts, variant)
            trained = sum(p.numel() for n, p in model.named_parameters() if owner[n] not in idle and n not in unused)
            frozen = total - trained
        # In 4 bit are the language part's linear layers; image path, embeddings and head stay.
        linear = parts["language"].linear if variant.use_qlora and "language" in parts else ()
        packed: int = sum(p.numel() for target in linear for p in modules[target].parameters())
        frozen_bytes = _BYTES_4BIT * packed + (2 if variant.lora and half else 4) * (frozen - packed)
        if way == "zero2":  # 16-bit weights and gradients; float32 master weights and averages split
            width = 2 if half else 4
            weights, gradients, optimizer = width * trained, width * trained, (12 if half else 8) * trained / world_size
        else:
            share = trained / world_size if way == "fsdp2" else trained
            weights, gradients, optimizer = 4 * share, 4 * share, 8 * share
        weights += frozen_bytes / (world_size if way == "fsdp2" else 1)
        out.append(Estimate(name, weights, gradients, optimizer, activations(model, variant, work, half)))
    return out


def activations(model: nn.Module, config: TrainConfig, work: Workload, half: bool) -> float:
    """Bytes kept for the backward pass, decoder and image path, and a chunk of logits."""
    model_config: Any = model.config
    decoder = model_config.get_text_config()
    width = 2 if half else 4
    text: int = _stack(work.positions, decoder, config.gradient_checkpointing)
    vision = model_config.to_dict().get("vision_config") and model_config.vision_config
    frozen = config.freeze_vision_model or "vision" in config.freeze
    # One image position holds 2 x 2 features; a frozen tower keeps no graph.
    images = _stack(4 * work.image_tokens, vision, config.gradient_checkpointing) if vision and not frozen else 0
    logits: int = 4 * 2 * min(256, work.positions) * decoder.vocab_size
    return width * (text + images) + logits


def _stack(positions: int, settings: Any, checkpointed: bool) -> int:
    """Numbers kept by a stack of layers: hidden states between them, and what one (or each) keeps inside."""
    hidden, layers = int(settings.hidden_size), int(settings.num_hidden_layers)
    inside = 8 * hidden + 3 * int(settings.intermediate_size)
    return positions * (layers * hidden + (1 if checkpointed else layers) * inside)


def gigabytes(size: float) -> str:
    """`8.3 GB`, `2.1 MB`.

    >>> gigabytes(8.3e9), gigabytes(2_100_000)
    ('8.3 GB', '2.1 MB')
    """
    unit, name = (1e9, "GB") if size >= 1e8 else (1e6, "MB")
    return f"{math.ceil(size / unit * 10) / 10:.1f} {name}"
