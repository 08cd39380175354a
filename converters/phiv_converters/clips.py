"""Clips as images: evenly spaced frames of a video file, each with where it comes from."""

from __future__ import annotations

from pathlib import Path

from phiv_data.media.images import encode_jpeg
from phiv_data.media.reject import hash_input
from phiv_data.media.video import CheckVideo, Decoder, OnCorrupt, Sampling, decoder_version, sample_frames
from phiv_data.storage.sample import EncodedImage, encoded_image

JPEG_QUALITY = 75
"""Of the frames of people's own clips, as the recipe's."""
NUM_FRAMES, MAX_FRAMES = 8, 64
"""Frames per clip where no flag says it: evenly spaced, and at most at a rate."""


def sampling_of(num_frames: int | None, fps: float | None) -> Sampling:
    """What --num_frames and --fps ask for."""
    return Sampling(num_frames or (NUM_FRAMES if fps is None else MAX_FRAMES), fps)


def clip_images(
    clip: Path,
    stem: str,
    key: str,
    sampling: int | Sampling,
    jpeg_quality: int,
    *,
    by_index: bool = False,
    decoder: Decoder = "pyav",
    on_corrupt: OnCorrupt = "reject",
    check: CheckVideo = "full",
) -> tuple[EncodedImage, ...]:
    """Frames of a clip as `{stem}.{k}.jpg`; `by_index` as `{stem}/{index:06d}.jpg`, the same name in every sampling.

    RejectInput, at `key` or the file, where it cannot be used.
    """
    sha256 = hash_input(clip, key)
    info, frames = sample_frames(clip, sampling, decoder=decoder, on_corrupt=on_corrupt, check=check)
    version = decoder_version(decoder, groups_only=info.decoded_groups_only)
    return tuple(
        encoded_image(
            f"{stem}/{frame.index:06d}.jpg" if by_index else f"{stem}.{k}.jpg",
            encode_jpeg(frame.image, jpeg_quality),
            size=(frame.width, frame.height),
            format="JPEG",
            source=key,
            source_sha256=sha256,
            frame_index=frame.index,
            timestamp=frame.timestamp,
            decoder=version,
        )
        for k, frame in enumerate(frames)
    )
