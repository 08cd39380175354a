"""Images: complete, upright and of a bounded size, or rejected with a reason of one line."""

from __future__ import annotations

import io
import itertools
import json
import pickle
import struct
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile, ImageOps, TiffImagePlugin

from phiv_data.media.images import (
    MAX_PAGES,
    MAX_PIXELS,
    Whole,
    count_images,
    decode_whole,
    encode_jpeg,
    image_size,
    open_image,
)
from phiv_data.media.reject import RejectInput

# Category of broken_media/images -> the codes its files may be rejected with; "ok" where they open.
CATEGORIES = {
    "broken_stream": {"undecodable"},
    "decompression_bomb": {"too-large"},
    "exif_unreadable": {"undecodable", "truncated"},  # a broken chunk behind the pixels: load() raises, the first time
    "not_media": {"not-an-image", "empty-file"},
    "odd_exception_TypeError": {"undecodable", "truncated"},
    "odd_exception_ValueError": {"undecodable", "truncated", "not-an-image"},
    "truncated": {"truncated", "too-large"},
    "unidentified": {"not-an-image"},
    "unsupported_or_other_oserror": {"undecodable", "not-an-image"},
}

EXIF_ALONE_IS_BROKEN = {"wuffs__exif.png", "fuzzing-corpus__wrong-block-length.gif"}  # so the pixels are used

PROBE = """
import json, resource, sys
from pathlib import Path
from phiv_data.media.images import image_size, open_image
from phiv_data.media.reject import RejectInput
resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
for name in sys.stdin.read().splitlines():
    try:
        header = image_size(Path(name))
        image = open_image(Path(name))
        answer = ["ok", "", list(header[:2]) == list(image.size)]
    except RejectInput as reject:
        answer = [reject.code, str(reject), True]
    print(json.dumps([name, *answer]), flush=True)
"""


def probe(files: list[Path]) -> list[tuple[str, str, str, bool]]:
    """(name, code or "ok", message, header size was right) of each file, opened in a limited child process."""
    names = "\n".join(map(str, files)).encode()
    result = subprocess.run([sys.executable, "-c", PROBE], input=names, capture_output=True, timeout=120)
    assert b"Warning" not in result.stderr
    answers = [tuple(json.loads(line)) for line in result.stdout.splitlines()]
    assert len(answers) == len(files), f"died at {files[len(answers)].name}: {result.stderr.decode()[-2000:]}"
    return answers


def test_every_broken_image_behaves_as_its_category(shared: Path) -> None:
    root = shared / "samples/broken_media/images"
    files = sorted(path for path in root.rglob("*") if path.is_file())
    wrong = []
    for name, code, message, size_is_right in probe(files):
        sound = Path(name).name in EXIF_ALONE_IS_BROKEN
        expected = {"ok"} if sound else CATEGORIES.get(Path(name).parent.name, {"ok"})
        if code not in expected or "\n" in message or not size_is_right:
            wrong.append((Path(name).parent.name, Path(name).name, code, message, size_is_right))
    assert wrong == []


def pil_image(mode: str = "RGB", size: tuple[int, int] = (40, 30), format: str = "PNG", **options: object) -> bytes:
    """A gradient, encoded."""
    width, height = size
    ramp = np.add.outer(np.arange(height) * 3, np.arange(width) * 5).astype(np.uint8)
    out = io.BytesIO()
    Image.fromarray(ramp).convert(mode).save(out, format, **options)
    return out.getvalue()


def rejected(call: Callable[[], object]) -> RejectInput:
    with pytest.raises(RejectInput) as caught:
        call()
    assert "\n" not in str(caught.value)
    return caught.value


# --- what opens ---


@pytest.mark.parametrize("format", ["PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF", "PPM", "ICO", "JPEG2000"])
def test_size_from_the_header_is_the_size_that_loads(format: str) -> None:
    data = pil_image(format=format, size=(32, 16))
    assert image_size(data).format == format
    assert image_size(data)[:2] == open_image(data).size


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_exif_orientation_is_applied_as_huggingface_datasets_does(orientation: int, format: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = pil_image(format=format, exif=exif)
    image = open_image(data)
    assert image.size == ((30, 40) if orientation >= 5 else (40, 30)) == image_size(data)[:2]
    datasets = pytest.importorskip("datasets")
    theirs = datasets.Image().decode_example({"bytes": data, "path": None})
    assert np.array_equal(np.asarray(image), np.asarray(theirs))


def test_an_orientation_out_of_range_is_none() -> None:
    exif = Image.Exif()
    exif[0x0112] = 77
    assert open_image(pil_image(exif=exif)).size == image_size(pil_image(exif=exif))[:2] == (40, 30)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
def test_the_mode_of_the_file_is_kept(mode: str) -> None:
    assert open_image(pil_image(mode)).mode == mode


def test_a_path_and_its_bytes_are_the_same(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(pil_image("RGB", format="JPEG"))
    assert image_size(tmp_path / "a.png") == (40, 30, "JPEG")
    assert np.array_equal(np.asarray(open_image(tmp_path / "a.png")), np.asarray(open_image(pil_image(format="JPEG"))))


def test_the_largest_docvqa_page_is_below_the_limit() -> None:
    assert MAX_PIXELS > 5367 * 7184


def rewritten_exif(data: bytes, tag: int, kind: int, value: bytes) -> bytes:
    """A JPEG with EXIF orientation 6, and another tag of a type that Pillow reads but does not write."""
    entries = [struct.pack("<HHIHH", 0x0112, 3, 1, 6, 0), struct.pack("<HHI4s", tag, kind, 1, value)]
    exif = b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", 2) + b"".join(entries) + bytes(4)
    return data[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + data[2:]


@pytest.mark.parametrize(("tag", "kind"), [(0x0131, 11), (0x0100, 2)])
def test_exif_that_cannot_be_written_again_still_turns_the_image(tag: int, kind: int) -> None:
    plain = pil_image(format="JPEG")
    turned = open_image(rewritten_exif(plain, tag, kind, b"abcd"))
    assert np.array_equal(np.asarray(turned), np.rot90(np.asarray(open_image(plain)), -1))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_what_was_turned_is_not_turned_again(orientation: int, format: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = open_image(pil_image(format=format, exif=exif))
    assert np.array_equal(np.asarray(ImageOps.exif_transpose(image)), np.asarray(image))


# --- decoded as cheaply as it goes ---


def sideways() -> Image.Exif:
    """Orientation 6; a new one each time, since saving an AVIF takes the orientation out."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


KINDS: dict[str, bytes] = {
    "JPEG": pil_image(format="JPEG", size=(90, 70)),
    "JPEG grey": pil_image("L", format="JPEG", size=(300, 200)),
    "JPEG CMYK": pil_image("CMYK", format="JPEG"),
    "JPEG progressive": pil_image(format="JPEG", size=(300, 200), progressive=True, exif=sideways()),
    "JPEG 4:2:2": pil_image(format="JPEG", size=(90, 70), subsampling=1, restart_marker_blocks=2),
    "JPEG RGB": pil_image(format="JPEG", size=(90, 70), keep_rgb=True),
    "MPO": pil_image(format="MPO", save_all=True, append_images=[Image.new("RGB", (40, 30))], exif=sideways()),
    "PNG": pil_image(exif=sideways()),
    "PNG grey": pil_image("LA"),
    "PNG palette": pil_image("P", transparency=bytes(range(256))),
    "PNG moving": pil_image(save_all=True, append_images=[Image.new("RGB", (40, 30))]),
    "GIF": pil_image("P", format="GIF", save_all=True, append_images=[Image.new("P", (40, 30), 9)]),
    "WEBP": pil_image(format="WEBP", exif=sideways()),
    "WEBP lossless": pil_image("RGBA", format="WEBP", lossless=True),
    "TIFF": pil_image(format="TIFF", exif=sideways()),
    "TIFF LZW": pil_image(format="TIFF", compression="tiff_lzw"),
    "TIFF of fax": pil_image("1", format="TIFF", compression="group4"),
    "TIFF of JPEG": pil_image(format="TIFF", compression="jpeg"),
    "BMP": pil_image("P", format="BMP"),
    "ICO": pil_image("RGBA", format="ICO", size=(48, 48), sizes=[(16, 16), (48, 48)]),
    "JPEG2000": pil_image(format="JPEG2000"),
    "PPM": pil_image(format="PPM"),
    "AVIF": pil_image(format="AVIF", speed=10, exif=sideways()),
}  # fmt: skip


def same_verdict(data: bytes) -> bool:
    """Is `decode_whole` of one mind with `open_image`, about the size as well? True where it opens."""
    opened, whole = verdict(open_image, data), verdict(decode_whole, data)
    assert whole == opened
    return not isinstance(opened, str)


def verdict(decode: Callable[..., Image.Image | Whole], data: bytes) -> str | tuple[tuple[int, int], str]:
    """Size and mode, or why not."""
    try:
        found = decode(data, where="x")
    except RejectInput as reject:
        return str(reject)
    return found.size, found.mode


@pytest.mark.parametrize("kind", KINDS)
def test_whole_images_are_whole(kind: str) -> None:
    assert same_verdict(KINDS[kind])
    assert decode_whole(KINDS[kind]).format == kind.split()[0]
    is_turned = kind in ("JPEG progressive", "MPO", "PNG", "WEBP", "AVIF")  # of a TIFF, Pillow has turned the pixels
    assert decode_whole(KINDS[kind]).orientation == (6 if is_turned else 1)


@settings(deadline=None, max_examples=300)
@given(kind=st.sampled_from(sorted(KINDS)), keep=st.floats(0, 1, exclude_max=True))
def test_decode_whole_rejects_the_cut_images_that_open_image_rejects(kind: str, keep: float) -> None:
    same_verdict(KINDS[kind][: int(keep * len(KINDS[kind]))])


@settings(deadline=None, max_examples=500)
@given(
    kind=st.sampled_from(sorted(KINDS)),
    flips=st.lists(st.tuples(st.integers(0, 2**20), st.integers(0, 255)), min_size=1, max_size=4),
    header=st.booleans(),
)
def test_decode_whole_rejects_the_damaged_images_that_open_image_rejects(
    kind: str, flips: list[tuple[int, int]], header: bool
) -> None:
    raw = bytearray(KINDS[kind])
    for place, value in flips:
        raw[place % (min(700, len(raw)) if header else len(raw))] = value
    same_verdict(bytes(raw))


@pytest.mark.parametrize("kind", ["JPEG", "JPEG progressive", "JPEG RGB"])
def test_decode_whole_rejects_colours_that_do_not_divide_each_other(kind: str) -> None:
    """libjpeg decodes the grey of these, and fails at their colours."""
    raw, opened = bytearray(KINDS[kind]), set()
    start = max(raw.find(b"\xff\xc0"), raw.find(b"\xff\xc2")) + 11
    for sampling in itertools.product((0x11, 0x12, 0x21, 0x31, 0x32, 0x13), (0x11, 0x21, 0x10), (0x11, 0x12, 0x31)):
        raw[start : start + 9 : 3] = bytes(sampling)
        opened.add(same_verdict(bytes(raw)))
    assert opened == {True, False}


def test_decode_whole_agrees_about_the_broken_images_of_the_wild(shared: Path) -> None:
    files = [path for path in sorted((shared / "samples/broken_media/images").rglob("*")) if path.is_file()]
    opened = [same_verdict(path.read_bytes()) for path in files]
    assert 0 < sum(opened) < len(files)


@pytest.mark.parametrize(("size", "scale"), [((300, 270), 8), ((300, 130), 4), ((64, 90), 2), ((63, 90), 1)])
def test_a_jpeg_comes_out_grey_and_small(size: tuple[int, int], scale: int) -> None:
    data = pil_image(format="JPEG", size=size, exif=sideways())
    whole = decode_whole(data)
    assert (whole.scale, whole.mode, whole.pixels.mode, whole.size) == (scale, "RGB", "L", size[::-1])
    assert whole.pixels.size == tuple(-(-side // scale) for side in size)
    grey = Image.open(io.BytesIO(data)).convert("L").reduce(scale)
    difference = np.asarray(whole.pixels).astype(int) - np.asarray(grey)
    assert np.abs(difference).mean() < 4


def test_other_images_keep_their_pixels() -> None:
    for kind in ("PNG", "GIF", "WEBP lossless", "BMP", "AVIF"):
        image = Image.open(io.BytesIO(KINDS[kind]))
        assert np.array_equal(np.asarray(decode_whole(KINDS[kind]).pixels), np.asarray(image))


def test_the_pixel_limit_holds_for_decode_whole() -> None:
    assert decode_whole(pil_image(), max_pixels=1200).size == (40, 30)
    assert rejected(lambda: decode_whole(pil_image(), max_pixels=1199)).code == "too-large"


@pytest.mark.parametrize("number", [1, 2, 5])
@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG", "TIFF", "AVIF"])
def test_frames_are_counted(format: str, number: int) -> None:
    more = [Image.new("RGB", (40, 30), (k * 40, 0, 0)) for k in range(1, number)]
    data = pil_image(format=format, **{"save_all": True, "append_images": more} if more else {})
    assert count_images(data, format) == number
    assert decode_whole(data).num_frames == (0 if format in ("GIF", "TIFF") else number)


def tiff(kinds: list[int | None]) -> bytes:
    """A TIFF whose pages say that they are of these kinds to the others (None: they do not say)."""
    pages = [Image.new("L", (4, 3)) for _ in kinds]
    for page, kind in zip(pages, kinds, strict=True):
        tags = TiffImagePlugin.ImageFileDirectory_v2()
        if kind is not None:
            tags[254] = kind
        page.encoderinfo = {"tiffinfo": tags}
    out = io.BytesIO()
    pages[0].save(out, "TIFF", save_all=True, append_images=pages[1:], tiffinfo=pages[0].encoderinfo["tiffinfo"])
    return out.getvalue()


@pytest.mark.parametrize(
    ("kinds", "number"),
    [([None, None], 2), ([2, 2], 2), ([0, 1, 1], 1), ([None, 4], 1), ([2, 5, 2, 1], 2), ([1], 1)],
)
def test_smaller_copies_and_masks_are_no_pages(kinds: list[int | None], number: int) -> None:
    assert count_images(tiff(kinds), "TIFF") == number


def test_the_pages_of_a_tiff_are_counted_to_a_limit() -> None:
    assert count_images(tiff([None] * (MAX_PAGES - 1)), "TIFF") == MAX_PAGES - 1
    assert count_images(tiff([None] * (MAX_PAGES + 3)), "TIFF") == MAX_PAGES


@pytest.mark.parametrize("kind", ["GIF", "TIFF", "TIFF LZW"])
@settings(deadline=None, max_examples=100)
@given(data=st.data())
def test_frames_of_a_damaged_file_are_counted_as_far_as_they_go(kind: str, data: st.DataObject) -> None:
    raw = bytearray(KINDS[kind])
    for _ in range(data.draw(st.integers(1, 3))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    try:
        format = decode_whole(bytes(raw)).format
    except RejectInput:
        return
    assert 1 <= count_images(bytes(raw), format) <= MAX_PAGES


# --- what does not ---


@settings(deadline=None, max_examples=60)
@given(keep=st.floats(0, 1, exclude_max=True), format=st.sampled_from(["PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF"]))
def test_a_cut_image_is_rejected_or_loses_no_pixel(keep: float, format: str) -> None:
    data = pil_image(format=format)
    try:
        image = open_image(data[: int(keep * len(data))])
    except RejectInput:
        return
    assert np.array_equal(np.asarray(image), np.asarray(open_image(data)))


@settings(deadline=None, max_examples=150)
@given(data=st.data(), format=st.sampled_from(["PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF"]))
def test_no_flipped_bytes_raise_anything_else(data: st.DataObject, format: str) -> None:
    raw = bytearray(pil_image(format=format))
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    for call in (open_image, image_size):
        with suppress(RejectInput):
            call(bytes(raw))


def test_a_bomb_is_refused_before_it_is_decoded() -> None:
    data = bytearray(pil_image(format="BMP"))
    struct.pack_into("<ii", data, 18, 20_000, 20_000)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # no Pillow warning may stand in for the error, or beside it
        for call in (open_image, image_size, decode_whole):
            assert rejected(lambda call=call: call(bytes(data))).code == "too-large"


def test_the_pixel_limit_is_the_callers_and_pillows_stays() -> None:
    before = Image.MAX_IMAGE_PIXELS
    assert open_image(pil_image(), max_pixels=1200).size == (40, 30)
    assert rejected(lambda: open_image(pil_image(), max_pixels=1199)).code == "too-large"
    assert before == Image.MAX_IMAGE_PIXELS


def test_a_cut_image_is_rejected_even_where_another_library_allows_it(monkeypatch: pytest.MonkeyPatch) -> None:
    data = pil_image(format="JPEG", size=(400, 300))
    icon = pil_image("RGBA", format="ICO", size=(48, 48), sizes=[(48, 48)])
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    for call in (open_image, decode_whole):
        assert rejected(lambda call=call: call(data[: len(data) // 2])).code == "truncated"
        assert rejected(lambda call=call: call(icon[: len(icon) // 2])).code in ("truncated", "undecodable")
    assert ImageFile.LOAD_TRUNCATED_IMAGES


def test_postscript_is_never_run() -> None:
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n"
    assert rejected(lambda: open_image(eps)).code == "not-an-image"


@pytest.mark.parametrize(
    ("data", "code"), [(b"", "empty-file"), (b"<!DOCTYPE html>", "not-an-image"), (b"\x89PNG\r\n\x1a\n", "undecodable")]
)
def test_what_is_no_image_has_a_code(data: bytes, code: str) -> None:
    assert rejected(lambda: open_image(data)).code in (code, "truncated", "not-an-image")


def test_a_missing_file_is_one_line(tmp_path: Path) -> None:
    assert rejected(lambda: open_image(tmp_path / "a.png")).code == "unreadable"


def test_an_error_names_the_place_it_was_given() -> None:
    assert str(rejected(lambda: open_image(b"", where="a.jsonl:3"))) == "a.jsonl:3: the file is empty [empty-file]"


def test_threads_do_not_change_the_warning_filters_for_good(monkeypatch: pytest.MonkeyPatch) -> None:
    """`catch_warnings` entered by two threads at once leaves the filters of one of them behind."""
    before, real, together = list(warnings.filters), Image.open, threading.Barrier(2)

    def slow_open(*args: object, **options: object) -> Image.Image:
        with suppress(threading.BrokenBarrierError):
            time.sleep(0.1 * together.wait(timeout=0.3))  # both inside: leave in the order 0, 1
        return real(*args, **options)  # type: ignore[arg-type]  # passed along

    monkeypatch.setattr(Image, "open", slow_open)
    threads = [threading.Thread(target=lambda: open_image(pil_image())) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert list(warnings.filters) == before


# --- encoding ---


@pytest.mark.parametrize("quality", [1, 75, 95])
def test_jpeg_bytes_are_pillows(quality: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (24, 33, 3), np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "JPEG", quality=quality)
    assert encode_jpeg(pixels, quality) == out.getvalue()
    assert encode_jpeg(Image.fromarray(pixels), quality) == out.getvalue()


def test_the_default_quality_gives_the_recipes_bytes() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (240, 320, 3), np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).convert("RGB").save(out, "JPEG")
    assert encode_jpeg(pixels) == out.getvalue()


def test_a_rejection_survives_the_way_back_from_a_worker() -> None:
    reject = pickle.loads(pickle.dumps(RejectInput("a.avi", "truncated", "too\nshort")))
    assert (reject.code, reject.reason, str(reject)) == ("truncated", "too short", "a.avi: too short [truncated]")
