"""Draws the data sets of rules about what is odd in an image: `python tests/corpus/draw_images.py [PVxxx ...]`."""

from __future__ import annotations

import io
import shutil
import struct
import sys
import zlib
from pathlib import Path
from typing import Any

from draw import HERE, Draw, image, lines, record
from PIL import Image

SIZE = (8, 6)
BLACK, WHITE = (0, 0, 0), (255, 255, 255)


def encoded(*pages: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    """An image, or several in one file."""
    first, *others = (page.copy() for page in pages)  # saving leaves its settings in an image
    more = {"save_all": True, "append_images": others} if others else {}
    out = io.BytesIO()
    first.save(out, kind, **more, **options)
    return out.getvalue()


def plain(colour: str | tuple[int, ...] = "teal", mode: str = "RGB", size: tuple[int, int] = SIZE) -> Image.Image:
    """An image in one colour."""
    return Image.new(mode, size, colour)


def turned(orientation: int, kind: str = "JPEG") -> bytes:
    """An image with an orientation."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(plain(), kind=kind, exif=exif)


def claims(width: int, height: int) -> bytes:
    """A PNG whose header says this size of a few bytes."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return image().replace(image()[12:33], header + struct.pack(">I", zlib.crc32(header)))


def deep(low: int, high: int) -> bytes:
    """16 bits a pixel, from black to white."""
    image = plain(low, "I;16")
    image.putpixel((0, 0), high)
    return encoded(image)


def spotted(hidden: tuple[int, int, int], alpha: int) -> bytes:
    """An image a quarter of which is hidden."""
    image = plain((0, 128, 128, 255), "RGBA")
    image.paste((*hidden, alpha), (0, 0, 4, 3))
    return encoded(image)


def with_smaller_copy() -> bytes:
    """A TIFF whose second page says of itself that it is the first in fewer pixels."""
    from PIL.TiffImagePlugin import ImageFileDirectory_v2

    copy, tags, out = plain(size=(4, 3)), ImageFileDirectory_v2(), io.BytesIO()
    tags[254] = 1
    copy.encoderinfo = {"tiffinfo": tags}
    plain().save(out, "TIFF", save_all=True, append_images=[copy])
    return out.getvalue()


def images(broken: dict[str, bytes], clean: dict[str, bytes]) -> Draw:
    """A row for each image."""

    def draw(folder: Path) -> None:
        for name, files in (("broken", broken), ("clean", clean)):
            rows = [record(i, images=[path]) for i, path in enumerate(files)]
            lines(folder / name, *rows, images=files)

    return draw


def twice(folder: Path) -> None:
    files = {"fox.png": image(size=SIZE), "cat.png": image("orange", SIZE), "copy.png": image(size=SIZE)}
    again = record(1, images=["cat.png"])
    again["conversations"].append({"images": ["cat.png"], "user": "And now?", "assistant": "the same"})
    lines(folder / "broken", record(0, images=["fox.png", "cat.png", "fox.png"]), images=files)
    lines(folder / "clean", record(0, images=["fox.png", "copy.png"]), again, images=files)


GREY, PAIR = plain(), [plain(), plain("orange")]
DRAWN: dict[str, Draw] = {
    "PV110-extension-mismatch": images(
        {"page.jpg": encoded(GREY), "page.png": encoded(GREY, kind="GIF"), "page.heic": encoded(GREY, kind="JPEG")},
        {
            "PAGE.PNG": encoded(GREY), "page.jfif": encoded(GREY, kind="JPEG"), "page": encoded(GREY),
            "page.v1.5": encoded(GREY), "both.jpg": encoded(*PAIR, kind="MPO"),
        },
    ),
    "PV111-image-too-large": images(
        {"wall.png": claims(12000, 8000)}, {"wall.png": encoded(plain(0, "1", (3000, 2000)), optimize=True)}
    ),
    "PV111-image-too-large-asked": images({"page.png": image(size=(20, 11))}, {"page.png": image(size=(20, 10))}),
    "PV112-image-too-small": images(
        {"dot.png": image(size=(1, 1)), "line.png": image(size=(90, 2)), "strip.png": image(size=(3, 601))},
        {"small.png": image(size=(3, 3)), "strip.png": image(size=(3, 600))},
    ),
    "PV113-decompression-bomb": images({"bomb.png": claims(60000, 60000)}, {"whole.png": claims(4, 3)}),
    "PV114-exif-orientation": images(
        {"side.jpg": turned(6), "down.png": turned(3, "PNG"), "mirror.webp": turned(2, "WEBP")},
        {"upright.jpg": turned(1), "none.jpg": turned(9), "scan.tif": turned(6, "TIFF")},
    ),
    "PV115-animated-image": images(
        {
            "move.gif": encoded(*PAIR, kind="GIF"), "move.webp": encoded(*PAIR, kind="WEBP"),
            "move.png": encoded(*PAIR), "pages.tif": encoded(*PAIR, kind="TIFF"),
        },
        {
            "still.gif": encoded(GREY, kind="GIF"), "both.jpg": encoded(*PAIR, kind="MPO"),
            "smaller.tif": with_smaller_copy(),
        },
    ),
    "PV116-lossy-rgb-conversion": images(
        {
            "print.jpg": encoded(plain((0, 128, 128, 0), "CMYK"), kind="JPEG"), "deep.png": deep(0, 65535),
            "hidden.png": spotted(BLACK, 0),
        },
        {
            "opaque.png": spotted(BLACK, 255), "white.png": spotted(WHITE, 0),
            "grey.jpg": encoded(plain(0, "L"), kind="JPEG"),
        },
    ),
    "PV117-repeated-image": twice,
}  # fmt: skip


if __name__ == "__main__":
    for name, draw in DRAWN.items():
        if not sys.argv[1:] or name[:5] in sys.argv[1:]:
            for part in ("broken", "clean"):
                shutil.rmtree(HERE / name / part, ignore_errors=True)
            (HERE / name).mkdir(exist_ok=True)
            draw(HERE / name)
