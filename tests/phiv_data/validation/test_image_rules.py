"""What is odd in one image: each rule at its edge, on both sides, and no image that a rule dies of."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import struct
import subprocess
import sys
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from data_builders import sample, write_split
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from phiv_data.media.images import MAX_PAGES, MAX_PIXELS
from phiv_data.storage.sample import EncodedImage, Sample
from phiv_data.validation import validate
from phiv_data.validation.core.finding import Finding
from phiv_data.validation.inputs.fast_parse import is_plain
from phiv_data.validation.inputs.image_checks import decode
from phiv_data.validation.rules.duplicates import find_repeated_images
from phiv_schemas import Conversation, ImageMeta, Turn, ValidationReport

SUFFIXES = {
    "PNG": ("png", "PNG", "apng"),
    "JPEG": ("jpg", "jpeg", "JPG", "jfif", "mpo"),
    "GIF": ("gif",),
    "WEBP": ("webp",),
    "BMP": ("bmp", "dib"),
    "TIFF": ("tif", "tiff"),
    "PPM": ("ppm",),
    "ICO": ("ico",),
    "JPEG2000": ("jp2", "j2k"),
    "AVIF": ("avif",),
}
NO_FORMATS = ("", ".", ".5", ".jpg_large", ".jpg?w=200", ".txt", ".json")
PILLOWS_LIMIT = 178_956_970


def reported(data: bytes, path: str = "image", **more: Any) -> list[tuple[str, str]]:
    """Codes and messages."""
    return [(one.code, one.message.removeprefix(f"{path!r} ")) for one in decode(data, path, **more).found]


def encoded(*pages: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    """An image, or several in one file."""
    first, *others = (page.copy() for page in pages)  # saving leaves its settings in an image
    more = {"save_all": True, "append_images": others} if others else {}
    out = io.BytesIO()
    first.save(out, kind, **more, **options)
    return out.getvalue()


def plain(mode: str = "RGB", size: tuple[int, int] = (16, 12), color: Any = 0) -> Image.Image:
    return Image.new(mode, size, color)


def turned(orientation: int, kind: str, size: tuple[int, int] = (16, 12)) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(plain(size=size), kind=kind, exif=exif)


# --- PV110 ---


@pytest.mark.parametrize("kind", SUFFIXES)
def test_a_suffix_is_wrong_where_it_is_another_formats(kind: str) -> None:
    data = encoded(plain(), kind=kind)
    for declared, suffixes in SUFFIXES.items():
        lie = [] if declared == kind else [("PV110", f"is {kind}, not the {declared} its suffix names")]
        assert [reported(data, f"a.b/page.{suffix}") for suffix in suffixes] == [lie] * len(suffixes)
    assert [reported(data, f"page{end}") for end in NO_FORMATS] == [[]] * len(NO_FORMATS)
    assert reported(data, "page.heic") == [("PV110", f"is {kind}, not the HEIF its suffix names")]


def test_a_jpeg_with_another_behind_it_is_a_jpeg() -> None:
    data = encoded(plain(), plain(), kind="MPO")
    assert decode(data, "both.jpg").format == "MPO"
    assert reported(data, "both.jpg") == reported(data, "both.mpo") == []
    assert reported(data, "both.png") == [("PV110", "is JPEG, not the PNG its suffix names")]


@pytest.mark.parametrize(
    ("kind", "declared", "lie"),
    [
        ("PNG", "image/png", ""), ("JPEG", "image/jpeg", ""), ("JPEG", "image/jpg", ""), ("PNG", "Image/PNG", ""),
        ("PNG", "image/jpeg", "JPEG"), ("JPEG", "image/webp;charset=x", "WEBP"), ("PNG", "image/svg+xml", "SVG"),
        ("PNG", "text/plain", ""), ("PNG", "", ""), ("PNG", "image/x", ""),
    ],
)  # fmt: skip
def test_the_type_of_a_data_uri_is_wrong(kind: str, declared: str, lie: str, tmp_path: Path) -> None:
    uri = f"data:{declared};base64,{base64.b64encode(encoded(plain(), kind=kind)).decode()}"
    turns = [{"role": "user", "content": "<image>What is it?"}, {"role": "assistant", "content": "a fox"}]
    (tmp_path / "rows.jsonl").write_text(json.dumps({"messages": turns, "images": [uri]}) + "\n")
    messages = [issue.message for issue in validate(tmp_path / "rows.jsonl").issues]
    start = uri[:30]
    assert messages == ([f"{messages[0].split(' is ')[0]} is {kind}, not the {lie} its type names"] if lie else [])
    assert all(message.startswith(f"'{start}") for message in messages)


# --- PV111, PV113 ---


def claims(width: int, height: int) -> bytes:
    """A PNG whose header says this size of 16x12 grey pixels."""
    data = encoded(plain("L"))
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return data[:12] + header + struct.pack(">I", zlib.crc32(header)) + data[33:]


@pytest.mark.parametrize(
    ("pixels", "code", "message"),
    [
        (MAX_PIXELS, "PV102", "broken image 'image': image file is truncated"),
        (MAX_PIXELS + 1, "PV111", "was not decoded: 89478486x1 pixels, over the limit of 89478485"),
        (PILLOWS_LIMIT, "PV111", "was not decoded: 178956970x1 pixels, over the limit of 89478485"),
        (
            PILLOWS_LIMIT + 1,
            "PV113",
            "was not decoded: Image size (178956971 pixels) exceeds limit of 178956970 pixels",
        ),
    ],
)
def test_too_large_begins_where_the_limit_ends(pixels: int, code: str, message: str) -> None:
    ((found, declared),) = reported(claims(pixels, 1))
    assert found == code
    assert declared.startswith(message)
    assert decode(claims(pixels, 1), "").size is None


def test_the_limit_is_the_callers() -> None:
    data = encoded(plain())
    assert reported(data, max_pixels=16 * 12) == []
    assert reported(data, max_pixels=16 * 12 - 1) == [("PV111", "was not decoded: 16x12 pixels, over the limit of 191")]
    assert [code for code, _ in reported(claims(60_000, 60_000), max_pixels=10**12)] == ["PV113"]


def lying(kind: str) -> bytes:
    """A file of this format that claims 65,000 x 65,000 pixels, or nearly."""
    data = bytearray(encoded(plain(), kind=kind))
    if kind == "GIF":
        data[6:10] = struct.pack("<HH", 65_000, 65_000)
    elif kind == "BMP":
        data[18:26] = struct.pack("<ii", 65_000, 65_000)
    elif kind == "JPEG":
        start = data.index(b"\xff\xc0") + 5
        data[start : start + 4] = struct.pack(">HH", 65_000, 65_000)
    elif kind == "PPM":
        data = bytearray(b"P6 65000 65000 255 ") + data[-100:]
    elif kind == "TIFF":
        for tag, side in ((256, 16), (257, 12)):
            start = data.index(struct.pack("<HHII", tag, 4, 1, side)) + 8
            data[start : start + 4] = struct.pack("<I", 65_000)
    return bytes(data)


@pytest.mark.parametrize("kind", ["GIF", "BMP", "JPEG", "PPM", "TIFF"])
def test_a_bomb_of_any_format_is_not_decoded(kind: str) -> None:
    assert [code for code, _ in reported(lying(kind))] == ["PV113"]


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


@pytest.mark.parametrize(
    ("name", "head"), [(b"zTXt", b"Comment\0\0"), (b"iTXt", b"Comment\0\1\0\0\0"), (b"iCCP", b"profile\0\0")]
)
def test_a_png_whose_text_or_profile_unpacks_to_very_much_is_refused(name: bytes, head: bytes) -> None:
    png = encoded(plain())
    bomb = png[:33] + chunk(name, head + zlib.compress(bytes(2**25))) + png[33:]
    assert [code for code, _ in reported(bomb)] == ["PV102"]
    small = png[:33] + chunk(name, head + zlib.compress(bytes(2**10))) + png[33:]
    assert reported(small) == []


BOMB = """
import resource, sys
from phiv_data.validation.inputs.image_checks import decode
resource.setrlimit(resource.RLIMIT_AS, (3 << 30, 3 << 30))
print([(found.code, found.message) for found in decode(sys.stdin.buffer.read(), "bomb.gif").found])
"""


def test_a_gif_of_many_frames_on_a_huge_canvas_is_no_hang() -> None:
    """Frames are skipped: decoded, each would be 81 million pixels."""
    head = b"GIF89a" + struct.pack("<HH", 9000, 9000) + b"\x80\0\0" + b"\0\0\0\xff\xff\xff"
    frame = b"\x2c\0\0\0\0\1\0\1\0\0\x02\x02\x44\x01\0"
    bomb = head + frame * 3000 + b";"
    child = subprocess.run([sys.executable, "-c", BOMB], input=bomb, capture_output=True, timeout=120)
    assert child.stdout.decode().strip() == (
        """[('PV115', "'bomb.gif' has 3000 frames, of which the first is used")]"""
    ), child.stderr.decode()


# --- PV112 ---


@pytest.mark.parametrize(
    ("size", "why"),
    [
        ((1, 1), "a model sees nothing in it"), ((2, 90), "a model sees nothing in it"),
        ((90, 2), "a model sees nothing in it"), ((3, 601), "one side is over 200 times the other"),
        ((601, 3), "one side is over 200 times the other"), ((3, 3), ""), ((3, 600), ""), ((600, 3), ""),
        ((5, 1000), ""), ((5, 1001), "one side is over 200 times the other"),
    ],
)  # fmt: skip
def test_dots_and_strips(size: tuple[int, int], why: str) -> None:
    width, height = size
    expected = [("PV112", f"has {width}x{height} pixels: {why}")] if why else []
    assert reported(encoded(plain(size=size))) == expected
    sideways = reported(turned(6, "JPEG", size))
    upright = [("PV112", f"has {height}x{width} pixels: {why}")] if why else []
    assert [one for one in sideways if one[0] == "PV112"] == upright


# --- PV114 ---

STORED = {
    2: "mirrored", 3: "upside down", 4: "mirrored and upside down",
    5: "on its side", 6: "on its side", 7: "on its side", 8: "on its side",
}  # fmt: skip


@pytest.mark.parametrize("orientation", range(10))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "AVIF"])
def test_what_is_stored_rotated_is_reported_with_its_orientation(kind: str, orientation: int) -> None:
    data = turned(orientation, kind)
    expected = (
        f"is stored {STORED.get(orientation)} (EXIF orientation {orientation}), and shown so where EXIF is ignored"
    )
    assert reported(data) == ([("PV114", expected)] if 2 <= orientation <= 8 else [])
    assert decode(data, "").size == ((12, 16) if 5 <= orientation <= 8 else (16, 12))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_orientation_of_a_tiff_is_no_matter_of_exif(orientation: int) -> None:
    data = turned(orientation, "TIFF")
    assert reported(data) == []
    assert decode(data, "").size == ((12, 16) if orientation >= 5 else (16, 12))


# --- PV115 ---


@pytest.mark.parametrize("number", [1, 2, 7])
@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "AVIF", "TIFF"])
def test_more_than_one_image_is_counted(kind: str, number: int) -> None:
    parts = "pages" if kind == "TIFF" else "frames"
    data = encoded(*(plain(color=(k * 30, 0, 0)) for k in range(number)), kind=kind)
    expected = [("PV115", f"has {number} {parts}, of which the first is used")] if number > 1 else []
    assert reported(data) == expected


def test_the_other_eye_of_a_camera_is_no_animation() -> None:
    assert reported(encoded(plain(), plain(), kind="MPO")) == []


def test_pages_are_counted_to_a_limit() -> None:
    data = encoded(*[plain("L", (4, 3))] * (MAX_PAGES + 1), kind="TIFF")
    assert reported(data) == [("PV115", f"has {MAX_PAGES} or more pages, of which the first is used")]


def test_a_later_frame_that_is_broken_does_not_matter() -> None:
    data = encoded(*(plain(color=(k * 30, 0, 0)) for k in range(3)), kind="GIF")
    cut = data[: data.rindex(b"\x2c") + 5]
    assert reported(cut) == [("PV115", "has 2 frames, of which the first is used")]


# --- PV116 ---


def deep(*numbers: float, kind: Any = np.uint16, suffix: str = "TIFF") -> bytes:
    return encoded(Image.fromarray(np.array([numbers] * 3, kind)), kind=suffix)


LOST = "and all outside 0 to 255 are lost in RGB"
KEPT = "but not as bytes: black where scaled"


CMYK = "contains colors for print (CMYK), which come out differently without their profile"


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (encoded(plain("CMYK"), kind="JPEG"), CMYK),
        (encoded(plain("CMYK"), kind="TIFF"), CMYK),
        (encoded(plain("LAB"), kind="TIFF"), "contains LAB colors, which Pillow does not convert to RGB"),
        (deep(0, 7, 256), f"contains numbers from 0 to 256, {LOST}"),
        (deep(0, 7, 65535, suffix="PNG"), f"contains numbers from 0 to 65535, {LOST}"),
        (deep(0, 7, 255, suffix="PNG"), f"contains numbers from 0 to 255, {KEPT}"),
        (deep(0, 7, 300, kind=np.dtype(">u2")), f"contains numbers from 0 to 300, {LOST}"),
        (deep(-1, 7, 200, kind=np.int32), f"contains numbers from -1 to 200, {LOST}"),
        (deep(1, 7, 200, kind=np.int32), f"contains numbers from 1 to 200, {KEPT}"),
        (deep(0, 0.25, 1, kind=np.float32), "contains fractions from 0 to 1, which are black in RGB"),
        (deep(0, 0.25, 1.5, kind=np.float32), f"contains numbers from 0 to 1.5, {KEPT}"),
        (deep(-1, 0.25, 1, kind=np.float32), f"contains numbers from -1 to 1, {LOST}"),
        (deep(1, 7, float("inf"), kind=np.float32), f"contains numbers from 1 to inf, {LOST}"),
    ],
)  # fmt: skip
def test_what_rgb_loses(data: bytes, what: str) -> None:
    assert reported(data) == [("PV116", what)]


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA"])
def test_what_rgb_keeps(mode: str) -> None:
    image = plain("L", color=90).convert(mode)
    assert reported(encoded(image, kind="TIFF")) == []
    assert reported(encoded(image)) == []


def test_a_jpeg_in_grey_loses_nothing() -> None:
    assert reported(encoded(plain("L"), kind="JPEG")) == reported(encoded(plain(), kind="JPEG")) == []


def half(hidden: tuple[int, int, int], alpha: int, pixels: int) -> Image.Image:
    """A teal image of 20x50, some pixels of which are of another color and transparent."""
    image = plain("RGBA", (20, 50), (0, 128, 128, 255))
    for i in range(pixels):
        image.putpixel((i % 20, i // 20), (*hidden, alpha))
    return image


@pytest.mark.parametrize(
    ("image", "share"),
    [
        (half((0, 0, 0), 0, 500), "50%"),
        (half((0, 0, 0), 0, 10), "1%"),
        (half((0, 0, 0), 0, 9), ""),  # a rounded corner
        (half((255, 255, 255), 0, 500), ""),  # white is what shines through
        (half((255, 255, 0), 0, 500), "50%"),  # yellow is not
        (half((0, 0, 0), 255, 500), ""),
        (half((0, 0, 0), 100, 500), "50%"),  # a shadow
        (half((0, 0, 0), 224, 500), ""),
        (half((0, 0, 0), 223, 500), "50%"),
        (half((224, 224, 224), 0, 500), ""),
        (half((223, 223, 223), 0, 500), "50%"),
    ],
)
def test_hidden_colors_are_reported_where_they_are_seen(image: Image.Image, share: str) -> None:
    expected = [("PV116", f"is transparent: {share} of its pixels are darker in RGB than on white")] if share else []
    assert reported(encoded(image)) == expected
    assert reported(encoded(image, kind="WEBP", lossless=True, exact=True)) == expected


def test_one_color_or_entry_of_a_palette_can_be_transparent() -> None:
    expected = [("PV116", "is transparent: 50% of its pixels are darker in RGB than on white")]
    halves = plain("RGB", (20, 50), (0, 128, 128))
    halves.paste((9, 9, 9), (0, 0, 10, 50))
    grey, palette = halves.convert("L"), halves.quantize(2)
    entry = palette.getpixel((0, 0))
    assert reported(encoded(halves, transparency=(9, 9, 9))) == expected
    assert reported(encoded(grey, transparency=9)) == expected
    assert reported(encoded(grey.point(lambda level: 255 * (level > 9), "1"), transparency=0)) == expected
    assert reported(encoded(palette, transparency=entry)) == expected
    assert reported(encoded(palette, transparency=bytes([0 if i == entry else 255 for i in range(2)]))) == expected
    assert reported(encoded(palette, kind="GIF", transparency=entry)) == expected
    assert reported(encoded(palette, kind="GIF")) == reported(encoded(halves, transparency=(1, 2, 3))) == []


@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.sampled_from([3, 255, 256, 257, 600]))
def test_the_share_is_that_of_an_image_laid_on_white(seed: int, width: int, height: int) -> None:
    generator = np.random.default_rng(seed)
    pixels = generator.integers(0, 256, (height, max(3, width), 4), np.uint8)
    pixels[..., 3] = np.where(generator.random(pixels.shape[:2]) < generator.random(), 255, pixels[..., 3])
    white, alpha = 255 - pixels[..., :3].astype(int).min(axis=2), 255 - pixels[..., 3].astype(int)
    darker = np.mean(white * alpha >= 32 * 255)
    found = [message for code, message in reported(encoded(Image.fromarray(pixels))) if code == "PV116"]
    assert found == (
        [f"is transparent: {darker:.0%} of its pixels are darker in RGB than on white"] * int(darker >= 0.01)
    )


# --- PV117 ---


def row(*images: tuple[str, ...]) -> Conversation:
    turns = tuple(Turn(images=paths, user="What is it?", assistant="a fox") for paths in images)
    return Conversation(id="a", source="b", conversations=turns)


def test_an_image_repeated_in_a_turn_is_reported_at_its_path() -> None:
    assert list(find_repeated_images(row(("a", "b"), (), ("b", "a", "b", "b")))) == [
        Finding("PV117", "$.conversations[2].images[2]", "'b' is images[0] again"),
        Finding("PV117", "$.conversations[2].images[3]", "'b' is images[0] again"),
    ]


@pytest.mark.parametrize("images", [((),), (("a",), ("a",)), (("a", "b"), ("b", "a")), (("a", "A", "a/a"),)])
def test_an_image_may_be_shown_in_another_turn(images: tuple[tuple[str, ...], ...]) -> None:
    assert list(find_repeated_images(row(*images))) == []


@pytest.mark.parametrize("user", ["What is it?", "Wie heißt \\u0022es\\u0022?", "a <b> & [c]"])
def test_plain_lines_and_others_are_checked(user: str, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").write_bytes(encoded(plain()))
    line = json.dumps(row(("a.png", "a.png")).model_dump(exclude_none=True)).replace("What is it?", user)
    (tmp_path / "val.jsonl").write_text(line + "\n", encoding="utf-8")
    assert is_plain(line.encode(), row(())) == (user == "What is it?")
    assert codes(validate(tmp_path / "val.jsonl")) == [(1, "PV117")]


# --- in a validation ---


def codes(report: ValidationReport) -> list[tuple[int | None, str]]:
    return [(issue.line, issue.code) for issue in report.issues]


def test_a_shard_distinguishes_equal_bytes_by_their_paths(tmp_path: Path) -> None:
    """The same bytes are decoded for each path that they go by: a suffix may lie of one and not of another."""
    data = encoded(plain())
    digest = hashlib.sha256(data).hexdigest()
    rows = []
    for i, path in enumerate(["a.png", "b.jpg", "c.gif", "b.jpg"]):
        meta = ImageMeta(path=path, width=16, height=12, format="PNG", size_bytes=len(data), sha256=digest)
        turn = Turn(images=(path,), user=f"What is on page {i}?", assistant="a fox")
        rows.append(Sample(Conversation(id=str(i), source="b", conversations=(turn,)), (EncodedImage(meta, data),)))
    write_split(tmp_path, "val", rows)
    report = validate(tmp_path / "arrow" / "val" / "data-00000-of-00001.arrow")
    assert [(issue.line, issue.message) for issue in report.issues] == [
        (2, "'b.jpg' is PNG, not the JPEG its suffix names"),
        (3, "'c.gif' is PNG, not the GIF its suffix names"),
        (4, "'b.jpg' is PNG, not the JPEG its suffix names"),
    ]


@pytest.mark.parametrize("deep", [True, False])
def test_images_are_checked_where_they_are_decoded(deep: bool, tmp_path: Path) -> None:
    one = sample("val", 0, num_images=1)
    write_split(tmp_path, "val", [one])
    (tmp_path / "images" / one.images[0].meta.path).write_bytes(encoded(plain(), plain(color=9), kind="GIF"))
    report = validate(tmp_path / "ucf101_val.jsonl", deep=deep)
    assert codes(report) == ([(1, "PV110"), (1, "PV115")] if deep else [])
    assert codes(validate(tmp_path / "ucf101_val.jsonl", ignore=["PV110"])) == [(1, "PV115")]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_the_pixel_limit_goes_to_files_shards_and_data_uris(num_workers: int, tmp_path: Path) -> None:
    rows = [sample("val", i, num_images=1) for i in range(2)]  # 24x16
    write_split(tmp_path, "val", rows)
    uri = f"data:image/png;base64,{base64.b64encode(rows[0].images[0].data).decode()}"
    turns = [{"role": "user", "content": "<image>What is it?"}, {"role": "assistant", "content": "a fox"}]
    (tmp_path / "rows.jsonl").write_text(json.dumps({"messages": turns, "images": [uri]}) + "\n")
    shard = "arrow/val/data-00000-of-00001.arrow"
    for name, lines in (("ucf101_val.jsonl", [1, 2]), (shard, [1, 2]), ("rows.jsonl", [1])):
        report = validate(tmp_path / name, max_pixels=24 * 16 - 1, num_workers=num_workers)
        assert codes(report) == [(line, "PV111") for line in lines]
        assert codes(validate(tmp_path / name, max_pixels=24 * 16, num_workers=num_workers)) == []


def test_nothing_is_printed_beside_the_report() -> None:
    """Pillow warns of much; a warning in the log of a run belongs to no file."""
    palette = encoded(Image.linear_gradient("L").quantize(4), transparency=bytes([0, 9, 255, 99]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for data in (palette, encoded(plain("LAB"), kind="TIFF"), turned(6, "TIFF"), claims(60_000, 60_000)):
            decode(data, "image", phash=True)
