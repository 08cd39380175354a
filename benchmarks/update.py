"""What `phiv-convert --update` saves when one input of a hundred has changed, and what keeping rows for it takes.

    python benchmarks/update.py [--images 5000] [--clips 300]

A folder of JPEG images in ten classes, and synthetic clips in the layout of UCF-101; all in one process. Every update
is compared with the fresh conversion, byte for byte.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from phiv_converters.folder.options import FolderOptions
from phiv_converters.synthetic.clips import make_synthetic_ucf101
from phiv_converters.ucf101.options import Ucf101Options
from phiv_data.convert.base import ConverterOptions
from phiv_data.convert.engine import convert
from phiv_data.testing.helpers import hashes


def make_images(folder: Path, count: int) -> list[Path]:
    """JPEG files of 640x480, about 45 KB each."""
    random = np.random.default_rng(0)
    noise = random.integers(0, 80, (480, 640, 3), np.uint8)
    files = []
    for i in range(count):
        path = folder / f"class{i % 10}/{i:06d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.roll(noise, i * 7, axis=1) + np.uint8(i % 170)
        Image.fromarray(np.kron(pixels[::4, ::4], np.ones((4, 4, 1), np.uint8))).save(path, quality=90)
        files.append(path)
    return files


def compare(name: str, files: list[Path], options: Callable[[], ConverterOptions], work: Path) -> str:
    """One line: the seconds of both ways after every hundredth of `files` was touched, and the size of what is kept."""
    out = work / f"{name}-updated"
    convert(options(), out, num_workers=0)
    changed = files[::100]
    for path in changed:
        path.touch()
    seconds = {}
    start = time.perf_counter()
    outcome = convert(options(), out, num_workers=0, update=True)
    seconds["update"] = time.perf_counter() - start
    start = time.perf_counter()
    convert(options(), work / f"{name}-fresh", num_workers=0)
    seconds["fresh"] = time.perf_counter() - start
    assert hashes(out) == hashes(work / f"{name}-fresh")
    assert outcome.num_kept == len(files) - len(changed)
    kept = sum(path.stat().st_size for path in (out / ".phiv/kept").iterdir())
    whole = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    times = (
        f"update {seconds['update']:.1f} s, fresh {seconds['fresh']:.1f} s, {seconds['fresh'] / seconds['update']:.1f}x"
    )
    sizes = f"kept {kept / len(files):.0f} bytes an input, {kept / whole:.1%} of the output"
    return f"{name}: {len(changed)} of {len(files)} changed: {times}; {sizes}\n"


def main() -> None:
    """Print one line per source."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--clips", type=int, default=300)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        images = make_images(work / "images", given.images)
        folder = work / "images"
        sys.stdout.write(compare("images", images, lambda: FolderOptions(folder), work))
        clips = make_synthetic_ucf101(work / "clips", train=max(given.clips // 10 - 2, 1), val=1, test=1)
        files = sorted(clips.rglob("*.avi"))
        sys.stdout.write(compare("clips", files, lambda: Ucf101Options(clips), work))


if __name__ == "__main__":
    main()
