"""Tables: every kind of file says the same, columns are found or asked for, nothing is dropped."""

from __future__ import annotations

import base64
import csv
import io
import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import openpyxl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from media_tools import numbered_clip
from PIL import Image

from phiv_converters.table.columns import answer_list, guess_columns, image_refs
from phiv_converters.table.options import TableOptions
from phiv_data.convert.base import Inputs
from phiv_data.convert.engine import convert
from phiv_data.media.reject import RejectInput
from phiv_data.storage.jsonl import read_jsonl
from phiv_data.storage.sample import Draft
from phiv_data.testing import Case, Check, conformance_checks
from phiv_data.validation import validate
from phiv_schemas import SourceError, UsageError

ROWS = [
    {"image": f"photos/{i}.png", "question": f"What is in {i}, ü?", "answer": ["cat", 'dog "Rex", old', "a\nb"][i % 3]}
    for i in range(6)
]


LFS_POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"a" * 64 + b"\nsize 12345\n"


def image_bytes(number: int) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (24, 16), (number * 37 % 256, number * 91 % 256, 9)).save(out, "PNG")
    return out.getvalue()


def with_images(folder: Path, count: int = 6) -> Path:
    (folder / "photos").mkdir(parents=True)
    for i in range(count):
        (folder / f"photos/{i}.png").write_bytes(image_bytes(i))
    return folder


def drafts(options: TableOptions, work_dir: Path) -> list[tuple[str, Draft]]:
    """(split, draft) of every row, without workers."""
    converter = options.open(work_dir)
    listed = converter.inputs()
    assert isinstance(listed, Inputs)
    return [(item.split, converter.draft(item)) for item in listed.items]


def texts(found: list[tuple[str, Draft]]) -> list[tuple[str, str, str | None, list[str]]]:
    """Split, question, answer and the images' hashes of each draft."""
    rows = [(split, draft.turns[0], draft.images) for split, draft in found]
    return [(split, turn.user, turn.assistant, [image.meta.sha256 for image in images]) for split, turn, images in rows]


def write_csv(path: Path, rows: list[dict[str, Any]], delimiter: str = ",") -> None:
    with path.open("w", newline="", encoding="utf-8-sig") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)


def write_xlsx(path: Path, rows: list[dict[str, Any]]) -> None:
    book = openpyxl.Workbook()
    sheet = book.active
    assert sheet is not None
    for cells in ([*rows[0]], *(list(row.values()) for row in rows)):
        sheet.append(cells)
    book.save(path)


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def embedded(rows: list[dict[str, Any]], folder: Path) -> list[dict[str, Any]]:
    return [row | {"image": {"bytes": (folder / row["image"]).read_bytes(), "path": row["image"]}} for row in rows]


def write_saved(path: Path, rows: list[dict[str, Any]]) -> None:
    datasets.Dataset.from_list(rows).save_to_disk(str(path))


WRITERS: dict[str, Callable[[Path, list[dict[str, Any]]], object]] = {
    "csv": write_csv,
    "tsv": partial(write_csv, delimiter="\t"),
    "semicolons.csv": partial(write_csv, delimiter=";"),
    "xlsx": write_xlsx,
    "jsonl": write_jsonl,
    "array.json": lambda path, rows: path.write_text(json.dumps(rows)),
    "paths.parquet": lambda path, rows: pq.write_table(pa.Table.from_pylist(rows), path),
    "bytes.parquet": lambda path, rows: pq.write_table(pa.Table.from_pylist(embedded(rows, path.parent)), path),
    "saved": lambda path, rows: write_saved(path, embedded(rows, path.parent)),
}


@pytest.mark.parametrize("kind", WRITERS)
def test_a_table_says_the_same_in_every_kind_of_file(kind: str, tmp_path: Path) -> None:
    with_images(tmp_path)
    path = tmp_path / ("saved" if kind == "saved" else f"t.{kind}")
    WRITERS[kind](path, ROWS)
    found = drafts(TableOptions(path, val_fraction=0), tmp_path / "work")
    hashes = [(tmp_path / row["image"]).read_bytes() for row in ROWS]
    expected = [("train", row["question"], row["answer"]) for row in ROWS]
    assert [row[:3] for row in texts(found)] == expected
    assert [draft.images[0].data for _, draft in found] == hashes


@given(
    st.lists(
        st.tuples(*[st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), min_size=1)] * 2),
        min_size=1,
        max_size=5,
    )
)
def test_any_text_comes_through_csv_as_the_csv_module_writes_it(
    tmp_path_factory: Any, cells: list[tuple[str, str]]
) -> None:
    folder = tmp_path_factory.mktemp("t")
    (folder / "a.png").write_bytes(image_bytes(0))
    rows = [{"image": "a.png", "question": f"q{q}", "answer": a} for q, a in cells]
    write_csv(folder / "t.csv", rows)
    found = texts(drafts(TableOptions(folder / "t.csv", val_fraction=0), folder / "work"))
    assert [(question, answer) for _, question, answer, _ in found] == [
        (row["question"], row["answer"] if row["answer"].strip() else None) for row in rows
    ]


def test_the_rows_are_those_of_datasets(tmp_path: Path) -> None:
    with_images(tmp_path)
    write_csv(tmp_path / "t.csv", ROWS)
    theirs = datasets.load_dataset("csv", data_files=str(tmp_path / "t.csv"), cache_dir=str(tmp_path / "cache"))
    ours = texts(drafts(TableOptions(tmp_path / "t.csv", val_fraction=0), tmp_path / "work"))
    assert [(row["question"], row["answer"]) for row in theirs["train"]] == [(q, a) for _, q, a, _ in ours]


@pytest.mark.parametrize("check", conformance_checks(), ids=lambda check: check.__name__)
def test_the_converter_keeps_the_contract(check: Check, tmp_path: Path) -> None:
    source = with_images(tmp_path / "case")
    write_csv(source / "qa_train.csv", [*ROWS[:3], ROWS[3] | {"answer": ""}])
    write_csv(source / "qa_val.csv", ROWS[4:])
    changed = (
        partial(TableOptions, question="What is it?"),
        partial(TableOptions, answer="question"),
        partial(TableOptions, name="x"),
    )
    (tmp_path / "work").mkdir()
    check(Case(TableOptions, source, changed, unlabeled=1, damaged="photos/1.png"), tmp_path / "work")


# Columns -------------------------------------------------------------------------------------------------------------


def guessed(row: dict[str, Any], **flags: Any) -> Any:
    return guess_columns(TableOptions(Path(), **flags), list(row), [row])


def test_columns_are_found_by_their_cells_and_names() -> None:
    row = {"id": 3, "Photo": "a/1.JPG", "Query": "what?", "Response": "x", "note": "n"}
    found = guessed(row)
    assert (found.image, found.question, found.answer, found.prompt) == (("Photo",), "Query", "Response", "")
    assert guessed({"left": "a.png", "right": "b.png", "label": "x"}).image == ("left", "right")
    assert guessed({"a": "1.png", "label": "x"}).prompt.startswith("Classify the image")
    assert guessed({"a": "1.png", "caption": "x"}).prompt == "Describe the image."
    assert guessed({"a": "1.png", "answers": ["x"], "question": "q"}).answers == "answers"


@pytest.mark.parametrize(
    ("row", "flags", "error", "said"),
    [
        ({"a": "x", "b": "y"}, {}, SourceError, "no column holds images"),
        ({"a": "1.png", "answer": "x", "response": "y"}, {}, SourceError, "--answer answer or --answer response"),
        ({"a": "1.png", "b": "x"}, {"answer": "c"}, UsageError, "no column 'c'"),
        ({"a": "1.png", "qestion": "x", "answer": "y"}, {}, SourceError, "or pass --question qestion"),
        ({"a": "1.png", "question": "x", "anwser": "y"}, {}, SourceError, "or pass --answer anwser"),
        ({"a": "1.png", "b": "x"}, {"question": "quetsion"}, UsageError, "no column 'quetsion'"),
        ({"a": "1.png", "b": "x"}, {"question": "Is it {c}?"}, UsageError, "no column 'c'"),
        ({"images": ["1.png"], "messages": [{"role": "user", "content": "x"}]}, {}, SourceError, "phiv-convert trl"),
    ],
)
def test_what_cannot_be_found_is_an_error_that_names_the_flag(
    row: dict[str, Any], flags: dict[str, Any], error: type[Exception], said: str
) -> None:
    with pytest.raises(error) as caught:
        guessed(row, **flags)
    assert said in str(caught.value)


def test_a_name_of_its_own_is_no_misspelling() -> None:
    row = {"a": "1.png", "question_id": "7", "questions": "x", "answer": "y"}
    assert (guessed(row).question, guessed(row).answer) == (None, "answer")
    assert guessed({"a": "1.png", "qestion": "x", "answer": "y"}, question="What is it?").prompt == "What is it?"


def test_a_question_of_the_flag_takes_cells_and_classes(tmp_path: Path) -> None:
    with_images(tmp_path)
    write_csv(
        tmp_path / "t.csv", [{"image": f"photos/{i}.png", "where": f"Ulm{i}", "kind": "ab"[i % 2]} for i in range(4)]
    )
    options = TableOptions(tmp_path / "t.csv", question="{where}: {classes}?", answer="kind", val_fraction=0)
    assert [row[1:3] for row in texts(drafts(options, tmp_path / "w"))][:2] == [
        ("Ulm0: a, b?", "a"),
        ("Ulm1: a, b?", "b"),
    ]


# Cells ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cell", "refs"),
    [
        ("a.png", ["a.png"]),
        ("a.png; b.JPG", ["a.png", "b.JPG"]),
        ("a.png|b.png|", ["a.png", "b.png"]),
        ('["a.png", "b.png"]', ["a.png", "b.png"]),
        ("a, b.png", ["a, b.png"]),
        (["a.png", {"path": "b.png", "bytes": None}], ["a.png", "b.png"]),
        ({"bytes": b"x", "path": "b.png"}, [b"x"]),
        (base64.b64encode(image_bytes(1)).decode(), [image_bytes(1)]),
        ("data:image/png;base64,AAAA", ["data:image/png;base64,AAAA"]),
        (None, []),
        (float("nan"), []),
        ("", []),
    ],
)
def test_images_of_a_cell(cell: Any, refs: list[Any]) -> None:
    assert list(image_refs(cell, "t")) == refs


def test_a_cell_of_another_kind_is_a_reject() -> None:
    for cell in (3, {"width": 3}):
        with pytest.raises(RejectInput):
            list(image_refs(cell, "t"))


@pytest.mark.parametrize(
    ("cell", "answers"),
    [
        (["a", "b", "a"], ("a", "b")),
        ('["a", "b"]', ("a", "b")),
        ("[sic] a", ("[sic] a",)),
        ([{"answer": "a", "answer_id": 1}, {"text": "b"}], ("a", "b")),
        ({"text": ["a"], "answer_start": [3]}, ("a",)),
        ([3, True, 0.5], ("3", "true", "0.5")),
        (None, ()),
    ],
)
def test_accepted_answers_of_a_cell(cell: Any, answers: tuple[str, ...]) -> None:
    assert answer_list(cell, "t") == answers


# Splits, rejects ---------------------------------------------------------------------------------------------------


def test_splits_come_from_a_column_or_from_names(tmp_path: Path) -> None:
    with_images(tmp_path)
    write_csv(
        tmp_path / "t.csv",
        [
            row | {"Split": name}
            for row, name in zip(ROWS, ["train", "validation", "dev", "test", "train", "eval"], strict=True)
        ],
    )
    assert [split for split, _ in drafts(TableOptions(tmp_path / "t.csv"), tmp_path / "w")] == [
        "train",
        "val",
        "val",
        "test",
        "train",
        "test",
    ]
    (tmp_path / "t.csv").unlink()
    write_csv(tmp_path / "qa_train.csv", ROWS[:2])
    write_csv(tmp_path / "qa_dev.csv", ROWS[2:])
    assert [split for split, _ in drafts(TableOptions(tmp_path), tmp_path / "w")] == ["val"] * 4 + ["train"] * 2


@pytest.mark.parametrize("split", ["/tmp/x", "../x", "a/b", "..", "a\nb", "\x1b[31mx", "x" * 300])
def test_a_split_that_names_files_elsewhere_is_one_line_and_writes_nothing(split: str, tmp_path: Path) -> None:
    with_images(tmp_path)
    names = [split, *["train"] * 5]
    write_csv(tmp_path / "t.csv", [row | {"split": name} for row, name in zip(ROWS, names, strict=True)])
    before = set(tmp_path.rglob("*"))
    with pytest.raises(SourceError, match="can name no files"):
        convert(TableOptions(tmp_path / "t.csv"), tmp_path / "out", num_workers=0)
    assert {path for path in tmp_path.rglob("*") if "out" not in path.parts} == before


def test_val_is_made_of_whole_groups(tmp_path: Path) -> None:
    with_images(tmp_path)
    rows = [{"image": f"photos/{i % 6}.png", "question": f"q{i}", "answer": "a", "who": f"p{i % 3}"} for i in range(24)]
    write_csv(tmp_path / "t.csv", rows)
    for flags, key in (({}, "image"), ({"group": "who"}, "who")):
        found = drafts(TableOptions(tmp_path / "t.csv", val_fraction=0.3, **flags), tmp_path / "w")
        sides: dict[str, set[str]] = {}
        for (split, _), row in zip(found, rows, strict=True):
            sides.setdefault(row[key], set()).add(split)
        assert all(len(side) == 1 for side in sides.values())
        assert {split for side in sides.values() for split in side} == {"train", "val"}


def test_bad_rows_are_rejected_with_their_line_and_the_rest_is_written(tmp_path: Path) -> None:
    with_images(tmp_path)
    lines = [
        "image,question,answer",
        "photos/0.png,q0,a",
        "photos/1.png,q1",
        ",q2,a",
        "photos/9.png,q3,a",
        "photos/1.png,,a",
        "",
        "photos/2.png,q5,a",
    ]
    (tmp_path / "t.csv").write_text("\n".join(lines) + "\n")
    convert(TableOptions(tmp_path / "t.csv", val_fraction=0), tmp_path / "out", num_workers=0)
    rejects = [json.loads(line) for line in (tmp_path / "out/rejects.jsonl").read_text().splitlines()]
    assert [(reject["input"], reject["code"]) for reject in rejects] == [
        ("t.csv:3", "bad-row"),
        ("t.csv:4", "missing-image"),
        ("t.csv:5", "missing-image"),
        ("t.csv:6", "bad-row"),
    ]
    assert "2 cells in a table of 3 columns" in rejects[0]["reason"]
    assert [
        json.loads(line)["conversations"][0]["user"]
        for line in (tmp_path / "out/t_train.jsonl").read_text().splitlines()
    ] == ["q0", "q5"]


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("t.csv", b'image,answer\n"a.png,x\n', "quotes of a cell"),
        ("t.csv", b"a.png,cat\nb.png,dog\n", "its first line is a row"),
        ("t.csv", b"image,image\na.png,b\n", "twice"),
        ("t.csv", b"image,\na.png,b\n", "lacks the name"),
        ("t.csv", "image,answer\na.png,é\n".encode("latin-1"), "not UTF-8"),
        ("t.csv", "image,answer\na.png,e\n".encode("utf-16"), "UTF-16"),
        ("t.csv", b"", "is empty"),
        ("t.csv", LFS_POINTER, "Git LFS pointer"),
        ("t.xlsx", LFS_POINTER, "Git LFS pointer"),
        ("t.csv", b"image,answer\n", "no rows"),
        ("t.csv", b"image,answer\na.jpg,b,c\n", "t.csv:2: 3 cells in a table of 2 columns"),
        ("t.xlsx", b"PK\x03\x04 no workbook", "no workbook"),
        ("t.txt", b"x", "is no table"),
    ],
)
def test_a_file_that_is_no_such_table_is_one_line(name: str, data: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(SourceError, match=said):
        drafts(TableOptions(tmp_path / name), tmp_path / "w")


# Clips ------------------------------------------------------------------------------------------------------------


def with_clips(folder: Path, count: int = 3) -> Path:
    for i in range(count):
        (folder / "clips").mkdir(parents=True, exist_ok=True)
        numbered_clip(folder / f"clips/{i}.mp4", 11 + i)
    return folder


def test_paths_of_clips_become_frames(tmp_path: Path) -> None:
    with_clips(tmp_path)
    rows = [{"video": f"clips/{i}.mp4", "question": f"What is in {i}?", "answer": "a jump"} for i in (0, 1, 1)]
    write_csv(tmp_path / "t.csv", rows)
    options = TableOptions(tmp_path / "t.csv", num_frames=3, val_fraction=0)
    outcome = convert(options, tmp_path / "out", num_workers=0)
    assert outcome.manifest.accounting.written == 3
    turn = next(read_jsonl(tmp_path / "out/t_train.jsonl")).turns[0]
    assert turn.images == tuple(f"train/clips/0.mp4.{k}.jpg" for k in range(3))
    assert outcome.manifest.options.items() >= {"num_frames": 3, "fps": None, "check_video": "used"}.items()
    report = validate(tmp_path / "out", source=tmp_path)
    assert [str(issue) for issue in report.issues if issue.code.startswith("PV31")] == []


def test_clips_and_images_are_read_together_in_the_order_of_the_cells(tmp_path: Path) -> None:
    with_images(with_clips(tmp_path))
    write_csv(tmp_path / "t.csv", [{"media": "clips/0.mp4; photos/0.png;clips/1.mp4", "label": "jump"}])
    ((_, draft),) = drafts(TableOptions(tmp_path / "t.csv", fps=5.0, val_fraction=0), tmp_path / "w")
    frames = [image.meta.frame_index for image in draft.images]
    assert frames == [0, 5, 10, None, 0, 5, 10]
    assert draft.turns[0].user == "Classify the video into one of the following classes: jump."


def test_a_list_of_clips_in_a_column_videos_is_no_dialogue(tmp_path: Path) -> None:
    with_clips(tmp_path)
    (tmp_path / "t.json").write_text(json.dumps([{"videos": ["clips/0.mp4"], "question": "?", "answer": "a"}]))
    ((_, draft),) = drafts(TableOptions(tmp_path / "t.json", num_frames=2, val_fraction=0), tmp_path / "w")
    assert len(draft.images) == 2


def test_clips_that_cannot_be_used_are_rejects_that_name_the_way(tmp_path: Path) -> None:
    with_images(with_clips(tmp_path, 1))
    (tmp_path / "clips/cut.mp4").write_bytes((tmp_path / "clips/0.mp4").read_bytes()[:300])
    write_csv(tmp_path / "t.csv", [{"clip": f"clips/{name}", "answer": "a"} for name in ("0.mp4", "cut.mp4", "no.mp4")])
    convert(TableOptions(tmp_path / "t.csv", val_fraction=0), tmp_path / "out", num_workers=0)
    cut, gone = map(json.loads, (tmp_path / "out/rejects.jsonl").read_text().splitlines())
    assert "video 'clips/cut.mp4': " in cut["reason"]
    assert (gone["code"], "is no file in the source" in gone["reason"]) == ("unsupported-media", True)
    late = [{"image": "photos/0.png", "answer": "a"}] * 201 + [{"image": "clips/0.mp4", "answer": "a"}]
    write_csv(tmp_path / "late.csv", late)
    options = TableOptions(tmp_path / "late.csv", val_fraction=0)
    outcome = convert(options, tmp_path / "out2", num_workers=0)
    assert outcome.manifest.accounting.rejected == {"unsupported-media": 1}
    assert "Pass --num_frames to read videos" in (tmp_path / "out2/rejects.jsonl").read_text()
    outcome = convert(replace(options, num_frames=8), tmp_path / "out3", num_workers=0)
    assert (outcome.manifest.accounting.written, outcome.manifest.accounting.rejected) == (202, {})
    assert any("--num_frames and --fps change nothing" in warning for warning in outcome.warnings)


def test_a_later_table_with_a_column_of_its_own_is_no_silent_loss(tmp_path: Path) -> None:
    with_images(tmp_path)
    write_csv(tmp_path / "a.csv", ROWS)
    for name, cell in (("split", "test"), ("answers", '["cat", "a cat"]')):
        write_csv(tmp_path / "b.csv", [ROWS[0] | {name: cell}])
        with pytest.raises(SourceError, match=f"b.csv: has a column '{name}', which a.csv lacks"):
            drafts(TableOptions(tmp_path), tmp_path / "w")


def test_rows_of_other_sheets_are_no_silent_loss(tmp_path: Path) -> None:
    book = openpyxl.Workbook()
    book.create_sheet("empty")
    book.create_sheet("more").append(["image", "answer"])
    book.save(tmp_path / "t.xlsx")
    with pytest.raises(SourceError, match="rows in other sheets than its first"):
        drafts(TableOptions(tmp_path / "t.xlsx"), tmp_path / "w")


def test_a_parquet_file_with_a_column_twice_or_a_date_that_python_lacks_is_one_line(tmp_path: Path) -> None:
    images = pa.array(["photos/0.png"])
    answer = pa.array(["a"])
    pq.write_table(pa.table([images, answer, answer], names=["image", "answer", "answer"]), tmp_path / "t.parquet")
    with pytest.raises(SourceError, match="two columns 'answer'"):
        drafts(TableOptions(tmp_path / "t.parquet"), tmp_path / "w")
    pq.write_table(pa.table({"image": images, "answer": pa.array([2**30], pa.date32())}), tmp_path / "t.parquet")
    with pytest.raises(SourceError, match="magnitude"):
        drafts(TableOptions(tmp_path / "t.parquet"), tmp_path / "w")


def test_what_no_utf8_can_hold_and_a_pointer_for_an_image_are_rejects(tmp_path: Path) -> None:
    with_images(tmp_path)
    (tmp_path / "photos/1.png").write_bytes(LFS_POINTER)
    write_jsonl(
        tmp_path / "t.jsonl", [ROWS[0], ROWS[1], ROWS[2] | {"answer": "\ud800"}, ROWS[3] | {"question": "\udfff"}]
    )
    convert(TableOptions(tmp_path / "t.jsonl", val_fraction=0), tmp_path / "out", num_workers=0)
    rejects = [json.loads(line) for line in (tmp_path / "out/rejects.jsonl").read_text().splitlines()]
    assert [reject["code"] for reject in rejects] == ["not-an-image", "bad-row", "bad-row"]
    assert "git lfs pull" in rejects[0]["reason"]
    assert "UTF-8" in rejects[1]["reason"]


@pytest.mark.parametrize("metadata", ["metadata.csv", "metadata.jsonl"])
def test_metadata_of_an_image_folder_names_no_image_outside_of_it(metadata: str, tmp_path: Path) -> None:
    with_images(tmp_path / "s")
    (tmp_path / "secret.png").write_bytes(image_bytes(7))
    names = ["photos/0.png", "../secret.png", str(tmp_path / "secret.png"), "photos/../../secret.png"]
    rows = [{"file_name": name, "text": "a"} for name in names]
    (write_csv if metadata.endswith("csv") else write_jsonl)(tmp_path / "s" / metadata, rows)
    convert(TableOptions(tmp_path / "s", val_fraction=0), tmp_path / "out", num_workers=0)
    rejects = [json.loads(line) for line in (tmp_path / "out/rejects.jsonl").read_text().splitlines()]
    assert [reject["code"] for reject in rejects] == ["missing-image"] * 3
    assert all("leads out of the folder" in reject["reason"] for reject in rejects)


def test_an_error_of_a_spreadsheet_is_no_answer(tmp_path: Path) -> None:
    with_images(tmp_path, 2)
    write_xlsx(tmp_path / "t.xlsx", [{"image": f"photos/{i}.png", "answer": a} for i, a in enumerate(["a", "#DIV/0!"])])
    convert(TableOptions(tmp_path / "t.xlsx", val_fraction=0), tmp_path / "out", num_workers=0)
    (reject,) = [json.loads(line) for line in (tmp_path / "out/rejects.jsonl").read_text().splitlines()]
    assert "error #DIV/0!" in reject["reason"]


def test_a_formula_without_its_value_is_a_reject(tmp_path: Path) -> None:
    with_images(tmp_path, 3)
    answers = ["a", '="a" & "b"', None]
    write_xlsx(tmp_path / "t.xlsx", [{"image": f"photos/{i}.png", "answer": a} for i, a in enumerate(answers)])
    convert(TableOptions(tmp_path / "t.xlsx", val_fraction=0), tmp_path / "out", num_workers=0)
    (reject,) = map(json.loads, (tmp_path / "out/rejects.jsonl").read_text().splitlines())
    assert (reject["input"], reject["reason"][:35]) == ("t.xlsx:3", "a cell holds a formula without its ")


@pytest.mark.parametrize("suffix", ["csv", "xlsx"])
def test_a_title_above_the_names_is_one_line(suffix: str, tmp_path: Path) -> None:
    if suffix == "csv":
        (tmp_path / "t.csv").write_text("Birds of 2024\nimage,answer\na.png,wren\n")
    else:
        book = openpyxl.Workbook()
        for row in (["Birds of 2024"], ["image", "answer"], ["a.png", "wren"]):
            book.active.append(row)
        book.save(tmp_path / "t.xlsx")
    with pytest.raises(SourceError, match=r"2: has 2 cells, and the first row one: a title \('Birds of 2024'\)"):
        drafts(TableOptions(tmp_path / f"t.{suffix}"), tmp_path / "w")


def test_classes_with_braces_stay_and_a_cell_that_is_no_class_is_a_reject(tmp_path: Path) -> None:
    with_images(tmp_path)
    rows = [{"image": f"photos/{i}.png", "label": label} for i, label in enumerate(["{x}", "b", {"no": "text"}])]
    write_jsonl(tmp_path / "t.jsonl", rows)
    convert(TableOptions(tmp_path / "t.jsonl", val_fraction=0), tmp_path / "out", num_workers=0)
    first = json.loads((tmp_path / "out/t_train.jsonl").read_text().splitlines()[0])["conversations"][0]
    assert first["user"] == "Classify the image into one of the following classes: b, {x}."
    (reject,) = [json.loads(line) for line in (tmp_path / "out/rejects.jsonl").read_text().splitlines()]
    assert reject["input"] == "t.jsonl:3"
