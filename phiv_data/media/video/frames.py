"""The frames of a clip as values: which ones are sampled, one frame with its pixels, facts about the clip."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
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


@dataclass(frozen=True, slots=True)
class Sampling:
    """Which frames of a clip: so many, evenly spaced; or at a rate, and at most so many; of all of it or of a part.

    >>> Sampling(4).indices([0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5])
    [0, 2, 4, 6]
    >>> Sampling(4, fps=1.0, start=1.0).indices([0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5])
    [2, 4, 6]
    """

    num_frames: int
    """With `fps`: at most so many; a part that has more at that rate gives so many, evenly spaced."""
    fps: float | None = None
    """Frames of a second: frame k is the one shown `k/fps` seconds after the start."""
    start: float | None = None
    """Seconds after the first frame; the frame that is shown then is the first."""
    end: float | None = None
    """Seconds after the first frame; frames that begin later are left out."""

    @property
    def needs_times(self) -> bool:
        """Whether the number of frames is not enough to say which."""
        return (self.fps, self.start, self.end) != (None, None, None)

    def indices(self, times: Sequence[float]) -> list[int]:
        """The numbers of its frames, of a clip whose frames are shown at these times, ascending; may be none."""
        if not times:
            return []
        since = [time - times[0] + _TOLERANCE_S for time in times]
        start, end = self.start or 0.0, since[-1] if self.end is None else self.end
        low, high = bisect_right(since, start + 2 * _TOLERANCE_S) - 1, bisect_right(since, end + 2 * _TOLERANCE_S)
        if start > since[-1] or low >= high:
            return []
        if self.fps is not None:
            shown = (since[low] + k / self.fps + _TOLERANCE_S for k in range(self.num_frames + 1))
            found = [
                bisect_right(since, time, hi=high) - 1 for time in shown if time <= since[high - 1] + 2 * _TOLERANCE_S
            ]
            if len(found) <= self.num_frames:
                return found
        return [low + index for index in frame_indices(high - low, self.num_frames)]


_TOLERANCE_S = 1e-6  # times are rounded
