"""Annotation files: COCO captions, VQA v2 questions and Label Studio exports become what they say."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from phiv_converters.annotations.options import AnnotationOptions, CocoOptions, LabelStudioOptions, VqaOptions
from phiv_data.convert.base import Inputs
from phiv_data.convert.engine import convert
from phiv_data.media.reject import RejectInput
from phiv_data.testing import Case, Check, conformance_checks
from phiv_data.validation import validate
from phiv_schemas import SourceError


def put(path: Path, value: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))
    return path


def put_images(root: Path, *names: str) -> None:
    for i, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (16 + i, 12), (i * 40 % 256, 90, 9)).save(root / name)


def rows_of(options: AnnotationOptions, work: Path) -> list[tuple[str, str, str, str | None, tuple[str, ...] | None]]:
    """(split, image, question, answer, accepted answers) of each row; of a reject its code and reason."""
    converter = options.open(work)
    listed = converter.inputs()
    assert isinstance(listed, Inputs)
    rows = []
    for item in listed.items:
        try:
            draft = converter.draft(item)
            turn = draft.turns[0]
            rows.append((item.split, draft.images[0].meta.path, turn.user, turn.assistant, turn.answers))
        except RejectInput as reject:
            rows.append((item.split, item.key, reject.code, reject.reason, None))
    return rows


def coco(root: Path) -> Path:
    put_images(root, "train2017/000000000001.jpg", "train2017/000000000002.jpg", "val2017/000000000003.jpg")
    captions = {1: ["A dog.", "One dog."], 2: ["A cat."], 3: ["An owl."]}
    for split, ids in (("train2017", (1, 2)), ("val2017", (3,))):
        images = [{"id": i, "file_name": f"{i:012d}.jpg"} for i in ids]
        annotations = [{"image_id": i, "id": 10 * i, "caption": text} for i in ids for text in captions[i]]
        put(root / f"annotations/captions_{split}.json", {"images": images, "annotations": annotations})
        put(
            root / f"annotations/instances_{split}.json",
            {"images": images, "annotations": [{"image_id": 1, "bbox": []}]},
        )
    return root


def test_captions_of_an_image_are_its_accepted_answers(tmp_path: Path) -> None:
    rows = rows_of(CocoOptions(coco(tmp_path / "s")), tmp_path)
    assert [row[0] for row in rows] == ["train", "train", "val"]
    image, asked = "train/train2017/000000000001.jpg", "Describe the image."
    assert rows[0] == ("train", image, asked, "A dog.", ("A dog.", "One dog."))


def test_captions_without_their_image_are_rejects_and_boxes_are_refused(tmp_path: Path) -> None:
    put_images(tmp_path, "i/1.jpg")
    annotations = [{"image_id": 1, "caption": "a"}, {"image_id": 2, "caption": "b"}, {"image_id": 7, "caption": "c"}]
    images = [{"id": 1, "file_name": "1.jpg"}, {"id": 2, "file_name": "2.jpg"}, {"id": 3, "file_name": "1.jpg"}]
    path = put(tmp_path / "captions.json", {"images": images, "annotations": annotations})
    rows = rows_of(CocoOptions(path, images=tmp_path / "i", val_fraction=0), tmp_path)
    assert [(row[2], row[3] and row[3][:20]) for row in rows] == [
        ("Describe the image.", "a"),
        ("missing-image", "no file '2.jpg' in t"),
        ("Describe the image.", None),
        ("bad-row", "captions of an image"),
    ]
    with pytest.raises(SourceError, match="holds boxes, not captions"):
        rows_of(CocoOptions(put(tmp_path / "i.json", {"images": [], "annotations": [{"bbox": [1]}]})), tmp_path)


def test_one_annotation_without_a_caption_costs_no_other(tmp_path: Path) -> None:
    put_images(tmp_path, "i/1.jpg")
    annotations = [{"image_id": 1, "caption": "a"}, {"image_id": 1, "bbox": [1, 2, 3, 4]}, {"image_id": 1}, "text"]
    path = put(tmp_path / "captions.json", {"images": [{"id": 1, "file_name": "1.jpg"}], "annotations": annotations})
    rows = rows_of(CocoOptions(path, images=tmp_path / "i", val_fraction=0), tmp_path)
    assert [(row[2], row[3]) for row in rows] == [
        ("Describe the image.", "a"),
        *[("bad-row", "the annotation in line 1: has no caption")] * 3,
    ]


def test_annotations_that_answer_nothing_are_rejects(tmp_path: Path) -> None:
    put_images(tmp_path, "1.jpg")
    put(tmp_path / "questions.json", {"questions": [{"image": "1.jpg", "question": "?", "question_id": 1}]})
    answers = [{"question_id": number, "answers": ["a"]} for number in (1, 2, 3)]
    put(tmp_path / "annotations.json", {"annotations": [*answers, {"answers": ["b"]}]})
    assert [(row[2], row[3]) for row in rows_of(VqaOptions(tmp_path, val_fraction=0), tmp_path / "w")] == [
        ("?", "a"),
        ("bad-row", "the annotation in line 1: has no question_id"),
        ("bad-row", "2 annotations are of no question in the file (question_id 2, 3)"),
    ]


def test_questions_meet_their_annotations_and_images(tmp_path: Path) -> None:
    put_images(tmp_path, "train2014/COCO_train2014_000000000007.jpg", "val2014/COCO_val2014_000000000009.jpg")
    for split, image in (("train2014", 7), ("val2014", 9)):
        question = {"image_id": image, "question": "What?", "question_id": image * 10}
        answers = [{"answer": "dog"}, {"answer": "dog"}, {"answer": "puppy"}]
        annotation = {"question_id": image * 10, "multiple_choice_answer": "dog", "answers": answers}
        put(
            tmp_path / f"v2_OpenEnded_mscoco_{split}_questions.json",
            {"questions": [question, question | {"question_id": 1}]},
        )
        put(tmp_path / f"v2_mscoco_{split}_annotations.json", {"annotations": [annotation]})
    rows = rows_of(VqaOptions(tmp_path), tmp_path / "w")
    image = "train/train2014/COCO_train2014_000000000007.jpg"
    assert rows[:2] == [("train", image, "What?", "dog", ("dog", "puppy")), ("train", image, "What?", None, None)]
    assert [row[0] for row in rows] == ["train", "train", "val", "val"]


def test_an_answer_given_twice_is_an_error(tmp_path: Path) -> None:
    put_images(tmp_path, "1.jpg")
    put(tmp_path / "questions.json", {"questions": [{"image": "1.jpg", "question": "?", "question_id": 1}]})
    put(tmp_path / "annotations.json", {"annotations": [{"question_id": 1, "answers": ["a"]}] * 2})
    with pytest.raises(SourceError, match="a second annotation of question 1"):
        rows_of(VqaOptions(tmp_path), tmp_path / "w")


def task(image: str, *answers: Any, kind: str = "choices", **data: Any) -> dict[str, Any]:
    results = [[{"type": kind, "value": {kind if kind == "choices" else "text": value}}] for value in answers]
    return {"data": {"image": image, **data}, "annotations": [{"result": result} for result in results]}


def test_choices_and_texts_of_tasks(tmp_path: Path) -> None:
    put_images(tmp_path, "i/a.jpg", "i/b.jpg", "i/c.jpg")
    tasks = [
        task("/data/upload/3/0a1b2c3d-a.jpg", ["cat"], ["dog"]),
        task("/data/local-files/?d=i%2Fb.jpg", ["cat", "old"]),
        task("s3://bucket/x/c.jpg"),
        task("a.jpg", [], kind="rectanglelabels")
        | {"annotations": [{"result": [{"type": "brushlabels", "value": {}}]}]},
        {"data": {"text": "no image"}},
    ]
    rows = rows_of(LabelStudioOptions(put(tmp_path / "export.json", tasks), val_fraction=0), tmp_path / "w")
    asked = "Classify the image into one of the following classes: cat, dog, old."
    assert rows[:3] == [
        ("train", "train/i/a.jpg", asked, "cat", ("cat", "dog")),
        ("train", "train/i/b.jpg", asked, "cat, old", ("cat, old",)),
        ("train", "train/i/c.jpg", asked, None, None),
    ]
    assert [row[2] for row in rows[3:]] == ["bad-row", "bad-row"]
    assert "brushlabels" in str(rows[3][3])


def test_answers_in_several_controls_are_not_mixed(tmp_path: Path) -> None:
    put_images(tmp_path, "a.jpg", "b.jpg")
    results = [
        {"from_name": name, "type": "choices", "value": {"choices": [value]}}
        for name, value in (("colour", "red"), ("shape", "circle"))
    ]
    path = put(tmp_path / "e.json", [{"data": {"image": "a.jpg"}, "annotations": [{"result": results}]}])
    with pytest.raises(SourceError, match=r"2 controls may hold the answer \(colour, shape\)\. Pass --control NAME"):
        rows_of(LabelStudioOptions(path, val_fraction=0), tmp_path)
    (row,) = rows_of(LabelStudioOptions(path, val_fraction=0, control="shape"), tmp_path)
    assert row[2:4] == ("Classify the image into one of the following classes: circle.", "circle")
    one_each = [
        {"data": {"image": image}, "annotations": [{"result": [result]}]}
        for image, result in zip(("a.jpg", "b.jpg"), results, strict=True)
    ]
    with pytest.raises(SourceError, match="2 controls may hold"):
        rows_of(LabelStudioOptions(put(tmp_path / "e.json", one_each), val_fraction=0), tmp_path)
    flat = put(tmp_path / "m.json", [{"image": "a.jpg", "colour": "red", "shape": "circle"}])
    (row,) = rows_of(LabelStudioOptions(flat, val_fraction=0, control="colour"), tmp_path)
    assert row[3] == "red"
    for source in (path, flat):
        with pytest.raises(SourceError, match=r"nobody answered in 'size'\. The export has: colour, shape"):
            rows_of(LabelStudioOptions(source, val_fraction=0, control="size"), tmp_path)


def test_the_control_is_part_of_what_an_output_was_made_with(tmp_path: Path) -> None:
    put_images(tmp_path, "s/a.jpg", "s/b.jpg")
    tasks = [
        {"data": {"image": image}, "annotations": [{"result": [
            {"from_name": name, "type": "choices", "value": {"choices": ["x"]}} for name in ("colour", "shape")
        ]}]}
        for image in ("a.jpg", "b.jpg")
    ]  # fmt: skip
    path = put(tmp_path / "s/e.json", tasks)
    convert(LabelStudioOptions(path, val_fraction=0, control="shape"), tmp_path / "out", num_workers=0)
    assert not validate(tmp_path / "out", source=[path], num_workers=0).counts().keys() & {"PV312", "PV313"}


def test_a_name_of_several_files_is_a_reject(tmp_path: Path) -> None:
    put_images(tmp_path, "x/a.jpg", "y/a.jpg", "y/b.jpg")
    tasks = put(tmp_path / "e.json", [task("a.jpg", ["c"]), task("y/a.jpg", ["c"])])
    rows = rows_of(LabelStudioOptions(tasks, val_fraction=0), tmp_path)
    assert [row[2][:7] for row in rows] == ["bad-row", "Classif"]


def test_a_file_below_the_folder_itself_wins_over_one_in_a_folder(tmp_path: Path) -> None:
    put_images(tmp_path, "old/1.jpg", "1.jpg", "other/1.jpg")
    put(tmp_path / "captions_val.json", {
        "images": [{"id": 1, "file_name": "1.jpg"}, {"id": 2, "file_name": "old/1.jpg"}],
        "annotations": [{"image_id": 1, "caption": "A dog."}, {"image_id": 2, "caption": "A cat."}],
    })  # fmt: skip
    found = rows_of(CocoOptions(tmp_path), tmp_path / "work")
    assert [row[1] for row in found] == ["val/1.jpg", "val/old/1.jpg"]


def test_tasks_all_with_a_problem_are_one_line_with_the_reasons(tmp_path: Path) -> None:
    put_images(tmp_path, "1.jpg")
    box = {"result": [{"type": "rectanglelabels", "from_name": "b", "value": {"x": 1, "width": 2}}]}
    tasks: list[Any] = [{"data": {"image": "/data/upload/1/1.jpg"}, "annotations": [box]} for _ in range(3)]
    put(tmp_path / "e.json", [*tasks, {"data": {"audio": "a.wav"}, "annotations": []}, 7])
    said = (
        r"none of its 5 rows can be used \(first: e\.json:1: its annotation is 'rectanglelabels', no answer .*\)\. "
        r"In all: 3 x its annotation is .*; 1 x no image in its data .*; 1 x is no object\. Export tasks that name"
    )
    with pytest.raises(SourceError, match=said):
        LabelStudioOptions(tmp_path / "e.json").open(tmp_path / "work")
    put(tmp_path / "none.json", [])
    with pytest.raises(SourceError, match="holds no rows of label_studio"):
        LabelStudioOptions(tmp_path / "none.json").open(tmp_path / "work")


def test_questions_in_the_data_and_flat_exports(tmp_path: Path) -> None:
    put_images(tmp_path, "a.jpg", "b.jpg")
    tasks = [task("a.jpg", ["red"], kind="textarea", question="Which colour?")]
    assert rows_of(LabelStudioOptions(put(tmp_path / "e.json", tasks)), tmp_path)[0][2:4] == ("Which colour?", "red")
    flat = [
        {"id": 1, "image": "/data/upload/1/a.jpg", "animal": "cat", "lead_time": 3},
        {"id": 2, "image": "b.jpg", "animal": "dog"},
    ]
    rows = rows_of(LabelStudioOptions(put(tmp_path / "m.json", flat), val_fraction=0), tmp_path)
    assert [row[3] for row in rows] == ["cat", "dog"]
    for two in ([{"image": "a.jpg", "x": "1", "y": "2"}], [{"image": "a.jpg", "x": "1"}, {"image": "b.jpg", "y": "2"}]):
        with pytest.raises(SourceError, match=r"2 controls may hold the answer \(x, y\)"):
            rows_of(LabelStudioOptions(put(tmp_path / "n.json", two), val_fraction=0), tmp_path)


@pytest.mark.parametrize("check", conformance_checks(), ids=lambda check: check.__name__)
def test_the_converter_keeps_the_contract(check: Check, tmp_path: Path) -> None:
    source = coco(tmp_path / "case")
    changed = (partial(CocoOptions, question="What is there?"), partial(CocoOptions, name="x"))
    (tmp_path / "work").mkdir()
    check(Case(CocoOptions, source, changed, damaged="train2017/000000000001.jpg"), tmp_path / "work")


@pytest.mark.parametrize(
    "annotations", ["x", ["x"], [{"result": "x"}], [{"result": ["x"]}], [{"result": [{"value": "x"}]}]]
)
def test_an_annotation_of_no_shape_of_the_tool_is_a_reject(annotations: Any, tmp_path: Path) -> None:
    put_images(tmp_path, "1.png", "2.png")
    good = [{"result": [{"type": "choices", "value": {"choices": ["a"]}}]}]
    tasks = [
        {"data": {"image": "1.png"}, "annotations": annotations},
        {"data": {"image": "2.png"}, "annotations": good},
        {"data": {"image": "http://[/1.png"}, "annotations": good},
    ]
    path = put(tmp_path / "export.json", tasks)
    rows = rows_of(LabelStudioOptions(path, val_fraction=0), tmp_path / "w")
    assert [row[2] for row in rows if row[2] in ("bad-row", "missing-image")] == ["bad-row"]


def test_annotations_name_no_image_outside_of_the_folder(tmp_path: Path) -> None:
    put_images(tmp_path, "s/1.png", "secret.png")
    good = [{"result": [{"type": "choices", "value": {"choices": ["a"]}}]}]
    names = ["1.png", "../secret.png", str(tmp_path / "secret.png"), "/data/local-files/?d=../secret.png"]
    path = put(tmp_path / "s/export.json", [{"data": {"image": name}, "annotations": good} for name in names])
    rows = rows_of(LabelStudioOptions(path, val_fraction=0), tmp_path / "w")
    assert [row[2] for row in rows[1:]] == ["missing-image"] * 3
