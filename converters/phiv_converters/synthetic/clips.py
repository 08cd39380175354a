"""Synthetic UCF-101: a small set of clips in the subset layout, for the demo and the tests offline.

>>> make_synthetic_ucf101(Path("demo"))      # -> demo/UCF101_subset/{train,val,test}/<Class>/v_<Class>_gNN_cNN.avi
PosixPath('demo/UCF101_subset')

Each class is a shape with a motion. Colours, area, length and speed depend on the split and the clip's number
alone, so clip i of every class shares them: the class shows in the moving images and nowhere else. Left and
right, rising and falling take more than one frame to distinguish.
"""

from __future__ import annotations

import cmath
import math
import secrets
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

from phiv_data.utils.atomic import TMP_PREFIX, environment_problems

if TYPE_CHECKING:
    from PIL.Image import Image

FPS = 25
_CLIPS_PER_GROUP = 4


@dataclass(frozen=True, slots=True)
class ClipClass:
    """A class: the corners of its outline, every second one at radius `inset`, and how it moves."""

    corners: int
    motion: str
    inset: float = 1.0
    turned: float = 0.0


CLASSES = {
    "BouncingBall": ClipClass(48, "bounce"),
    "FallingTriangle": ClipClass(3, "down"),
    "RisingTriangle": ClipClass(3, "up"),
    "SlidingSquareLeft": ClipClass(4, "left", turned=math.pi / 4),
    "SlidingSquareRight": ClipClass(4, "right", turned=math.pi / 4),
    "SpinningStar": ClipClass(10, "spin", inset=0.45),
}


@dataclass(frozen=True, slots=True)
class ClipStyle:
    """What clip i of every class shares. Colours are RGB."""

    num_frames: int
    ink: tuple[int, int, int]
    paper: tuple[int, int, int]
    area: float
    """Pixels the shape covers."""
    travel: float
    """How far it moves, as a share of the free way."""


def make_synthetic_ucf101(
    folder: Path, *, train: int = 80, val: int = 8, test: int = 8, size: tuple[int, int] = (160, 120), seed: int = 0
) -> Path:
    """Make `train`, `val` and `test` clips per class below `folder`; returns the root of the set.

    The same seed gives the same bytes on the same versions of PyAV and Pillow. A complete set that is already there is
    returned as it is; an interrupted one is made again.
    """
    target = folder / "UCF101_subset"
    if target.is_dir():
        return target
    with environment_problems(folder):
        folder.mkdir(parents=True, exist_ok=True)
        unfinished = folder / f"{TMP_PREFIX}{secrets.token_hex(8)}"
        try:
            _write_set(unfinished, {"train": train, "val": val, "test": test}, size, seed)
            unfinished.rename(target)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
    return target


def _write_set(root: Path, clips: dict[str, int], size: tuple[int, int], seed: int) -> None:
    first_group = 1
    for split, count in clips.items():
        styles = []
        for i in range(count):
            random = Random(f"{seed}/{split}/{i}")
            style = ClipStyle(
                num_frames=random.randint(24, 40),
                ink=_colour(random, 190, 255),
                paper=_colour(random, 0, 40),
                area=size[0] * size[1] * random.uniform(0.10, 0.16),
                travel=random.uniform(0.5, 0.7),
            )
            styles.append(style)
        for name, clip_class in CLASSES.items():
            (root / split / name).mkdir(parents=True)
            for i, style in enumerate(styles):
                group, number = first_group + i // _CLIPS_PER_GROUP, 1 + i % _CLIPS_PER_GROUP
                path = root / split / name / f"v_{name}_g{group:02d}_c{number:02d}.avi"
                write_clip(path, draw_clip(clip_class, style, size, Random(f"{seed}/{split}/{i}/{name}")), size)
        first_group += math.ceil(count / _CLIPS_PER_GROUP)


def _colour(random: Random, low: int, high: int) -> tuple[int, int, int]:
    return random.randint(low, high), random.randint(low, high), random.randint(low, high)


def draw_clip(clip_class: ClipClass, style: ClipStyle, size: tuple[int, int], random: Random) -> Iterator[Image]:
    """The images of one clip, `size` (width, height) pixels each."""
    from PIL import Image, ImageDraw

    outline = _outline(clip_class, style.area)
    reach = max(abs(point) for point in outline)
    tilt = random.uniform(-0.3, 0.3)
    for corner, turned in _moves(clip_class.motion, style, complex(size[0] - 2 * reach, size[1] - 2 * reach), random):
        centre, angle = corner + complex(reach, reach), cmath.rect(1, tilt + turned)
        points = [centre + angle * point for point in outline]
        image = Image.new("RGB", size, style.paper)
        ImageDraw.Draw(image).polygon([(p.real, p.imag) for p in points], fill=style.ink)
        yield image


def _outline(clip_class: ClipClass, area: float) -> list[complex]:
    """Corners around 0 in the complex plane, enclosing `area`; before `turned`, the first one points up."""
    n = clip_class.corners
    unit = [
        cmath.rect(clip_class.inset if i % 2 else 1.0, 2 * math.pi * i / n - math.pi / 2 + clip_class.turned)
        for i in range(n)
    ]
    enclosed = sum((a.conjugate() * b).imag for a, b in zip(unit, unit[1:] + unit[:1], strict=True)) / 2
    return [point * math.sqrt(area / enclosed) for point in unit]


def _moves(motion: str, style: ClipStyle, space: complex, random: Random) -> Iterator[tuple[complex, float]]:
    """(place within `space`, radians turned) for each frame; the start is random."""
    slack, along = random.random() * (1 - style.travel), random.random()
    for step in range(style.num_frames):
        t = step / (style.num_frames - 1)
        moved = slack + style.travel * t
        x, y, turned = {
            "right": (moved, along, 0.0),
            "left": (1 - moved, along, 0.0),
            "down": (along, moved, 0.0),
            "up": (along, 1 - moved, 0.0),
            "bounce": (along, 1 - abs(math.sin(math.pi * (slack + 2 * t))), 0.0),
            "spin": (along, slack / (1 - style.travel), 2 * math.pi * t),
        }[motion]
        yield complex(x * space.real, y * space.imag), turned


def write_clip(path: Path, images: Iterable[Image], size: tuple[int, int]) -> None:
    """Encode images as an mpeg4 .avi, the codec and container of UCF-101."""
    import av

    # No version strings and no second thread: the same images give the same bytes.
    with av.open(str(path), "w", format="avi", options={"fflags": "+bitexact"}) as container:
        stream = container.add_stream("mpeg4", rate=FPS, options={"flags": "+bitexact", "qscale": "4"})
        stream.width, stream.height = size
        stream.pix_fmt = "yuv420p"
        stream.codec_context.thread_count = 1
        for image in images:
            container.mux(stream.encode(av.VideoFrame.from_image(image)))
        container.mux(stream.encode(None))
