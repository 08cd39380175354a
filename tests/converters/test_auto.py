"""`phiv-convert auto`: the shape of a source names the command, and its output is that command's."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from shared_data import shared_folder

from phiv_converters.auto.options import AutoOptions
from phiv_converters.folder.options import FolderOptions
from phiv_converters.table.options import TableOptions
from phiv_data.convert.engine import convert
from phiv_data.formats.recognise import recognise
from phiv_data.validation import validate
from phiv_schemas import SourceError

SHARED = shared_folder()


def put(root: Path, name: str, value: Any) -> None:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    if name.endswith((".jpg", ".png", ".mp4")):
        Image.new("RGB", (16, 12)).save(root / name, "PNG")
    else:
        (root / name).write_text(value if isinstance(value, str) else json.dumps(value))


CHAT = [{"messages": [{"role": "user", "content": [{"type": "text", "text": "q"}]}], "images": []}]
SHAPES: list[tuple[str | None, dict[str, Any]]] = [
    ("folder", {"cat/1.jpg": "", "dog/2.jpg": ""}),
    ("folder", {"train/1.jpg": "", "train/metadata.csv": "file_name,text\n1.jpg,a\n"}),
    ("folder", {"labels.txt": "a/1.jpg cat\n", "a/1.jpg": ""}),
    ("folder", {"train.csv": "label,youtube_id,time_start\nrun,abc,3\n", "clips/abc_000003_000013.mp4": ""}),
    ("folder", {"train.json": [{"id": "7", "template": "Putting [something]"}], "7.mp4": ""}),
    ("folder", {"notes.txt": "1 is the best of them\nall were taken in May\n", "cat/1.jpg": "", "dog/2.jpg": ""}),
    ("table", {"qa.csv": "image,answer\na.png,b\n", "a.png": ""}),
    ("table", {"qa.jsonl": {"image": "a.png", "answer": "b"}}),
    ("coco", {"annotations/captions_val.json": {"images": [], "annotations": [{"caption": "x", "image_id": 1}]}}),
    ("vqa", {"questions.json": {"questions": [{"question": "x"}]}, "annotations.json": {"annotations": []}}),
    ("label_studio", {"e.json": [{"id": 1, "data": {"image": "a.png"}, "annotations": []}]}),
    ("label_studio", {"e.json": [{"id": 1, "image": "a.png", "label": "x", "annotator": 1}]}),
    ("jsonl", {"mine.jsonl": {"conversations": [{"images": [], "user": "q", "assistant": "a"}]}}),
    ("llava", {"l.json": [{"image": "a.png", "conversations": [{"from": "human", "value": "<image>q"}]}]}),
    ("trl", {"t.json": CHAT}),
    ("docvqa", {"val_v1.0.json": {"dataset_name": "SP-DocVQA", "data": [{"question": "x"}]}}),
    ("nlvr2", {"data/train.json": {"identifier": "train-1-0-0", "sentence": "x", "label": "True"}}),
    ("hateful_memes", {"train.jsonl": {"id": 1, "img": "img/1.png", "text": "x", "label": 0}}),
    ("ucf101", {"ucfTrainTestlist/classInd.txt": "1 A\n", "UCF-101/A/v_A_g01_c01.avi": "x"}),
    (None, {"boxes.json": {"images": [], "annotations": [{"bbox": []}], "categories": []}}),
    (None, {"notes.txt": "x"}),
]


@pytest.mark.parametrize(("command", "files"), SHAPES, ids=[f"{c}-{i}" for i, (c, _) in enumerate(SHAPES)])
def test_a_shape_names_its_command(command: str | None, files: dict[str, Any], tmp_path: Path) -> None:
    for name, value in files.items():
        put(tmp_path, name, value)
    found = recognise(tmp_path)
    assert (found and found.command) == command


@pytest.mark.skipif(SHARED is None, reason="needs the shared samples (set PHIV_SHARED to their folder)")
@pytest.mark.parametrize(
    ("command", "name"),
    [
        ("ucf101", "ucf101"),
        ("docvqa", "docvqa/val"),
        ("nlvr2", "nlvr2"),
        ("hateful_memes", "hateful_memes"),
        ("llava", "formats/llava_official"),
    ],
)
def test_published_datasets_are_recognised(command: str, name: str) -> None:
    assert SHARED is not None
    found = recognise(SHARED / "samples" / name)
    assert found is not None
    assert found.command == command


def test_the_output_is_that_of_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for i in range(4):
        put(tmp_path, f"photos/{'ab'[i % 2]}/{i}.png", "")
    outputs = []
    options: list[Callable[[Path], Any]] = [AutoOptions, FolderOptions]
    for i, make in enumerate(options):
        convert(make(tmp_path / "photos"), tmp_path / f"out{i}", num_workers=0)
        outputs.append({p.name: p.read_bytes() for p in (tmp_path / f"out{i}").iterdir() if p.is_file()})
    assert outputs[0] == outputs[1]
    assert "phiv-convert folder --source" in capsys.readouterr().err
    assert validate(tmp_path / "out0", source=tmp_path / "photos").ok


def test_a_note_beside_images_is_no_list_of_labels(tmp_path: Path) -> None:
    for name, text in (("notes.txt", "1 is the best\ntaken in May\n"), ("cat/1.jpg", ""), ("dog/2.jpg", "")):
        put(tmp_path, name, text)
    found = recognise(tmp_path)
    assert found is not None
    assert (found.command, found.labels) == ("folder", ())


def test_a_list_of_labels_is_passed_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "s"
    for name in ("1.jpg", "2.jpg", "notes.txt"):
        put(source, name, "read this first")
    put(source, "labels.txt", "1.jpg cat\n2.jpg dog\n")
    convert(AutoOptions(source), tmp_path / "out", num_workers=0)
    assert f"phiv-convert folder --source {source} --labels {source}/labels.txt" in capsys.readouterr().err
    rows = [json.loads(line) for path in tmp_path.glob("out/*.jsonl") for line in path.read_text().splitlines()]
    assert sorted(row["conversations"][0]["assistant"] for row in rows if "conversations" in row) == ["cat", "dog"]


def test_a_table_is_compared_with_its_source(tmp_path: Path) -> None:
    put(tmp_path, "qa.csv", "image,question,answer\na.png,q,b\n")
    put(tmp_path, "a.png", "")
    convert(AutoOptions(tmp_path / "qa.csv"), tmp_path / "out", num_workers=0)
    assert not validate(tmp_path / "out", source=tmp_path / "qa.csv").issues
    put(tmp_path, "qa.csv", "image,question,answer\na.png,q,c\n")
    for source in (tmp_path / "qa.csv", [tmp_path / "qa.csv"]):  # the command line passes a list
        assert [issue.code for issue in validate(tmp_path / "out", source=source).issues] == ["PV312"]


def test_a_table_is_compared_beside_the_folder_of_its_images(tmp_path: Path) -> None:
    put(tmp_path, "rows/qa.csv", "image,question,answer\na.png,q,b\n")
    put(tmp_path, "images/a.png", "")
    source = tmp_path / "rows/qa.csv", tmp_path / "images"
    convert(TableOptions(*source), tmp_path / "out", num_workers=0)
    assert not validate(tmp_path / "out", source=source).issues
    Image.new("RGB", (8, 8)).save(tmp_path / "images/a.png")
    assert "PV312" in validate(tmp_path / "out", source=source).counts()


def test_an_unknown_shape_is_one_line(tmp_path: Path) -> None:
    put(tmp_path, "notes.txt", "x")
    with pytest.raises(SourceError, match="no shape that a command"):
        convert(AutoOptions(tmp_path), tmp_path / "out")


@pytest.mark.parametrize(
    ("command", "source"), [("ucf101", "photos"), ("jsonl", "qa.csv"), ("table", "photos"), ("trl", "photos")]
)
def test_the_error_of_another_command_names_the_right_one(command: str, source: str, tmp_path: Path) -> None:
    put(tmp_path, "photos/a/1.png", "")
    put(tmp_path, "photos/b/2.png", "")
    put(tmp_path, "qa.csv", "image,answer\nphotos/a/1.png,b\n")
    (point,) = entry_points(group="phiv.converters", name=command)
    right = "table" if source == "qa.csv" else "folder"
    with pytest.raises(SourceError, match=rf"It reads as .*: phiv-convert {right} --source .*{source}$"):
        convert(point.load()(source=tmp_path / source), tmp_path / "out")
