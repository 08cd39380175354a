"""Clips as images: evenly spaced frames of a video file, each with where it comes from."""

from __future__ import annotations

from pathlib import Path

from phiv_data.media.images import encode_jpeg
from phiv_data.media.reject import hash_input
from phiv_data.media.video import CheckVideo, Decoder, OnCorrupt, decoder_version, sample_frames
from phiv_data.storage.sample import EncodedImage, encoded_image


def clip_images(
    clip: Path,
    stem: str,
    key: str,
    num_frames: int,
    jpeg_quality: int,
    *,
    decoder: Decoder = "pyav",
    on_corrupt: OnCorrupt = "reject",
    check: CheckVideo = "full",
) -> tuple[EncodedImage, ...]:
    """`num_frames` frames of a clip as `{stem}.{k}.jpg`. RejectInput, at `key` or the file, where it cannot be used."""
    sha256 = hash_input(clip, key)
    info, frames = sample_frames(clip, num_frames, decoder=decoder, on_corrupt=on_corrupt, check=check)
    version = decoder_version(decoder, groups_only=info.decoded_groups_only)
    return tuple(
        encoded_image(
            f"{stem}.{k}.jpg",
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
