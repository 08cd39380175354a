"""The HD rule and the pixels, against the original's golden data and an oracle of its algorithm."""

from __future__ import annotations

import hashlib
import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from phiv_schemas.errors import RecordError
from phiv_train.families.phi3_vision.image_processing import (
    hd_crops,
    hd_size,
    num_image_tokens,
    pixel_values,
    weave,
)

REPO = Path(__file__).resolve().parents[3]
MODEL_CASES = ("a_single", "b_two", "c_frames8", "e_doc16")


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    """The benchmark script, which holds the oracle."""
    spec = importlib.util.spec_from_file_location("image_benchmark", REPO / "benchmarks" / "image_preprocessing.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def golden(shared: Path) -> Path:
    return shared / "golden"


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def sha256(array: np.ndarray[Any, Any]) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()


def test_hd_table_of_the_original(golden: Path) -> None:
    for row in json.loads((golden / "hd_table.json").read_text()):
        size = hd_size(row["width"], row["height"], row["num_crops"])
        if "error" in row:
            assert [size.width, size.height] == row["calc_size"]
            assert num_image_tokens(row["width"], row["height"], row["num_crops"]) == 0
            continue
        assert [size.width, size.height] == row["out"], row
        assert [size.resized_width, size.resized_height] == row["resized"], row
        assert [size.left, size.top] == row["pad_ltrb"][:2], row
        assert num_image_tokens(row["width"], row["height"], row["num_crops"]) == row["num_img_tokens"]


def test_token_counts_of_many_sizes_at_once_equal_those_of_each() -> None:
    rng = np.random.default_rng(0)
    widths, heights = rng.integers(1, 6000, (2, 500))
    for num_crops in (1, 4, 16, 17):
        together = num_image_tokens(widths, heights, num_crops)
        each = [int(num_image_tokens(w, h, num_crops)) for w, h in zip(widths, heights, strict=True)]
        assert together.tolist() == each


@settings(max_examples=300, deadline=None)
@given(st.integers(1, 5000), st.integers(1, 5000), st.integers(1, 20))
def test_scale_is_the_original_s_count(width: int, height: int, num_crops: int) -> None:
    long, short = max(width, height), min(width, height)
    scale = 1
    while scale * np.ceil(scale / (long / short)) <= num_crops:
        scale += 1
    size = hd_size(width, height, num_crops)
    assert max(size.resized_width, size.resized_height) == 336 * (scale - 1)
    assert min(size.resized_width, size.resized_height) == int(336 * (scale - 1) / (long / short))


@pytest.mark.parametrize("case", MODEL_CASES)
def test_pixels_of_the_original(golden: Path, case: str) -> None:
    facts = json.loads((golden / "meta.json").read_text())["cases"][case]
    arrays = np.load(golden / f"{case}.npz")
    for i, image in enumerate(facts["images"]):
        crops, size = hd_crops(Image.open(golden / "images" / image["file"]), facts["num_crops"])
        pixels = pixel_values(crops, size)
        woven = weave(crops, size)
        assert list(size) == image["image_size_hw"] == arrays["image_sizes"][i].tolist()
        assert len(crops) == image["n_crops"]
        assert sha256(woven) == image["hd_u8_sha256"]
        assert np.array_equal(woven[3::6, 2::6], arrays[f"hd_u8_s6_{i}"])
        assert sha256(pixels[1:]) == image["crops_only_f32_sha256"]
        assert np.abs(pixels[:, :, 2::16, 5::16] - arrays[f"pv_sample_{i}"]).max() < 1e-5
        view = pixels[0] if arrays[f"global_sample_{i}"].shape[1] == 336 else pixels[0][:, 1::4, 2::4]
        assert np.abs(view - arrays[f"global_sample_{i}"]).max() < 1e-5


def test_modes_of_the_original(golden: Path) -> None:
    facts = json.loads((golden / "meta.json").read_text())["cases"]["h_modes"]
    for image in facts["images"]:
        pil_image = Image.open(golden / "images" / image["file"])
        crops, size = hd_crops(pil_image, facts["num_crops"], clip_high_depth=True)
        assert sha256(weave(crops, size)) == image["hd_u8_sha256"], image["mode"]
        if image["mode"] != "I;16":
            same, _ = hd_crops(pil_image, facts["num_crops"])
            assert np.array_equal(same, crops), image["mode"]


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 700), st.integers(1, 700), st.integers(1, 9), st.integers(0, 99))
def test_equal_to_the_oracle_on_any_size(
    benchmark: ModuleType, width: int, height: int, num_crops: int, seed: int
) -> None:
    if num_image_tokens(width, height, num_crops) == 0:
        return
    image = noise(width, height, seed)
    crops, size = hd_crops(image, num_crops)
    assert np.array_equal(weave(crops, size), np.asarray(benchmark.original_image(image, num_crops)))
    expected = benchmark.original(image, num_crops)[0].numpy()
    assert np.abs(pixel_values(crops, size, num_crops) - expected).max() < 1e-5
    assert np.array_equal(pixel_values(crops, size), pixel_values(crops, size, num_crops)[: 1 + len(crops)])


@pytest.mark.parametrize("crop_size", [28, 56])
def test_crops_of_another_size_hold_the_same_rule(crop_size: int) -> None:
    crops, (height, width) = hd_crops(noise(80, 60), 4, crop_size=crop_size)
    assert crops.shape == (4, crop_size, crop_size, 3)
    assert (height, width) == (2 * crop_size, 2 * crop_size)
    assert (weave(crops, (height, width))[0] == 255).all()


def test_one_pixel_is_enlarged() -> None:
    crops, size = hd_crops(Image.new("RGB", (1, 1), (10, 20, 30)), 1)
    assert size == (336, 336)
    assert (crops == [10, 20, 30]).all()


@pytest.mark.parametrize("size", [(20000, 10), (10, 20000), (5000, 1)])
def test_a_strip_too_thin_to_be_shown_is_refused_by_name(size: tuple[int, int]) -> None:
    with pytest.raises(RecordError, match=r"a/strip\.png: an image of \d+x\d+ is too thin for num_crops 4"):
        hd_crops(Image.new("RGB", size), 4, where="a/strip.png")
    assert num_image_tokens(*size, 4) == 0


def test_sixteen_bit_grey_is_scaled_not_clipped() -> None:
    ramp = np.linspace(0, 65535, 336 * 336).astype(np.uint16).reshape(336, 336)
    crops, _ = hd_crops(Image.fromarray(ramp), 1)
    assert np.array_equal(crops[0, :, :, 0], np.rint(ramp / 257).astype(np.uint8))


@pytest.mark.parametrize("mode", ["I", "F"])
def test_a_mode_without_a_defined_white_is_refused(mode: str) -> None:
    with pytest.raises(RecordError, match=rf"^x\.tif: mode '{mode}' has no defined white\. Convert it to 8 bits"):
        hd_crops(Image.new(mode, (40, 30)), 1, where="x.tif")


@pytest.mark.parametrize(
    ("array", "found"),
    [
        (np.zeros((40, 30, 3), np.float32), r"float32 \[40, 30, 3\]"),
        (np.zeros((40, 30), np.float32), r"float32 \[40, 30\]"),
        (np.zeros((40, 30, 3), np.int32), r"int32 \[40, 30, 3\]"),
        (np.zeros((40, 30, 3), np.uint16), r"uint16 \[40, 30, 3\]"),
        (np.zeros((40, 30, 1), np.uint8), r"uint8 \[40, 30, 1\]"),
        (np.zeros((3, 40, 30), np.uint8), r"uint8 \[3, 40, 30\]"),
        (np.zeros((40,), np.uint8), r"uint8 \[40\]"),
    ],
)
def test_an_array_of_another_type_or_shape_is_refused_by_name(array: np.ndarray[Any, Any], found: str) -> None:
    with pytest.raises(RecordError, match=rf"^row-3: a\.png: an array {found} is no image\. Pass uint8 \[H, W, 3\]"):
        hd_crops(array, 1, where="row-3: a.png")


@pytest.mark.parametrize("size", [(0, 0), (0, 5), (5, 0)])
def test_a_image_of_no_pixels_is_refused_by_name(size: tuple[int, int]) -> None:
    for pil_image in (Image.new("RGB", size), np.zeros((*size[::-1], 3), np.uint8)):
        with pytest.raises(RecordError, match=rf"^x\.png: an image of {size[0]}x{size[1]} has no pixels"):
            hd_crops(pil_image, 1, where="x.png")


def test_cmyk_and_palettes_become_rgb_and_alpha_is_dropped() -> None:
    image = noise(64, 48)
    for other in (image.convert("CMYK"), image.convert("P"), image.convert("YCbCr")):
        assert np.array_equal(hd_crops(other, 1)[0], hd_crops(other.convert("RGB"), 1)[0])
    seen_through = image.copy()
    seen_through.putalpha(0)
    assert np.array_equal(hd_crops(seen_through, 1)[0], hd_crops(image, 1)[0])


def test_an_array_is_a_image_and_only_the_first_frame_of_an_animation_counts(tmp_path: Path) -> None:
    first, second = noise(60, 40, 1), noise(60, 40, 2)
    assert np.array_equal(hd_crops(np.asarray(first), 1)[0], hd_crops(first, 1)[0])
    first.save(tmp_path / "a.webp", save_all=True, append_images=[second], lossless=True)
    assert np.array_equal(hd_crops(Image.open(tmp_path / "a.webp"), 1)[0], hd_crops(first, 1)[0])


def test_a_cut_file_is_refused_by_name(tmp_path: Path) -> None:
    noise(300, 200).save(tmp_path / "whole.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "whole.jpg").read_bytes()[:4000])
    with pytest.raises(RecordError, match=r"cut\.jpg: not a readable image"):
        hd_crops(Image.open(tmp_path / "cut.jpg"), 4, where="cut.jpg")
