"""Random samples for the toy model, as plain tensors, and the two ways to put several into a batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from phiv_train.families.phi3_vision.checkpoint import attention_by_part
from phiv_train.families.phi3_vision.vision import num_rows
from phiv_train.families.tiny import build_tiny

SIDE, GRID = 56, 2
SWITCH = 48  # positions at which the toy model of these tests goes over to long RoPE factors
Grid = tuple[int, int]


def toy_model(attn: str = "sdpa", dtype: torch.dtype = torch.float64, seed: int = 0, **config: Any) -> Any:
    """The toy model with a RoPE switch a short text can pass, non-zero separators, in eval mode; `attn` as in load."""
    sizes = {"original_max_position_embeddings": SWITCH, "max_position_embeddings": 1024}
    model, _ = build_tiny(seed, **sizes, **config)
    model.set_attn_implementation(attention_by_part(attn))
    generator = torch.Generator().manual_seed(seed)
    for name in ("glb_GN", "sub_GN"):
        getattr(model.model.vision_embed_tokens, name).data.normal_(generator=generator)
    return model.to(dtype).eval()


@dataclass(frozen=True)
class Toy:
    """One sample: ids [L], labels [L], uint8 crops and padded sizes."""

    ids: Tensor
    labels: Tensor
    crops: Tensor
    sizes: Tensor

    def __len__(self) -> int:
        return len(self.ids)


def toy(model: Any, grids: Sequence[Grid], texts: Sequence[int], seed: int = 0) -> Toy:
    """texts[0] text ids, image 0 of grids[0] crops, texts[1] ids, ...; about half of the text is labelled."""
    generator = torch.Generator().manual_seed(seed)
    ids: list[int] = []
    for index, count in enumerate(texts):
        ids += torch.randint(3, 350, (count,), generator=generator).tolist()
        if index < len(grids):
            ids += [model.config.image_token_id] * num_rows(*grids[index], GRID)
    ids_L = torch.tensor(ids)
    learn = (torch.rand(len(ids), generator=generator) < 0.5) & (ids_L != model.config.image_token_id)
    labels = torch.where(learn, ids_L, -100)
    labels[0] = -100
    count = sum(rows * columns for rows, columns in grids)
    crops = torch.randint(0, 256, (count, SIDE, SIDE, 3), generator=generator, dtype=torch.uint8)
    sizes = torch.tensor([(r * SIDE, c * SIDE) for r, c in grids], dtype=torch.int64).reshape(-1, 2)
    return Toy(ids_L, labels, crops, sizes)


def packed(samples: Sequence[Toy]) -> dict[str, Tensor]:
    """All samples in one row."""
    return {
        "input_ids": torch.cat([s.ids for s in samples])[None],
        "labels": torch.cat([s.labels for s in samples])[None],
        "position_ids": torch.cat([torch.arange(len(s)) for s in samples])[None],
        **images(samples),
    }


def padded(samples: Sequence[Toy], left: bool = False) -> dict[str, Tensor]:
    """One row per sample, padded with id 0."""
    longest = max(map(len, samples))
    rows = {name: torch.full((len(samples), longest), fill) for name, fill in (("ids", 0), ("labels", -100))}
    mask = torch.zeros(len(samples), longest, dtype=torch.int64)
    for index, sample in enumerate(samples):
        span = slice(longest - len(sample), longest) if left else slice(0, len(sample))
        rows["ids"][index, span], rows["labels"][index, span] = sample.ids, sample.labels
        mask[index, span] = 1
    return {"input_ids": rows["ids"], "labels": rows["labels"], "attention_mask": mask, **images(samples)}


def images(samples: Sequence[Toy]) -> dict[str, Tensor]:
    return {
        "crops": torch.cat([s.crops for s in samples]),
        "image_sizes": torch.cat([s.sizes for s in samples]),
    }


def gradients(model: Any) -> dict[str, Tensor]:
    """Copies of all gradients, which are then cleared."""
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return found
