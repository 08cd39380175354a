"""Rules about one image: what is odd in an image that decodes. Warnings all: readers differ in what they make of it.

    suffix(opened)      PV110    the file's suffix, or the type of a `data:` URI, says another format
    too_small(opened)   PV112    a strip or a dot
    turned(opened)      PV114    stored on its side
    animated(opened)    PV115    more than one image in it
    mode(opened)        PV116    converted to RGB, it loses something
    twice(record)       PV117    the same image twice in a turn: a rule about a record

What cannot be decoded or is too large (PV102, PV111, PV113) is told in `images`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, cast

from phiv_data.formats.files import is_data_uri
from phiv_data.media.images import MAX_PAGES, count_images
from phiv_data.storage.record_errors import quote_path
from phiv_data.validation.core.finding import Found, Opened
from phiv_schemas import Conversation

if TYPE_CHECKING:
    from PIL.Image import Image

MIN_SIDE = 3
"""Pixels. A side of 1 or 2 is a spacer, a counter or a mistake; no patch of a model is so small."""
MAX_RATIO = 200
"""Qwen2-VL refuses images that are longer than this many times their width."""
MIN_TRANSPARENT = 0.01
"""A share of the pixels. Rounded corners and soft edges stay below it."""
MIN_DARKER = 32
"""Levels of 255. Smaller differences are hardly seen."""
_BAND = 256

_FORMAT = {
    suffix: name
    for name, suffixes in {
        "AVIF": ".avif .avifs",
        "BMP": ".bmp .dib",
        "EPS": ".eps .ps",
        "GIF": ".gif",
        "HEIF": ".heic .heif",
        "ICO": ".ico .x-icon",
        "JPEG": ".jpg .jpeg .jpe .jfif .mpo",
        "JPEG XL": ".jxl",
        "JPEG2000": ".jp2 .j2k .jpf .jpx .j2c .jpc",
        "PDF": ".pdf",
        "PNG": ".png .apng",
        "PPM": ".ppm .pgm .pbm .pnm .pfm",
        "PSD": ".psd",
        "SVG": ".svg .svg+xml",
        "TGA": ".tga",
        "TIFF": ".tif .tiff",
        "WEBP": ".webp",
    }.items()
    for suffix in suffixes.split()
}
_STORED = {2: "mirrored", 3: "upside down", 4: "mirrored and upside down"}


def suffix(opened: Opened) -> Iterable[Found]:
    """PV110. Suffixes that name no format of images say nothing, and so do none."""
    said, by = said_format(opened.path)
    is_format = plain_format(opened.whole.format)
    if said in (None, is_format):
        return ()
    return (Found("PV110", None, f"{quote_path(opened.path)} is {is_format}, not the {said} its {by} says"),)


def too_small(opened: Opened) -> Iterable[Found]:
    """PV112: too small to show anything, or far too long."""
    width, height = opened.whole.size
    if min(width, height) >= MIN_SIDE and max(width, height) <= MAX_RATIO * min(width, height):
        return ()
    is_dot = min(width, height) < MIN_SIDE
    what = "a model sees nothing in it" if is_dot else f"one side is over {MAX_RATIO} times the other"
    return (Found("PV112", None, f"{quote_path(opened.path)} has {width}x{height} pixels: {what}"),)


def turned(opened: Opened) -> Iterable[Found]:
    """PV114. The orientation of TIFFs is no matter of EXIF: all readers know it."""
    orientation = opened.whole.orientation
    if orientation == 1:
        return ()
    stored = _STORED.get(orientation, "on its side")
    what = f"is stored {stored} (EXIF orientation {orientation}), and shown so where EXIF is ignored"
    return (Found("PV114", None, f"{quote_path(opened.path)} {what}"),)


def animated(opened: Opened) -> Iterable[Found]:
    """PV115: only the first frame or page is used. The second image of an MPO is that of the camera's other eye."""
    kind = opened.whole.format
    frames = opened.whole.num_frames or count_images(opened.data, kind)
    if frames <= 1 or kind == "MPO":
        return ()
    parts = "pages" if kind == "TIFF" else "frames"
    more = "or more " if kind == "TIFF" and frames == MAX_PAGES else ""
    return (Found("PV115", None, f"{quote_path(opened.path)} has {frames} {more}{parts}, of which the first is used"),)


def mode(opened: Opened) -> Iterable[Found]:
    """PV116: what `convert("RGB")` makes of the pixels is not what a viewer shows."""
    if opened.whole.mode in ("RGB", "L", "1", "YCbCr") and "transparency" not in opened.whole.pixels.info:
        return ()
    what = _odd(opened.whole.mode, opened.whole.pixels)
    return (Found("PV116", None, f"{quote_path(opened.path)} {what}"),) if what else ()


def twice(record: Conversation) -> Iterable[Found]:
    """PV117. In another turn it may be shown again."""
    for turn in record.conversations:
        if len(turn.images) > 1 and len(set(turn.images)) < len(turn.images):
            return _twice(record)
    return ()


def _twice(record: Conversation) -> Iterator[Found]:
    for t, turn in enumerate(record.conversations):
        for i, path in enumerate(turn.images):
            if (first := turn.images.index(path)) < i:
                yield Found(
                    "PV117", f"$.conversations[{t}].images[{i}]", f"{quote_path(path)} is images[{first}] again"
                )


def plain_format(format: str) -> str:
    """Pillow's name of a format, as suffixes say it: an MPO is a JPEG with another behind it."""
    return "JPEG" if format == "MPO" else format


def said_format(path: str) -> tuple[str | None, str]:
    """The format that a path or a `data:` URI says, and by what. None where it says none."""
    if is_data_uri(path):
        head = path[:100].split(",")[0].lower()  # data:image/png;base64,
        return _FORMAT.get(f".{head.split(';')[0].removeprefix('data:image/')}"), "type"
    return _FORMAT.get(PurePosixPath(path).suffix.lower()), "suffix"


def _odd(mode: str, pixels: Image) -> str:
    if mode == "CMYK":
        return "holds colours for print (CMYK), which come out otherwise without their profile"
    if mode == "LAB":
        return "holds LAB colours, which Pillow does not convert to RGB"
    if mode == "F" or mode.startswith("I"):
        return _deep(pixels)
    if mode not in ("RGBA", "LA", "PA") and "transparency" not in pixels.info:
        return ""
    if (darker := _darker(pixels)) < MIN_TRANSPARENT:
        return ""
    return f"is transparent: {darker:.0%} of its pixels are darker in RGB than on white"


def _deep(pixels: Image) -> str:
    """Of numbers that are no bytes: RGB makes 255 of those above, 0 of those below, and drops fractions.

    Others scale 16 bits, as phiv's own families do; none says what is white among 32 bits or floats.
    """
    numbers = pixels if pixels.mode in ("I", "F") else pixels.convert("I")  # I;16B has no extremes
    low, high = cast(tuple[float, float], numbers.getextrema())  # of one channel: two numbers
    if pixels.mode == "F" and 0 <= low < high <= 1:
        return f"holds fractions from {low:g} to {high:g}, which are black in RGB"
    is_small = 0 <= low <= high <= 255
    but = "but not as bytes: black where scaled" if is_small else "and all outside 0 to 255 are lost in RGB"
    return f"holds numbers from {low:g} to {high:g}, {but}"


def _darker(pixels: Image) -> float:
    """The share of pixels whose hidden colour RGB shows, where a white page would shine through."""
    from PIL import ImageChops

    count = 0
    for top in range(0, pixels.height, _BAND):  # all at once would take three times the memory of the image
        band = pixels.crop((0, top, pixels.width, min(top + _BAND, pixels.height))).convert("RGBA")
        red, green, blue, clear = map(ImageChops.invert, band.split())
        if clear.getbbox():
            dark = ImageChops.lighter(ImageChops.lighter(red, green), blue)
            count += sum(ImageChops.multiply(dark, clear).histogram()[MIN_DARKER:])
    return count / (pixels.width * pixels.height)
