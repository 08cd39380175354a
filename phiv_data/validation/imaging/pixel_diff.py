"""The pixel difference of two images, and whether another build of a decoder explains it.

Measured on 64 frames of real clips, encoded as JPEG of quality 75: noise of 2 levels moves no block of 8x8 pixels by
more than 8.1 levels in the mean, decord in place of PyAV by 3.1; the next frame of a clip moves one by 72 (median), a
black square of 16 pixels by 23 or more. At quality 5 to 30 the noise moves blocks by up to 30 levels, such a square by
48 or more.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from phiv_data.media.images import open_image
from phiv_data.media.reject import RejectInput

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MAX_MEAN, MAX_BLOCK = 3.0, 12.0
COARSE_BLOCK, COARSE_QUALITY = 36.0, 50  # below this JPEG quality
MAX_BYTES = 2**28  # larger files are not opened


class Difference(NamedTuple):
    """Of two images of one size, in levels of 255: the mean of all pixels, and that of the worst 8x8 block."""

    mean: float
    block: float

    def __str__(self) -> str:
        return f"pixels, by {self.mean:.0f} levels of 255 in the mean and {self.block:.0f} in the worst block"

    def is_noise(self, quality: int = 95) -> bool:
        """True when another build of the decoder or encoder explains it, for JPEG files of this quality."""
        return self.mean <= MAX_MEAN and self.block <= (MAX_BLOCK if quality >= COARSE_QUALITY else COARSE_BLOCK)


def difference_of(one: bytes | Path, other: bytes | Path) -> Difference | None:
    """None where sizes differ, or one does not decode."""
    import numpy as np

    try:
        a, b = _pixels(one), _pixels(other)
    except RejectInput:
        return None
    if a.shape != b.shape:
        return None
    levels = np.abs(a.astype(np.int16) - b).mean(axis=2)
    edges = [np.arange(0, side, 8) for side in levels.shape]
    sums = np.add.reduceat(np.add.reduceat(levels, edges[0], axis=0), edges[1], axis=1)
    rows, columns = (np.diff([*edge, side]) for edge, side in zip(edges, levels.shape, strict=True))
    return Difference(float(levels.mean()), float((sums / np.outer(rows, columns)).max()))


def _pixels(image: bytes | Path) -> NDArray[np.uint8]:
    """RGB [height, width, 3]."""
    import numpy as np

    return np.asarray(open_image(image).convert("RGB"))
