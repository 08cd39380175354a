"""How much faster phiv prepares images than the original algorithm, one thread, both in one run.

    python benchmarks/image_preprocessing.py [--repeats 15]

`original` is the original processor's algorithm, written from its facts: RGB, transpose, resize, pad, transpose,
floats, normalise, bicubic global view, crops, zero crops, stack. phiv's `worker` row is a data worker's share (decoded
image to uint8 crops ready to ship); `floats` continues to the same normalised floats. Results are compared first: the
padded image byte for byte, floats within 1e-5. Method and numbers: docs/benchmarks_image_preprocessing.md.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812  the field's name for it
from PIL import Image

from phiv_train.families.phi3_vision import image_processing as phiv

CASES = (("page 1700x2200, 16 crops", 1700, 2200, 16), ("frame 320x240, 4 crops", 320, 240, 4))
MEAN, STD = (torch.tensor(v).view(3, 1, 1) for v in (phiv.IMAGE_MEAN, phiv.IMAGE_STD))


def original_image(image: Image.Image, num_crops: int) -> Image.Image:
    """The padded image of the original: transposed while tall, resized bilinearly, white above and below."""
    image = image.convert("RGB")
    tall = image.width < image.height
    if tall:
        image = image.transpose(Image.Transpose.TRANSPOSE)
    ratio, scale = image.width / image.height, 1
    while scale * math.ceil(scale / ratio) <= num_crops:
        scale += 1
    width = 336 * (scale - 1)
    image = image.resize((width, int(width / ratio)), Image.Resampling.BILINEAR)
    padded = Image.new("RGB", (width, math.ceil(image.height / 336) * 336), (255, 255, 255))
    padded.paste(image, (0, int((padded.height - image.height) / 2)))
    return padded.transpose(Image.Transpose.TRANSPOSE) if tall else padded


def original(image: Image.Image, num_crops: int) -> torch.Tensor:
    """float32 [1, 1 + num_crops, 3, 336, 336]: the whole path of the original for one image."""
    pixels = torch.from_numpy(np.array(original_image(image, num_crops)))
    pixels = pixels.permute(2, 0, 1).contiguous().to(torch.float32).div(255)
    pixels = pixels.clone().sub_(MEAN).div_(STD)
    view = F.interpolate(pixels[None], size=(336, 336), mode="bicubic")
    rows, cols = pixels.shape[1] // 336, pixels.shape[2] // 336
    crops = pixels.reshape(1, 3, rows, 336, cols, 336).permute(0, 2, 4, 1, 3, 5).reshape(-1, 3, 336, 336)
    both = torch.cat([view, crops.contiguous()])
    padding = torch.zeros(num_crops + 1 - len(both), 3, 336, 336)
    return torch.stack([torch.cat([both, padding])])


def phiv_floats(image: Image.Image, num_crops: int) -> np.ndarray:
    """float32 [1 + C, 3, 336, 336]: phiv's way to the same floats, without the zero crops."""
    return phiv.pixel_values(*phiv.hd_crops(image, num_crops))


def check(image: Image.Image, num_crops: int) -> float:
    """Greatest difference of the floats; the padded images must be equal byte for byte."""
    crops, size = phiv.hd_crops(image, num_crops)
    if not np.array_equal(phiv.weave(crops, size), np.asarray(original_image(image, num_crops))):
        sys.exit("the padded images differ")
    pixels = phiv.pixel_values(crops, size, num_crops)
    return float(np.abs(pixels - original(image, num_crops)[0].numpy()).max())


def timed(functions: dict[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Milliseconds per call, the functions taking turns so that noise hits all equally."""
    times: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(repeats):
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            times[name].append((time.perf_counter() - start) * 1e3)
    return times


def stages(image: Image.Image, num_crops: int) -> dict[str, Callable[[], object]]:
    """phiv's own steps, for the profile."""
    size = phiv.hd_size(*image.size, num_crops)
    resized = phiv._resize(image, size)
    pixels = np.asarray(resized)
    crops, image_size = phiv.hd_crops(image, num_crops)
    return {
        "  Pillow resize": lambda: phiv._resize(image, size),
        "  Pillow to array": lambda: np.asarray(resized),
        "  cut into crops": lambda: phiv._cut(pixels, size, 336),
        "  normalise + global view": lambda: phiv.pixel_values(crops, image_size),
    }


def synthetic_image(width: int, height: int) -> Image.Image:
    """A smooth background with noise: neither flat nor pure noise."""
    rng = np.random.default_rng(0)
    ramp = np.add.outer(np.arange(height), np.arange(width))[..., None] / (width + height) * 200
    return Image.fromarray((ramp + rng.integers(0, 56, (height, width, 3))).astype(np.uint8))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=15)
    repeats = parser.parse_args().repeats
    torch.set_num_threads(1)
    for title, width, height, num_crops in CASES:
        image = synthetic_image(width, height)
        difference = check(image, num_crops)
        runs: dict[str, Callable[[], object]] = {
            "original": lambda i=image, n=num_crops: original(i, n),  # type: ignore[misc]  # bound now
            "worker": lambda i=image, n=num_crops: phiv.hd_crops(i, n),  # type: ignore[misc]  # bound now
            "floats": lambda i=image, n=num_crops: phiv_floats(i, n),  # type: ignore[misc]  # bound now
        }
        times = timed({**runs, **stages(image, num_crops)}, repeats)
        print(f"{title}: images equal, floats within {difference:.1e}")  # noqa: T201  a script's output
        for name, values in times.items():
            median, best = float(np.median(values)), min(values)
            ratio = float(np.median(times["original"])) / median
            print(f"{name:26s} median {median:7.2f} ms  best {best:7.2f} ms  {ratio:6.2f}x")  # noqa: T201  a script's output


if __name__ == "__main__":
    main()
