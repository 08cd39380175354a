"""Frames of a clip: exactly n of them, evenly spaced over the frames that really decode.

>>> info, frames = sample_frames(Path("v_Archery_g02_c04.avi"), 8)
>>> info.decoded, [frame.index for frame in frames]
(109, [0, 13, 27, 40, 54, 68, 81, 95])

Frame k of n is number `(k*T)//n` in decode order, T being the number of frames that decode. The header's count is only
a guess: real clips declare frames they do not hold, and packed B-frames give them timestamps that run backwards. A
clip is decoded once from its start, by one thread, and only the wanted frames become RGB; where the guess of T was
wrong, it is decoded a second time. Memory holds the n frames, never the video. With `check="used"` only the groups of
frames that hold wanted ones are decoded, where the packets of the file prove that the frames are the same.

Strict by default: a clip that is cut or that the decoder complains about is rejected with the reason. With
`on_corrupt="salvage"` the frames that decode without complaint are the clip, and `VideoInfo.damage` is what was
wrong.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

from phiv_data.media.video import decord_process, pyav
from phiv_data.media.video.frames import (
    CheckVideo,
    Decoder,
    OnCorrupt,
    Sampling,
    Source,
    VideoFrame,
    VideoInfo,
    frame_indices,
)

__all__ = [
    "GROUPS_ONLY",
    "CheckVideo",
    "Decoder",
    "OnCorrupt",
    "Sampling",
    "Source",
    "VideoFrame",
    "VideoInfo",
    "decoder_version",
    "frame_indices",
    "frames_at",
    "library_versions",
    "sample_frames",
]


GROUPS_ONLY = " (used groups)"
"""Behind a decoder in provenance: only the groups with wanted frames were decoded, not all."""


def sample_frames(
    source: Source,
    sampling: int | Sampling,
    *,
    decoder: Decoder = "pyav",
    on_corrupt: OnCorrupt = "reject",
    check: CheckVideo = "full",
) -> tuple[VideoInfo, list[VideoFrame]]:
    """Exactly so many frames of a clip (a path, its bytes or an open, seekable file), or those of a `Sampling`.

    `check="used"` gives the same frames, from the groups that hold them where packets prove that (`groups`), else from
    all; damage elsewhere is then not found. A clip with fewer frames repeats some, in order.
    Raises RejectInput where the clip cannot be used, EnvironmentProblem where the decoder is not installed or the file
    may not be read.
    """
    sampling = Sampling(sampling) if isinstance(sampling, int) else sampling
    if sampling.num_frames < 1:
        raise ValueError(f"num_frames must be at least 1 (found {sampling.num_frames})")
    if decoder == "decord":
        decord_process.require_decord()
    info, frames = pyav.sample_frames(source, sampling, on_corrupt, check)
    return info, decord_process.redecode(source, info, frames) if decoder == "decord" else frames


def frames_at(source: Source, indices: Collection[int], *, groups_only: bool = False) -> Iterator[VideoFrame]:
    """The frames of these decode-order numbers, ascending, as PyAV decodes them; those that are not there are left out.

    With `groups_only` as `sample_frames` with `check="used"`: from their groups, where packets prove which they are.
    Otherwise a frame is given as it is decoded: memory holds one. Errors of the decoder are ignored, as with `salvage`.
    Raises RejectInput and EnvironmentProblem as `sample_frames`.
    """
    yield from pyav.frames_at(source, indices, groups_only)


def decoder_version(decoder: Decoder = "pyav", *, groups_only: bool = False) -> str:
    """The decoder as provenance names it: `pyav-18.1.0`, or `pyav-18.1.0 (used groups)`."""
    versions = library_versions(decoder)
    name = f"pyav-{versions['av']}" if decoder == "pyav" else f"decord-{versions['decord']}"
    return name + (GROUPS_ONLY if groups_only else "")


def library_versions(decoder: Decoder = "pyav") -> dict[str, str]:
    """Versions of the libraries that decide the pixels: PyAV and its FFmpeg, and decord where it is used.

    Pixels of the same clip differ by up to 2 levels between FFmpeg builds, so the manifest holds these.
    """
    import av

    ffmpeg = {name: ".".join(map(str, number)) for name, number in av.library_versions.items()}
    wanted = ("libavcodec", "libavformat", "libavutil", "libswscale")
    versions = {"av": str(av.__version__)} | {name: ffmpeg[name] for name in wanted if name in ffmpeg}
    if decoder == "decord":
        versions["decord"] = decord_process.installed_version()
    return versions
