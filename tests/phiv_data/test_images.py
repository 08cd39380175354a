"""Images: whole, upright and of a bounded size, or one line that says why not."""

from __future__ import annotations

import io
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
from PIL import Image, ImageFile

from phiv_data.images import MAX_PIXELS, encode_jpeg, image_size, open_image
from phiv_data.reject import RejectInput

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
from phiv_data.images import image_size, open_image
from phiv_data.reject import RejectInput
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


def picture(mode: str = "RGB", size: tuple[int, int] = (40, 30), format: str = "PNG", **options: object) -> bytes:
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
    data = picture(format=format, size=(32, 16))
    assert image_size(data).format == format
    assert image_size(data)[:2] == open_image(data).size


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_exif_orientation_is_applied_as_huggingface_datasets_does(orientation: int, format: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = picture(format=format, exif=exif)
    image = open_image(data)
    assert image.size == ((30, 40) if orientation >= 5 else (40, 30)) == image_size(data)[:2]
    datasets = pytest.importorskip("datasets")
    theirs = datasets.Image().decode_example({"bytes": data, "path": None})
    assert np.array_equal(np.asarray(image), np.asarray(theirs))


def test_an_orientation_out_of_range_is_none() -> None:
    exif = Image.Exif()
    exif[0x0112] = 77
    assert open_image(picture(exif=exif)).size == image_size(picture(exif=exif))[:2] == (40, 30)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
def test_the_mode_of_the_file_is_kept(mode: str) -> None:
    assert open_image(picture(mode)).mode == mode


def test_a_path_and_its_bytes_are_the_same(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(picture("RGB", format="JPEG"))
    assert image_size(tmp_path / "a.png") == (40, 30, "JPEG")
    assert np.array_equal(np.asarray(open_image(tmp_path / "a.png")), np.asarray(open_image(picture(format="JPEG"))))


def test_the_largest_docvqa_page_is_below_the_limit() -> None:
    assert MAX_PIXELS > 5367 * 7184


# --- what does not ---


@settings(deadline=None, max_examples=60)
@given(keep=st.floats(0, 1, exclude_max=True), format=st.sampled_from(["PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF"]))
def test_a_cut_image_is_rejected_or_loses_no_pixel(keep: float, format: str) -> None:
    data = picture(format=format)
    try:
        image = open_image(data[: int(keep * len(data))])
    except RejectInput:
        return
    assert np.array_equal(np.asarray(image), np.asarray(open_image(data)))


@settings(deadline=None, max_examples=150)
@given(data=st.data(), format=st.sampled_from(["PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF"]))
def test_no_flipped_bytes_raise_anything_else(data: st.DataObject, format: str) -> None:
    raw = bytearray(picture(format=format))
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    for call in (open_image, image_size):
        with suppress(RejectInput):
            call(bytes(raw))


def test_a_bomb_is_refused_before_it_is_decoded() -> None:
    data = bytearray(picture(format="BMP"))
    struct.pack_into("<ii", data, 18, 20_000, 20_000)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # no Pillow warning may stand in for the error, or beside it
        for call in (open_image, image_size):
            assert rejected(lambda call=call: call(bytes(data))).code == "too-large"


def test_the_pixel_limit_is_the_callers_and_pillows_stays() -> None:
    before = Image.MAX_IMAGE_PIXELS
    assert open_image(picture(), max_pixels=1200).size == (40, 30)
    assert rejected(lambda: open_image(picture(), max_pixels=1199)).code == "too-large"
    assert before == Image.MAX_IMAGE_PIXELS


def test_a_cut_image_is_rejected_even_where_another_library_allows_it(monkeypatch: pytest.MonkeyPatch) -> None:
    data = picture(format="JPEG", size=(400, 300))
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    assert rejected(lambda: open_image(data[: len(data) // 2])).code == "truncated"
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
    threads = [threading.Thread(target=lambda: open_image(picture())) for _ in range(2)]
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
