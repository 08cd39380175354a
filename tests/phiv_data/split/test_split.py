"""A split of real datasets on disk: nothing is shared between splits, and every row and image is as it was."""

from __future__ import annotations

import hashlib
import io
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st
from PIL import Image

from phiv_data import ConversationDataset, validate
from phiv_data.convert import Converter, Draft, Inputs, Item, Sharing, Turn
from phiv_data.convert.engine import convert
from phiv_data.split import split_dataset
from phiv_data.storage.dataset import read_manifest
from phiv_data.storage.jsonl import read_jsonl
from phiv_data.storage.sample import encoded_image
from phiv_schemas import ShardError, UsageError

GROUPS = Sharing("scene group", r"/g([1-9]\d*)_")
LEAKS = {"PV240", "PV241", "PV242", "PV243"}


@dataclass(frozen=True)
class Row:
    """One row: its images by scene and how each was stored, the declared group, question and answer."""

    images: tuple[tuple[int, int], ...] = ((0, 0),)
    group: int = 0
    question: str = "What is it?"
    answer: str = "cat"
    split: str = "train"


@dataclass(frozen=True)
class ImageRows(Converter):
    """Converts rows given in Python. An image path names its group, where there is one (not 0)."""

    rows: tuple[Row, ...]
    splits: tuple[str, ...] = ("train", "val", "test")
    name: str = "made"
    sharing: Sharing | None = GROUPS

    def describe(self) -> str:
        return "rows of a list"

    def options(self) -> dict[str, Any]:
        return {}

    def inputs(self) -> Inputs:
        return Inputs(tuple(Item(row.split, f"{i:08d}", repr(row).encode(), i) for i, row in enumerate(self.rows)))

    def draft(self, item: Item) -> Draft:
        row = self.rows[item.payload]
        images = []
        for k, (scene, version) in enumerate(row.images):
            kind = "PNG" if version == 0 else "JPEG"
            path = f"{item.split}/g{row.group}_{item.payload}_{k}.{kind.lower()}"
            images.append(encoded_image(path, scene_bytes(scene, version), size=(64, 64), format=kind))
        turn = Turn(images=tuple(one.meta.path for one in images), user=row.question, assistant=row.answer)
        return Draft((turn,), tuple(images))


def scene_bytes(scene: int, version: int) -> bytes:
    """A scene with much detail; its versions look nearly the same, each a little brighter than the one before."""
    grey = np.random.default_rng(scene).integers(40, 200, (8, 9), np.uint8)
    image = Image.fromarray(grey).resize((64, 64)).point(lambda level: level + 6 * version).convert("RGB")
    out = io.BytesIO()
    image.save(out, "PNG" if version == 0 else "JPEG")
    return out.getvalue()


@contextmanager
def rejecting_empty_splits() -> Iterator[None]:
    """Of examples whose rows are too few, or hang together, there must not be many: Hypothesis counts them."""
    try:
        yield
    except UsageError as error:
        if "empty" not in error.what:
            raise
        reject()


def make(folder: Path, rows: Sequence[Row], *, arrow: bool = True) -> Path:
    convert(ImageRows(tuple(rows)), folder, num_workers=0, arrow=arrow)
    return folder


def sides(folder: Path) -> dict[str, str]:
    """The split of each row, by its first image and question: ids may be those of other rows in a grown dataset."""
    return {
        f"{record.image_paths[0].partition('/')[2]} {record.turns[0].user}": split.name
        for split in read_manifest(folder).splits
        for record in read_jsonl(folder / split.jsonl.path)
    }


def samples_of(folder: Path) -> dict[str, Any]:
    """Every row with its images, by id, as the shards have them."""
    names = [split.name for split in read_manifest(folder).splits]
    return {one.id: one for name in names for one in ConversationDataset(folder, name, verify="sha256")}


def files_of(folder: Path) -> dict[str, str]:
    """The sha256 of each image."""
    images = folder / "images"
    return {
        path.relative_to(images).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in images.rglob("*")
        if path.is_file()
    }


def rows_of(scenes: int, *, splits: Sequence[str] = ("train", "val", "test")) -> st.SearchStrategy[Row]:
    image = st.tuples(st.integers(1, scenes), st.integers(0, 3))
    return st.builds(
        Row,
        st.lists(image, min_size=1, max_size=2).map(tuple),
        st.sampled_from([0, 0, 0, 0, 1, 2]),
        st.sampled_from(["What is it?", "Which animal?"]),
        st.sampled_from(["cat", "dog", "a free answer"]),
        st.sampled_from(splits),
    )


@given(st.lists(rows_of(40), min_size=6, max_size=16), st.integers(0, 3), st.booleans())
@settings(max_examples=20)
def test_splits_share_nothing_and_together_are_all_rows(rows: list[Row], seed: int, arrow: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        data, out = make(Path(folder, "data"), rows, arrow=arrow), Path(folder, "out")
        with rejecting_empty_splits():
            done = split_dataset(data, out, val_fraction=0.3, test_fraction=0.2, seed=seed)
        report = validate(out)
        assert not LEAKS & report.totals["warning"].keys()
        assert not report.totals["error"]
        lines = [read_manifest(one).splits for one in (data, out)]
        before, after = (
            sorted(line for split in splits for line in (one / split.jsonl.path).read_bytes().splitlines())
            for one, splits in zip((data, out), lines, strict=True)
        )
        assert before == after
        assert files_of(data) == files_of(out)
        assert sum(done.rows.values()) == len(rows) == sum(done.before.values())
        assert (data / "images.sha256").read_bytes() == (out / "images.sha256").read_bytes()
        if arrow:
            assert samples_of(data) == samples_of(out)


@given(st.lists(rows_of(60, splits=["train"]), min_size=12, max_size=20), st.data())
@settings(max_examples=12)
def test_rows_that_are_appended_never_take_another_out_of_train(rows: list[Row], data: st.DataObject) -> None:
    count = data.draw(st.integers(8, len(rows)))
    with tempfile.TemporaryDirectory() as folder:
        grown, small = make(Path(folder, "grown"), rows), make(Path(folder, "small"), rows[:count])
        with rejecting_empty_splits():
            linked = split_dataset(grown, Path(folder, "b"), val_fraction=0.4).linked
            split_dataset(small, Path(folder, "a"), val_fraction=0.4)
        before, after = sides(Path(folder, "a")), sides(Path(folder, "b"))
        moved = {row: (before[row], after[row]) for row in before if before[row] != after[row]}
        assert set(moved.values()) <= {("val", "train")}
        assert not moved or linked


def distinct(count: int, *, first: int = 1, split: str = "train") -> list[Row]:
    """Rows that share nothing, of two classes."""
    return [Row(((first + i, 0),), answer=["cat", "dog"][i % 2], split=split) for i in range(count)]


def test_classes_have_their_shares_and_a_second_run_does_nothing(tmp_path: Path) -> None:
    data = make(tmp_path / "data", distinct(60))
    done = split_dataset(data, tmp_path / "out", val_fraction=0.1, test_fraction=0.2)
    assert done.rows == {"train": 42, "val": 6, "test": 12}
    answers = Counter(one.turns[0].assistant for one in read_jsonl(tmp_path / "out/made_test.jsonl"))
    assert answers == {"cat": 6, "dog": 6}
    manifest = (tmp_path / "out/manifest.json").read_bytes()
    again = split_dataset(data, tmp_path / "out", val_fraction=0.1, test_fraction=0.2)
    assert again.found_finished
    assert again.rows == done.rows
    assert (tmp_path / "out/manifest.json").read_bytes() == manifest


@pytest.mark.parametrize("lost", ["images/**/*.png", "made_train.jsonl", "images.sha256"])
def test_a_damaged_split_is_not_left_alone(lost: str, tmp_path: Path) -> None:
    data, out = make(tmp_path / "data", distinct(20)), tmp_path / "out"
    split_dataset(data, out)
    before = (out / "manifest.json").read_bytes()
    next(out.glob(lost)).unlink()
    with pytest.raises(ShardError, match=r"a finished split is damaged: .* is missing\. --overwrite"):
        split_dataset(data, out)
    if lost.endswith(".png"):
        split_dataset(data, out, overwrite=True)
        assert (out / "manifest.json").read_bytes() == before
        assert validate(out).ok
    else:  # it said which side the rows are on
        with pytest.raises(ShardError, match=r"the older split, .*is damaged.*Split into a new folder"):
            split_dataset(data, out, overwrite=True)


def test_the_bytes_do_not_depend_on_the_number_of_workers(tmp_path: Path) -> None:
    data = make(tmp_path / "data", distinct(30))
    for workers in (0, 2):
        split_dataset(data, tmp_path / f"out{workers}", num_workers=workers)
    assert (tmp_path / "out0/manifest.json").read_bytes() == (tmp_path / "out2/manifest.json").read_bytes()


def test_images_that_look_the_same_over_a_third_stay_together(tmp_path: Path) -> None:
    chain = [Row(((7, version),), question=f"Which {version}?") for version in range(4)]
    data = make(tmp_path / "data", [*distinct(20, first=100), *chain])
    done = split_dataset(data, tmp_path / "out", val_fraction=0.3)
    assert done.linked == {"PV241": 3}
    assert len({side for row, side in sides(tmp_path / "out").items() if "Which" in row}) == 1


def test_an_older_split_keeps_the_sides_of_its_rows_wherever_new_ones_are(tmp_path: Path) -> None:
    old, new = distinct(40), distinct(25, first=500)
    out = tmp_path / "out"
    split_dataset(make(tmp_path / "small", old), out, val_fraction=0.2)
    before = by_image(out)
    grown = make(tmp_path / "grown", [*new[:10], *old[:20], *new[10:], *old[20:]])  # ids and paths are others now
    with pytest.raises(UsageError, match="Pass --overwrite"):
        split_dataset(grown, out, val_fraction=0.2)
    done = split_dataset(grown, out, val_fraction=0.2, overwrite=True)
    assert (done.kept, done.moved) == (40, 0)
    after = by_image(out)
    assert len(after) == 65
    assert {image: after[image] for image in before} == before
    assert done.rows == {"train": 52, "val": 13}


def test_rows_without_images_keep_their_sides_too(tmp_path: Path) -> None:
    texts = [Row((), question=f"What is {i} and {i}?", answer=f"{2 * i}") for i in range(21)]
    out = tmp_path / "out"
    split_dataset(make(tmp_path / "small", texts[:20]), out, val_fraction=0.2)
    done = split_dataset(make(tmp_path / "grown", texts), out, val_fraction=0.2, overwrite=True)
    assert (done.kept, done.moved) == (20, 0)


def by_image(folder: Path) -> dict[str, str]:
    """The split of each row, by the bytes of its first image."""
    return {
        one.images[0].meta.sha256: split.name
        for split in read_manifest(folder).splits
        for one in ConversationDataset(folder, split.name)
    }


def test_other_fractions_are_another_split_not_a_grown_one(tmp_path: Path) -> None:
    data, out = make(tmp_path / "data", distinct(40)), tmp_path / "out"
    split_dataset(data, out, val_fraction=0.2)
    done = split_dataset(data, out, val_fraction=0.5, overwrite=True)
    assert done.kept == 0
    assert done.rows == {"train": 20, "val": 20}


def test_a_damaged_dataset_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    data = make(tmp_path / "data", distinct(12))
    image = next((data / "images").rglob("*.png"))
    image.write_bytes(scene_bytes(99, 0))
    with pytest.raises(ShardError, match=r"made_train.jsonl:\d+: bytes differ from those converted"):
        split_dataset(data, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_cut_shard_is_refused(tmp_path: Path) -> None:
    data = make(tmp_path / "data", distinct(12))
    shard = next(data.rglob("*.arrow"))
    shard.write_bytes(shard.read_bytes()[:-100])
    with pytest.raises(ShardError, match="was cut or changed"):
        split_dataset(data, tmp_path / "out")


def test_rows_that_all_hang_together_cannot_be_split(tmp_path: Path) -> None:
    data = make(tmp_path / "data", [Row(question=f"What is {i}?") for i in range(9)])
    with pytest.raises(UsageError, match=r"--val_fraction: leaves val empty \(9 rows; up to 9 must stay together\)"):
        split_dataset(data, tmp_path / "out", val_fraction=0.4)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("fractions", "message"),
    [
        ({"val_fraction": 1.0}, r"--val_fraction: must be at least 0 and less than 1 \(found 1\)"),
        ({"test_fraction": -0.1}, r"--test_fraction: must be at least 0 and less than 1 \(found -0.1\)"),
        ({"val_fraction": 0.5, "test_fraction": 0.5}, "leaves nothing for train"),
        ({"val_fraction": 0.0}, "leaves nothing to split off"),
        ({"val_fraction": float("nan")}, "must be at least 0"),
    ],
)
def test_fractions_that_are_none(tmp_path: Path, fractions: dict[str, float], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        split_dataset(tmp_path, tmp_path / "out", **fractions)  # type: ignore[arg-type]


def test_folders_that_are_taken(tmp_path: Path) -> None:
    data = make(tmp_path / "data", distinct(12))
    other = make(tmp_path / "other", distinct(12))
    for out, what in ((data, "is in the dataset"), (data / "new", "is in the dataset"), (other, "not what phiv-split")):
        with pytest.raises(UsageError, match=what):
            split_dataset(data, out, overwrite=True)


def test_a_split_of_a_split_says_what_was_done_once(tmp_path: Path) -> None:
    data = make(tmp_path / "data", distinct(20))
    split_dataset(data, tmp_path / "one")
    split_dataset(tmp_path / "one", tmp_path / "two", val_fraction=0.0, test_fraction=0.5)
    manifest = read_manifest(tmp_path / "two")
    assert manifest.source == "rows of a list; split by phiv-split"
    assert [split.name for split in manifest.splits] == ["train", "test"]
    assert manifest.options["phiv-split"]["before"] == {"train": 18, "val": 2}
    assert validate(tmp_path / "two").totals == {"error": {}, "warning": {}}


def test_the_new_dataset_does_not_need_the_old_one(tmp_path: Path) -> None:
    data = make(tmp_path / "data", distinct(20))
    split_dataset(data, tmp_path / "out")
    shutil.rmtree(data)
    assert validate(tmp_path / "out").totals == {"error": {}, "warning": {}}
