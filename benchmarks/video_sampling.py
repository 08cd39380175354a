# ruff: noqa: T201  a script prints its results
"""Eight frames per clip as JPEG: phiv against the PhiCookBook recipe's way, in one run on the same clips.

    python benchmarks/video_sampling.py /data/ucf101            folder with .avi clips; a synthetic set when left out

Both sides read, decode and encode; the rounds alternate, and the best round of each counts. The JPEGs are compared
byte for byte where the header's frame count is true (the recipe trusts it, phiv does not).
"""

from __future__ import annotations

import argparse
import io
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
from PIL import Image

from phiv_data.media.images import encode_jpeg
from phiv_data.media.video import decoder_version, sample_frames

NUM_FRAMES = 8
Encode = Callable[[np.ndarray], bytes]


def recipe(clip: Path, encode: Encode) -> list[bytes]:
    """The recipe's way: the header's count, float positions, the container left to the garbage collector."""
    container = av.open(str(clip))
    total = container.streams.video[0].frames
    indices = np.arange(0, total, total / NUM_FRAMES).astype(int)
    frames = []
    container.seek(0)
    for position, frame in enumerate(container.decode(video=0)):
        if position > indices[-1]:
            break
        if position >= indices[0] and position in indices:
            frames.append(frame)
    return [encode(image) for image in np.stack([frame.to_ndarray(format="rgb24") for frame in frames])]


def phiv(clip: Path, encode: Encode) -> list[bytes]:
    """Every frame decoded and counted, eight converted."""
    return [encode(frame.image) for frame in sample_frames(clip, NUM_FRAMES)[1]]


def pillow_default(image: np.ndarray) -> bytes:
    """The recipe's JPEG."""
    out = io.BytesIO()
    Image.fromarray(image).convert("RGB").save(out, "JPEG")
    return out.getvalue()


def best_ms(run: Callable[[Path], object], clips: list[Path]) -> tuple[float, float]:
    """(wall, processor) milliseconds per clip of one round."""
    wall, processor = time.perf_counter(), time.process_time()
    for clip in clips:
        run(clip)
    return (time.perf_counter() - wall) * 1e3 / len(clips), (time.process_time() - processor) * 1e3 / len(clips)


def compare(clips: list[Path], rounds: int) -> None:
    """Print both sides' best round, their ratio and how many clips give the same bytes."""
    sides: dict[str, Callable[[Path], object]] = {
        "recipe": lambda clip: recipe(clip, pillow_default),
        "phiv": lambda clip: phiv(clip, encode_jpeg),
        "phiv without JPEG": lambda clip: phiv(clip, lambda image: b""),
        "recipe without JPEG": lambda clip: recipe(clip, lambda image: b""),
    }
    times = {name: [best_ms(run, clips)] for name, run in sides.items()}
    for _ in range(rounds - 1):
        for name, run in sides.items():
            times[name].append(best_ms(run, clips))
    for name, rows in times.items():
        wall, processor = (min(column) for column in zip(*rows, strict=True))
        print(f"{name:20} {wall:6.1f} ms per clip, {processor:6.1f} ms of processor time")
    ratio = min(times["recipe"])[0] / min(times["phiv"])[0]
    work = min(row[1] for row in times["recipe"]) / min(row[1] for row in times["phiv"])
    same = sum(recipe(clip, pillow_default) == phiv(clip, encode_jpeg) for clip in clips)
    print(f"phiv is {ratio:.2f}x as fast by the clock, {work:.2f}x by processor time")
    print(f"{same} of {len(clips)} clips give the same JPEG bytes")


def main() -> None:
    """Parse the command line and compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?", help="searched for .avi clips; a synthetic set when left out")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    print(decoder_version(), "NumPy", np.__version__)
    with tempfile.TemporaryDirectory() as work_dir:
        if options.folder is None:
            from phiv_converters.synthetic.clips import make_synthetic_ucf101

            options.folder = make_synthetic_ucf101(Path(work_dir), size=(320, 240), train=5, val=1, test=1)
        compare(sorted(options.folder.rglob("*.avi")), options.rounds)


if __name__ == "__main__":
    main()
