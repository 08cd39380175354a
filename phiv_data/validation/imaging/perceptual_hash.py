"""A perceptual hash of 136 bytes (dHash and a thumbnail): to find an image again after it was scaled or recompressed.

    detail, phash = perceptual_hash(decode_whole(data, where="a.jpg"))
    phash[:8]     64 bits: is the image brighter than to the left? (a difference hash, dHash)
    phash[8:]     16x16 pixels of grey, 4 bits each, around the mean in units of the contrast

Of images that were stored again (JPEG quality 30 to 90, WebP, half or 1.5 times the size, 10 % brighter or darker),
98.6 % of frames of UCF-101 (by the way of storing, 96 to 100) and 97.1 % of photographs, pages and memes (93 to 99)
have at most `MAX_BITS` other bits, and grey pixels that correlate by `MIN_CORRELATION`. Other images with so few other
bits do occur (drawings of one style, pages of one layout): the pixels distinguish them. Of 122,000 pairs of different
origin three are wrongly similar: two of clips of one scene, and a photograph with two captions.
(`benchmarks/near_duplicates.py`)
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image

    from phiv_data.media.images import Whole

MAX_BITS = 3
MIN_CORRELATION = 0.985
MIN_DETAIL = 8
"""An image with less detail is blank, black or of one color, and many have exactly these pixels."""
MIN_DETAIL_SIMILAR = 72
"""Below this detail the images of a kind look the same: a few lines on a page."""

DHASH_BYTES = 8
PHASH_BYTES = DHASH_BYTES + 128
_STEP = 2  # levels of 255: smaller differences depend on the compression
_SIDE = 32
_MAX_SIDE = 512


def perceptual_hash(whole: Whole) -> tuple[int, bytes]:
    """The detail of an image, 0 to 127, and its hash. (0, b"") for pixels that have no grey.

    Detail: how many of the 127 differences between neighboring cells are visible. Scaling is by matrices, and in few
    calls: NumPy takes a microsecond for each, whatever its size.
    """
    import numpy as np

    try:  # levels of grey [rows, columns], and how many of these the image covers: the last may be partial
        image, height, width = reduce_pixels(whole)
        grey = np.frombuffer(image.tobytes(), np.uint8).reshape(image.height, image.width).astype(np.float32)
        if whole.orientation != 1:
            grey = _ROTATE[whole.orientation](_resize(grey, height, width, _SIDE, _SIDE))
            height = width = _SIDE
    except ValueError:  # LAB and the like
        return 0, b""
    cells = _resize(grey, height, width, 8, 9)
    across = cells[:, 1:] - cells[:, :-1]
    down = cells[1:] - cells[:-1]
    detail = np.count_nonzero(np.abs(across) >= _STEP) + np.count_nonzero(np.abs(down) >= _STEP)
    # 256 levels as 4 bits each: the mean is 8, and 2.5 standard deviations are the ends.
    small = _resize(grey, height, width, 16, 16).ravel()
    small -= small.sum() / 256
    deviation = max(2.0, math.sqrt(small @ small / 256))
    small *= 8 / 2.5 / deviation
    levels = np.minimum(np.maximum(small + 8.5, 0), 15.5).astype(np.uint8)
    packed: NDArray[np.uint8] = levels[::2] << 4 | levels[1::2]
    return int(detail), np.packbits(across >= _STEP).tobytes() + packed.tobytes()


def are_similar(these: NDArray[np.uint8], those: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """[len(these), len(those)] of the pixels of hashes, 128 bytes each: do they correlate by `MIN_CORRELATION`?

    Sums of products of 256 levels are integers below 2**24, which float32 represents: one answer on every machine.
    """
    import numpy as np

    (a, a_spread), (b, b_spread) = _levels(these), _levels(those)
    covariance = 256 * (a @ b.T).astype(np.float64) - np.outer(a.sum(axis=1), b.sum(axis=1))
    spread = np.sqrt(np.outer(a_spread, b_spread))
    similar: NDArray[np.bool_] = (covariance >= MIN_CORRELATION * spread) & (spread > 0)
    return similar


def _levels(packed: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """[n, 256] levels of grey, 0 to 15, and 256 * 256 times their variance."""
    import numpy as np

    levels = np.stack([packed >> 4, packed & 15], axis=2).reshape(len(packed), 256).astype(np.float32)
    sums, squares = levels.sum(axis=1, dtype=np.float64), np.square(levels).sum(axis=1, dtype=np.float64)
    return levels, 256 * squares - sums**2


def reduce_pixels(whole: Whole) -> tuple[Image, float, float]:
    """The pixels as stored, in grey, the shorter side 32 to 63, and the height and width that the image covers."""
    from PIL.Image import Resampling

    image = whole.pixels
    width, height = (side / whole.scale for side in (whole.size if whole.orientation < 5 else whole.size[::-1]))
    if (step := image.height // _MAX_SIDE) > 1:  # of a page every fourth row or so is enough, in half the time
        image = image.resize((image.width, image.height // step), Resampling.NEAREST)
        height = image.height
    if image.mode not in ("L", "RGB", "RGBA", "CMYK", "YCbCr"):
        image = _to_grey(image)
    least = max(1, min(image.size) // _SIDE)
    across, down = (max(least, side // _MAX_SIDE) for side in image.size)  # a strip has one side that is long
    if across > 1 or down > 1:
        image, height, width = image.reduce((across, down)), height / down, width / across
    return image if image.mode == "L" else image.convert("L"), height, width


def _to_grey(image: Image) -> Image:
    """Grey of palettes, of Lab, and of modes with more than 8 bits, scaled to their own darkest and brightest."""
    from PIL.Image import new

    if image.mode == "LAB":
        return image.getchannel(0)
    if not image.mode.startswith(("I", "F")):
        opaque = image.convert("RGBA") if image.mode == "P" else image  # or Pillow warns of a transparent palette
        return opaque.convert("L")
    deep = image.convert("F")
    low, high = cast("tuple[float, float]", deep.getextrema())
    if low == high or not math.isfinite(high - low):
        return new("L", image.size)
    scale = 255 / (high - low)
    return deep.point(lambda level: level * scale - low * scale).convert("L")


# EXIF orientation to the function that makes an image upright.
_ROTATE: dict[int, Callable[[NDArray[np.float32]], NDArray[np.float32]]] = {
    1: lambda grey: grey,
    2: lambda grey: grey[:, ::-1],
    3: lambda grey: grey[::-1, ::-1],
    4: lambda grey: grey[::-1],
    5: lambda grey: grey.T,
    6: lambda grey: grey.T[:, ::-1],
    7: lambda grey: grey.T[::-1, ::-1],
    8: lambda grey: grey.T[::-1],
}


def _resize(grey: NDArray[np.float32], height: float, width: float, rows: int, columns: int) -> NDArray[np.float32]:
    """[rows, columns]: the part of `grey` that the image covers, resized."""
    import numpy as np

    scaled = _resize_weights(grey.shape[0], height, rows) @ grey @ _resize_weights(grey.shape[1], width, columns).T
    return scaled.astype(np.float32, copy=False)


@lru_cache(maxsize=2048)
def _resize_weights(pixels: int, extent: float, size: int) -> NDArray[np.float32]:
    """[size, pixels] weights that resize the first `extent` pixels: triangles as wide as two of the new ones.

    A box filter would be as wide as whole pixels, and its weights would change with where its edges fall.
    """
    import numpy as np

    centers = (np.arange(size) + 0.5) * extent / size
    distances = np.abs(np.arange(pixels) + 0.5 - centers[:, None]) / max(1.0, extent / size)
    weights = np.maximum(0, 1 - distances)
    normalized: NDArray[np.float32] = (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
    return normalized
