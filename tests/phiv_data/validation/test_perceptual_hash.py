"""An image is known again after it was scaled, compressed, brightened or turned; other ones are not taken for it."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageEnhance

from phiv_data.media.images import MIN_DRAFT, decode_whole, open_image
from phiv_data.media.reject import RejectInput
from phiv_data.validation.imaging import perceptual_hash as looks
from phiv_data.validation.imaging.perceptual_hash import (
    DHASH_BYTES,
    MAX_BITS,
    MIN_DETAIL_SIMILAR,
    PHASH_BYTES,
    are_similar,
    perceptual_hash,
)


def drawn(seed: int, size: tuple[int, int] = (320, 240), mode: str = "RGB") -> Image.Image:
    """Smooth blots of random colours: as much to see as in a photograph."""
    levels = np.random.default_rng(seed).integers(0, 256, (9, 11, 3), np.uint8)
    return Image.fromarray(levels).resize(size, Image.Resampling.BICUBIC).convert(mode)


def stored(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **({"compress_level": 1} if kind == "PNG" else {}), **options)
    return out.getvalue()


def seen(image: Image.Image | bytes) -> tuple[int, bytes]:
    return perceptual_hash(decode_whole(image if isinstance(image, bytes) else stored(image)))


def other_bits(a: bytes, b: bytes) -> int:
    return (int.from_bytes(a[:DHASH_BYTES]) ^ int.from_bytes(b[:DHASH_BYTES])).bit_count()


def pixels(*some: bytes) -> NDArray[np.uint8]:
    return np.frombuffer(b"".join(some), np.uint8).reshape(len(some), PHASH_BYTES)[:, DHASH_BYTES:]


def is_found(a: bytes, b: bytes) -> bool:
    return other_bits(a, b) <= MAX_BITS and bool(are_similar(pixels(a), pixels(b))[0, 0])


WAYS: dict[str, Callable[[Image.Image], bytes]] = {
    "jpeg 30": lambda image: stored(image, "JPEG", quality=30),
    "jpeg 90": lambda image: stored(image, "JPEG", quality=90),
    "webp": lambda image: stored(image, "WEBP", quality=50),
    "half": lambda image: stored(image.resize((image.width // 2, image.height // 2))),
    "larger": lambda image: stored(image.resize((image.width * 3 // 2, image.height * 3 // 2))),
    "brighter": lambda image: stored(ImageEnhance.Brightness(image).enhance(1.1)),
    "grey": lambda image: stored(image.convert("L")),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_image_is_found_after_it_was_stored_again(way: str) -> None:
    for seed in range(10):
        image = drawn(seed)
        strength, look = seen(image)
        assert strength > MIN_DETAIL_SIMILAR
        assert is_found(look, seen(WAYS[way](image))[1])


@pytest.mark.parametrize("way", ["jpeg 30", "jpeg 90", "webp", "half", "larger", "brighter"])
def test_nine_of_ten_real_images_are_found_after_they_were_stored_again(
    way: str, real: list[tuple[Image.Image, bytes]]
) -> None:
    assert len(real) > 50
    found = [is_found(look, seen(WAYS[way](image))[1]) for image, look in real]
    assert sum(found) > 0.9 * len(real)


def test_no_two_different_real_images_are_taken_for_one(real: list[tuple[Image.Image, bytes]]) -> None:
    close = [(a, b) for i, (_, a) in enumerate(real) for _, b in real[:i] if is_found(a, b)]
    assert len(close) == 1, "two memes with one photograph of a cat"


@pytest.fixture(scope="module")
def real(shared: Path) -> list[tuple[Image.Image, bytes]]:
    """Photographs, drawings and memes of up to a quarter million pixels that are not plain, with their looks."""
    folders = [shared / "samples" / name for name in ("nlvr1", "memes_harmless", "formats", "nlvr2/pairs")]
    paths = [
        path for folder in folders for path in sorted(folder.rglob("*")) if re.search(r"\.(jpe?g|png)$", path.name)
    ]
    images: dict[bytes, Image.Image] = {}
    for path in paths:
        try:
            image = open_image(path).convert("RGB")
        except RejectInput:
            continue
        if image.width * image.height < 250_000:
            images[image.tobytes()] = image
    looked = [(image, *seen(image)) for image in images.values()]
    return [(image, look) for image, strength, look in looked if strength >= MIN_DETAIL_SIMILAR]


# Against a plain way -----------------------------------------------------------------------------------------------


def plainly(image: Image.Image) -> tuple[int, NDArray[np.float32], NDArray[np.float32]]:
    """Strength, the 64 differences that become bits, and 16x16 pixels: by Pillow's triangles over all pixels."""
    grey = image.convert("L").convert("F")
    cells = np.asarray(grey.resize((9, 8), Image.Resampling.BILINEAR))
    across, down = np.diff(cells, axis=1), np.diff(cells, axis=0)
    strength = int((abs(across) >= 2).sum() + (abs(down) >= 2).sum())
    return strength, across, np.asarray(grey.resize((16, 16), Image.Resampling.BILINEAR))


def levels(look: bytes) -> NDArray[np.float64]:
    return np.array([level for byte in look[DHASH_BYTES:] for level in divmod(byte, 16)], float)


@given(st.integers(0, 10**6), st.integers(32, 500), st.integers(32, 500), st.sampled_from(["PNG", "JPEG"]))
@example(24730, 141, 137, "PNG")  # 4 bits differ from the plain way, all of them near the step: rare, and true
@settings(max_examples=60, deadline=None)
def test_a_look_is_what_a_plain_way_sees(seed: int, width: int, height: int, kind: str) -> None:
    image = drawn(seed, (width, height))
    strength, look = seen(stored(image, kind))
    expected, across, grey = plainly(image)
    assert abs(strength - expected) <= 5
    bits = np.unpackbits(np.frombuffer(look[:DHASH_BYTES], np.uint8)).reshape(8, 8) == 1
    is_clear = abs(across - 2) > 3  # levels from the step; in 1,500 images the farthest wrong bit was at 2.4
    assert (bits == (across >= 2))[is_clear].all()
    assert is_clear.sum() >= 32
    assert np.corrcoef(levels(look), grey.ravel())[0, 1] > 0.97


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_few_bits_differ_from_the_plain_way(kind: str) -> None:
    differing = []
    for seed in range(100):
        image = drawn(seed, (40 + 4 * seed, 440 - 3 * seed))
        _, look = seen(stored(image, kind))
        bits = np.unpackbits(np.frombuffer(look[:DHASH_BYTES], np.uint8)).reshape(8, 8) == 1
        differing.append(int((bits != (plainly(image)[1] >= 2)).sum()))
    assert max(differing) <= MAX_BITS
    assert sum(differing) <= 50  # half a bit of 64 each; measured: 0.16


@given(st.integers(0, 10**6))
@settings(max_examples=30, deadline=None)
def test_pixels_are_alike_where_they_correlate(seed: int) -> None:
    random = np.random.default_rng(seed)
    base = random.integers(0, 256, 128, np.uint8)
    some = np.stack(
        [np.where(random.random(128) < share, random.integers(0, 256, 128), base) for share in (0, 0.02, 0.05)]
    )
    some = some.astype(np.uint8)
    wide = np.stack([some >> 4, some & 15], axis=2).reshape(3, 256)
    expected = np.corrcoef(wide)
    sure = abs(expected - looks.MIN_CORRELATION) > 1e-9
    assert (are_similar(some, some) == (expected >= looks.MIN_CORRELATION))[sure].all()


def test_pixels_without_any_difference_are_like_none() -> None:
    flat, other = np.full((1, 128), 0x88, np.uint8), np.arange(128, dtype=np.uint8)[None]
    assert not are_similar(flat, flat)[0, 0]
    assert not are_similar(flat, other)[0, 0]
    assert are_similar(other, other)[0, 0]


# Odd images ------------------------------------------------------------------------------------------------------

TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}  # fmt: skip


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", TURNS)
def test_a_turned_image_looks_like_the_upright_one(orientation: int, kind: str) -> None:
    upright = drawn(1, (330, 200))
    exif = Image.Exif()
    exif[0x0112] = orientation
    turned = upright.transpose(TURNS[orientation])
    data = stored(turned, kind, exif=exif)
    assert np.abs(np.asarray(open_image(data), float) - np.asarray(upright, float)).mean() < 5, "it is the same image"
    assert is_found(seen(upright)[1], seen(data)[1])
    assert not is_found(seen(upright)[1], seen(stored(turned, kind))[1]), "which it is not as it stands"


@pytest.mark.parametrize(
    "size", [(1, 1), (1, 2), (2, 1), (3, 2), (1, 5000), (5000, 1), (9, 3000), (31, 33), (7000, 40)]
)
@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_the_smallest_and_thinnest_images_have_a_look(size: tuple[int, int], kind: str) -> None:
    strength, look = seen(stored(drawn(0, size), kind))
    assert 0 <= strength <= 127
    assert len(look) == PHASH_BYTES


def test_a_strip_is_found_again() -> None:
    for size in ((6000, 60), (60, 6000)):
        strip = drawn(0, size)
        assert is_found(seen(strip)[1], seen(stored(strip, "JPEG", quality=50))[1])
        assert max(looks.reduce_pixels(decode_whole(stored(strip)))[0].size) < 1024, "the weights for it are few"


@pytest.mark.parametrize("color", ["black", "white", "red", (100, 101, 102)])
def test_one_colour_has_nothing_to_see(color: Any) -> None:
    assert seen(Image.new("RGB", (300, 200), color))[0] == 0
    assert seen(stored(Image.new("RGB", (300, 200), color), "JPEG"))[0] == 0


def test_a_page_with_a_few_lines_is_plain() -> None:
    page = Image.new("L", (600, 800), 255)
    page.paste(0, (60, 80, 300, 90))
    assert 0 < seen(page)[0] < MIN_DETAIL_SIMILAR


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "CMYK", "YCbCr", "LAB", "I;16", "I", "F"])
def test_every_mode_has_the_look_of_its_image(mode: str) -> None:
    image = drawn(3)
    if mode in ("I;16", "I", "F"):
        deep = np.asarray(image.convert("L")).astype(np.float32) * 200
        other = Image.fromarray(deep.astype({"I;16": np.uint16, "I": np.int32, "F": np.float32}[mode]))
    elif mode == "LAB":
        from PIL import ImageCms

        to_lab = ImageCms.buildTransform(ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB")
        applied = ImageCms.applyTransform(image, to_lab)
        assert applied is not None
        other = applied
    else:
        other = image.convert(mode)
    assert other.mode == mode
    strength, look = seen(stored(other, "TIFF" if mode in ("CMYK", "YCbCr", "LAB", "I", "F") else "PNG"))
    assert strength > MIN_DETAIL_SIMILAR
    assert other_bits(look, seen(image)[1]) <= 6
    assert np.corrcoef(levels(look), levels(seen(image)[1]))[0, 1] > 0.95


def test_numbers_that_are_none_have_nothing_to_see() -> None:
    for level in (float("nan"), float("inf")):
        odd = np.zeros((64, 64), np.float32)
        odd[3, 3] = level
        strength, look = seen(stored(Image.fromarray(odd), "TIFF"))
        assert (strength, len(look)) == (0, PHASH_BYTES)


def test_a_jpeg_that_is_decoded_small_looks_like_the_whole_one() -> None:
    data = stored(drawn(5, (1600, 1203)), "JPEG")
    whole = decode_whole(data)
    assert whole.scale == 8
    assert min(whole.pixels.size) >= MIN_DRAFT
    assert is_found(perceptual_hash(whole)[1], seen(stored(open_image(data)))[1])
