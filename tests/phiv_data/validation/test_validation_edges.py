"""What people do to a validator: outputs in odd places, files of other kinds, names that almost say a split."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from data_builders import samples, write_dataset

from phiv_data.cli.validate import main
from phiv_data.reports import REPORT_FILE_NAMES, text
from phiv_data.validation import validate
from phiv_data.validation.inputs.converted import REPORT_FILES
from phiv_data.validation.rules.leakage import split_kind
from phiv_schemas import UsageError, ValidationReport


def row(number: int, answer: str | None = "a fox", *paths: str, **more: Any) -> dict[str, Any]:
    turn = {"images": list(paths), "user": f"What is it, {number}?", "assistant": answer} | more
    return {"id": f"r{number}", "source": "synthetic", "conversations": [turn]}


def write(path: Path, *rows: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{json.dumps(one)}\n" for one in rows))
    return path


def reported(report: ValidationReport) -> list[tuple[str, str, int | None]]:
    return [(issue.code, issue.file, issue.line) for issue in report.issues]


def run(monkeypatch: pytest.MonkeyPatch, *args: object) -> int:
    monkeypatch.setattr(sys, "argv", ["phiv-validate", *map(str, args)])
    return main()


# Outputs ------------------------------------------------------------------------------------------------------------


def test_a_report_never_takes_the_place_of_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write(tmp_path / "data" / "val.jsonl", row(0))
    (tmp_path / "link.txt").symlink_to(data)
    before = data.read_bytes()
    for path, out in ((data, data), (data.parent, data), (data, tmp_path / "link.txt"), (data, data.parent)):
        assert run(monkeypatch, path, "--output", out) == 2
    assert run(monkeypatch, data, "--report_dir", data) == 2
    assert data.read_bytes() == before
    assert len(capsys.readouterr().err.splitlines()) == 5


def test_links_are_followed_and_devices_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = write(tmp_path / "val.jsonl", row(0))
    (tmp_path / "real.txt").write_text("old")
    (tmp_path / "link.txt").symlink_to("real.txt")
    os.mkfifo(tmp_path / "pipe")
    with subprocess.Popen(["cat", tmp_path / "pipe"], stdout=subprocess.PIPE, text=True) as reader:
        assert run(monkeypatch, data, "--output", tmp_path / "pipe") == 0
        printed, _ = reader.communicate(timeout=60)
    assert run(monkeypatch, data, "--output", tmp_path / "link.txt") == 0
    assert (tmp_path / "link.txt").is_symlink()
    assert (tmp_path / "real.txt").read_text() == printed == text.render(validate(data))
    assert (tmp_path / "pipe").is_fifo()


def test_reports_inside_the_data_are_not_reported_and_files_of_desktops_are_no_errors(tmp_path: Path) -> None:
    out = write_dataset(tmp_path / "out", {"val": samples("val", 2)})
    assert set(REPORT_FILES) == set(REPORT_FILE_NAMES.values())
    for name in (*REPORT_FILES, ".DS_Store", "Thumbs.db", ".gitattributes"):
        (out / name).touch()
    report = validate(out)
    assert report.ok
    assert [issue.file for issue in report.issues] == [".DS_Store", ".gitattributes", "Thumbs.db"]


def test_an_ascii_terminal_and_odd_file_names_lose_nothing(tmp_path: Path) -> None:
    name = "tr\n::error file=x::\x1b[31m日本.jsonl"
    write(tmp_path / name, row(0, "\u202e 日本"))
    code = "import sys; sys.argv[0] = 'phiv-validate'; from phiv_data.cli.validate import main; sys.exit(main())"
    command = [sys.executable, "-c", code, str(tmp_path / name)]
    done = subprocess.run(command, capture_output=True, env=os.environ | {"PYTHONIOENCODING": "ascii"}, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    lines = done.stdout.decode("ascii").splitlines()
    assert all(line.isprintable() and not line.startswith("::") for line in lines)
    assert "PV223" in lines[-1]


# What is there ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("start", "kind"),
    [(b"PAR1", "Parquet"), (b"\x1f\x8b\x08", "gzip"), (b"ARROW1\0\0", "Arrow IPC file"), (b"%PDF-1.7", "PDF")],
)
def test_files_of_other_kinds_are_one_line(tmp_path: Path, start: bytes, kind: str) -> None:
    (tmp_path / "x.jsonl").write_bytes(start + bytes(100))
    with pytest.raises(UsageError, match=kind):
        validate(tmp_path / "x.jsonl")


def test_pipes_are_one_line(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.jsonl")
    with pytest.raises(UsageError, match="neither a file nor a folder"):
        validate(tmp_path / "x.jsonl")


def test_files_of_a_folder_that_cannot_be_read_are_reported(tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl", row(0))
    (tmp_path / "val.jsonl").symlink_to("gone.jsonl")
    os.mkfifo(tmp_path / "test.jsonl")
    report = validate(tmp_path, ignore=["PV303"])
    assert reported(report) == [("PV007", "test.jsonl", None), ("PV007", "val.jsonl", None)]


def test_shards_beside_jsonl_without_a_manifest_are_said_to_be_left_out(tmp_path: Path) -> None:
    out = write_dataset(tmp_path / "out", {"val": samples("val", 2)})
    (out / "manifest.json").unlink()
    (issue,) = validate(out).issues
    assert "the shards below arrow/ were not checked. Copy the folder again" in str(issue)


def test_without_images_none_is_opened(tmp_path: Path) -> None:
    out = write_dataset(tmp_path / "out", {"val": samples("val", 2)})
    for file in (out / "images").rglob("*.png"):
        file.unlink()
    assert validate(out).counts() == {"PV101": 4}
    assert validate(out, images=False).issues == []


def test_a_missing_list_of_images_is_reported_once(tmp_path: Path) -> None:
    out = write_dataset(tmp_path / "out", {"val": samples("val", 2)})
    (out / "images.sha256").unlink()
    assert reported(validate(out)) == [("PV301", "images.sha256", None)]


def test_folders_that_may_not_be_entered_are_no_missing_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = write(tmp_path / "val.jsonl", row(0, "a fox", "a.png"))
    (tmp_path / "images").mkdir()

    def refuse(path: Any) -> os.stat_result:
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr("phiv_data.validation.inputs.image_checks.os.lstat", refuse)  # root may enter any
    (issue,) = validate(data).issues
    assert str(issue) == "val.jsonl:1: $.conversations[0].images[0]: cannot be read ('a.png': Permission denied)"


def test_paths_are_shown_whole(tmp_path: Path) -> None:
    path = "/".join(["a_long_name_of_a_folder"] * 8) + "/image.png"
    data = write(tmp_path / "val.jsonl", row(0, "a fox", path))
    (tmp_path / "images").mkdir()
    assert f"no such image {path!r} under images/" in str(validate(data).issues[0])


@pytest.mark.parametrize(
    ("old", "new", "where"),
    [
        ('"rejects"', '"rejected"', "$.rejects"),
        ('"format_version": 1', '"format_version": 99', "$.format_version"),
        ('"rows": 2', '"rows": 5', "$.splits[0]"),
    ],
)
def test_errors_of_a_manifest_say_where(tmp_path: Path, old: str, new: str, where: str) -> None:
    out = write_dataset(tmp_path / "out", {"val": samples("val", 2)})
    manifest = out / "manifest.json"
    manifest.write_text(manifest.read_text().replace(old, new, 1))
    assert [issue.json_path for issue in validate(out).issues] == [where]


# Folders of several files -------------------------------------------------------------------------------------------


def chat(number: int) -> dict[str, Any]:
    said = [{"from": "human", "value": f"What is {number}?"}, {"from": "gpt", "value": "A number."}]
    return {"id": str(number), "conversations": said}


def test_other_files_do_not_change_how_rows_are_read_and_are_named(tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl", *map(chat, range(3)))
    (tmp_path / "empty.jsonl").touch()
    assert reported(validate(tmp_path)) == []
    write(tmp_path / "metadata.jsonl", {"file_name": "a.png", "split": "train"})
    report = validate(tmp_path)
    assert (reported(report), report.rows, report.ok) == ([("PV504", "metadata.jsonl", None)], 3, True)


def test_rows_of_other_tools_beside_phivs_own_are_named(tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl", row(0))
    (tmp_path / "val.json").write_text(json.dumps([chat(0)]))
    assert reported(validate(tmp_path, ignore=["PV303"])) == [("PV504", "val.json", None)]


def test_a_bad_line_hides_no_format(tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    path.write_text("oops\n" + "".join(f"{json.dumps(chat(i))}\n" for i in range(3)))
    assert reported(validate(path)) == [("PV001", "train.jsonl", 1)]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("train2017", 0), ("val2017", 1), ("trainset", 0), ("test_set", 2), ("my-train-00000-of-00002", 0),
        ("train_val", None), ("mindset", None), ("retrain", None), ("2017", None),
    ],
)  # fmt: skip
def test_names_that_say_a_split(name: str, expected: int | None) -> None:
    assert split_kind(name) == expected


def test_classes_are_counted_by_split_however_many_files_it_has(tmp_path: Path) -> None:
    numbers = iter(range(1000))
    known = ["cat", "dog", "cow", "pig"]
    files = {"train-00000-of-00002": known[:2], "train-00001-of-00002": known[2:], "val": [*known, "hen"]}
    for name, answers in files.items():
        write(tmp_path / f"{name}.jsonl", *(row(next(numbers), answer) for answer in answers for _ in range(30)))
    report = validate(tmp_path, ignore=["PV303"])
    assert [(i.code, "'hen'" in i.message) for i in report.issues] == [("PV231", True)]


def test_grades_and_letters_are_classes_of_their_own(tmp_path: Path) -> None:
    counts = {"A": 200, "A-": 15, "a": 15, "B": 100, "B+": 10}
    answers = [answer for answer, count in counts.items() for _ in range(count)]
    report = validate(write(tmp_path / "train.jsonl", *(row(i, answer) for i, answer in enumerate(answers))))
    assert "PV233" not in report.counts()


def test_codes_of_rules_of_ones_own_can_be_ignored(tmp_path: Path) -> None:
    data = write(tmp_path / "val.jsonl", row(0))
    assert validate(data, ignore=["PV900"]).ok
    with pytest.raises(UsageError, match="must be a list of codes"):
        validate(data, ignore="PV303")
