"""The files of an evaluation: the recipe's fields, ours, and an image that shows what the table says."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from phiv_train.evaluation.generate import EvalResult, Prediction, Question
from phiv_train.evaluation.metrics import class_table
from phiv_train.evaluation.report import as_text, draw_confusion, write_result


def predictions(*pairs: tuple[str, str], more: tuple[str, ...] = ()) -> tuple[Prediction, ...]:
    """One prediction per (text, answer)."""
    return tuple(
        Prediction(Question(i, 0, f"val-{i:010d}", answer, (answer, *more), 9), text, stopped=text != "cut")
        for i, (text, answer) in enumerate(pairs)
    )


ACCURACY = EvalResult(
    {"accuracy": 0.5}, predictions(("a", "A"), ("", "b"), ("cut", "A"), ("B.", "b")), 6, 2, {"split": "val"}
)
ANLS = EvalResult({"anls": 1.0, "accuracy": 1.0}, predictions(("Ab", "Ab"), more=("aB",)), 1, 0)


def test_accuracy_is_written_with_the_recipes_fields_and_ours(tmp_path: Path) -> None:
    written = json.loads(write_result(ACCURACY, tmp_path / "run" / "eval_after.json", model="out").read_text())
    ids = [f"val-{i:010d}" for i in range(4)]
    assert written["answers_unique"] == [{"id": i, "answer": a} for i, a in zip(ids, ["A", "b", "A", "b"], strict=True)]
    texts = [{"id": i, "generated_text": t} for i, t in zip(ids, ["a", "", "cut", "B."], strict=True)]
    assert written["generated_texts_unique"] == texts
    assert [answer["answer"] for answer in written["answers_normalized"]] == ["a", "b", "a", "b"]
    assert [text["generated_text"] for text in written["generated_texts_normalized"]] == ["a", "", "cut", "b"]
    assert written["accuracy"] == 0.5
    assert list(written)[:3] == ["answers_unique", "generated_texts_unique", "accuracy"]
    assert written["counts"] == {"rows": 6, "questions": 4, "unlabeled": 2, "empty": 1, "cut": 1}
    assert written["settings"] == {"split": "val", "model": "out"}
    assert written["classes"] == [
        {"label": "A", "precision": 1.0, "recall": 0.5, "support": 2},
        {"label": "b", "precision": 1.0, "recall": 0.5, "support": 2},
    ]
    assert written["confusion"] == {"labels": ["A", "b", "(other)"], "matrix": [[1, 0, 1], [0, 1, 1]]}
    assert [w["id"] for w in written["worst"]] == [ids[1], ids[2]]
    assert written["predictions"][2]["scores"] == {"accuracy": 0.0}
    assert not written["predictions"][2]["stopped"]


def test_anls_is_written_with_lists_of_accepted_answers_and_no_image(tmp_path: Path) -> None:
    written = json.loads(write_result(ANLS, tmp_path / "eval.json").read_text())
    assert written["answers_unique"] == [["Ab", "aB"]]
    assert written["generated_texts_unique"] == ["Ab"]
    assert (written["anls"], written["accuracy"], written["metric"]) == (1.0, 1.0, "anls")
    assert written["classes"] is None
    assert [p.name for p in tmp_path.iterdir()] == ["eval.json"]


def test_the_same_result_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_result(ACCURACY, tmp_path / name / "eval.json")
    files = sorted(p.name for p in (tmp_path / "a").iterdir())
    assert files == ["eval.confusion.png", "eval.json"]
    assert all((tmp_path / "a" / f).read_bytes() == (tmp_path / "b" / f).read_bytes() for f in files)


def test_a_failed_write_leaves_the_old_file_unchanged(tmp_path: Path) -> None:
    path = write_result(ANLS, tmp_path / "eval.json")
    before = path.read_bytes()
    with pytest.raises(TypeError):
        write_result(ANLS, path, model=object())  # JSON cannot hold it
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["eval.json"]


@pytest.mark.parametrize("count", [2, 10, 101])
def test_the_image_is_dark_where_the_matrix_is_full(count: int) -> None:
    labels = [f"class {i:03d} with a name\nthat is rather long for an image" for i in range(count)]
    table = class_table([(labels[(i + 1) % count], label) for i, label in enumerate(labels)])
    image = np.asarray(draw_confusion(table)).astype(int)
    cell = 34 if count <= 24 else 13
    margin = image.shape[0] - 8 - cell * count
    assert image.shape[1] == margin + cell * (count + 1) + 8
    corners = image[margin + 3 : margin + cell * count : cell, margin + 3 : margin + cell * (count + 1) : cell]
    dark = corners.sum(-1) < 300
    assert dark.tolist() == (table.confusion > 0).tolist()


def test_the_image_opens_as_png(tmp_path: Path) -> None:
    write_result(ACCURACY, tmp_path / "eval.json")
    with Image.open(tmp_path / "eval.confusion.png") as image:
        assert image.format == "PNG"


def test_people_read_scores_counts_and_classes() -> None:
    assert as_text(ACCURACY).splitlines() == [
        "accuracy 0.5000",
        "4 questions of 6 rows (2 unlabeled left out, 1 answers empty, 1 cut at max_new_tokens)",
        "class precision recall support",
        "A         1.000  0.500       2",
        "b         1.000  0.500       2",
    ]
