"""Rules about one decoded image: what readers may see differently. All of them are warnings.

    check_suffix(image)             PV110    the file's suffix, or the type of a `data:` URI, names another format
    check_size(image)               PV112    one or two pixels wide, or a strip
    check_orientation(image)        PV114    stored on its side, with an EXIF tag to turn it
    check_frames(image)             PV115    more than one frame or page
    check_color_mode(image)         PV116    something is lost in the conversion to RGB

Images that cannot be decoded or are too large (PV102, PV111, PV113) are reported by `inputs.image_checks`.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, cast

from phiv_data.formats.files import is_data_uri
from phiv_data.media.images import MAX_PAGES, count_images
from phiv_data.storage.record_errors import quote_path
from phiv_data.validation.core.finding import DecodedImage, Finding

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


def check_suffix(image: DecodedImage) -> Iterable[Finding]:
    """PV110. Suffixes that name no image format are fine, and so is none."""
    declared_size, by = declared_format(image.path)
    found = base_format(image.whole.format)
    if declared_size in (None, found):
        return ()
    return (Finding("PV110", None, f"{quote_path(image.path)} is {found}, not the {declared_size} its {by} names"),)


def check_size(image: DecodedImage) -> Iterable[Finding]:
    """PV112: too small to show anything, or far too long."""
    width, height = image.whole.size
    if min(width, height) >= MIN_SIDE and max(width, height) <= MAX_RATIO * min(width, height):
        return ()
    is_dot = min(width, height) < MIN_SIDE
    what = "a model sees nothing in it" if is_dot else f"one side is over {MAX_RATIO} times the other"
    return (Finding("PV112", None, f"{quote_path(image.path)} has {width}x{height} pixels: {what}"),)


def check_orientation(image: DecodedImage) -> Iterable[Finding]:
    """PV114. TIFF is left out: its orientation is a tag of the format itself, which all readers know."""
    orientation = image.whole.orientation
    if orientation == 1:
        return ()
    stored = _STORED.get(orientation, "on its side")
    what = f"is stored {stored} (EXIF orientation {orientation}), and shown so where EXIF is ignored"
    return (Finding("PV114", None, f"{quote_path(image.path)} {what}"),)


def check_frames(image: DecodedImage) -> Iterable[Finding]:
    """PV115: only the first frame or page is used. The second image of an MPO is a stereo camera's other one."""
    kind = image.whole.format
    frames = image.whole.num_frames or count_images(image.data, kind)
    if frames <= 1 or kind == "MPO":
        return ()
    parts = "pages" if kind == "TIFF" else "frames"
    more = "or more " if kind == "TIFF" and frames == MAX_PAGES else ""
    what = f"has {frames} {more}{parts}, of which the first is used"
    return (Finding("PV115", None, f"{quote_path(image.path)} {what}"),)


def check_color_mode(image: DecodedImage) -> Iterable[Finding]:
    """PV116: `convert("RGB")` gives other colors than a viewer shows."""
    mode, pixels = image.whole.mode, image.whole.pixels
    if mode in ("RGB", "L", "1", "YCbCr") and "transparency" not in pixels.info:
        return ()
    what = ""
    if mode == "CMYK":
        what = "contains colors for print (CMYK), which come out differently without their profile"
    elif mode == "LAB":
        what = "contains LAB colors, which Pillow does not convert to RGB"
    elif mode == "F" or mode.startswith("I"):
        # No bytes: RGB makes 255 of numbers above those, 0 of those below, and drops fractions. Some readers scale 16
        # bits to 8, as phiv's families do; it is unknown which value of 32 bits or floats is white.
        numbers = pixels if mode in ("I", "F") else pixels.convert("I")  # I;16B has no extremes
        low, high = cast(tuple[float, float], numbers.getextrema())  # of one channel: two numbers
        is_small = 0 <= low <= high <= 255
        but = "but not as bytes: black where scaled" if is_small else "and all outside 0 to 255 are lost in RGB"
        what = f"contains numbers from {low:g} to {high:g}, {but}"
        if mode == "F" and 0 <= low < high <= 1:
            what = f"contains fractions from {low:g} to {high:g}, which are black in RGB"
    elif mode in ("RGBA", "LA", "PA") or "transparency" in pixels.info:
        darker = _darker_share(pixels)
        if darker >= MIN_TRANSPARENT:
            what = f"is transparent: {darker:.0%} of its pixels are darker in RGB than on white"
    return (Finding("PV116", None, f"{quote_path(image.path)} {what}"),) if what else ()


def base_format(format: str) -> str:
    """Pillow's name of a format, as suffixes name it: an MPO is a JPEG with another one behind it."""
    return "JPEG" if format == "MPO" else format


def declared_format(path: str) -> tuple[str | None, str]:
    """The format that a path or a `data:` URI names, and by what: its suffix or its type. None where it names none."""
    if is_data_uri(path):
        head = path[:100].split(",")[0].lower()  # data:image/png;base64,
        return _FORMAT.get(f".{head.split(';')[0].removeprefix('data:image/')}"), "type"
    return _FORMAT.get(PurePosixPath(path).suffix.lower()), "suffix"


def _darker_share(pixels: Image) -> float:
    """The share of pixels whose hidden color RGB shows, where a white page would shine through."""
    from PIL import ImageChops

    count = 0
    for top in range(0, pixels.height, _BAND):  # all at once would take three times the memory of the image
        band = pixels.crop((0, top, pixels.width, min(top + _BAND, pixels.height))).convert("RGBA")
        red, green, blue, clear = map(ImageChops.invert, band.split())
        if clear.getbbox():
            dark = ImageChops.lighter(ImageChops.lighter(red, green), blue)
            count += sum(ImageChops.multiply(dark, clear).histogram()[MIN_DARKER:])
    return count / (pixels.width * pixels.height)
