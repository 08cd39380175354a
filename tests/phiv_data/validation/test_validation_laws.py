"""A validation may be divided in any way: reports of parts merge into the report of the whole.

report(A + B) == merge(report(A), report(B)),   with identity, in any order, in any number of processes
"""

from __future__ import annotations

import json
import pickle
import tempfile
from collections.abc import Sequence
from functools import partial, reduce
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import pytest
from data_builders import samples, write_dataset
from hostile_lines import files, write_images
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from phiv_data.validation import validate
from phiv_data.validation.core.finding import Settings
from phiv_data.validation.core.key_index import KeyIndex
from phiv_data.validation.inputs import jsonl_range
from phiv_data.validation.inputs.image_checks import ImageChecks
from phiv_data.validation.inputs.jsonl_range import JsonlRange
from phiv_data.validation.partial_result import PartialResult, finalize, merge
from phiv_data.validation.run import find_records
from phiv_data.validation.tasks import CheckContext
from phiv_schemas import ValidationReport

Parts = list[PartialResult]
limits = st.sampled_from([1, 2, 3, 5, 1000])


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Those of hostile lines; the two that are whole look the same, so that splits leak."""
    folder = write_images(tmp_path_factory.mktemp("images") / "images")
    blots = Image.effect_mandelbrot((24, 16), (-2, -1.5, 1, 1.5), 9)
    blots.save(folder / "a.png")
    blots.point(lambda level: min(level + 1, 255)).save(folder / "b/ü.png")
    return folder


class Divided:
    """Files in a folder, each in pieces: `bounds` are the lines where a piece ends and the next begins."""

    def __init__(self, folder: Path, images: Path | None, lines_of: Sequence[list[bytes]], max_issues: int) -> None:
        self.folder, self.images, self.lines_of, self.max_issues = folder, images, lines_of, max_issues
        for number, lines in enumerate(lines_of):
            self.path(number).write_bytes(b"".join(lines))

    def path(self, number: int) -> Path:
        return self.folder / f"{['train', 'val', 'test'][number]}.jsonl"

    def pieces(self, bounds: Sequence[list[int]]) -> list[JsonlRange]:
        pieces = []
        for number, lines in enumerate(self.lines_of):
            path, offsets = self.path(number), [0, *accumulate(map(len, lines))]
            edges = [0, *sorted(bound % (len(lines) + 1) for bound in bounds[number]), len(lines)]
            pieces += [
                JsonlRange(path.stem, path.name, path, offsets[a], offsets[b], a + 1) for a, b in pairwise(edges)
            ]
        return pieces

    def parts(self, bounds: Sequence[list[int]]) -> Parts:
        pieces = self.pieces(bounds)
        images = ImageChecks(self.images, deep=True, phash=True) if self.images else None
        context = CheckContext(Settings(max_issues=self.max_issues), images)
        return [piece.check(context) for piece in pieces]

    def report(self, whole: PartialResult, spill_bytes: int = 2**25) -> ValidationReport:
        """As `validate` ends."""
        with tempfile.TemporaryDirectory() as folder:
            index = KeyIndex(lambda: Path(folder), spill_bytes)
            return finalize(whole, index, "data", partial(find_records, self.pieces([[], [], []])))


@st.composite
def divided(draw: st.DrawFn) -> tuple[list[list[bytes]], list[list[int]], int, bool]:
    """One to three files of lines, bounds of their pieces, a limit of listed issues, and whether there are images."""
    lines_of = draw(st.lists(files(), min_size=1, max_size=3))
    bounds = [draw(st.lists(st.integers(0, 99), max_size=4)) for _ in lines_of]
    return lines_of, bounds, draw(limits), draw(st.integers(0, 3)) > 0


@pytest.fixture
def make(images: Path, tmp_path: Path) -> Any:
    def made(lines_of: list[list[bytes]], max_issues: int, with_images: bool) -> Divided:
        folder = Path(tempfile.mkdtemp(dir=tmp_path))
        return Divided(folder, images if with_images else None, lines_of, max_issues)

    return made


property_test = settings(
    max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


def test_the_data_of_these_properties_leaks(make: Any) -> None:
    def line(image: str) -> bytes:
        turn = {"images": [image], "user": "What is it?", "assistant": "cat"}
        return json.dumps({"id": image, "source": "mine", "conversations": [turn]}).encode() + b"\n"

    data = make([[line("a.png")], [line("b/ü.png")], [line("a.png")]], 9, True)
    assert {"PV240", "PV241", "PV242"} <= data.report(reduce(merge, data.parts([[], [], []]))).counts().keys()


@property_test
@given(divided(), st.randoms(use_true_random=False))
def test_the_report_of_the_parts_merged_in_any_order_is_that_of_the_whole(make: Any, given_: Any, random: Any) -> None:
    lines_of, bounds, max_issues, with_images = given_
    data = make(lines_of, max_issues, with_images)
    whole = data.report(reduce(merge, data.parts([[] for _ in lines_of])))
    parts = data.parts(bounds)
    random.shuffle(parts)
    assert data.report(reduce(merge, parts, PartialResult())) == whole
    assert data.report(pickle.loads(pickle.dumps(reduce(merge, parts))), spill_bytes=0) == whole


@property_test
@given(divided(), st.integers(0, 99), st.integers(0, 99))
def test_merge_is_associative_and_commutative_and_has_an_identity(make: Any, given_: Any, i: int, j: int) -> None:
    lines_of, bounds, max_issues, with_images = given_
    data = make(lines_of, max_issues, with_images)
    parts = data.parts(bounds)
    i, j = sorted((i % (len(parts) + 1), j % (len(parts) + 1)))
    a, b, c = (reduce(merge, some, PartialResult()) for some in (parts[:i], parts[i:j], parts[j:]))
    before = pickle.dumps((a, b, c))
    assert data.report(merge(merge(a, b), c)) == data.report(merge(a, merge(b, c)))
    assert data.report(merge(a, b)) == data.report(merge(b, a))
    assert data.report(merge(PartialResult(), a)) == data.report(a) == data.report(merge(a, PartialResult()))
    assert pickle.dumps((a, b, c)) == before, "neither side of a merge is changed"


@property_test
@given(files(max_lines=30), st.integers(1, 2000), limits)
def test_the_size_of_the_pieces_does_not_show(make: Any, lines: list[bytes], piece_bytes: int, max_issues: int) -> None:
    data = make([lines], max_issues, True)
    path, options = data.path(0), {"images_root": data.images, "max_issues": max_issues, "input_format": "phiv"}
    whole = validate(path, **options)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jsonl_range, "PIECE_BYTES", piece_bytes)
        patch.setattr(jsonl_range, "DEEP_PIECE_BYTES", piece_bytes)
        assert validate(path, **options) == whole
        assert validate(path, deep=False, **options).rows == whole.rows


def test_a_utf16_file_is_one_error_whatever_the_size_of_the_pieces(tmp_path: Path, monkeypatch: Any) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes('{"id": "a"}\n'.encode("utf-16") * 9)
    whole = validate(path)
    monkeypatch.setattr(jsonl_range, "PIECE_BYTES", 7)
    assert validate(path) == whole
    assert whole.counts() == {"PV005": 1}


@pytest.mark.parametrize("num_workers", [1, 2, 3])
def test_real_workers_give_the_report_of_none(
    num_workers: int, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = [f'{{"id": "val-{i % 40}", "source": "mine", "conversations": [{turn(i)}]}}\n' for i in range(60)]
    path = tmp_path / "val.jsonl"
    path.write_text("".join([*lines, "\n", "{}\r\n", *lines[:9], lines[0][:-9]]))
    whole = validate(path, images_root=images)
    monkeypatch.setattr(jsonl_range, "DEEP_PIECE_BYTES", 1500)
    assert validate(path, images_root=images, num_workers=num_workers) == whole
    assert {"PV101", "PV102", "PV201", "PV002", "PV004", "PV401", "PV403"} <= whole.counts().keys()


def turn(i: int) -> str:
    image, text = ("a.png", "cut.png", "gone.png", "b/ü.png")[i % 4], ("What?", "<image>", "")[i % 3]
    answer = ('"cat"', "null", '"dog"')[i % 5 % 3]
    return f'{{"images": ["{image}"], "user": "{text}", "assistant": {answer}}}'


def test_real_workers_give_the_report_of_none_on_a_damaged_dataset(tmp_path: Path) -> None:
    rows = {"train": samples("train", 12), "val": samples("val", 3, 11)}
    out = write_dataset(tmp_path / "out", rows, max_shard_bytes=2000)
    next((out / "arrow" / "train").glob("*.arrow")).unlink()
    (val,) = (out / "arrow" / "val").glob("*.arrow")
    val.write_bytes(val.read_bytes()[:-8])
    (out / "images" / "val" / "Archery" / "v_0012.0.png").write_bytes(b"no image")
    (out / "ucf101_val.jsonl").write_bytes((out / "ucf101_val.jsonl").read_bytes().replace(b"Archery", b"archery", 9))
    whole = validate(out, num_workers=0)
    assert {"PV101", "PV104", "PV301", "PV302", "PV305"} <= whole.counts().keys()
    assert validate(out, num_workers=2) == whole
