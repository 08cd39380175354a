"""Frames of a clip: exactly n of them, evenly spaced over the frames that really decode.

>>> info, frames = sample_frames(Path("v_Archery_g02_c04.avi"), 8)
>>> info.decoded, [frame.index for frame in frames]
(109, [0, 13, 27, 40, 54, 68, 81, 95])

Frame k of n is number `(k*T)//n` in decode order, T being the number of frames that decode. The header's count is only
a guess: real clips declare frames they do not hold, and packed B-frames give them timestamps that run backwards. A
clip is decoded once from its start, by one thread, and only the wanted frames become RGB; where the guess of T was
wrong, it is decoded a second time. Memory holds the n frames, never the video.

Strict by default: a clip that is cut or that the decoder complains about is rejected with the reason. With
`on_corrupt="salvage"` the frames that decode without complaint are the clip, and `VideoInfo.damage` is what was
wrong.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Literal, TypeAlias

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Decoder: TypeAlias = Literal["pyav", "decord"]
OnCorrupt: TypeAlias = Literal["reject", "salvage"]
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


def sample_frames(
    source: Source, num_frames: int, *, decoder: Decoder = "pyav", on_corrupt: OnCorrupt = "reject"
) -> tuple[VideoInfo, list[VideoFrame]]:
    """Exactly `num_frames` frames of a clip (a path, its bytes or an open, seekable file).

    A clip with fewer frames repeats some, in order. Raises RejectInput where the clip cannot be used,
    EnvironmentProblem where the decoder is not installed or the file may not be read.
    """
    if num_frames < 1:
        raise ValueError(f"num_frames must be at least 1 (found {num_frames})")
    from phiv_data.media.video import decord_process, pyav

    if decoder == "decord":
        decord_process.require_decord()
    info, frames = pyav.sample_frames(source, num_frames, on_corrupt)
    return info, decord_process.redecode(source, info, frames) if decoder == "decord" else frames


def frames_at(source: Source, indices: Collection[int]) -> Iterator[VideoFrame]:
    """The frames of these decode-order numbers, ascending, as PyAV decodes them; those that are not there are left out.

    A frame is given as it is decoded: memory holds one. Errors of the decoder are ignored, as with `salvage`.
    Raises RejectInput and EnvironmentProblem as `sample_frames`.
    """
    from phiv_data.media.video import pyav

    yield from pyav.frames_at(source, indices)


def frame_indices(total: int, num_frames: int) -> list[int]:
    """The decode-order indices of `num_frames` frames out of `total`, in integers throughout.

    >>> frame_indices(109, 8), frame_indices(3, 8)
    ([0, 13, 27, 40, 54, 68, 81, 95], [0, 0, 0, 1, 1, 1, 2, 2])
    """
    return [(k * total) // num_frames for k in range(num_frames)]


def decoder_version(decoder: Decoder = "pyav") -> str:
    """The decoder as provenance names it: `pyav-18.1.0`."""
    versions = library_versions(decoder)
    return f"pyav-{versions['av']}" if decoder == "pyav" else f"decord-{versions['decord']}"


def library_versions(decoder: Decoder = "pyav") -> dict[str, str]:
    """Versions of the libraries that decide the pixels: PyAV and its FFmpeg, and decord where it is used.

    Pixels of the same clip differ by up to 2 levels between FFmpeg builds, so the manifest holds these.
    """
    import av

    ffmpeg = {name: ".".join(map(str, number)) for name, number in av.library_versions.items()}
    wanted = ("libavcodec", "libavformat", "libavutil", "libswscale")
    versions = {"av": str(av.__version__)} | {name: ffmpeg[name] for name in wanted if name in ffmpeg}
    if decoder == "decord":
        from phiv_data.media.video.decord_process import installed_version

        versions["decord"] = installed_version()
    return versions
