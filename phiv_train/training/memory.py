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
from phiv_train.training.trainable import Parts, lora_targets, part_of_parameter

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
    for name, settings in _STRATEGIES.items():
        variant = config.model_copy(update=_NONE | settings)
        # ZeRO-2 is the recipe's way for full training; adapters are small and go with DDP.
        way = "whole" if variant.lora and sharding == "zero2" else sharding
        out.append(_estimate(name, model, parts, variant, work, half, way, world_size))
    return out


def _estimate(
    name: str, model: nn.Module, parts: Parts, config: TrainConfig, work: Workload, half: bool, way: str, n: int
) -> Estimate:
    total = sum(p.numel() for p in model.parameters())
    trained = lora_numel(model, parts, config) if config.lora else _trained(model, parts, config)
    frozen = total if config.lora else total - trained
    weights, gradients, optimizer = _states(trained, half, way, n)
    weights += _frozen_bytes(model, parts, config, frozen, half) / (n if way == "fsdp2" else 1)
    return Estimate(name, weights, gradients, optimizer, activations(model, config, work, half))


def _states(trained: int, half: bool, way: str, n: int) -> tuple[float, float, float]:
    """Bytes of (weights, gradients, optimizer) of the trained parameters."""
    if way == "zero2":  # 16-bit weights and gradients; float32 master weights and averages split
        width = 2 if half else 4
        return width * trained, width * trained, (12 if half else 8) * trained / n
    share = trained / n if way == "fsdp2" else trained
    return 4 * share, 4 * share, 8 * share


def _frozen_bytes(model: nn.Module, parts: Parts, config: TrainConfig, frozen: int, half: bool) -> float:
    width = 2 if config.lora and half else 4
    if not config.use_qlora:
        return width * frozen
    modules = dict(model.named_modules())
    # The language part's linear layers go to 4 bit; image path, embeddings and head stay.
    names = parts["language"].linear if "language" in parts else ()
    packed: int = sum(p.numel() for name in names for p in modules[name].parameters())
    return _BYTES_4BIT * packed + width * (frozen - packed)


def lora_numel(model: nn.Module, parts: Parts, config: TrainConfig) -> int:
    """Parameters of the adapters: rank * (in + out) per wrapped module."""
    modules = dict(model.named_modules())
    wrapped = [modules[name] for name in lora_targets(parts, config)]
    return sum(config.lora_rank * sum(next(module.parameters()).shape) for module in wrapped)


def _trained(model: nn.Module, parts: Parts, config: TrainConfig) -> int:
    from phiv_train.training.trainable import frozen_parts, matching

    owner = part_of_parameter(model, parts)
    unused = {name for part in parts.values() for name in matching(owner, part.unused)}
    frozen = frozen_parts(parts, config)
    return sum(p.numel() for name, p in model.named_parameters() if owner[name] not in frozen and name not in unused)


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
