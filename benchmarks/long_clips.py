# ruff: noqa: T201  a script prints its results
"""Eight frames of a ten-minute 720p clip: decoding only the groups that hold them, against decoding all.

    python benchmarks/long_clips.py                        makes the clip (H.264, a key frame every two seconds)
    python benchmarks/long_clips.py clip.mp4 --frames 16   one of your own

One run of each, by processor time; the frames must be the same bytes, and the groups must have been enough.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import av
import numpy as np

from phiv_data.media.video import CheckVideo, VideoFrame, decoder_version, sample_frames

RATE, SECONDS, WIDTH, HEIGHT = 25, 600, 1280, 720


def make_clip(path: Path) -> Path:
    """Noise that moves over a gradient; with two B-frames, as usual."""
    noise = np.random.default_rng(0).integers(0, 64, (HEIGHT // 4, WIDTH // 4 + RATE * 8), np.uint8)
    large = np.kron(noise, np.ones((4, 4), np.uint8))
    gradient = np.linspace(0, 160, WIDTH, dtype=np.uint8)[None, :]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=RATE)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.codec_context.gop_size, stream.codec_context.max_b_frames = 2 * RATE, 2
        stream.codec_context.options = {"preset": "ultrafast", "bf": "2"}
        planes = np.full((HEIGHT * 3 // 2, WIDTH), 128, np.uint8)
        for number in range(RATE * SECONDS):
            shift = number * 4 % (RATE * 32)
            planes[:HEIGHT] = large[:, shift : shift + WIDTH] + gradient
            container.mux(stream.encode(av.VideoFrame.from_ndarray(planes, format="yuv420p")))
        container.mux(stream.encode(None))
    return path


def timed(clip: Path, num_frames: int, check: CheckVideo) -> tuple[float, list[VideoFrame], bool]:
    """Processor seconds, the frames, and whether groups were enough."""
    start = time.process_time()
    info, frames = sample_frames(clip, num_frames, check=check)
    return time.process_time() - start, frames, info.decoded_groups_only


def main() -> None:
    """Parse the command line, make the clip if none is given, and compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("clip", type=Path, nargs="?", help="made where it is left out")
    parser.add_argument("--frames", type=int, default=8)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as work_dir:
        clip = options.clip or make_clip(Path(work_dir) / "long.mp4")
        fast, some, used_groups = timed(clip, options.frames, "used")
        slow, every, _ = timed(clip, options.frames, "full")
    same = all(a.index == b.index and (a.image == b.image).all() for a, b in zip(some, every, strict=True))
    print(f"{decoder_version()}, {options.frames} frames of {clip.name}")
    print(f"groups only {fast:.2f} s, all frames {slow:.2f} s of processor time: {slow / fast:.1f}x")
    print(f"the same frames: {same}; groups were enough: {used_groups}")


if __name__ == "__main__":
    main()
