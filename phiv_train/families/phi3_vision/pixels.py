"""From the workers' uint8 crops to what the vision tower sees, on whatever device the crops are.

The collator ships only the real 336x336 crops, row by row, image by image. This weaves them back into the
padded image, normalises it, and makes the global view, in the original's order of operations: the global view
is a bicubic 336x336 of the *normalised* float image (no antialias, no clamp, aspect not kept).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from phiv_schemas.errors import UsageError

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)


def pixels_from_crops(crops: Tensor, image_sizes: Tensor) -> tuple[Tensor, list[int]]:
    """`(pixels, counts)`: float32 [sum of counts, 3, 336, 336], per image the global view then its crops.

    `crops` uint8 [C, 336, 336, 3] row-major per image, images in order; `image_sizes` int64 [N, 2] (height,
    width) after padding. `counts[n]` is 1 + the crops of image n. UsageError when sizes and crops disagree.
    """
    side = crops.shape[1]
    grids = crop_grids(image_sizes, side)
    counts = [rows * columns for rows, columns in grids]
    if sum(counts) != len(crops):
        raise UsageError("crops", f"{len(crops)} crops, but image_sizes ask for {sum(counts)}")
    views = [_normalise_image(part, *grid) for part, grid in zip(torch.split(crops, counts), grids, strict=True)]
    empty = torch.empty(0, 3, side, side, device=crops.device)
    return torch.cat(views) if views else empty, [1 + count for count in counts]


def check_images(crops: Tensor | None, image_sizes: Tensor | None, pixel_values: Tensor | None) -> None:
    """UsageError unless at most one form is given, in the dtype and shape it is read in: floats taken for bytes would
    be divided by 255 once more, and nobody would see it."""
    if crops is not None and pixel_values is not None:
        raise UsageError("crops", "given together with pixel_values", "Pass one of them")
    if crops is not None and (
        crops.dtype != torch.uint8 or crops.ndim != 4 or crops.shape[1] != crops.shape[2] or crops.shape[3] != 3
    ):
        raise UsageError("crops", f"is {_kind(crops)}, expected uint8 [C, S, S, 3]")
    if pixel_values is not None and not (pixel_values.is_floating_point() and pixel_values.ndim == 5):
        raise UsageError("pixel_values", f"is {_kind(pixel_values)}, expected floats [N, crops, 3, S, S]")
    if image_sizes is not None and len(image_sizes):
        whole = not (image_sizes.is_floating_point() or image_sizes.dtype == torch.bool)
        if not whole or image_sizes.ndim != 2 or image_sizes.shape[1] != 2:
            raise UsageError("image_sizes", f"is {_kind(image_sizes)}, expected integers [N, 2]")


def _kind(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"


def crop_grids(image_sizes: Tensor | Sequence[Sequence[int]], side: int = 336) -> list[tuple[int, int]]:
    """(rows, columns) of crops per image, from [N, 2] (height, width) after padding; crops are side x side."""
    sizes = image_sizes.long().tolist() if isinstance(image_sizes, Tensor) else image_sizes
    for index, (height, width) in enumerate(sizes):
        if height <= 0 or width <= 0 or height % side or width % side:
            found = f"{height}x{width} is not a multiple of {side}"
            raise UsageError(f"image_sizes[{index}]", found, "Pass (height, width) of the padded image")
    return [(height // side, width // side) for height, width in sizes]


def _normalise_image(crops: Tensor, rows: int, columns: int) -> Tensor:
    """One image's views [1 + rows*columns, 3, S, S]: CLIP's mean and std applied, the global view before the crops."""
    side = crops.shape[1]
    grid = crops.view(rows, columns, side, side, 3)
    image = grid.permute(0, 2, 1, 3, 4).reshape(rows * side, columns * side, 3)
    image = image.permute(2, 0, 1).contiguous().float() / 255
    image = (image - image.new_tensor(MEAN)[:, None, None]) / image.new_tensor(STD)[:, None, None]
    global_view = torch.nn.functional.interpolate(  # values may overshoot
        image[None], size=(side, side), mode="bicubic", align_corners=False, antialias=False
    )
    tiles = image.view(3, rows, side, columns, side).permute(1, 3, 0, 2, 4).reshape(-1, 3, side, side)
    return torch.cat([global_view, tiles])
