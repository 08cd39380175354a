"""Copies of an image inside one split that are asked the same are found, in any bytes and under any path."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from PIL import Image

from phiv_data.validation import validate


def scene(number: int) -> Image.Image:
    """An image with detail everywhere."""
    cells = Image.frombytes("L", (9, 8), random.Random(number).randbytes(72))
    return cells.resize((144, 128), Image.Resampling.BICUBIC)


def write_rows(folder: Path, rows: list[tuple[list[str], str, str]], name: str = "train.jsonl") -> Path:
    lines = []
    for i, (images, user, answer) in enumerate(rows):
        turn = {"images": images, "user": user, "assistant": answer}
        lines.append(json.dumps({"id": f"{name}-{i}", "source": "dummy", "conversations": [turn]}) + "\n")
    (folder / name).write_text("".join(lines), encoding="utf-8")
    return folder / name


def found(path: Path) -> list[tuple[str, int | None]]:
    return [(issue.code, issue.line) for issue in validate(path).issues]


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    for i in range(3):
        scene(i).save(folder / f"{i}.png")
    (folder / "same.png").write_bytes((folder / "1.png").read_bytes())
    scene(1).save(folder / "again.jpg", quality=80)
    scene(1).resize((72, 64)).save(folder / "half.png")
    return folder


@pytest.mark.parametrize(
    ("image", "answer", "code"),
    [
        ("same.png", "cat", "PV203"),
        ("same.png", "fox", "PV214"),
        ("again.jpg", "cat", "PV244"),
        ("half.png", "a quick brown fox, which is not a cat at all, jumps over a lazy dog", "PV244"),
    ],
)
def test_a_copy_under_another_path(tmp_path: Path, images: Path, image: str, answer: str, code: str) -> None:
    rows = [(["0.png"], "What?", "owl"), (["1.png"], "What?", "cat"), (["2.png"], "What?", "dog")]
    report = validate(write_rows(tmp_path, [*rows, ([image], "What?", answer)]))
    assert [(issue.code, issue.line) for issue in report.issues] == [(code, 4)]
    assert "line 2" in report.issues[0].message
    assert ("another answer" in report.issues[0].message) == (answer != "cat")


def test_another_question_about_the_copy_is_no_copy(tmp_path: Path, images: Path) -> None:
    assert not found(write_rows(tmp_path, [(["1.png"], "What?", "cat"), (["half.png"], "Where?", "here")]))


def test_of_several_images_all_must_be_copies(tmp_path: Path, images: Path) -> None:
    rows = [(["1.png", "0.png"], "Same?", "no"), (["half.png", "2.png"], "Same?", "no")]
    assert not found(write_rows(tmp_path, rows))
    rows += [(["again.jpg", "0.png"], "Same?", "yes")]
    assert found(write_rows(tmp_path, rows)) == [("PV244", 3)]


def test_two_splits_are_compared_by_other_rules(tmp_path: Path, images: Path) -> None:
    write_rows(tmp_path, [(["1.png"], "What?", "cat")])
    write_rows(tmp_path, [(["half.png"], "What?", "cat")], "val.jsonl")
    assert "PV244" not in [code for code, _ in found(tmp_path)]
