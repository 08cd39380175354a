"""DocVQA on the real sample, on the synthetic set, and on every layout and trap the sources have."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from docvqa_sources import IMAGE, LAYOUTS, archives, copy, page_bytes, question, release, rows_of, write_shards

from phiv_converters.docvqa.convert import choose_answer
from phiv_converters.docvqa.options import DocvqaOptions
from phiv_converters.synthetic.documents import make_synthetic_docvqa
from phiv_data import validate
from phiv_data.convert.engine import NothingWritten, Outcome, convert
from phiv_data.testing import Case, Check, conformance_checks
from phiv_schemas import Conversation, EnvironmentProblem, Reject, SourceError, UsageError


def run(source: Path | None, out: Path, *, include_unlabeled: bool = False, **options: Any) -> Outcome:
    chosen = DocvqaOptions(source, **options)
    return convert(chosen, out, num_workers=0, arrow=False, include_unlabeled=include_unlabeled)


def rows(out: Path, split: str) -> list[Conversation]:
    lines = (out / f"docvqa_{split}.jsonl").read_bytes().splitlines()
    return [Conversation.model_validate_json(line) for line in lines]


def rejects(out: Path) -> list[Reject]:
    return [Reject.model_validate_json(line) for line in (out / "rejects.jsonl").read_bytes().splitlines()]


def outputs(out: Path) -> dict[str, bytes]:
    """What must not depend on the layout: records and image hashes."""
    names = [path.name for path in out.glob("docvqa_*.jsonl")] + ["images.sha256"]
    return {name: (out / name).read_bytes() for name in names}


@pytest.fixture(scope="module")
def sample(shared: Path) -> Path:
    return shared / "samples/docvqa/val"


@pytest.fixture(scope="module")
def synthetic(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_synthetic_docvqa(tmp_path_factory.mktemp("synthetic"))


# The real sample --------------------------------------------------------------------------------------------------


def test_the_official_sample_is_converted_whole(sample: Path, tmp_path: Path) -> None:
    outcome = convert(DocvqaOptions(sample), tmp_path / "out", num_workers=0)
    account = outcome.manifest.accounting
    assert (account.inputs, account.written, account.rejected, account.unlabeled) == (12, 12, {}, 0)
    assert outcome.manifest.source == "official layout: val_v1.0.json"
    report = validate(tmp_path / "out")
    assert report.ok
    assert not report.issues


def test_a_record_is_the_recipes_with_every_answer_kept(sample: Path, tmp_path: Path) -> None:
    run(sample, tmp_path / "out")
    line = (tmp_path / "out/docvqa_val.jsonl").read_text().splitlines()[9]
    assert json.loads(line) == {
        "id": "val-0000000009",
        "source": "docvqa",
        "conversations": [
            {
                "images": ["val/ffjw0228_11.png"],
                "user": "What is the Expenses for legal for 1986?\nAnswer briefly.",
                "assistant": "1,354",
                "answers": ["1,354", "$1,354"],
            }
        ],
    }
    by_id = sorted(rows_of(sample)["val"], key=lambda row: row["questionId"])
    found = rows(tmp_path / "out", "val")
    assert [row.turns[0].user for row in found] == [f"{row['question']}\nAnswer briefly." for row in by_id]
    assert [list(row.turns[0].answers or ()) for row in found] == [row["answers"] for row in by_id]


def test_page_bytes_are_those_of_the_source(sample: Path, tmp_path: Path) -> None:
    manifest = run(sample, tmp_path / "out").manifest
    assert manifest.splits[0].num_images == 3
    for line in (tmp_path / "out/images.sha256").read_text().splitlines():
        sha256, path = line.split("  ")
        original = (sample / "documents" / Path(path).name).read_bytes()
        assert hashlib.sha256(original).hexdigest() == sha256
        assert (tmp_path / "out" / path).read_bytes() == original


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("options", [{}, {"group": "page"}, {"answer": "seeded", "seed": 3}], ids=str)
def test_the_sample_gives_the_same_records_in_every_layout(
    sample: Path, tmp_path: Path, layout: str, options: dict[str, Any]
) -> None:
    run(sample, tmp_path / "official", **options)
    run(LAYOUTS[layout](sample, tmp_path / "in"), tmp_path / "out", **options)
    assert outputs(tmp_path / "out") == outputs(tmp_path / "official")


@pytest.mark.parametrize("name", ["squad", "layoutlm"])
def test_questions_over_ocr_text_are_distinguished(shared: Path, tmp_path: Path, name: str) -> None:
    folder = shared / "samples/docvqa" / name
    for source in (folder, next(folder.iterdir())):
        with pytest.raises(SourceError, match=r"OCR text \(SQuAD or LayoutLM form\), which names no pages\. Pass the"):
            run(source, tmp_path / "out")


def test_pages_alone_are_no_source(shared: Path, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"neither \{train,val,test\}_v1.0.json nor tables.*found: page_a.png, page"):
        run(shared / "samples/docvqa/notebook_pages", tmp_path / "out")


# Every layout, all splits -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", LAYOUTS)
def test_all_splits_come_out_the_same_in_every_layout(synthetic: Path, tmp_path: Path, layout: str) -> None:
    plain = run(synthetic, tmp_path / "official", include_unlabeled=True).manifest
    other = run(LAYOUTS[layout](synthetic, tmp_path / "in"), tmp_path / "out", include_unlabeled=True).manifest
    assert [split.rows for split in plain.splits] == [144, 36, 24]
    assert other.accounting == plain.accounting
    assert outputs(tmp_path / "out") == outputs(tmp_path / "official")


@pytest.mark.parametrize(
    ("layout", "description"),
    [
        ("archives", "official layout: train_v1.0_withQT.json, val_v1.0_withQT.json, test_v1.0.json"),
        ("older", "official layout: train_v1.0.json, val_v1.0.json, test_v1.0.json"),
        ("lmms", "hub layout: parquet tables of config DocVQA with question, answers, image"),
        ("pixparse", "hub layout: parquet tables with question, answers, image; splits test, train, validation"),
        ("saved", "hub layout: arrow tables with question, answers, image; splits test, train, validation"),
    ],
)
def test_the_layout_is_reported(synthetic: Path, tmp_path: Path, layout: str, description: str) -> None:
    source = LAYOUTS[layout](synthetic, tmp_path / "in")
    assert DocvqaOptions(source).open(tmp_path / "work").describe().startswith(description)


def test_other_configs_of_the_same_repository_are_left_alone(synthetic: Path, tmp_path: Path) -> None:
    source = LAYOUTS["lmms"](synthetic, tmp_path / "in")
    cell = {"question": "x", "image": {"bytes": b"", "path": None}}
    write_shards(source / "InfographicVQA", "validation", [cell], 1)
    assert run(source, tmp_path / "out").manifest.accounting.inputs == 204
    (source / "DocVQA").rename(source / "Other")
    with pytest.raises(SourceError, match=r"several datasets are here \(InfographicVQA, Other\)\. Pass the folder"):
        run(source, tmp_path / "again")


def test_archives_beside_tables_are_not_unpacked(synthetic: Path, tmp_path: Path) -> None:
    source = LAYOUTS["lmms"](synthetic, tmp_path / "in")
    (source / "extra.zip").write_bytes(b"no archive")
    assert run(source, tmp_path / "out").manifest.accounting.inputs == 204


def test_a_split_of_an_unknown_name_is_refused(synthetic: Path, tmp_path: Path) -> None:
    source = LAYOUTS["pixparse"](synthetic, tmp_path / "in")
    path = source / "data/test-00000-of-00001.parquet"
    path.rename(path.with_name("extra-00000-of-00001.parquet"))
    with pytest.raises(SourceError, match=r"the split 'extra' is none of train, val and test"):
        run(source, tmp_path / "out")


def test_shards_that_are_not_there_are_reported(synthetic: Path, tmp_path: Path) -> None:
    source = LAYOUTS["lmms"](synthetic, tmp_path / "in")
    (source / "DocVQA/train-00001-of-00002.parquet").unlink()
    outcome = run(source, tmp_path / "out")
    assert outcome.warnings[0] == "1 files of the dataset are not here (first: train-00001-of-00002.parquet)"


def test_one_json_file_can_be_the_source(synthetic: Path, tmp_path: Path) -> None:
    manifest = run(synthetic / "val_v1.0_withQT.json", tmp_path / "out").manifest
    assert [(split.name, split.rows) for split in manifest.splits] == [("val", 36)]


def test_of_two_files_of_a_split_the_one_with_question_types_is_read(synthetic: Path, tmp_path: Path) -> None:
    source = copy(synthetic, tmp_path / "in")
    (source / "train_v1.0.json").write_bytes((source / "train_v1.0_withQT.json").read_bytes())
    outcome = run(source, tmp_path / "out")
    assert outcome.manifest.accounting.inputs == 204
    assert outcome.warnings == ("other files of the same splits were left alone: train_v1.0.json",)


def test_the_thousands_of_ocr_files_are_not_opened(synthetic: Path, tmp_path: Path) -> None:
    """Links to nothing stand in for them: opening one is an error."""
    source = LAYOUTS["older"](synthetic, tmp_path / "in")
    ocr_files = [path for path in source.rglob("*.json") if "ocr" in path.parent.name]
    assert ocr_files
    for path in ocr_files:
        path.unlink()
        path.symlink_to(tmp_path / "nothing.json")
    DocvqaOptions(source).open(tmp_path / "work")


def test_pages_may_be_elsewhere(synthetic: Path, tmp_path: Path) -> None:
    source = copy(synthetic, tmp_path / "in")
    (source / "spdocvqa_images").rename(tmp_path / "pages")
    with pytest.raises(
        SourceError, match=r"no question has its page \(204 rows .* Pass the folder or archive with the"
    ):
        run(source, tmp_path / "none")
    run(source, tmp_path / "out", images=(tmp_path / "pages",))
    run(synthetic, tmp_path / "official")
    assert outputs(tmp_path / "out") == outputs(tmp_path / "official")


@pytest.mark.parametrize("layout", ["archives", "lmms", "saved"])
def test_conversion_resumes_and_ends_the_same_with_workers(synthetic: Path, tmp_path: Path, layout: str) -> None:
    source = LAYOUTS[layout](synthetic, tmp_path / "in")
    run(source, tmp_path / "one")
    convert(DocvqaOptions(source), tmp_path / "two", num_workers=2, arrow=False)
    assert outputs(tmp_path / "one") == outputs(tmp_path / "two")


# Prompt, answer, grouping, splits ---------------------------------------------------------------------------------


def test_the_plain_prompt_is_the_question(sample: Path, tmp_path: Path) -> None:
    run(sample, tmp_path / "out", prompt="plain")
    assert rows(tmp_path / "out", "val")[0].turns[0].user == "What is the Expenses for Salaries for 1987?"


def test_questions_stay_as_they_are_spelled(tmp_path: Path) -> None:
    texts = ["` What is “quoted” here?", "Größe ≥ 5 — why\u00a0so?", "Is {question} a <image> \\n marker?"]
    source = release(
        tmp_path / "in", {"val": [question(i, "aaaa0001_1.png", "a", text=t) for i, t in enumerate(texts)]}
    )
    run(source, tmp_path / "out")
    assert [row.turns[0].user for row in rows(tmp_path / "out", "val")] == [f"{t}\nAnswer briefly." for t in texts]


def test_seeded_answers_are_the_same_each_time_and_follow_the_stated_rule(synthetic: Path, tmp_path: Path) -> None:
    run(synthetic, tmp_path / "a", answer="seeded", seed=1)
    run(synthetic, tmp_path / "b", answer="seeded", seed=1)
    run(synthetic, tmp_path / "c", answer="seeded", seed=2)
    assert outputs(tmp_path / "a") == outputs(tmp_path / "b") != outputs(tmp_path / "c")
    by_id = sorted(rows_of(synthetic)["train"], key=lambda row: row["questionId"])
    for row, source in zip(rows(tmp_path / "a", "train"), by_id, strict=True):
        answers = source["answers"]
        assert row.turns[0].answers == tuple(answers)
        assert row.turns[0].assistant == answers[choose_answer(1, f"{source['questionId']:010d}", len(answers))]


def test_seeded_answers_take_each_about_as_often() -> None:
    counts = Counter(choose_answer(0, f"{i:010d}", 3) for i in range(3000))
    assert all(900 < counts[i] < 1100 for i in range(3))
    assert choose_answer(7, "0000049153", 5) == 4  # pinned: a change of the rule changes people's data


def test_a_page_becomes_one_dialogue_with_the_page_in_its_first_turn(sample: Path, tmp_path: Path) -> None:
    run(sample, tmp_path / "out", group="page")
    found = rows(tmp_path / "out", "val")
    assert [row.image_paths for row in found] == [
        ("val/ffbg0227_2.png",),
        ("val/ffhx0227_1.png",),
        ("val/ffjw0228_11.png",),
    ]
    assert [len(row.turns) for row in found] == [1, 1, 10]
    ids = sorted(row["questionId"] for row in rows_of(sample)["val"] if "ffjw0228" in row["image"])
    texts = {row["questionId"]: row["question"] for row in rows_of(sample)["val"]}
    assert [turn.user for turn in found[2].turns] == [f"{texts[i]}\nAnswer briefly." for i in ids]
    assert all(turn.images == () for turn in found[2].turns[1:])


def test_unlabeled_questions_do_not_take_their_pages_others_along(tmp_path: Path) -> None:
    rows_in = [question(1, "a_1.png"), question(2, "a_1.png", "x"), question(3, "a_1.png", "y"), question(4, "b_1.png")]
    source = release(tmp_path / "in", {"val": rows_in})
    manifest = run(source, tmp_path / "out", group="page").manifest
    assert [len(row.turns) for row in rows(tmp_path / "out", "val")] == [2]
    assert (manifest.accounting.inputs, manifest.accounting.unlabeled) == (3, 2)


def test_test_questions_are_left_out_unless_asked_for(synthetic: Path, tmp_path: Path) -> None:
    account = run(synthetic, tmp_path / "out").manifest.accounting
    assert (account.inputs, account.written, account.unlabeled) == (204, 180, 24)
    assert rows(tmp_path / "out", "test") == []
    run(synthetic, tmp_path / "all", include_unlabeled=True)
    turns = [row.turns[0] for row in rows(tmp_path / "all", "test")]
    assert len(turns) == 24
    assert all(turn.assistant is None and turn.answers is None for turn in turns)


@pytest.mark.parametrize("answers", [[], None, [""], ["", " "]])
def test_empty_answers_are_no_answers(tmp_path: Path, answers: list[str] | None) -> None:
    source = release(tmp_path / "in", {"test": [question(1, "a_1.png", answers=answers)]})
    with pytest.raises(NothingWritten, match=r"\(1 without an answer of 1 inputs\)"):
        run(source, tmp_path / "out")


def train_only(folder: Path, documents: range) -> Path:
    pages = [f"doc{d:04d}_{p}.png" for d in documents for p in (1, 2)]
    return release(folder, {"train": [question(int(p[3:7]) * 10 + i, p, "x") for i, p in enumerate(pages)]})


def documents(out: Path, split: str) -> set[str]:
    return {path.split("/")[1].partition("_")[0] for row in rows(out, split) for path in row.image_paths}


def test_without_a_val_split_whole_documents_of_train_become_it(tmp_path: Path) -> None:
    source = train_only(tmp_path / "in", range(60))
    outcome = run(source, tmp_path / "out", val_fraction=0.2)
    train, val = documents(tmp_path / "out", "train"), documents(tmp_path / "out", "val")
    assert not train & val
    assert len(train | val) == 60
    assert 4 <= len(val) <= 20
    num_val = len(rows(tmp_path / "out", "val"))
    said = f"no val in the source: {num_val} of 120 rows, by whole documents, are val."
    assert outcome.warnings == (f"{said} --val_fraction 0 keeps them in train",)
    run(train_only(tmp_path / "half", range(30)), tmp_path / "out2", val_fraction=0.2)
    assert documents(tmp_path / "out2", "val") == {name for name in val if int(name[3:]) < 30}


def test_val_is_never_empty_and_can_be_left_out(tmp_path: Path) -> None:
    source = train_only(tmp_path / "in", range(3))
    run(source, tmp_path / "out", val_fraction=1e-9)
    assert len(documents(tmp_path / "out", "val")) == 1
    assert [split.name for split in run(source, tmp_path / "none", val_fraction=0).manifest.splits] == ["train"]


def test_one_document_stays_in_train(tmp_path: Path) -> None:
    outcome = run(train_only(tmp_path / "in", range(1)), tmp_path / "out")
    assert [(split.name, split.rows) for split in outcome.manifest.splits] == [("train", 2), ("val", 0)]
    assert outcome.warnings == ("no val in the source, and none was made: train has fewer than two documents",)


def test_official_splits_are_kept_whatever_the_fraction(synthetic: Path, tmp_path: Path) -> None:
    run(synthetic, tmp_path / "a")
    assert run(synthetic, tmp_path / "a", val_fraction=0.5).found_finished


def test_documents_in_two_splits_are_reported(tmp_path: Path) -> None:
    pages = {"a_1.png": page_bytes(1), "a_2.png": page_bytes(2)}
    splits = {"train": [question(1, "a_1.png", "x")], "val": [question(2, "a_2.png", "x")]}
    outcome = run(release(tmp_path / "in", splits, pages), tmp_path / "out")
    assert outcome.warnings == ("1 documents are in several splits of the source",)


# Traps ------------------------------------------------------------------------------------------------------------


def test_a_png_that_is_a_jpeg_keeps_its_name_and_bytes_and_is_recorded_as_one(tmp_path: Path) -> None:
    data = page_bytes(format="JPEG")
    source = release(tmp_path / "in", {"val": [question(1, "a_1.png", "x")]}, {"a_1.png": data})
    convert(DocvqaOptions(source), tmp_path / "out", num_workers=0)
    from phiv_data import ConversationDataset

    image = ConversationDataset(tmp_path / "out", "val")[0].images[0]
    assert (image.meta.path, image.meta.format, image.data) == ("val/a_1.png", "JPEG", data)
    assert validate(tmp_path / "out").ok


LOGIN = b"<!DOCTYPE html>\n<html><head><title>RRC - Log in</title></head><body>Please log in.</body></html>"


@pytest.mark.parametrize("name", ["spdocvqa_qas.zip", "spdocvqa_images.tar.gz"])
def test_a_login_page_saved_as_an_archive_is_one_line(synthetic: Path, tmp_path: Path, name: str) -> None:
    source = archives(synthetic, tmp_path / "in")
    (source / name).write_bytes(LOGIN)
    with pytest.raises(SourceError, match=rf"{name}: is not a tar or zip archive \(found a web page: a login") as error:
        run(source, tmp_path / "out")
    assert "\n" not in str(error.value)
    with pytest.raises(SourceError, match="found a web page"):
        run(source / name, tmp_path / "out")


def test_a_login_page_saved_as_the_questions_is_one_line(synthetic: Path, tmp_path: Path) -> None:
    source = copy(synthetic, tmp_path / "in")
    (source / "val_v1.0_withQT.json").write_bytes(LOGIN)
    with pytest.raises(SourceError, match=r"val_v1\.0_withQT\.json: is a web page"):
        run(source, tmp_path / "out")


def test_a_cut_file_of_questions_is_one_line(synthetic: Path, tmp_path: Path) -> None:
    source = copy(synthetic, tmp_path / "in")
    file = source / "val_v1.0_withQT.json"
    file.write_bytes(file.read_bytes()[:-200])
    with pytest.raises(SourceError, match=r"val_v1\.0_withQT\.json:\d+: "):
        run(source, tmp_path / "out")


@pytest.mark.parametrize("folder", ["documents", "spdocvqa_images", "some/other/place"])
def test_pages_are_found_whatever_their_folder_is_called(tmp_path: Path, folder: str) -> None:
    source = release(tmp_path / "in", {"val": [question(1, "a_1.png", "x")]}, images=folder)
    assert run(source, tmp_path / "out").manifest.rows == 1


def test_ids_may_be_strings_and_page_numbers_ints(tmp_path: Path) -> None:
    ints = [question(9, "a_1.png", "x"), question(10, "a_1.png", "y")]
    strings = [r | {"questionId": str(r["questionId"]), "docId": "14465", "ucsf_document_page_no": 1} for r in ints]
    run(release(tmp_path / "a", {"val": ints}), tmp_path / "out_a")
    run(release(tmp_path / "b", {"val": strings}), tmp_path / "out_b")
    assert outputs(tmp_path / "out_a") == outputs(tmp_path / "out_b")
    assert [row.turns[0].assistant for row in rows(tmp_path / "out_a", "val")] == ["x", "y"]  # 9 before 10


def test_a_repeated_question_is_a_duplicate_and_a_contradiction_is_rejected(tmp_path: Path) -> None:
    first = question(1, "a_1.png", "x")
    again = [first, first, first | {"answers": ["y"]}, first | {"question": "Other?"}, question(2, "a_1.png", "x")]
    source = release(tmp_path / "in", {"train": again, "val": [first]})
    manifest = run(source, tmp_path / "out").manifest
    account = manifest.accounting
    assert (account.inputs, account.written, account.duplicates) == (6, 2, 1)
    assert account.rejected == {"bad-row": 3}
    reasons = [reject.reason for reject in rejects(tmp_path / "out")]
    assert reasons[0].startswith("questionId 1 is on train_v1.0_withQT.json:6 too, with another question, page or ans")
    assert reasons[2] == "questionId 1 is on train_v1.0_withQT.json:6 too, with the split train"


@pytest.mark.parametrize(
    ("change", "code", "reason"),
    [
        ({"image": "documents/gone_1.png"}, "missing-image", "no file 'train/documents/gone_1.png' in the source"),
        ({"image": "../../etc/passwd"}, "missing-image", "no file"),
        ({"image": {"bytes": 1}}, "bad-row", "'image' is not str (found {'bytes': 1})"),
        ({"image": None}, "bad-row", "'image' is not str (found None)"),
        ({"question": ""}, "bad-row", "'question' is empty"),
        ({"question": 7}, "bad-row", "'question' is not str (found 7)"),
        ({"question": "\ud800"}, "bad-row", "half a surrogate"),
        ({"questionId": "Q1"}, "bad-row", "questionId is not a number (found 'Q1')"),
        ({"questionId": True}, "bad-row", "questionId is not a number (found True)"),
        ({"questionId": 1.5}, "bad-row", "questionId is not a number (found 1.5)"),
        ({"answers": "x"}, "bad-row", "'answers' is not list (found 'x')"),
        ({"answers": ["x", 7]}, "bad-row", "answers[1] is not text (found 7)"),
        ({"answers": ["x", " "]}, "bad-row", "'answers[1]' is empty"),
    ],
)
def test_bad_rows_are_rejected_with_their_reason(
    tmp_path: Path, change: dict[str, Any], code: str, reason: str
) -> None:
    good = question(1, "a_1.png", "x")
    bad = question(2, "a_1.png", "x") | change
    source = release(tmp_path / "in", {"train": [good, bad]}, {"a_1.png": page_bytes()})
    account = run(source, tmp_path / "out", val_fraction=0).manifest.accounting
    assert (account.inputs, account.written, account.rejected) == (2, 1, {code: 1})
    assert reason in rejects(tmp_path / "out")[0].reason


@pytest.mark.parametrize(
    ("data", "code"), [(LOGIN, "not-an-image"), (b"", "empty-file"), (page_bytes()[:-30], "truncated")]
)
def test_broken_pages_reject_their_questions_only(tmp_path: Path, data: bytes, code: str) -> None:
    splits = {"val": [question(1, "a_1.png", "x"), question(2, "b_1.png", "x"), question(3, "b_1.png", "y")]}
    source = release(tmp_path / "in", splits, {"a_1.png": page_bytes(), "b_1.png": data})
    account = run(source, tmp_path / "out").manifest.accounting
    assert (account.written, account.rejected) == (1, {code: 2})


def test_rows_that_share_a_line_are_still_distinguished(tmp_path: Path) -> None:
    body = {"dataset_split": "val", "data": [question(1, "a_1.png", "x"), question(1, "a_1.png", "y")]}
    source = release(tmp_path / "in", {"val": body["data"]})  # type: ignore[dict-item]  # a list of rows
    (source / "val_v1.0_withQT.json").write_text(json.dumps(body))
    assert run(source, tmp_path / "out").manifest.accounting.rejected == {"bad-row": 1}
    assert rejects(tmp_path / "out")[0].input == "val_v1.0_withQT.json:00000002"


def test_pages_of_one_name_in_two_splits_are_those_of_the_split(tmp_path: Path) -> None:
    for i, split in enumerate(("train", "val")):
        release(tmp_path / "in" / split, {split: [question(i, "a_1.png", "x")]}, {"a_1.png": page_bytes(50 * i)})
    run(tmp_path / "in", tmp_path / "out")
    for i, split in enumerate(("train", "val")):
        assert (tmp_path / "out/images" / split / "a_1.png").read_bytes() == page_bytes(50 * i)


# Tables without ids -----------------------------------------------------------------------------------------------


def mini(folder: Path) -> Path:
    """nielsr/docvqa_1200_examples: a question in five languages, ids of its own, pages without names."""
    cells = [
        {
            "id": f"train_{i}",
            "image": {"bytes": page_bytes(100 + i // 2), "path": None},
            "query": {language: f"{language} {i}?" for language in ("de", "en", "es", "fr", "it")},
            "answers": [f"a{i}", f"b{i}"],
            "words": ["w"],
            "bounding_boxes": [[0.0, 0.0, 1.0, 1.0]],
            "answer": {"match_score": 1.0, "matched_text": "m", "start": 1, "text": "t"},
        }
        for i in range(12)
    ]
    write_shards(folder / "data", "train", cells, 1)
    write_shards(folder / "data", "test", [cells[0] | {"id": "test_0"}], 1)
    return folder


def test_the_mini_set_has_english_questions_and_each_page_once(tmp_path: Path) -> None:
    manifest = run(mini(tmp_path / "in"), tmp_path / "out", val_fraction=0).manifest
    assert "query, answers, image (docvqa_1200_examples)" in manifest.source
    assert [(split.name, split.rows, split.num_images) for split in manifest.splits] == [
        ("train", 12, 6),
        ("test", 1, 1),
    ]
    turns = [row.turns[0] for row in rows(tmp_path / "out", "train")]
    assert [turn.user for turn in turns] == [f"en {i}?\nAnswer briefly." for i in range(12)]
    assert turns[3].answers == ("a3", "b3")
    assert turns[3].images == ("train/train-00000-of-00001-00000003.png",)  # named by the first row that shows it


def test_pages_without_a_document_are_split_whole(tmp_path: Path) -> None:
    run(mini(tmp_path / "in"), tmp_path / "out", val_fraction=0.4)
    train, val = ({row.image_paths[0].split("/")[1] for row in rows(tmp_path / "out", s)} for s in ("train", "val"))
    assert len(train | val) == 6
    assert val
    assert not train & val


def cauldron(folder: Path, cells: list[dict[str, Any]]) -> Path:
    schema = pa.schema(
        [
            ("images", pa.list_(IMAGE)),
            ("texts", pa.list_(pa.struct([(name, pa.string()) for name in ("user", "assistant", "source")]))),
        ]
    )
    import pyarrow.parquet as pq

    folder.mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(cells, schema), folder / "train-00000-of-00001-0123456789abcdef.parquet")
    return folder


def text(user: str, assistant: str | None) -> dict[str, Any]:
    return {"user": user, "assistant": assistant, "source": "DocVQA"}


def image(shade: int = 200, format: str = "PNG") -> dict[str, Any]:
    return {"bytes": page_bytes(shade, format), "path": None}


def test_the_cauldrons_texts_stay_as_they_are_worded(tmp_path: Path) -> None:
    source = cauldron(
        tmp_path / "the_cauldron/docvqa",
        [
            {"images": [image(1, "JPEG")], "texts": [text("Q1?\nBe brief.", "A1."), text("Q2?", "A2.")]},
            {"images": [image(2)], "texts": [text("Q3?", None)]},
        ],
    )
    manifest = run(source, tmp_path / "out", val_fraction=0).manifest
    assert "images, texts (The Cauldron)" in manifest.source
    assert (manifest.rows, manifest.accounting.unlabeled) == (2, 1)
    turns = [row.turns[0] for row in rows(tmp_path / "out", "train")]
    assert [(turn.user, turn.assistant, turn.answers) for turn in turns] == [
        ("Q1?\nBe brief.", "A1.", ("A1.",)),
        ("Q2?", "A2.", ("A2.",)),
    ]
    assert {turn.images[0].rpartition(".")[2] for turn in turns} == {"jpg"}  # an invented name: the suffix is true
    run(tmp_path / "the_cauldron", tmp_path / "outer", val_fraction=0, group="page")
    (dialogue,) = rows(tmp_path / "outer", "train")
    assert [turn.assistant for turn in dialogue.turns] == ["A1.", "A2."]


def test_cauldron_rows_without_one_page_or_a_text_are_rejected(tmp_path: Path) -> None:
    good = {"images": [image()], "texts": [text("Q?", "A")]}
    bad: list[dict[str, Any]] = [
        {"images": [], "texts": [text("Q?", "A")]},
        {"images": [image(1), image(2)], "texts": [text("Q?", "A")]},
        {"images": [image()], "texts": []},
        {"images": [{"bytes": None, "path": "x.png"}], "texts": [text("Q?", "A")]},
        {"images": [image()], "texts": [text("", "A")]},
        {"images": [{"bytes": LOGIN, "path": None}], "texts": [text("Q?", "A")]},
    ]
    account = run(cauldron(tmp_path / "in", [good, *bad]), tmp_path / "out", val_fraction=0).manifest.accounting
    assert account.written == 1
    assert account.rejected == {"missing-image": 2, "bad-row": 2, "bad-turns": 1, "not-an-image": 1}


def table(folder: Path, cells: list[dict[str, Any]]) -> Path:
    write_shards(folder, "validation", cells, 1)
    return folder


def cell(number: int, image: Any, **more: Any) -> dict[str, Any]:
    return {"questionId": number, "question": f"Q{number}?", "answers": ["x"], "image": image} | more


def test_an_image_column_of_names_holds_no_pages(tmp_path: Path) -> None:
    source = table(tmp_path / "in", [cell(1, "documents/a_1.png")])
    with pytest.raises(SourceError, match=r"no question has its page \(0 rows with a question, 1 bad ones"):
        run(source, tmp_path / "out")


def test_an_image_column_of_plain_bytes_is_read(tmp_path: Path) -> None:
    run(table(tmp_path / "in", [cell(1, page_bytes())]), tmp_path / "out")
    assert (tmp_path / "out/images/val/validation-00000-of-00001-00000001.png").read_bytes() == page_bytes()


def test_names_in_a_table_cannot_leave_the_folder(tmp_path: Path) -> None:
    cells = [
        cell(
            1,
            {"bytes": page_bytes(1), "path": "../../../escape.png"},
            ucsf_document_id="../../x",
            ucsf_document_page_no="1",
        ),
        cell(
            2, {"bytes": page_bytes(2), "path": "C:\\pages\\b.png"}, ucsf_document_id=None, ucsf_document_page_no=None
        ),
        cell(3, {"bytes": page_bytes(3), "path": ".hidden.png"}, ucsf_document_id="", ucsf_document_page_no=None),
    ]
    run(table(tmp_path / "in", cells), tmp_path / "out")
    assert [row.image_paths[0] for row in rows(tmp_path / "out", "val")] == [
        "val/escape.png",
        "val/b.png",
        "val/validation-00000-of-00001-00000003.png",
    ]


def test_two_images_under_one_page_name_are_not_mixed(tmp_path: Path) -> None:
    same = {"ucsf_document_id": "a", "ucsf_document_page_no": "1"}
    cells = [cell(i, {"bytes": page_bytes(i), "path": None}, **same) for i in (1, 2)]
    account = run(table(tmp_path / "in", cells), tmp_path / "out").manifest.accounting
    assert (account.written, account.rejected) == (1, {"bad-row": 1})


def test_a_changed_table_is_unpacked_again(tmp_path: Path) -> None:
    """A run that was stopped leaves the unpacked tables to the next one, which may find others."""
    source = table(tmp_path / "in", [cell(1, {"bytes": page_bytes(10), "path": "a.png"})])
    path = next(source.iterdir())
    first = DocvqaOptions(source).open(tmp_path / "work").layout
    assert DocvqaOptions(source).open(tmp_path / "work").layout == first
    table(source, [cell(1, {"bytes": page_bytes(11), "path": "a.png"})])
    os.utime(path, ns=(1, 1))
    converter = DocvqaOptions(source).open(tmp_path / "work")
    (item,) = converter.inputs().items
    assert converter.draft(item).images[0].data == page_bytes(11)


def test_a_damaged_table_is_one_line(tmp_path: Path) -> None:
    source = table(tmp_path / "in", [cell(1, {"bytes": page_bytes(), "path": None})])
    path = next(source.iterdir())
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(SourceError, match="the table is cut, damaged or no table"):
        run(source, tmp_path / "out")


# Options and contract ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"val_fraction": 1.0}, "--val_fraction: must be 0 or more and below 1 "),
        ({"val_fraction": -0.1}, "--val_fraction: must be"),
        ({"demo": True, "source": Path()}, "--demo: makes its own synthetic data"),
        ({"images": (Path(),)}, "--images: needs the questions too"),
    ],
)
def test_options_out_of_range_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        DocvqaOptions(**arguments)


def test_the_demo_declares_itself_synthetic(tmp_path: Path) -> None:
    manifest = run(None, tmp_path / "out", demo=True).manifest
    assert manifest.synthetic
    assert manifest.source.startswith("synthetic demo pages, official layout")
    assert rows(tmp_path / "out", "val")[0].source == "docvqa-synthetic"


@pytest.mark.parametrize(("hub", "repo"), [("mini", "nielsr/docvqa_1200_examples"), ("full", "the_cauldron")])
def test_without_a_source_the_recipes_repository_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hub: Any, repo: str
) -> None:
    import huggingface_hub

    def unreachable(**_: Any) -> str:
        raise OSError("no route to host")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", unreachable)
    with pytest.raises(EnvironmentProblem, match=rf"{repo}: cannot download .*no route to host.*Pass --source"):
        run(None, tmp_path / "out", hub=hub)


def tiny(folder: Path) -> Path:
    rows_in = {
        "train": [question(i, f"t{i // 2}_1.png", "x", f"y{i}") for i in range(6)],
        "val": [question(10, "v1_1.png", "x", "y")],
        "test": [question(20, "w1_1.png"), question(21, "w1_1.png")],
    }
    return release(folder, rows_in)


def as_folder(folder: Path) -> Case:
    changes: tuple[dict[str, Any], ...] = ({"prompt": "plain"}, {"answer": "seeded"}, {"answer": "seeded", "seed": 1})
    options = [
        lambda source, change=change: DocvqaOptions(source, **change) for change in (*changes, {"group": "page"})
    ]
    return Case(DocvqaOptions, tiny(folder / "in"), tuple(options), unlabeled=2, damaged="documents/t0_1.png")


def as_table(folder: Path) -> Case:
    return Case(DocvqaOptions, LAYOUTS["lmms"](tiny(folder / "tiny"), folder / "in"), unlabeled=2, damaged="")


@pytest.mark.parametrize("make", [as_folder, as_table])
@pytest.mark.parametrize("check", conformance_checks(), ids=lambda check: check.__name__)
def test_the_contract_is_kept(check: Check, make: Any, tmp_path: Path) -> None:
    case = make(tmp_path / "case")
    (tmp_path / "work").mkdir()
    check(case, tmp_path / "work")
