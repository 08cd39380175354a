"""LongRoPE with the short/long choice made per position, so that no neighbour in a batch or pack can switch it.

    inv_freq_i = 1 / (factor_i * theta^(2i/d)),  factor = long_factor if the sample is long else short_factor
    cos and sin are scaled by sqrt(1 + ln(max / original_max) / ln(original_max)) in both regimes

A sample is long when it has more than `original_max_position_embeddings` (4096) positions of its own, padding
not counted. How this relates to the original, which chooses once per call for everything in it:

- one unpadded sample per call: the same as the original's eager and sdpa (key length > 4096);
- its flash-attention class counts one more and takes the long factors at exactly 4096 already; pass
  `rope_long=True` to reproduce that one length;
- a padded batch: the original switches every row when the padded length passes 4096; here each row by itself.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from phiv_train.families.phi3_vision.config import Phi3VConfig
from phiv_train.families.phi3_vision.packing import segment_lengths


class LongRope:
    """The rotary tables of one config. Not a module: its float32 must survive `model.to(bfloat16)` and meta."""

    def __init__(self, config: Phi3VConfig) -> None:
        rope = config.rope_parameters
        head_dim = config.hidden_size // config.num_attention_heads
        powers = torch.arange(0, head_dim, 2, dtype=torch.int64, device="cpu").float() / head_dim
        base = rope["rope_theta"] ** powers
        is_long = rope["rope_type"] == "longrope"
        self.inv_freq_short = 1.0 / (_factors(rope["short_factor"], base) * base if is_long else base)
        self.inv_freq_long = 1.0 / (_factors(rope["long_factor"], base) * base if is_long else base)
        self.scaling = 1.0
        original = config.original_max_position_embeddings
        if is_long and (scale := config.max_position_embeddings / original) > 1:
            self.scaling = math.sqrt(1 + math.log(scale) / math.log(original))

    def __call__(self, position_ids: Tensor, is_long: Tensor | bool, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """cos and sin [B, L, head_dim] for positions [B or 1, L]; `is_long` for all, per row [B] or position [B, L]."""
        device = position_ids.device
        long = torch.as_tensor(is_long, device=device).bool()
        long_BL = long.reshape(-1, 1) if long.ndim < 2 else long
        inv_freq_BLD = torch.where(long_BL[..., None], self.inv_freq_long.to(device), self.inv_freq_short.to(device))
        angles_BLD = position_ids[..., None].float() * inv_freq_BLD
        angles_BLD = torch.cat((angles_BLD, angles_BLD), dim=-1)
        return (angles_BLD.cos() * self.scaling).to(dtype), (angles_BLD.sin() * self.scaling).to(dtype)


def is_long(attention_mask: Tensor | None, starts: Tensor | None, total: int, config: Phi3VConfig) -> Tensor:
    """bool, broadcastable to [B, L]: does the position's own sample exceed the switch?

    `starts` bool [B, L] marks packed samples; otherwise each row is one sample of `total` positions (cached ones
    included), or as many as its [B, total] mask has ones.
    """
    if starts is not None:
        lengths = segment_lengths(starts)
    elif attention_mask is not None and attention_mask.ndim == 2:
        lengths = attention_mask.sum(-1, keepdim=True)
    else:
        lengths = torch.tensor([[total]])
    limit: int = config.original_max_position_embeddings
    return lengths > limit


def _factors(values: list[float], like: Tensor) -> Tensor:
    return torch.tensor(values, dtype=torch.float32, device=like.device)
