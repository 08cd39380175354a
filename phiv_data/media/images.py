"""Images opened safely: complete, upright, of a bounded size, or rejected with a reason of one line.

>>> image = open_image(Path("page.png"), where="page.png")     # decoded, EXIF orientation applied
>>> image_size(Path("page.png"), where="page.png")             # header only, the same size
ImageSize(width=1692, height=2245, format='PNG')
>>> decode_whole(page, where="page.png").size                  # all bytes decoded, as cheaply as that goes
(1692, 2245)

EXIF rule: the image is rotated by its EXIF orientation, as Hugging Face `datasets` does on decode; EXIF data
that cannot be read counts as none, since the pixels are sound. Of an animation, the first frame is the image.
"""

from __future__ import annotations

import io
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from phiv_data.media.reject import RejectInput, open_input
from phiv_data.utils.lines import LFS_MARK

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image

MAX_PIXELS = 89_478_485
"""Larger images are refused. This is where Pillow begins to warn of decompression bombs; the largest pages of DocVQA
have 38.6 million pixels. Pillow's own limit, twice this, holds even where a caller allows more."""

MIN_DRAFT = 32
"""Pixels that `decode_whole` leaves of the shorter side of a JPEG, at least."""

MAX_PAGES = 100
"""`count_images` reads no more pages of a TIFF."""

_EXIF_KEYS = {"exif", "xmp", "Raw profile type exif", "XML:com.adobe.xmp"}  # what may hold the orientation

_SUBFILE, _COPY_OR_MASK = 254, 1 | 4  # a TIFF tag: what a page is to the others, in bits
_JPEGS = ("JPEG", "MPO")
_TURNS = ("FLIP_LEFT_RIGHT", "ROTATE_180", "FLIP_TOP_BOTTOM", "TRANSPOSE", "ROTATE_270", "TRANSVERSE", "ROTATE_90")

# Pillow's other plugins are left out: some run programs (EPS calls Ghostscript), all are rare in datasets.
_FORMATS = ("AVIF", "BMP", "GIF", "ICO", "JPEG", "JPEG2000", "MPO", "PNG", "PPM", "TIFF", "WEBP")


class ImageSize(NamedTuple):
    """Pixels after EXIF orientation, and Pillow's name of the format, read from the header."""

    width: int
    height: int
    format: str


class Whole(NamedTuple):
    """An image that decodes to its last byte. `size` is that of the upright image, the rest is as in the file.

    `pixels` are not turned. Those of a JPEG are grey, and each covers `scale` x `scale` (1, 2, 4 or 8) of the
    file's; `mode` is the file's own. `orientation`: EXIF, 1 to 8. `num_frames` 0: not known without a search.
    """

    pixels: Image
    size: tuple[int, int]
    format: str
    mode: str
    orientation: int
    scale: int
    num_frames: int


def open_image(data: bytes | Path, *, where: str = "", max_pixels: int = MAX_PIXELS) -> Image:
    """The decoded image, upright, in the file's own mode. Raises RejectInput, naming `where`."""
    from PIL.Image import Transpose

    with _open_header(data, where, max_pixels) as image:
        _load(image)
        if (orientation := _orientation(image)) == 1:
            return image  # type: ignore[no-any-return]  # Any: what _open_header gives
        # It has no EXIF then: Pillow's `exif_transpose` fails where it cannot write it.
        turned: Image = image.transpose(Transpose[_TURNS[orientation - 2]])
        turned.info = {key: value for key, value in turned.info.items() if key not in _EXIF_KEYS}
        return turned


def image_size(data: bytes | Path, *, where: str = "", max_pixels: int = MAX_PIXELS) -> ImageSize:
    """Size and format from the header, without decoding. Raises RejectInput, naming `where`.

    A file can have a sound header and broken pixels: only `open_image` detects that.
    """
    with _open_header(data, where, max_pixels) as image:
        width, height = image.size
        # Pillow reports TIFFs upright already, and turns them as it loads.
        turned = image.format != "TIFF" and _orientation(image) >= 5
        return ImageSize(*((height, width) if turned else (width, height)), str(image.format))


def decode_whole(data: bytes | Path, *, where: str = "", max_pixels: int = MAX_PIXELS) -> Whole:
    """Find out whether an image is whole, as `open_image` does, in about half the time where it is a JPEG.

    All data of a JPEG are decoded; its colours are not mixed, and its blocks of 8x8 pixels come out smaller. Raises
    RejectInput for the same files.
    """
    with _open_header(data, where, max_pixels) as image:
        stored, mode, scale = image.size, image.mode, 1
        # Have a JPEG come out grey and small. libjpeg fails where the parts of a colour do not divide those of another,
        # but not where colours are left out. A layer: id, how often it is sampled across and down, and its table.
        if image.format in _JPEGS:
            across, down = (max(layer[way] for layer in image.layer) for way in (1, 2))
            divides = (one[1] and one[2] and across % one[1] == 0 == down % one[2] for one in image.layer)
            if all(divides) and (drafted := image.draft("L", (MIN_DRAFT, MIN_DRAFT))):
                scale = round(stored[0] / drafted[1][2])  # how many of its pixels one then covers on each side
        _load(image)
        orientation = _orientation(image)
        size = stored[::-1] if orientation >= 5 else stored
        num_frames = 0 if image.format in ("GIF", "TIFF") else getattr(image, "n_frames", 1)
        return Whole(image, size, image.format, mode, orientation, scale, num_frames)


def count_images(data: bytes, format: str) -> int:
    """How many frames or pages a file of Pillow's `format` holds, without decoding them; 1 to `MAX_PAGES` of a TIFF.

    Where what follows cannot be read, those before it count. Smaller copies and masks in a TIFF do not.
    """
    from PIL import Image as PillowImage

    with _no_warnings(), PillowImage.open(io.BytesIO(data), formats=[format]) as image:
        if format == "TIFF":
            pages = 0
            for page in range(MAX_PAGES):
                try:
                    image.seek(page)
                    kind = int(image.tag_v2.get(_SUBFILE, 0))  # type: ignore[attr-defined]  # a TIFF has it
                except MemoryError:
                    raise
                except Exception:  # EOFError is the regular end
                    break
                pages += not kind & _COPY_OR_MASK
            return max(1, pages)
        try:
            return int(getattr(image, "n_frames", 1))  # a GIF skips from block to block, where seek() would decode
        except MemoryError:
            raise
        except Exception:  # Pillow's plugins raise nearly everything
            return image.tell() + 1


def encode_jpeg(image: NDArray[np.uint8] | Image, quality: int = 75) -> bytes:
    """JPEG bytes of an image (or RGB array [height, width, 3]), 4:2:0, as Pillow's `save` writes them.

    `quality` 1 to 95; 75 is Pillow's default and the recipe's (Microsoft's), whose bytes it gives for the same pixels.
    """
    from PIL import Image as PillowImage

    pil_image = image if isinstance(image, PillowImage.Image) else PillowImage.fromarray(image)
    out = io.BytesIO()
    pil_image.convert("RGB").save(out, "JPEG", quality=quality)
    return out.getvalue()


@contextmanager
def _open_header(data: bytes | Path, where: str, max_pixels: int) -> Iterator[Any]:
    """The image with its header read and its size checked. Every exception Pillow is known to raise is translated."""
    from PIL import Image as PillowImage
    from PIL import UnidentifiedImageError

    if isinstance(data, Path):
        where = where or str(data)
        with open_input(data, str(data)) as file:
            raw = file.read()
    else:
        raw, where = data, where or "<bytes>"
    if not raw:
        raise RejectInput(where, "empty-file", "the file is empty")
    try:
        with _strict_loading(), _no_warnings():  # ICOs are decoded here
            image: Any = PillowImage.open(io.BytesIO(raw), formats=_formats())
        if image.width * image.height > max_pixels:
            reason = f"{image.width}x{image.height} pixels, over the limit of {max_pixels}"
            raise RejectInput(where, "too-large", reason)
        yield image
    except RejectInput:
        raise
    except Exception as error:  # Pillow's plugins raise nearly everything: see the broken_media samples
        text = " ".join(str(error).split()) or type(error).__name__
        code = "truncated" if "truncated" in text.lower() else "undecodable"
        if isinstance(error, UnidentifiedImageError):
            code, text = "not-an-image", f"no image format phiv accepts (starts with {raw[:16]!r})"
            if raw.startswith(LFS_MARK):
                text = "a Git LFS pointer, not the image: fetch it with git lfs pull"
        elif isinstance(error, PillowImage.DecompressionBombError):
            code = "too-large"
        raise RejectInput(where, code, text) from error


@cache
def _formats() -> tuple[str, ...]:
    """The accepted formats this build of Pillow can read."""
    from PIL import Image as PillowImage

    PillowImage.init()
    return tuple(name for name in _FORMATS if name in PillowImage.OPEN)


def _load(image: Any) -> None:
    # TIFFs read tags, and may warn of them, while loading; the lock of _no_warnings costs the other formats nothing.
    with _strict_loading(), _no_warnings() if image.format == "TIFF" else nullcontext():
        image.load()


def _orientation(image: Any) -> int:
    """1 to 8; 1 where EXIF is absent, unreadable or out of range."""
    from PIL.ExifTags import Base

    if image.format == "JPEG" and not image.info.keys() & _EXIF_KEYS:
        return 1  # most are, and this is ten times faster
    try:
        with _no_warnings():
            value = image.getexif().get(Base.Orientation, 1)
    except MemoryError:
        raise
    except Exception:  # broken EXIF raises OSError, ValueError, SyntaxError, struct.error, ...
        return 1
    return value if value in range(1, 9) else 1


_lock = threading.RLock()


@contextmanager
def _no_warnings() -> Iterator[None]:
    """Keep Pillow's warnings on odd headers off stderr; what matters becomes an error.

    `catch_warnings` changes the whole process, hence the lock; it is held for header reads only, not for decoding.
    """
    with _lock, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextmanager
def _strict_loading() -> Iterator[None]:
    """Decode whole images only, even where another library set Pillow to accept truncated ones."""
    from PIL import ImageFile

    if not ImageFile.LOAD_TRUNCATED_IMAGES:
        yield
        return
    with _lock:
        ImageFile.LOAD_TRUNCATED_IMAGES = False
        try:
            yield
        finally:
            ImageFile.LOAD_TRUNCATED_IMAGES = True
