"""Kills, damage, bad names and lost sources (cases/hostile of the shared folder): what must be seen of each."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from case_runner import CaseRun, run_case
from shared_data import shared_folder

# A script of Python's that lets phiv's error through; torchrun, which prints a traceback of its own.
RAISING = ("pickled_dataset_after_overwrite", "zero2_checkpoint_runs_code")
CHECKS: dict[str, Callable[[CaseRun], None]] = {}
SHARED = shared_folder()
NAMES = sorted(p.name for p in (SHARED / "cases/hostile").iterdir() if (p / "cmd").is_file()) if SHARED else []
# These hit a moment of a running command or a limit that depends on the libraries, or train: scripts/cases runs them.
MOMENTS = dict.fromkeys(
    (
        "checkpoint_errors_with_tracebacks",
        "eval_of_nan_weights",
        "low_memory_marks_inputs_crashed",
        "source_gone_midway",
        "staged_picture_of_zeros",
        "worker_killed_while_writing_shards",
        "zero2_checkpoint_runs_code",
    ),
    pytest.mark.soak,
)


def case(check: Callable[[CaseRun], None]) -> Callable[[CaseRun], None]:
    """Register the check of the case of the same name."""
    CHECKS[check.__name__] = check
    return check


@pytest.mark.skipif(not NAMES, reason="needs the shared cases (set PHIV_SHARED to their folder)")
@pytest.mark.parametrize("name", [pytest.param(n, marks=MOMENTS.get(n, ())) for n in NAMES or ["none"]])
def test_case(name: str, tmp_path: Path) -> None:
    run = run_case(SHARED / "cases/hostile" / name, tmp_path, record=False, timeout_s=600)  # DeepSpeed compiles first
    if name not in RAISING:
        assert "Traceback" not in run.stdout + run.stderr, run.stderr
    CHECKS[name](run)


def codes(run: CaseRun) -> list[int]:
    """The exit codes that the script printed, in order."""
    return [int(code) for code in re.findall(r"\brc (?:\D* )?(\d+)", run.stdout)]


def count_rows(run: CaseRun) -> int:
    return sum(len(path.read_text().splitlines()) for path in (run.work / "o").glob("*_*.jsonl"))


@case
def card_and_hidden_files_unseen(run: CaseRun) -> None:
    for name in ("README.md", ".hidden.png", "manifest.json"):
        assert name in run.stdout, name
    assert codes(run) == [1]


@case
def class_folder_not_utf8(run: CaseRun) -> None:
    (code,) = codes(run)
    rejects = run.work / "o/rejects.jsonl"
    assert code == 2 or [json.loads(line)["code"] for line in rejects.read_text().splitlines()] == ["bad-name"]


@case
def checkpoint_errors_with_tracebacks(run: CaseRun) -> None:
    lines = run.stdout.splitlines()
    for line, name in zip(lines, ("m/tokenizer.json", "c.yaml", "scheduler.pt", "rng_state.pth"), strict=False):
        assert re.match(rf"phiv-(eval|train): \S*{name}: ", line), lines
    assert not (run.work / "RAN").exists()


@case
def eval_of_nan_weights(run: CaseRun) -> None:
    assert "NaN" in run.stderr.splitlines()[-1]
    assert codes(run) == [2]


@case
def low_memory_marks_inputs_crashed(run: CaseRun) -> None:
    assert codes(run) == [3, 0]
    assert count_rows(run) == 3


@case
def manifest_gone_is_a_warning(run: CaseRun) -> None:
    assert codes(run) == [1]


@case
def names_obeyed_by_terminal(run: CaseRun) -> None:
    assert run.stdout.strip() == "0"


@case
def pickled_dataset_after_overwrite(run: CaseRun) -> None:
    assert "ShardError" in run.stderr
    assert not run.stdout.strip()


@case
def plugin_exits(run: CaseRun) -> None:
    assert codes(run) == [0]
    assert "manifest.json" in run.stdout
    assert re.search(r"plugin.*\bx\b|\bx\b.*plugin", run.stderr), run.stderr


@case
def source_gone_midway(run: CaseRun) -> None:
    assert codes(run) == [3, 0, 0]
    assert count_rows(run) == 12


@case
def staged_picture_of_zeros(run: CaseRun) -> None:
    assert codes(run) == [0]
    assert "valid" in run.stdout
    assert count_rows(run) == 12


@case
def worker_killed_while_writing_shards(run: CaseRun) -> None:
    assert codes(run) in ([0], [3])


@case
def zero2_checkpoint_runs_code(run: CaseRun) -> None:
    assert "mp_rank_00_model_states.pt: cannot be read (it could run code" in run.stderr
    assert codes(run) == [1]  # torchrun's own
    assert not (run.work / "RAN").exists()
