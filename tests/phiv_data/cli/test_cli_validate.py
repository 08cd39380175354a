"""The command: results on stdout, exit codes of the design, a light --help, and the same report as the API."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from data_builders import samples, write_dataset

from phiv_data.cli import validate as cli_validate
from phiv_data.cli.validate import main
from phiv_data.reports import text
from phiv_data.validation import validate
from phiv_schemas import EnvironmentProblem, ValidationReport


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return write_dataset(tmp_path / "out", {"val": samples("val", 2)})


def run(monkeypatch: pytest.MonkeyPatch, *args: object) -> int:
    monkeypatch.setattr(sys, "argv", ["phiv-validate", *map(str, args)])
    try:
        return main()
    except SystemExit as exit_:  # tyro's own usage errors
        return int(exit_.code or 0)


def test_clean_data_is_exit_0_with_what_did_not_apply_and_a_verdict(
    out: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, out) == 0
    streams = capsys.readouterr()
    not_applied, verdict = streams.out.splitlines()
    assert not_applied.startswith("not applied: PV230-PV233 (classes)")
    assert verdict == f"{out}: 2 rows, 4 images: valid"
    assert streams.err == ""


def test_problems_are_exit_1_with_a_line_each(
    out: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (out / "images/val/Archery/v_0001.0.png").unlink()
    assert run(monkeypatch, out) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines == text.render(validate(out)).splitlines()
    assert lines[0] == (
        "ucf101_val.jsonl:2: $.conversations[0].images[0]: no such image 'val/Archery/v_0001.0.png' under images/ "
        "[PV101 missing-image]"
    )


def test_json_is_one_object_with_verdict_and_counts(
    out: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (out / "images/val/Archery/v_0001.0.png").unlink()
    assert run(monkeypatch, out, "--format", "json") == 1
    value = json.loads(capsys.readouterr().out)
    assert (value["ok"], value["counts"], value["rows"]) == (False, {"PV101": 1}, 2)
    assert value["issues"][0]["file"] == "ucf101_val.jsonl"


def test_a_cut_list_says_that_there_is_more(
    out: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("v_0000.0.png", "v_0001.0.png"):
        (out / "images/val/Archery" / name).unlink()
    assert run(monkeypatch, out, "--max_issues", 1) == 1
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.endswith("2 errors (2 PV101 missing-image); 1 listed: raise --max_issues for more")


def test_flags_are_the_same_with_dashes_and_underscores(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    jsonl, images = out / "ucf101_val.jsonl", out / "images"
    assert run(monkeypatch, jsonl, "--images_root", images, "--no_deep", "--max_issues", 5) == 0
    assert run(monkeypatch, jsonl, "--images-root", images, "--no-deep", "--max-issues", 5) == 0
    (images / "val/Archery/v_0001.0.png").write_bytes(b"no image")
    assert run(monkeypatch, jsonl, "--no_deep") == 0
    assert run(monkeypatch, jsonl) == 1


def test_every_form_of_the_report_is_written_in_one_run(
    out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (out / "images/val/Archery/v_0001.0.png").write_bytes(b"no image")
    assert (
        run(monkeypatch, out, "--report_dir", tmp_path / "r", "--output", tmp_path / "o.xml", "--format", "junit") == 1
    )
    assert capsys.readouterr().out == ""
    assert {path.name for path in (tmp_path / "r").iterdir()} == {
        "report.txt", "report.json", "report.junit.xml", "report.sarif", "report.html",
    }  # fmt: skip
    for path in (tmp_path / "r").iterdir():
        assert "PV104" in path.read_text(), path
    assert (tmp_path / "o.xml").read_bytes() == (tmp_path / "r/report.junit.xml").read_bytes()
    assert ValidationReport.model_validate_json((tmp_path / "r/report.json").read_bytes()).num_errors == 1


def test_rules_can_be_ignored_and_warnings_made_to_count(
    out: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (out / ".DS_Store").touch()
    assert run(monkeypatch, out) == 0
    assert run(monkeypatch, out, "--strict") == 1
    assert run(monkeypatch, out, "--strict", "--ignore", "PV402") == 0
    assert run(monkeypatch, out, "--ignore", "PV000") == 2
    assert "no such rule 'PV000'" in capsys.readouterr().err


def test_image_files_need_not_be_looked_at(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = out.parent / "alone.jsonl"
    alone.write_bytes((out / "ucf101_val.jsonl").read_bytes())
    assert run(monkeypatch, alone) == 1  # no folder of images
    assert run(monkeypatch, alone, "--no_images") == 0


def test_several_paths_are_checked_in_turn(
    out: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    jsonl = out / "ucf101_val.jsonl"
    assert run(monkeypatch, jsonl, out) == 0
    verdicts = [line for line in capsys.readouterr().out.splitlines() if line.endswith(": valid")]
    assert [line.split(":")[0] for line in verdicts] == [str(jsonl), str(out)]
    assert run(monkeypatch, jsonl, out, "--format", "json") == 2


@pytest.mark.parametrize(
    "args", [["/no/such/path"], [], ["--nonsense"], ["{}", "--max_issues", "0"], ["{}", "--max_pixels", "0"]]
)
def test_usage_errors_are_exit_2(out: Path, monkeypatch: pytest.MonkeyPatch, args: list[str]) -> None:
    assert run(monkeypatch, *(arg.format(out) for arg in args)) == 2


def test_the_environment_is_exit_3_and_an_interrupt_130(
    out: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for error, code in ((EnvironmentProblem("x", "disk full"), 3), (KeyboardInterrupt(), 130)):

        def fail(options: object, error: BaseException = error) -> int:
            raise error

        monkeypatch.setattr(cli_validate, "_validate", fail)
        assert run(monkeypatch, out) == code
        assert capsys.readouterr().err.startswith("phiv-validate: ")


def test_help_and_import_load_nothing_heavy() -> None:
    code = (
        "import sys; import phiv_data, phiv_data.cli.validate as c; sys.argv = ['phiv-validate', '--help']\n"
        "try: c.main()\n"
        "except SystemExit: pass\n"
        "heavy = {'pyarrow', 'PIL', 'numpy', 'pydantic', 'torch', 'av', 'datasets'} & set(sys.modules)\n"
        "sys.exit(', '.join(sorted(heavy)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "phiv-validate" in done.stdout


def test_the_package_gives_its_names_lazily() -> None:
    import phiv_data

    for name in phiv_data.__all__:
        assert getattr(phiv_data, name).__name__ == name
        assert name in dir(phiv_data)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = phiv_data.nothing


def test_a_report_that_cannot_be_written_is_one_line_before_the_check(
    out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("phiv_data.cli.checking.validate", lambda *_, **__: pytest.fail("checked first"))
    (tmp_path / "file").touch()
    for flag, path in (("--output", tmp_path), ("--output", tmp_path / "file/r"), ("--report_dir", tmp_path / "file")):
        assert run(monkeypatch, out, flag, path) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"phiv-validate: {flag}: ")
