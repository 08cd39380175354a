"""Inputs as other tools and people make them (cases/data of the shared folder): what must be seen of each."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from case_runner import CaseRun, run_case
from shared_data import shared_folder

CHECKS: dict[str, Callable[[CaseRun], None]] = {}
SHARED = shared_folder()
NAMES = sorted(p.name for p in (SHARED / "cases/data").iterdir() if (p / "cmd").is_file()) if SHARED else []
LONGEST_LINE = 600
SLOW = {"text_rows_first_then_images", "json_of_other_shapes", "webdataset_splits_of_two_formats"}
"""Many commands or megabytes; tests of the formats have their kinds."""
PARAMETERS = [pytest.param(name, marks=[pytest.mark.soak] * (name in SLOW)) for name in NAMES]


def case(check: Callable[[CaseRun], None]) -> Callable[[CaseRun], None]:
    """Register the check of the case of the same name."""
    CHECKS[check.__name__] = check
    return check


@pytest.mark.skipif(not NAMES, reason="needs the shared cases (set PHIV_SHARED to their folder)")
@pytest.mark.parametrize("name", PARAMETERS or ["none"])
def test_case(name: str, tmp_path: Path) -> None:
    run = run_case(SHARED / "cases/data" / name, tmp_path)
    for call in run.calls:
        assert "Traceback" not in call.text, call.text
        assert all(len(line) < LONGEST_LINE for line in call.text.splitlines()), "a line too long to read"
    CHECKS[name](run)


def convert(run: CaseRun, i: int) -> str:
    """The text of call i, which must be a conversion."""
    assert run.calls[i].argv[0] == "phiv-convert", run.calls[i].argv
    return run.calls[i].text


@case
def bare_list_long_first_line(run: CaseRun) -> None:
    assert run.calls[0].code == 0, run.calls[0].text
    assert [row["conversations"][0]["user"] for row in run.rows("o")] == ["q0", "q1"]
    assert all(row["conversations"][0]["images"] for row in run.rows("o"))
    assert "PV002" not in run.calls[1].text


@case
def base64_as_path(run: CaseRun) -> None:
    unread = [reject for reject in run.rejects("o") if "base64" not in reject["reason"]]
    assert not unread, unread
    assert len(run.rows("o")) + len(run.rejects("o")) == 4
    assert all(len(reject["reason"]) < LONGEST_LINE for reject in run.rejects("o"))


@case
def colon_in_name(run: CaseRun) -> None:
    assert run.calls[0].code == 0, run.calls[0].text
    assert len(run.rows("o")) == 1
    assert "PV505" not in run.calls[1].text
    assert run.calls[1].code == 0


@case
def duplicate_keys_foreign(run: CaseRun) -> None:
    for call, name in zip(run.calls, ("o", "p"), strict=False):
        assert call.code != 0
        assert not run.rows(name)
    assert "PV003" in run.calls[2].text


@case
def hints_of_archives(run: CaseRun) -> None:
    assert [call.code for call in run.calls] == [2, 2]
    assert "zstd" in convert(run, 0)
    assert "Download it again" not in convert(run, 0) + convert(run, 1)
    assert "table" in convert(run, 1) or "text" in convert(run, 1)


@case
def image_inside_message(run: CaseRun) -> None:
    rows = run.rows("o")
    assert all(turn["images"] for row in rows for turn in row["conversations"])
    assert len(rows) + len(run.rejects("o")) == 2
    assert run.calls[1].code == 2
    assert "jsonl" in convert(run, 1)
    assert not run.rows("p")


@case
def img_tag_in_messages(run: CaseRun) -> None:
    rows = run.rows("o")
    assert [len(row["conversations"][0]["images"]) for row in rows] == [2, 1]
    assert all("<img>" not in row["conversations"][0]["user"] for row in rows)
    first = rows[0]["conversations"][0]
    assert first["user"][: first["image_offsets"][0]] == "Picture 1: "
    assert first["user"][first["image_offsets"][0] : first["image_offsets"][1]] == "\nPicture 2: "
    assert run.calls[1].code != 0 or "<img>" in convert(run, 1)


@case
def json_of_other_shapes(run: CaseRun) -> None:
    for i, name in enumerate(("concat", "keyed", "data", "single")):
        read = 1 if name == "single" else 2
        assert len(run.rows(name)) == read or run.calls[2 * i].code == 2, name
        assert "the file of rows that it names" not in run.calls[2 * i].text
        assert "that phiv can tell" not in run.calls[2 * i + 1].text
    assert "UTF-8" in run.calls[8].text
    assert "byte" in run.calls[8].text


@case
def kto_label_false(run: CaseRun) -> None:
    for name in ("o", "p"):
        assert [row["conversations"][0]["assistant"] for row in run.rows(name)] == ["ans1", "ans3"]
        assert [reject["code"] for reject in run.rejects(name)] == ["unsupported-row"] * 2
    assert run.calls[2].stdout.count("$.label") == 2
    assert "PV504" in run.calls[2].stdout
    assert run.calls[2].code == 0, "PV504 is a warning: the rows are fine for the tool that they are written for"


@case
def marker_of_another_tool(run: CaseRun) -> None:
    rejects = [line for line in convert(run, 0).splitlines() if ": rejected, " in line]
    assert len(rejects) + len(run.rows("o")) == 2
    assert all(
        "--marker" in convert(run, 0) or turn["images"] for row in run.rows("o") for turn in row["conversations"]
    )
    assert all("<|image" in line and "--marker" in line for line in rejects)
    kept = [row for row in run.rows("p") if "<|image" in row["conversations"][0]["user"]]
    assert not kept or "<|image" in convert(run, 1)


@case
def markers_of_others(run: CaseRun) -> None:
    assert len(run.rows("o")) + len(run.rejects("o")) == 7
    for marker in ("<image>", "<video>", "<audio>", "<|image|>", "<|image_1|>", "<image 1>", "<ImageHere>"):
        assert marker in convert(run, 0), marker


@case
def memes_where_is_empty(run: CaseRun) -> None:
    assert run.calls[0].code in (1, 2)
    assert not convert(run, 0).startswith("phiv-convert: :")
    assert "meme 13894" in convert(run, 0)


@case
def openai_two_user_messages(run: CaseRun) -> None:
    rows = run.rows("o")
    assert [turn["user"] for turn in rows[0]["conversations"]] == ["Which one?"]
    assert len(rows[0]["conversations"][0]["images"]) == 1
    assert rows[0]["conversations"][0]["assistant"] == "Danbo"


@case
def output_inside_source(run: CaseRun) -> None:
    first, second, third = run.calls[:3]
    if first.code == 2:  # the place is refused
        assert "--out_dir" in first.text
    else:
        assert second.code == first.code == 0
        assert "already converted" in second.text
        assert third.code == 0
    counts = [int(count) for count in re.findall(r"^ *(\d+) \S+\.jsonl$", run.stdout, re.MULTILINE)]  # of wc
    assert counts[: len(counts) // 2] == counts[len(counts) // 2 :]
    assert [call.code for call in run.calls[3:]] in ([0, 0], [2, 2])


@case
def parquet_messages(run: CaseRun) -> None:
    assert [call.code for call in run.calls[:2]] == [0, 0], run.calls[0].text + run.calls[1].text
    assert len(run.rows("o")) == 3
    assert len(run.rows("p")) == 3


@case
def pope_labels(run: CaseRun) -> None:
    assert run.calls[0].code == 0, run.calls[0].text
    assert [row["conversations"][0]["assistant"] for row in run.rows("o")] == ["yes", "no"]


@case
def reject_names_no_picture(run: CaseRun) -> None:
    reasons = sorted(reject["input"] + " " + reject["reason"] for reject in run.rejects("o"))  # one may be of val
    assert len(reasons) == 2
    assert "images/2.jpg" in reasons[0]
    assert "train.jsonl:3" in reasons[0]
    assert "images/4.jpg" in reasons[1]
    assert "train.jsonl:5" in reasons[1]


@case
def several_answers(run: CaseRun) -> None:
    first, second = (row["conversations"][0] for row in run.rows("o"))
    assert first["assistant"] == "cat"
    assert first["answers"] == ["cat", "a cat"]
    assert second["assistant"] == "3"


@case
def splits_by_name_unsaid(run: CaseRun) -> None:
    for name in ("minival", "holdout", "trainval", "train"):
        assert f"{name}.jsonl" in convert(run, 0), name
    assert [row["conversations"][0]["assistant"] for row in run.rows("o", "val")] == ["a minival"]
    assert [row["conversations"][0]["assistant"] for row in run.rows("o", "test")] == ["a holdout"]


@case
def tables_as_jsonl(run: CaseRun) -> None:
    for call in run.calls:
        assert call.code == 2
        assert "PV001" not in call.text
        assert len(call.text.splitlines()) <= 2


@case
def text_rows_first_then_images(run: CaseRun) -> None:
    lines = [line for line in run.stdout.splitlines() if line.startswith(("swift", "trl"))]
    assert len(lines) == 4
    assert all(" 13010 " in line for line in lines) or "datasets" in "".join(call.text for call in run.calls), lines


@case
def trl_marker_in_text(run: CaseRun) -> None:
    assert "<image>" in convert(run, 0)
    assert "sharegpt" in convert(run, 0) or "--marker" in convert(run, 0)


@case
def ucf_class_folders_only(run: CaseRun) -> None:
    if run.calls[0].code == 0:
        assert len(run.rows("o")) == 3
    else:
        assert run.calls[0].code == 2
        assert "--val_fraction" in convert(run, 0)


@case
def ucf_mp4_clips(run: CaseRun) -> None:
    assert run.calls[0].code == 0, run.calls[0].text
    assert len(run.rows("o")) == 6


@case
def ucf_no_classind(run: CaseRun) -> None:
    assert run.calls[0].code == 2
    assert "classInd.txt" in convert(run, 0)
    assert "trainlist01.txt" in convert(run, 0)


@case
def videos_column_renamed(run: CaseRun) -> None:
    assert not run.rows("o")
    assert "2 unsupported-media of 2 inputs" in convert(run, 0)
    assert run.calls[0].code == 1


@case
def webdataset_splits_of_two_formats(run: CaseRun) -> None:
    lines = run.stdout.splitlines()
    by_split = {line.split()[0]: line for line in lines if line.startswith(("train ", "validation ", "val "))}
    assert len(by_split) == 2, run.stdout
    assert all(line.count("'") == 12 for line in by_split.values()), by_split  # six rows, one image each


@case
def zip_with_backslashes(run: CaseRun) -> None:
    assert run.calls[0].code == 0 or "backslash" in convert(run, 0)
    assert "leaves the target folder" not in convert(run, 0)
