"""What `generate` needs beyond transformers' own: where to stop, the RoPE switch, images that follow their row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from phiv_schemas.errors import UsageError
from phiv_train.families.phi3_vision.config import Phi3VConfig
from phiv_train.families.phi3_vision.pixels import crop_grids
from phiv_train.families.phi3_vision.vision import image_positions, num_rows

IMAGE_INPUTS = ("crops", "image_sizes", "pixel_values", "keep_padding_crops")


def set_stop_ids(model: Any, stop_ids: Sequence[int]) -> None:
    """Let `generate` stop on any of `stop_ids`, now and after saving."""
    generation = model.generation_config
    generation._from_model_config = False  # otherwise transformers may rebuild it from the config, with eos 2
    generation.eos_token_id = list(stop_ids)
    generation.bos_token_id, generation.pad_token_id = model.config.bos_token_id, model.config.pad_token_id


def suppress_image_token(model: Any) -> None:
    """Never generate the id that means "an image's row goes here": there would be no row for it."""
    if (image := model.config.image_token_id) is not None:
        generation = model.generation_config
        generation._from_model_config = False
        generation.suppress_tokens = sorted({*(generation.suppress_tokens or ()), image})


def passes_switch(total: int, past: int, attention_mask: Tensor | None, limit: int) -> bool:
    """True when this step's positions take a row over `limit`: its cached keys were made with short factors.

    The original drops the cache then and recomputes everything with long factors. Here each row counts its own
    positions, so a padded batch generates what its rows would alone.
    """
    if not past:
        return False
    lengths = torch.tensor([total]) if attention_mask is None else attention_mask.sum(-1)
    before = lengths - (total - past)
    return bool(((before <= limit) & (lengths > limit)).any())


def repeat_images(
    images: Mapping[str, Tensor], input_ids: Tensor, config: Phi3VConfig, times: int
) -> dict[str, Tensor]:
    """`images` for a batch in which every row is repeated `times` times in place (beams, several answers)."""
    grids = crop_grids(images["image_sizes"], config.vision_config.image_size)
    order: list[int] = []
    image = 0
    for index, free in enumerate(image_positions(input_ids, config).sum(-1).tolist()):
        first = image
        while free > 0 and image < len(grids):
            free -= num_rows(*grids[image], config.grid)
            image += 1
        if free:
            raise UsageError(f"input_ids[{index}]", "its image positions do not fit the images given")
        order += [*range(first, image)] * times
    if image != len(grids):
        raise UsageError("image_sizes", f"{len(grids)} images, but the rows hold {image}")
    out = dict(images)
    for name in ("image_sizes", "pixel_values"):
        if name in images:
            out[name] = images[name][order]
    if "crops" in images:
        parts = torch.split(images["crops"], [rows * columns for rows, columns in grids])
        out["crops"] = torch.cat([parts[n] for n in order] or [images["crops"]])
    return out
