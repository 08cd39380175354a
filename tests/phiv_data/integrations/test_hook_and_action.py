"""The pre-commit hook and the GitHub action, run as git and a runner run them, and as docs/pipelines.md shows them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from integration_rows import LINES, examples, write_place

REPO = Path(__file__).resolve().parents[3]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with data."""
    monkeypatch.chdir(tmp_path)
    return write_place(tmp_path)


# pre-commit ----------------------------------------------------------------------------------------------------------

HOOK = yaml.safe_load((REPO / ".pre-commit-hooks.yaml").read_text(encoding="utf-8"))[0]


def test_the_manifest_of_hooks_is_one() -> None:
    command = [sys.executable, "-m", "pre_commit", "validate-manifest", str(REPO / ".pre-commit-hooks.yaml")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, ""), done.stdout


@pytest.fixture
def commit(place: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Commits everything, with the hook as it stands but for `language: system`, which needs no network."""
    settings = {"GIT_CONFIG_GLOBAL": os.devnull, "PRE_COMMIT_HOME": str(place / ".cache"), "GIT_CONFIG_NOSYSTEM": "1"}
    people = {f"GIT_{who}_{what}": "test@example.org" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    env = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")} | settings | people
    (place / ".gitignore").write_text(".cache\n")
    subprocess.run(["git", "init", "--quiet", "."], check=True, env=env)
    subprocess.run([sys.executable, "-m", "pre_commit", "install"], check=True, env=env, capture_output=True)

    def commit(**overrides: Any) -> subprocess.CompletedProcess[str]:
        entry = str(Path(sys.executable).with_name(HOOK["entry"]))
        hook = {**HOOK, "entry": entry, "language": "system", **overrides}
        (place / ".pre-commit-config.yaml").write_text(yaml.safe_dump({"repos": [{"repo": "local", "hooks": [hook]}]}))
        subprocess.run(["git", "add", "."], check=True, env=env)
        return subprocess.run(["git", "commit", "-m", "x"], env=env, capture_output=True, text=True)

    return commit


def test_the_hook_stops_a_commit_of_bad_lines_and_lets_good_ones_pass(place: Path, commit: Any) -> None:
    (place / "two words.jsonl").write_text(LINES[0] + "\n")
    stopped = commit()
    assert stopped.returncode == 1
    assert "mine.jsonl:2: not valid JSON" in stopped.stderr
    assert "mine.jsonl:4: $.conversations[0]: assistant 'b' is not one of answers" in stopped.stderr
    assert "two words.jsonl: 1 row, 0 images: valid" in stopped.stderr
    assert "[PV101" not in stopped.stderr, "images are not looked for"
    assert "(images): image files were not opened" in stopped.stderr
    (place / "mine.jsonl").write_text(LINES[0] + "\n")
    before = set(place.rglob("*"))
    assert commit().returncode == 0
    after = {path for path in place.rglob("*") if ".git" not in path.parts and ".cache" not in path.parts}
    assert after <= before, "nothing is written beside the data"


def test_the_hook_looks_at_images_and_whole_folders_as_the_docs_say(place: Path, commit: Any) -> None:
    (place / "mine.jsonl").unlink()
    (place / "out/images/val/Archery/v_0001.0.png").unlink()
    whole = yaml.safe_load(examples("pre-commit", "yaml")[1])[0] | {"args": ["out"]}
    for overrides, checked in (({"args": []}, "out/ucf101_val.jsonl: 3 rows"), (whole, "out: 3 rows")):
        stopped = commit(**overrides)
        assert (stopped.returncode, "v_0001.0.png' under images/ [PV101" in stopped.stderr) == (1, True), stopped.stderr
        assert checked in stopped.stderr
    assert commit().returncode == 0, "its own args do not look"


def test_the_docs_name_the_hook_that_there_is() -> None:
    named = [yaml.safe_load(text) for text in examples("pre-commit", "yaml")]
    hooks = [*named[0]["repos"][0]["hooks"], *named[1]]
    assert {hook["id"] for hook in hooks} == {HOOK["id"]}
    assert re.search(hooks[0]["files"], "data/a/train.jsonl")


# GitHub Actions ------------------------------------------------------------------------------------------------------

ACTION = yaml.safe_load((REPO / "action.yml").read_text(encoding="utf-8"))
STEPS = {step.get("name", step.get("id")): step for step in ACTION["runs"]["steps"]}


@pytest.fixture
def act(place: Path) -> Any:
    """Runs the action's own script as a runner does: bash, its files, the inputs as environment."""
    (place / "runner/phiv/bin").mkdir(parents=True)
    (place / "runner/phiv/bin/phiv-validate").symlink_to(Path(sys.executable).with_name("phiv-validate"))
    (place / "script.sh").write_text(STEPS["Validate"]["run"])

    def act(path: str, args: str = "", report_dir: str = "phiv-report") -> Any:
        files = {name: place / "runner" / name for name in ("GITHUB_OUTPUT", "GITHUB_STEP_SUMMARY")}
        for file in files.values():
            file.write_text("")
        runner = {"RUNNER_TEMP": place / "runner", "GITHUB_ACTION_PATH": REPO, **files}
        inputs = {"PHIV_PATH": path, "PHIV_ARGS": args, "PHIV_REPORT_DIR": report_dir}
        env = os.environ | {name: str(value) for name, value in runner.items()} | inputs
        bash = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "script.sh"]
        done = subprocess.run(bash, env=env, capture_output=True, text=True)
        outputs = dict(line.split("=", 1) for line in files["GITHUB_OUTPUT"].read_text().splitlines())
        summary = files["GITHUB_STEP_SUMMARY"].read_text()
        return SimpleNamespace(code=done.returncode, out=done.stdout, err=done.stderr, outputs=outputs, summary=summary)

    return act


REPORTS = ["report.html", "report.json", "report.junit.xml", "report.sarif", "report.txt"]


def test_the_action_passes_good_data(place: Path, act: Any) -> None:
    done = act("out")
    assert (done.code, done.outputs, done.err) == (0, {"ok": "true", "report-dir": "phiv-report"}, "")
    assert done.summary.startswith("out: 3 rows, 6 images: valid")
    assert sorted(path.name for path in (place / "phiv-report").iterdir()) == REPORTS


def test_the_action_fails_bad_data_with_annotations(place: Path, act: Any) -> None:
    (place / "two words").mkdir()
    (place / "mine.jsonl").rename(place / "two words/mine.jsonl")
    done = act("two words/mine.jsonl", "--no_images\n  --ignore PV002", "re ports")
    assert (done.code, done.outputs) == (1, {"ok": "false", "report-dir": "re ports"})
    assert "::error file=two words/mine.jsonl,line=2,title=PV001 invalid-json::not valid JSON" in done.out
    assert "PV002" not in done.out
    assert done.summary.startswith("two words/mine.jsonl: 6 rows, 0 images: 2 errors")
    assert sorted(path.name for path in (place / "re ports").iterdir()) == REPORTS


def test_nothing_in_the_inputs_of_the_action_is_run(place: Path, act: Any) -> None:
    for evil in ("$(touch hacked)", "`touch hacked`", "'; touch hacked; '", ") ; touch hacked ; ("):
        assert act("mine.jsonl", evil).code == 2
        assert not (place / "hacked").exists()
    assert "--output=x: no such file or folder" in act("--output=x").err, "a path is no flag"
    assert "$(touch hacked): no such file or folder" in act("$(touch hacked)").err
    done = act("out", report_dir='$(touch hacked) * " ; touch hacked\nok=false')
    assert done.outputs == {"ok": "true", "report-dir": '$(touch hacked) * " ; touch hacked ok=false'}
    assert not (place / "hacked").exists()


def test_usage_errors_leave_no_summary(place: Path, act: Any) -> None:
    done = act("nowhere")
    assert (done.code, done.summary, done.outputs["ok"]) == (2, "", "false")
    assert "nowhere: no such file or folder" in done.err


def test_the_scripts_of_the_action_hold_no_expressions() -> None:
    scripts = [step["run"] for step in ACTION["runs"]["steps"] if "run" in step]
    assert len(scripts) == 2
    assert not [script for script in scripts if "${{" in script]
    assert {step["shell"] for step in ACTION["runs"]["steps"] if "run" in step} == {"bash"}


def test_the_action_uses_each_of_its_inputs_and_flags_that_there_are() -> None:
    text = (REPO / "action.yml").read_text(encoding="utf-8")
    assert set(re.findall(r"inputs\.([a-z-]+)", text)) == set(ACTION["inputs"])
    written = set(re.findall(r'echo "([a-z-]+)=', STEPS["Validate"]["run"]))
    assert written == set(ACTION["outputs"]) == set(re.findall(r"steps\.validate\.outputs\.([a-z-]+)", text))
    command = [Path(sys.executable).with_name("phiv-validate"), "--help"]
    reported = subprocess.run(command, capture_output=True, text=True).stdout
    flags = set(re.findall(r"--[a-z_]+", STEPS["Validate"]["run"] + ACTION["inputs"]["args"]["description"]))
    assert flags == {"--format", "--report_dir", "--no_images", "--ignore"}
    assert not [flag for flag in flags if flag.replace("_", "-") not in reported.replace("_", "-")]


def test_the_workflow_of_the_docs_fits_the_action() -> None:
    (text,) = examples("GitHub Actions", "yaml")
    steps = yaml.safe_load(text)["jobs"]["validate"]["steps"]
    by_name = {step["uses"].split("@")[0]: step.get("with", {}) for step in steps}
    assert set(by_name["OWNER/phiv"]) <= set(ACTION["inputs"])
    folder, name = by_name["github/codeql-action/upload-sarif"]["sarif_file"].split("/")
    assert (folder, name in REPORTS) == (ACTION["inputs"]["report-dir"]["default"], True)
    assert by_name["actions/upload-artifact"]["path"] == f"{folder}/"
