"""The image path: CLIP features of every crop -> one row of embeddings per image position.

Per image of R x C crops (and one global view):

    hidden_states[-2] without CLS      [1+RC, 576, clip]      the last CLIP layer is never needed
    2x2 neighbours merged              [1+RC, 12, 12, 4*clip]
    crops woven into one image       [12R, 12C, 4*clip], `sub_GN` appended to every row as a line break
    order                              [crops' rows, glb_GN, global view's rows]   (the original's "sub_glb")
    projector on all of it             [12R*(12C+1) + 1 + 12*13, hidden]
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from transformers import CLIPVisionConfig, CLIPVisionModel

from phiv_schemas.errors import UsageError
from phiv_train.families.phi3_vision.config import Phi3VConfig

Grid = tuple[int, int]
"""(rows, columns) of an image's crops."""


class ClipTower(CLIPVisionModel):  # type: ignore[misc]  # transformers is untyped here
    """transformers' CLIP, run up to the layer whose output is used.

    The layers after it and `post_layernorm` are in the checkpoint, so they are kept and saved, but they get no
    gradient in the original either; they are frozen so that DDP does not wait for them.
    """

    def __init__(self, config: CLIPVisionConfig, num_layers: int) -> None:
        super().__init__(config)
        self.num_layers = num_layers
        self.freeze_idle()

    def freeze_idle(self) -> None:
        """Freeze what `forward` never runs."""
        for module in (*self.encoder.layers[self.num_layers :], self.post_layernorm):
            module.requires_grad_(False)

    def forward(self, pixels: Tensor) -> Tensor:
        """[T, 1 + patches, clip] hidden states for [T, 3, 336, 336]. A frozen tower builds no graph."""
        trains = torch.is_grad_enabled() and any(p.requires_grad for p in self.parameters())
        with torch.set_grad_enabled(trains):
            hidden: Tensor = self.pre_layrnorm(self.embeddings(pixels))
            for layer in self.encoder.layers[: self.num_layers]:
                hidden = layer(hidden, None)
        return hidden


class Phi3VImageEmbedding(nn.Module):
    """CLIP tower, separators and projector under the official names."""

    def __init__(self, config: Phi3VConfig) -> None:
        super().__init__()
        width = 4 * config.vision_config.hidden_size
        self.img_processor = nn.ModuleDict({"vision_model": ClipTower(config.vision_config, config.num_vision_layers)})
        self.glb_GN = nn.Parameter(torch.zeros(1, 1, width))
        self.sub_GN = nn.Parameter(torch.zeros(1, 1, 1, width))
        hidden = config.hidden_size
        self.img_projection = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, hidden))

    @property
    def clip(self) -> ClipTower:
        """The vision tower."""
        tower = self.img_processor["vision_model"]
        assert isinstance(tower, ClipTower)
        return tower

    def forward(self, pixels: Tensor, grids: Sequence[Grid]) -> Tensor:
        """[rows, hidden] for all images, one after another.

        `pixels` float [T, 3, 336, 336]: per image the global view, then its crops row by row. Or, as in the
        original, [N, K, 3, 336, 336] padded to K crops per image: then the padding is run as well, for nothing.
        """
        counts = [1 + rows * columns for rows, columns in grids]
        padded_to = pixels.shape[1] if pixels.ndim == 5 else None
        hidden = self.clip(pixels if padded_to is None else pixels.flatten(0, 1))[:, 1:]
        if padded_to is not None:
            hidden = torch.cat([h[:n] for h, n in zip(torch.split(hidden, padded_to), counts, strict=True)])
        # [T, 24*24, C] -> [T, 12, 12, 4C], channels ordered (row in pair, column in pair, C).
        half, width = int(hidden.shape[1] ** 0.5) // 2, hidden.shape[2]
        pairs = hidden.reshape(len(hidden), half, 2, half, 2, width).permute(0, 1, 3, 2, 4, 5)
        merged = pairs.reshape(len(hidden), half, half, 4 * width)
        if sum(counts) != len(merged):
            raise UsageError("pixel_values", f"{len(merged)} crops, but image_sizes ask for {sum(counts)}")
        # Every image as the sequence the language model reads.
        parts: list[Tensor] = []
        for image, (rows, columns) in zip(torch.split(merged, counts), grids, strict=True):
            crops = self._add_line_breaks(weave(image[1:], rows, columns))
            parts += [crops, self.glb_GN[0], self._add_line_breaks(image[0])]
        features: Tensor = self.img_projection(torch.cat(parts))
        return features

    def _add_line_breaks(self, image: Tensor) -> Tensor:
        breaks = self.sub_GN[0].expand(len(image), 1, -1)
        return torch.cat([image, breaks.to(image.dtype)], dim=1).flatten(0, 1)


def weave(crops: Tensor, rows: int, columns: int) -> Tensor:
    """[rows*columns, h, w, C] row-major crops as one image [rows*h, columns*w, C]."""
    _, height, width, channels = crops.shape
    grid = crops.view(rows, columns, height, width, channels).transpose(1, 2)
    return grid.reshape(rows * height, columns * width, channels)


def num_rows(rows: int, columns: int, grid: int = 12) -> int:
    """Positions an image of rows x columns crops takes, each crop (and the global view) grid x grid features."""
    return (rows * columns + 1) * grid**2 + 1 + (rows + 1) * grid


def image_positions(input_ids: Tensor, config: Phi3VConfig) -> Tensor:
    """bool [B, L]: where an image's row goes; `image_token_id`, or any negative id as in the original."""
    negative = input_ids < 0
    return negative if config.image_token_id is None else negative | (input_ids == config.image_token_id)
