"""Folders of images and clips: classes and splits as their folders or lists say, nothing passed over in silence."""

from __future__ import annotations

import json
import tempfile
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import av
import datasets
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from phiv_converters.folder.options import FolderOptions
from phiv_data.convert.base import Inputs
from phiv_data.convert.engine import convert
from phiv_data.testing import Case, Check, conformance_checks
from phiv_schemas import SourceError, UsageError


def put_images(root: Path, *names: str) -> Path:
    for i, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (16 + i, 12), (i * 40 % 256, 90, 9)).save(root / name)
    return root


def put_clip(path: Path, frames: int = 12, codec: str = "mpeg4") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as out:
        stream: Any = out.add_stream(codec, rate=Fraction(10))
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        for k in range(frames):
            image = np.full((32, 32, 3), 20 * k % 256, np.uint8)
            out.mux(stream.encode(av.VideoFrame.from_ndarray(image, "rgb24")))
        out.mux(stream.encode())


def listed(options: FolderOptions, work: Path) -> tuple[list[tuple[str, str, str]], tuple[str, ...]]:
    """(split, key, class) of every input in order, and the warnings."""
    converter = options.open(work)
    found = converter.inputs()
    assert isinstance(found, Inputs)
    return [(item.split, item.key, item.payload.label) for item in found.items], found.warnings


def test_a_class_is_the_folder_that_holds_the_file(tmp_path: Path) -> None:
    put_images(tmp_path / "s", "cat/1.jpg", "cat/2.PNG", "dog/x.webp")
    assert listed(FolderOptions(tmp_path / "s", val_fraction=0), tmp_path)[0] == [
        ("train", "cat/1.jpg", "cat"),
        ("train", "cat/2.PNG", "cat"),
        ("train", "dog/x.webp", "dog"),
    ]


def test_splits_are_folders_at_the_top_where_all_of_them_are(tmp_path: Path) -> None:
    put_images(tmp_path / "s", "train/cat/1.jpg", "valid/cat/1.jpg", "Test/dog/1.jpg")
    assert [row[0] for row in listed(FolderOptions(tmp_path / "s"), tmp_path)[0]] == ["test", "train", "val"]
    put_images(tmp_path / "t", "train/1.jpg", "tram/1.jpg", "bus/1.jpg")  # a class may be called train
    assert {row[2] for row in listed(FolderOptions(tmp_path / "t"), tmp_path)[0]} == {"train", "tram", "bus"}


def test_labels_and_splits_are_those_of_the_imagefolder_of_datasets(tmp_path: Path) -> None:
    names = [
        f"{split}/{label}/{i}.png"
        for split in ("train", "validation", "test")
        for label in ("a", "b c")
        for i in range(2)
    ]
    source = put_images(tmp_path / "s", *names)
    theirs = datasets.load_dataset("imagefolder", data_dir=str(source), cache_dir=str(tmp_path / "cache"))
    spelled = {"train": "train", "validation": "val", "test": "test"}
    expected = sorted(
        (spelled[split], rows.features["label"].int2str(row["label"]), row["image"].size)
        for split, rows in theirs.items()
        for row in rows
    )
    converter = FolderOptions(source).open(tmp_path)
    found = converter.inputs()
    assert isinstance(found, Inputs)
    drafts = [(item.split, converter.draft(item)) for item in found.items]
    ours = [(split, draft.turns[0].assistant, (draft.images[0].meta.width, 12)) for split, draft in drafts]
    assert sorted(ours) == expected


def test_val_is_made_of_every_class_and_stays_when_files_come(tmp_path: Path) -> None:
    names = [f"{label}/{i}.png" for label in "abc" for i in range(8)]
    source = put_images(tmp_path / "s", *names)
    before = {key: split for split, key, _ in listed(FolderOptions(source, val_fraction=0.2), tmp_path)[0]}
    assert {key[0] for key, split in before.items() if split == "val"} == set("abc")
    put_images(source, *[f"d/{i}.png" for i in range(8)])
    after = {key: split for split, key, _ in listed(FolderOptions(source, val_fraction=0.2), tmp_path)[0]}
    assert before == {key: after[key] for key in before}


def test_what_is_left_alone_is_named_and_counted(tmp_path: Path) -> None:
    source = put_images(tmp_path / "s", "cat/1.jpg", "dog/1.jpg", "loose.jpg", "cat/deep/2.jpg")
    (source / "notes.txt").write_text("x")
    rows, warnings = listed(FolderOptions(source, val_fraction=0), tmp_path)
    assert [row[2] for row in rows] == ["cat", "deep", "dog"]
    assert [line for line in warnings if "loose.jpg" in line and ": 1" in line]
    assert [line for line in warnings if "notes.txt" in line]
    assert [line for line in warnings if "2 depths" in line]


@pytest.mark.parametrize(
    ("names", "said"), [([], "no images or clips"), (["1.jpg", "2.jpg"], "2 files and no folder of a class")]
)
def test_a_folder_without_classes_is_one_line(names: list[str], said: str, tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    put_images(tmp_path / "s", *names)
    with pytest.raises(SourceError, match=said):
        FolderOptions(tmp_path / "s").open(tmp_path)


def test_an_unknown_class_is_named_with_the_near_one(tmp_path: Path) -> None:
    put_images(tmp_path / "s", "cat/1.jpg", "dog/1.jpg")
    with pytest.raises(UsageError, match="Did you mean 'cat'"):
        FolderOptions(tmp_path / "s", classes=("Cat",)).open(tmp_path)


def test_clips_and_moving_gifs_are_frames(tmp_path: Path) -> None:
    source = put_images(tmp_path / "s", "run/still.gif")
    put_clip(source / "run/a.mp4")
    put_clip(source / "sit/b.mkv")
    frames = [Image.new("RGB", (8, 8), (k * 60, 0, 0)) for k in range(4)]
    frames[0].save(source / "sit/moving.gif", save_all=True, append_images=frames[1:])
    convert(FolderOptions(source, num_frames=3, val_fraction=0), tmp_path / "out", num_workers=0)
    rows = [json.loads(line)["conversations"][0] for line in (tmp_path / "out/s_train.jsonl").read_text().splitlines()]
    assert [len(row["images"]) for row in rows] == [3, 1, 3, 3]
    assert [row["user"].split(" into")[0] for row in rows] == [
        "Classify the video",
        "Classify the image",
        *["Classify the video"] * 2,
    ]
    assert rows[0]["images"][0] == "train/run/a.mp4.0.jpg"


# Lists of labels -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("list.csv", "path,label\nx/1.png,cat\n2.png,dog\n"),
        ("list.tsv", "file_name\tclass\nx/1.png\tcat\n2.png\tdog\n"),
        ("list.csv", "label,youtube_id,time_start,time_end,split\ncat,1,0,10,train\ndog,2,0,10,train\n"),
        ("list.json", '[{"id": "1", "template": "[cat]"}, {"id": "2", "template": "dog"}]'),
        ("list.jsonl", '{"file_name": "1.png", "label": "cat"}\n{"file_name": "2.png", "label": "dog"}\n'),
        ("list.txt", "x/1.png cat\n2.png dog\n"),
        ("list.txt", "x/1.png\tcat\n\n2.png\tdog\n"),
    ],
)
def test_every_kind_of_list_gives_the_classes(name: str, text: str, tmp_path: Path) -> None:
    source = put_images(tmp_path / "s", "x/1.png", "y/2.png")
    (tmp_path / name).write_text(text)
    rows, _ = listed(FolderOptions(source, labels=(tmp_path / name,), val_fraction=0), tmp_path)
    assert rows == [("train", "x/1.png", "cat"), ("train", "y/2.png", "dog")]


def test_lists_name_splits_and_what_is_not_there(tmp_path: Path) -> None:
    source = put_images(tmp_path / "s", "1.png", "2.png", "3.png")
    (tmp_path / "train.txt").write_text("1.png a\n9.png a\n")
    (tmp_path / "val.txt").write_text("2.png b\n")
    converter = FolderOptions(source, labels=(tmp_path / "train.txt", tmp_path / "val.txt")).open(tmp_path)
    found = converter.inputs()
    assert isinstance(found, Inputs)
    assert [(item.split, item.key) for item in found.items] == [("train", "1.png"), ("val", "2.png")]
    assert found.absent == 1
    assert [line for line in found.warnings if "'9.png'" in line]
    assert [line for line in found.warnings if "'3.png'" in line]


def test_an_entry_of_two_files_is_one_line(tmp_path: Path) -> None:
    source = put_images(tmp_path / "s", "x/1.png", "y/1.png")
    (tmp_path / "l.txt").write_text("1.png a\n")
    with pytest.raises(SourceError, match="could be 2 files"):
        FolderOptions(source, labels=(tmp_path / "l.txt",)).open(tmp_path)


@settings(max_examples=40, deadline=None)
@given(st.sets(st.sampled_from(["", "a/", "b/", "a/b/"]), min_size=1), st.booleans(), st.data())
def test_an_exact_path_in_a_list_wins_over_every_namesake(
    folders: set[str], has_longer: bool, data: st.DataObject
) -> None:
    with tempfile.TemporaryDirectory() as path:
        root = put_images(Path(path) / "s", *(f"{folder}1.jpg" for folder in folders))
        put_images(root, *(["1_000000_000010.jpg"] if has_longer else []))  # as a Kinetics clip of that name
        entry = data.draw(st.sampled_from(sorted(f"{folder}1.jpg" for folder in folders)))
        (Path(path) / "train.txt").write_text(f"{entry} cat\n")
        options = FolderOptions(root, labels=(Path(path) / "train.txt",), val_fraction=0)
        assert listed(options, Path(path))[0] == [("train", entry, "cat")]


def test_metadata_beside_the_images_is_read_as_a_table(tmp_path: Path) -> None:
    source = put_images(tmp_path / "s", "train/1.png", "test/2.png")
    for split, name in (("train", "1.png"), ("test", "2.png")):
        (source / split / "metadata.jsonl").write_text(json.dumps({"file_name": name, "text": f"of {split}"}) + "\n")
    convert(FolderOptions(source), tmp_path / "out", num_workers=0)
    assert "of train" in (tmp_path / "out/s_train.jsonl").read_text()
    assert "of test" in (tmp_path / "out/s_test.jsonl").read_text()


@pytest.mark.parametrize("check", conformance_checks(), ids=lambda check: check.__name__)
def test_the_converter_keeps_the_contract(check: Check, tmp_path: Path) -> None:
    source = put_images(
        tmp_path / "case", *[f"{split}/{c}/{i}.jpg" for split in ("train", "val") for c in "ab" for i in "12"]
    )
    changed = (
        partial(FolderOptions, question="What is it?"),
        partial(FolderOptions, classes=("a",)),
        partial(FolderOptions, name="x"),
    )
    (tmp_path / "work").mkdir()
    check(Case(FolderOptions, source, changed), tmp_path / "work")


def test_splits_of_other_names_beside_train_are_splits(tmp_path: Path) -> None:
    put_images(tmp_path / "s", "train/a/1.png", "testA/a/2.png", "test-dev/a/3.png", "extra/b/4.png", "val/b/5.png")
    rows, _ = listed(FolderOptions(tmp_path / "s"), tmp_path)
    assert {row[0] for row in rows} == {"train", "testA", "test-dev", "extra", "val"}
    assert {row[2] for row in rows} == {"a", "b"}


def test_neither_train_nor_val_is_left_empty(tmp_path: Path) -> None:
    for number in range(12):
        names = [f"{label}/{number}_{i}.png" for label in "ab" for i in range(number % 3 + 1)]
        put_images(tmp_path / f"s{number}", *names)
        rows, warnings = listed(FolderOptions(tmp_path / f"s{number}"), tmp_path)
        assert {row[0] for row in rows} == {"train", "val"}
        assert "rows, by whole files, are val" in warnings[-1]


def test_folders_without_files_and_files_without_a_row_are_named(tmp_path: Path) -> None:
    put_images(tmp_path / "s", "train/cat/1.jpg", "train/cat/2.jpg")
    (tmp_path / "s/train/dog/empty").mkdir(parents=True)
    _, warnings = listed(FolderOptions(tmp_path / "s", val_fraction=0), tmp_path)
    assert warnings == ("folders without a file give no class: 2 (first: 'train/dog')",)
    put_images(tmp_path / "m", "train/1.jpg", "train/2.jpg", "3.jpg")
    (tmp_path / "m/train/metadata.csv").write_text("file_name,text\n1.jpg,a bird\n")
    converter = FolderOptions(tmp_path / "m", val_fraction=0).open(tmp_path)
    found = converter.inputs()
    assert isinstance(found, Inputs)
    assert found.warnings == ("files that the metadata do not name are left alone: 2 (first: '3.jpg')",)


def test_a_cut_gif_is_a_reject_and_a_list_that_is_missing_one_line(tmp_path: Path) -> None:
    root = put_images(tmp_path / "s", "a/1.png", "b/2.png")
    (root / "b/3.gif").write_bytes(b"GIF89a")
    convert(FolderOptions(root, val_fraction=0), tmp_path / "out", num_workers=0)
    assert json.loads((tmp_path / "out/rejects.jsonl").read_text())["code"] == "not-an-image"
    with pytest.raises(SourceError, match=r"--labels: no such file 'no\.csv'"):
        FolderOptions(root, labels=(Path("no.csv"),)).open(tmp_path)


def test_a_file_that_a_list_names_twice_has_one_class(tmp_path: Path) -> None:
    root = put_images(tmp_path / "s", "1.png", "2.png")
    (tmp_path / "list.txt").write_text("1.png a\n2.png b\n1.png a\n")
    rows, warnings = listed(FolderOptions(root, labels=(tmp_path / "list.txt",), val_fraction=0), tmp_path)
    assert [row[1] for row in rows] == ["1.png", "2.png"]
    assert "entries of the lists that are there twice are read once: 1 (first: '1.png')" in warnings
    (tmp_path / "list.txt").write_text("1.png a\n2.png b\n1.png b\n")
    with pytest.raises(SourceError, match=r"list.txt:3: '1.png' is 'b' here and 'a' at .*list.txt:1"):
        FolderOptions(root, labels=(tmp_path / "list.txt",)).open(tmp_path)
    (tmp_path / "list.txt").write_bytes(b"1.png caf\xe9\n")
    with pytest.raises(SourceError, match=r"list.txt:1: its label is not UTF-8"):
        FolderOptions(root, labels=(tmp_path / "list.txt",)).open(tmp_path)
