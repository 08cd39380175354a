"""Images to 336-pixel crops, exactly as the original Phi-3.5-vision processor makes them.

    crops, (height, width) = hd_crops(image, num_crops=16)   # uint8 [C, 336, 336, 3], row-major; size after padding
    pixels = pixel_values(crops, (height, width))            # float32 [1 + C, 3, 336, 336], the global view first

`hd_crops` is a data worker's whole share: a page of 16 crops travels as 5.4 MB of bytes, not as 23 MB of floats, and
the model normalises on its own device (`pixels.py`). The HD rule: enlarge or shrink so that the longer side fills
as many crops as `num_crops` allows, pad white to whole crops, cut. `num_image_tokens` is the same rule on sizes alone.

The padded image equals the original's byte for byte (Pillow's bilinear filter decides), crops as floats bit for
bit, the global view within 1e-5. Facts and formulas: docs/phi3_vision.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from phiv_schemas.errors import RecordError

if TYPE_CHECKING:
    from PIL.Image import Image

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float32]

CROP_SIZE = 336
IMAGE_MEAN = (0.48145466, 0.4578275, 0.40821073)
IMAGE_STD = (0.26862954, 0.26130258, 0.27577711)
_WHITE = 255


@dataclass(frozen=True, slots=True)
class HDSize:
    """Where an image lands: resized to `resized_*`, at (`left`, `top`) of a white `height` x `width` canvas."""

    height: int
    width: int
    resized_height: int
    resized_width: int
    top: int
    left: int


def hd_crops(
    image: Image | Pixels,
    num_crops: int,
    *,
    crop_size: int = CROP_SIZE,
    clip_high_depth: bool = False,
    where: str = "image",
) -> tuple[Pixels, tuple[int, int]]:
    """(uint8 [C, S, S, 3] real crops row-major, (height, width) after padding, multiples of S).

    `image`: a PIL image or uint8 [H, W, 3]. RecordError, naming `where`, for an image that cannot be read, has
    no 8-bit meaning, or is so thin that nothing of it would be left.
    """
    pil_image = _convert_to_8_bits(image, clip_high_depth, where)
    if not (pil_image.width and pil_image.height):
        raise RecordError(where, f"an image of {pil_image.width}x{pil_image.height} has no pixels", "Leave the row out")
    size = hd_size(*pil_image.size, num_crops, crop_size)
    if not (size.resized_height and size.resized_width):
        raise RecordError(
            where,
            f"an image of {pil_image.width}x{pil_image.height} is too thin for num_crops {num_crops} "
            f"(it would be {size.resized_width}x{size.resized_height})",
            "Crop it, or leave the row out",
        )
    pixels = np.asarray(_resize(pil_image, size).convert("RGB"))
    return _cut(pixels, size, crop_size), (size.height, size.width)


def hd_size(width: int, height: int, num_crops: int, crop_size: int = CROP_SIZE) -> HDSize:
    """The HD rule for one image. A `resized_*` of 0 means the image is too thin to be shown."""
    landscape = width >= height
    long, short = (int(side) for side in _resized_sides(width, height, num_crops, crop_size))
    padded = -(-short // crop_size) * crop_size
    pad = (padded - short) // 2
    if landscape:
        return HDSize(padded, long, short, long, pad, 0)
    return HDSize(long, padded, long, short, 0, pad)


def num_image_tokens(
    width: ArrayLike, height: ArrayLike, num_crops: int, crop_size: int = CROP_SIZE, grid: int = 12
) -> NDArray[np.int64]:
    """Positions an image takes in the text, from its size alone; 0 where it is too thin to be shown.

    With H x W crops of `grid` x `grid` features: a newline ends each of the `grid * H` rows, one separator stands
    before the global view, which is one crop with its own newlines: (H*W + 1)*grid^2 + 1 + (H + 1)*grid.
    """
    long, short = _resized_sides(width, height, num_crops, crop_size)
    long_crops, short_crops = long // crop_size, -(-short // crop_size)
    rows = np.where(np.asarray(width) >= np.asarray(height), short_crops, long_crops)
    tokens = (long_crops * short_crops + 1) * grid**2 + 1 + (rows + 1) * grid
    return np.where(short > 0, tokens, 0)


def _resized_sides(
    width: ArrayLike, height: ArrayLike, num_crops: int, crop_size: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(longer, shorter) side after resizing.

    The original's arithmetic in floats, on purpose: the division floors differently from exact integers at some
    sizes. The scale is the largest s with s * ceil(s / ratio) <= num_crops.
    """
    ratio = np.maximum(width, height) / np.minimum(width, height).astype(np.float64)
    scale = np.zeros_like(ratio)
    for s in range(1, num_crops + 1):
        fits = s * np.ceil(s / ratio) <= num_crops
        if not fits.any():  # the product grows with s
            break
        scale[fits] = s
    long = scale.astype(np.int64) * crop_size
    return long, (long / ratio).astype(np.int64)


def _convert_to_8_bits(image: Image | Pixels, clip_high_depth: bool, where: str) -> Image:
    """The image in mode RGB, or L where all channels are equal (a third of the work to resize).

    Alpha is dropped, not composited, as in the original. 16-bit greys are scaled to 8 bits; the original clips them
    at 255, mostly to white (`clip_high_depth` does so too).
    """
    from PIL.Image import fromarray, new

    if not isinstance(image, np.ndarray):
        pil_image = image
    elif image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        # Pillow would take some other types for other modes, and [H, W, 1] or [3, H, W] not at all or as nonsense.
        found = f"an array {image.dtype} {list(image.shape)} is no image"
        raise RecordError(where, found, "Pass uint8 [H, W, 3]")
    else:
        pil_image = fromarray(image) if image.size else new("RGB", image.shape[1::-1])
    if pil_image.mode in ("I", "F") and not clip_high_depth:
        raise RecordError(where, f"mode {pil_image.mode!r} has no defined white", "Convert it to 8 bits")
    try:
        if pil_image.mode in ("RGB", "L"):
            pil_image.load()
            return pil_image
        if pil_image.mode.startswith("I;16") and not clip_high_depth:
            return fromarray(((np.asarray(pil_image).astype(np.uint32) + 128) // 257).astype(np.uint8))
        return pil_image.convert("L" if pil_image.mode in ("1", "LA") else "RGB")
    except (OSError, SyntaxError, ValueError) as error:
        raise RecordError(where, f"not a readable image ({error})", "Repair it, or leave the row out") from error


def _resize(pil_image: Image, size: HDSize) -> Image:
    """Bilinear with Pillow's antialiasing, longer side first.

    The original transposes tall images, resizes, and transposes back. Pillow filters horizontally, then vertically,
    rounding in between; so for a tall image that is vertical first. Two one-axis resizes do the same to the byte,
    without two transposes (38 of 68 ms on a 1700x2200 page).
    """
    from PIL.Image import Resampling

    if size.resized_height > size.resized_width:
        pil_image = pil_image.resize((pil_image.width, size.resized_height), Resampling.BILINEAR)
    return pil_image.resize((size.resized_width, size.resized_height), Resampling.BILINEAR)


def _cut(pixels: Pixels, size: HDSize, crop_size: int) -> Pixels:
    """`pixels` [h, w, 3] on its white canvas, as crops; each byte is copied once."""
    rows, cols = size.height // crop_size, size.width // crop_size
    crops = np.full((rows, cols, crop_size, crop_size, 3), _WHITE, np.uint8)
    for row in range(rows):
        into_y, from_y = _overlap(row * crop_size, crop_size, size.top, size.resized_height)
        for col in range(cols):
            into_x, from_x = _overlap(col * crop_size, crop_size, size.left, size.resized_width)
            crops[row, col, into_y, into_x] = pixels[from_y, from_x]
    return crops.reshape(-1, crop_size, crop_size, 3)


def _overlap(start: int, length: int, offset: int, total: int) -> tuple[slice, slice]:
    """Of a window [start, start + length) and an image at `offset`: (slice of the window, slice of the image)."""
    low, high = max(start, offset), min(start + length, offset + total)
    return slice(low - start, high - start), slice(low - offset, high - offset)


def weave(crops: Pixels, image_size: tuple[int, int]) -> Pixels:
    """The padded image uint8 [height, width, 3] that `crops` were cut from."""
    return _as_rows(crops, image_size).reshape(*image_size, 3)


def pixel_values(crops: Pixels, image_size: tuple[int, int], num_crops: int | None = None) -> Floats:
    """float32 [1 + C, 3, S, S], normalised: the global view, then the crops.

    With `num_crops` the original's padded form [1 + num_crops, 3, S, S], zeros after the real crops.
    """
    crop_size = crops.shape[1]
    count = 1 + (len(crops) if num_crops is None else num_crops)
    out = np.empty((count, 3, crop_size, crop_size), np.float32)
    out[1 + len(crops) :] = 0
    _write_global_view(crops, image_size, out[0])
    _normalise(out[0], np.float32(255 * 32 * 32))
    for crop, into in zip(crops, out[1:], strict=False):
        for channel in range(3):
            into[channel] = crop[:, :, channel]
        _normalise(into, np.float32(255))
    return out


def _normalise(pixels: Floats, full_scale: np.float32) -> None:
    """[3, S, S] in place: (pixels / full_scale - mean) / std in float32, the original's operations in order.

    Channel by channel, so that the three passes stay in cache: 7.5 ms for 16 crops, as fast as a 256-entry table.
    """
    for plane, mean, std in zip(pixels, IMAGE_MEAN, IMAGE_STD, strict=True):
        plane /= full_scale
        plane -= np.float32(mean)
        plane /= np.float32(std)


def _write_global_view(crops: Pixels, image_size: tuple[int, int], out: Floats) -> None:
    """Write 32 * 32 times the bicubic S x S view of the padded image, exact integers, into `out` [3, S, S].

    torch's bicubic (a = -0.75, align_corners False, no antialias): shrinking by a whole factor, every output falls
    either onto an input (odd factor) or half-way between two (even): weights (-3, 19, 19, -3)/32, edges repeated.
    The weights sum to 1, so normalising after it, not before as the original does, is the same but for rounding.
    """
    height, width = image_size
    edged = np.empty((height + 2, width + 2, 3), np.int16)  # the padded image, its edges repeated once
    rows = _as_rows(crops, image_size)
    edged[1:-1, 1:-1].reshape(rows.shape)[...] = rows
    edged[0], edged[-1] = edged[1], edged[-2]
    edged[:, 0], edged[:, -1] = edged[:, 1], edged[:, -2]
    lines = _halfway(edged, height // crops.shape[1])
    for channel in range(3):
        columns = lines[:, :, channel].T
        out[channel] = _halfway(columns, width // crops.shape[1], np.int32).T


def _halfway(lines: NDArray[np.int16], factor: int, dtype: type[Any] = np.int16) -> NDArray[Any]:
    """32 times the bicubic interpolation along axis 0, of `lines` with one more line on either edge."""
    if factor % 2:
        return np.multiply(lines[(factor + 1) // 2 : -1 : factor], 32, dtype=dtype)
    first, count = factor // 2 - 1, (len(lines) - 2) // factor
    a, b, c, d = (lines[first + k :: factor][:count] for k in range(4))
    # int16 holds both passes' sums of two: 255 * 2 first, then within -3060..19380; only the last product needs more.
    inner, outer = np.multiply(b + c, 19, dtype=dtype), np.multiply(a + d, 3, dtype=dtype)
    return np.asarray(inner - outer)


def _as_rows(crops: Pixels, image_size: tuple[int, int]) -> Pixels:
    """A view [H crops, S rows, W crops, S columns, 3] on crops [H*W, S, S, 3]."""
    size = crops.shape[1]
    rows, cols = image_size[0] // size, image_size[1] // size
    return crops.reshape(rows, cols, size, size, 3).transpose(0, 2, 1, 3, 4)
