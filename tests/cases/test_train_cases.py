"""Trouble that people have with training (cases/train of the shared folder): what must be seen of each.

Each starts phiv-train several times, so scripts/cases runs them, not the default test run.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from case_runner import CaseRun, run_case
from shared_data import shared_folder

CHECKS: dict[str, Callable[[CaseRun], None]] = {}
SHARED = shared_folder()
NAMES = sorted(p.name for p in (SHARED / "cases/train").iterdir() if (p / "cmd").is_file()) if SHARED else []
SIGNALLING = ("ctrl_c_reaches_workers", "two_runs_one_output")  # signal, or wait for, the process they start
LONGEST_LINE = 600


def case(check: Callable[[CaseRun], None]) -> Callable[[CaseRun], None]:
    """Register the check of the case of the same name."""
    CHECKS[check.__name__] = check
    return check


@pytest.mark.soak
@pytest.mark.skipif(not NAMES, reason="needs the shared cases (set PHIV_SHARED to their folder)")
@pytest.mark.parametrize("name", NAMES or ["none"])
def test_case(name: str, tmp_path: Path) -> None:
    run = run_case(SHARED / "cases/train" / name, tmp_path, record=name not in SIGNALLING)
    assert "Traceback" not in run.stdout + run.stderr, run.stderr
    assert all(len(line) < LONGEST_LINE for line in (run.stdout + run.stderr).splitlines()), "a line too long to read"
    CHECKS[name](run)


@case
def ctrl_c_reaches_workers(run: CaseRun) -> None:
    lines = run.stdout.splitlines()
    stops = [line for line in lines if line.startswith("rc ")]
    assert len(stops) == 2
    assert all(line.startswith("rc 130 checkpoint ['checkpoint-") and line.count("checkpoint-") == 1 for line in stops)
    assert lines.count("traceback False") == 2


@case
def two_runs_one_output(run: CaseRun) -> None:
    assert run.stdout.splitlines()[-2:] == ["second 2", "first 0"]
    refusals = [line for line in run.stderr.splitlines() if "another run is writing into" in line]
    assert len(refusals) == 1
    assert (run.out / "run/final/phiv_checkpoint.json").is_file()


@case
def smaller_batch_on_resume(run: CaseRun) -> None:
    _, first, second = run.calls
    assert (first.code, second.code) == (0, 0)
    assert "begun with batch_size_per_gpu 2, now 1: each pack is run in 2 parts" in second.stderr or (
        "this run is finished" in second.stderr
    )


@case
def finished_run_again(run: CaseRun) -> None:
    _, first, second = run.calls
    assert (first.code, second.code) == (0, 0)
    assert "eval_after.json: " in first.stdout
    assert "this run is finished" in second.stderr
    assert second.stdout == ""


@case
def zero2_one_process(run: CaseRun) -> None:
    last = run.calls[-1]
    assert last.code == 2
    expected = "phiv-train: --distributed zero2: needs several processes. Start with torchrun --nproc_per_node N"
    assert last.stderr.splitlines() == [expected]


@case
def world_size_without_torchrun(run: CaseRun) -> None:
    _, *calls = run.calls
    assert [call.code for call in calls] == [2, 2, 2, 2]
    for call, name in zip(calls, [*["WORLD_SIZE"] * 3, "ACCELERATE_USE_DEEPSPEED"], strict=True):
        (line,) = call.stderr.splitlines()
        assert line.startswith(f"phiv-train: {name}: ")
        assert "torchrun" in line


@case
def bitsandbytes_noise(run: CaseRun) -> None:
    assert run.stdout.splitlines()[-1] == "0"


@case
def max_steps_beyond_data(run: CaseRun) -> None:
    last = json.loads(run.stdout.splitlines()[-1])
    assert [call.code for call in run.calls] == [0, 0]
    assert last["step"] == 50


@case
def eval_output_is_a_folder(run: CaseRun) -> None:
    done = run.calls[-1]
    assert done.code == 2
    assert done.stderr.splitlines()[-1].startswith("phiv-eval: --output: ")
    assert "is a folder" in done.stderr


@case
def train_alone_no_val(run: CaseRun) -> None:
    done = run.calls[-1]
    assert done.code == 2
    for way in ("--no_eval", "--eval_split NAME", "phiv-convert --val_fraction"):
        assert way in done.stderr, way


@case
def hint_for_long_text(run: CaseRun) -> None:
    first, trimmed = run.calls[-2:]
    assert first.code == trimmed.code == 1
    for done, way in ((first, "--on_too_long skip"), (trimmed, "--on_too_long trim_or_skip")):
        assert "frames" not in done.stderr
        assert "images take" not in done.stderr
        assert way in done.stderr


@case
def hf_spellings(run: CaseRun) -> None:
    expected = {
        "--lr": "--learning_rate",
        "--bf16": "Pass --bf16 alone",
        "--eval": "--no_eval",
        "--gradient_accumulation_steps": "--batch_size",
        "--per_device_train_batch_size": "--batch_size_per_gpu",
        "--max_seq_length": "--max_length",
        "--warmup_ratio": "--warmup_steps",
        "--save_strategy": "--save_steps",
        "--revision": "--model_name_or_path",
    }
    calls = {call.argv[-2]: call for call in run.calls[1:]}
    for flag, way in expected.items():
        (line,) = calls[flag].stderr.splitlines()
        assert calls[flag].code == 2
        assert way in line, line
    assert calls["--num_train_epochs"].code == 0
    assert "2, " in calls["--num_train_epochs"].stdout.split("epochs")[1].splitlines()[0]


@case
def yaml_one_name_for_a_list(run: CaseRun) -> None:
    assert [call.code for call in run.calls] == [0, 0]
    assert run.calls[1].stderr == ""


@case
def answers_for_unlabeled(run: CaseRun) -> None:
    done = run.calls[-1]  # writing answers that are not scored is a feature to come
    assert done.code == 2
    assert "has no question with an answer" in done.stderr.splitlines()[-1]
    assert "nothing can be scored" in done.stderr.splitlines()[-1]


@case
def more_epochs(run: CaseRun) -> None:
    done = run.calls[-1]
    assert done.code == 2
    assert "another --output_dir" in done.stderr.splitlines()[-1]
    assert done.stderr.rstrip().endswith("/a/final")


@case
def added_tokens_of_the_base(run: CaseRun) -> None:
    _, _, inspected, trained = run.calls
    assert "<loc_1>" in inspected.text
    assert inspected.code == 0
    assert "the id 700 of '<loc_2>' has no row in the model's embedding (640 rows)" in trained.stderr
    assert trained.code == 2


@case
def base_changed_under_adapter(run: CaseRun) -> None:
    resumed, scored = run.calls[-2:]
    assert "was trained on other weights than" in resumed.stderr
    # The refused run makes no final/ again; test_interchange scores an adapter.
    assert "lora/final: no such folder" in scored.stderr
    assert (resumed.code, scored.code) == (2, 2)


@case
def run_folder_for_final(run: CaseRun) -> None:
    for call in run.calls[-2:]:
        assert "accuracy" in call.stdout
        assert call.code == 0


@case
def second_lora_round(run: CaseRun) -> None:
    assert "is an adapter, not a model: a second round on an adapter is not possible yet" in run.calls[-1].stderr
    assert run.calls[-1].code == 2
