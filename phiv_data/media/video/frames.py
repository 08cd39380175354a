"""The frames of a clip as values: which ones are sampled, one frame with its pixels, facts about the clip."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Literal, TypeAlias

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Decoder: TypeAlias = Literal["pyav", "decord"]
OnCorrupt: TypeAlias = Literal["reject", "salvage"]
CheckVideo: TypeAlias = Literal["full", "used"]
Source: TypeAlias = Path | bytes | BinaryIO


@dataclass(frozen=True, slots=True, eq=False)
class VideoFrame:
    """One decoded frame. `image` is RGB, uint8 [height, width, 3], rotated upright as the container asks."""

    index: int
    """Its number in decode order, from 0, among the frames that decode."""
    timestamp: float | None
    """Presentation time in seconds, from the file: not always increasing, sometimes absent."""
    image: NDArray[np.uint8]

    @property
    def width(self) -> int:
        """Pixels."""
        return int(self.image.shape[1])

    @property
    def height(self) -> int:
        """Pixels."""
        return int(self.image.shape[0])


@dataclass(frozen=True, slots=True)
class VideoInfo:
    """What the header of a clip declares and what the clip holds."""

    declared: int | None
    """Frames according to the header; None where it has no count."""
    decoded: int
    """Frames that decode."""
    width: int
    """Pixels of the first sampled frame, upright."""
    height: int
    codec: str
    container: str
    fps: float | None
    """Average frame rate according to the header."""
    damage: str | None = None
    """What was wrong with a salvaged clip; None for a sound one."""
    decoded_groups_only: bool = False
    """True where only the groups with wanted frames were decoded, and packets prove the number of all frames."""


def frame_indices(total: int, num_frames: int) -> list[int]:
    """The decode-order indices of `num_frames` frames out of `total`, in integers throughout.

    >>> frame_indices(109, 8), frame_indices(3, 8)
    ([0, 13, 27, 40, 54, 68, 81, 95], [0, 0, 0, 1, 1, 1, 2, 2])
    """
    return [(k * total) // num_frames for k in range(num_frames)]
