"""What holds no rows is named in one line, with exit code 2; a jsonl file with broken lines is checked."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from data_builders import image_bytes

from phiv_data.cli.validate import main
from phiv_data.validation import validate
from phiv_schemas import UsageError

LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:0a\nsize 3\n"
ROW = {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}
OWN = {"id": "a", "source": "s", "conversations": [{"images": [], "user": "q", "assistant": "a"}]}


def lines(*rows: object) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


FILES: dict[str, tuple[bytes, str]] = {
    "data.csv": (b"image,question,answer\na.jpg,what?,cat\n", "table (columns image, question, answer)"),
    "data.tsv": (b"image\tquestion\na.jpg\twhat?\n", "table (columns image, question)"),
    "renamed.jsonl": (b"image,question\na.jpg,what?\nb.jpg,what?\n", "table (columns image, question)"),
    "mix.yaml": (b"datasets:\n  - json_path: a.json\n", "YAML"),
    "mix.jsonl": (b"name: a\npath: b\nsplit: c\n", "YAML"),
    "page.html": (b"<html>", "HTML"),
    "notes.txt": (b"by hand", "text"),
    "table.xlsx": (b"PK\x03\x04xl/workbook.xml", "spreadsheet"),
    "rows.parquet": (b"PAR1", "Parquet"),
    "lfs.jsonl": (LFS, "git lfs pull"),
    "other.jsonl": (lines(*[{"image": "a.jpg", "question": "q", "answer": "a"}] * 100), "keys answer, image, question"),
    "answers.jsonl": (lines({"question_id": 1, "text": "a", "model_id": "llava"}), "answers of a model"),
    "metadata.jsonl": (lines({"file_name": "a.jpg", "label": 1}), "metadata of an image folder"),
    "coco.json": (json.dumps({"images": [{"id": 1}], "annotations": [{"id": 1}]}).encode(), "COCO"),
    "studio.json": (json.dumps([{"id": 1, "data": {}, "annotations": []}], indent=1).encode(), "Label Studio"),
    "vqa.json": (json.dumps({"questions": [{"question_id": 1}]}, indent=1).encode(), "VQA"),
    "gbk.json": ('[{"messages": "\u4f60"}]'.encode("gbk"), "UTF-8"),
    "concat.json": ((json.dumps(ROW, indent=1) + json.dumps(ROW, indent=1)).encode(), "one after another"),
    "keyed.json": (json.dumps({"0": ROW, "1": ROW}, indent=1).encode(), "one"),
    "under.json": (json.dumps({"data": [ROW], "version": 1}, indent=1).encode(), "under 'data'"),
    "single.json": (json.dumps(ROW, indent=1).encode(), "one row"),
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_without_rows_is_one_line(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data, words = FILES[name]
    (tmp_path / name).write_bytes(data)
    monkeypatch.setattr(sys, "argv", ["phiv-validate", str(tmp_path / name)])
    assert main() == 2
    streams = capsys.readouterr()
    assert not streams.out
    assert len(streams.err.splitlines()) == 1
    assert name in streams.err
    assert words in streams.err


def class_folder(folder: Path) -> None:
    for path in ("train/cat/1.png", "train/dog/1.png", "val/cat/2.png"):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(image_bytes(1))


def coco_folder(folder: Path) -> None:
    (folder / "annotations.json").write_bytes(FILES["coco.json"][0])


def table_folder(folder: Path) -> None:
    (folder / "data.csv").write_bytes(FILES["data.csv"][0])


def predictions_folder(folder: Path) -> None:
    predicted = {"prompt": "user\n<image>q", "predict": "a", "label": "b"}
    (folder / "generated_predictions.jsonl").write_bytes(lines(predicted, predicted))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (predictions_folder, "generated_predictions.jsonl holds the answers of a model"),
        (class_folder, "images by class (cat, dog)"),
        (coco_folder, "annotations.json"),
        (table_folder, "data.csv"),
    ],
)
def test_a_folder_without_rows_is_one_line(tmp_path: Path, make: Callable[[Path], None], words: str) -> None:
    make(tmp_path)
    with pytest.raises(UsageError) as caught:
        validate(tmp_path)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("raw", "codes"),
    [
        (lines(OWN) + b"garbage\n", {"PV001"}),
        (b"garbage\n", {"PV001", "PV202"}),
        (lines({**OWN, "conversations": []}), {"PV002"}),
        (lines({"id": "a", "source": "s"}), {"PV002"}),
        (lines(OWN)[:-9], {"PV004"}),
    ],
)
def test_broken_lines_of_a_jsonl_file_are_findings(tmp_path: Path, raw: bytes, codes: set[str]) -> None:
    (tmp_path / "val.jsonl").write_bytes(raw)
    assert validate(tmp_path / "val.jsonl").counts().keys() & codes


def test_an_image_that_is_a_git_lfs_pointer_is_named(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").write_bytes(LFS)
    row = {**OWN, "conversations": [{"images": ["a.png"], "user": "q", "assistant": "a"}]}
    (tmp_path / "val.jsonl").write_bytes(lines(row))
    (issue,) = validate(tmp_path / "val.jsonl").issues
    assert (issue.code, issue.hint) == ("PV102", "Run git lfs pull")


def test_what_the_original_recipe_writes_is_recognised(tmp_path: Path) -> None:
    (tmp_path / "ucf101_train.jsonl").write_bytes(lines(OWN))
    (issue,) = validate(tmp_path).issues
    assert (issue.code, issue.severity) == ("PV303", "warning")
    assert "original recipe" in issue.message
    assert f"phiv-convert jsonl --source {tmp_path}" in issue.hint
