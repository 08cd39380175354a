"""Two real processes (torchrun, gloo) against one: DDP, FSDP2 and ZeRO-2 take the same steps, and resume equally."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import ranks
import torch
from training import distance, final, flags, losses, run, settings, torchrun

from phiv_schemas.errors import UsageError
from phiv_train.training import distributed
from phiv_train.training import run as run_module
from phiv_train.training.launcher import check_environment

STEPS: dict[str, Any] = {
    "batch_size": 8,
    "packs_per_step": 4,
    "max_length": 200,
    "max_steps": 4,
    "num_train_epochs": 2,
    "save_steps": 2,
    "save_total_limit": 9,
}
ADAPTER: dict[str, Any] = {"use_lora": True, "lora_rank": 4}
zero2 = pytest.mark.skipif(importlib.util.find_spec("deepspeed") is None, reason="needs deepspeed")


@pytest.fixture
def in_double(monkeypatch: pytest.MonkeyPatch) -> None:
    """This process trains in float64, as the ranks do."""
    monkeypatch.setattr(run_module, "load_model", run_module.load_model)
    ranks.use_double(run_module)


def two(demo: Path, folder: Path, precision: str = "double", **changes: Any) -> list[dict[str, Any]]:
    """Train in two processes; the notes of both ranks."""
    script = str(Path(__file__).parents[1] / "ranks.py")
    config = settings(demo, folder, **STEPS | changes)
    folder.mkdir(exist_ok=True)
    done = torchrun(2, script, str(folder), precision, *flags(config), timeout=500)
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads((folder / f"rank{rank}.json").read_text()) for rank in (0, 1)]


def same_run(a: Path, b: Path, tolerance: float) -> None:
    assert losses(a) == pytest.approx(losses(b), rel=1e-6)
    assert distance(final(a), final(b)) < tolerance


@pytest.mark.usefixtures("in_double")
def test_ddp_equals_one_process_which_can_resume_from_it(demo: Path, tmp_path: Path) -> None:
    run(demo, tmp_path / "one", **STEPS)
    notes = two(demo, tmp_path / "two", distributed="ddp")
    assert [note["wrapper"] for note in notes] == ["DistributedDataParallel"] * 2
    same_run(tmp_path / "one", tmp_path / "two", 1e-9)
    (tmp_path / "resumed").mkdir()
    shutil.copytree(tmp_path / "two/checkpoint-2", tmp_path / "resumed/checkpoint-2")
    run(demo, tmp_path / "resumed", **STEPS)
    assert distance(final(tmp_path / "resumed"), final(tmp_path / "one")) < 1e-9


@pytest.mark.usefixtures("in_double")
def test_fsdp2_splits_the_model_and_equals_one_process(demo: Path, tmp_path: Path) -> None:
    run(demo, tmp_path / "one", **STEPS)
    notes = two(demo, tmp_path / "two", distributed="fsdp2")
    assert all(note["wrapper"].startswith("FSDP") and note["split"] > 70 for note in notes)
    whole = sum(tensor.numel() for tensor in final(tmp_path / "one").values())
    assert all(note["held"] < 0.6 * whole for note in notes)
    same_run(tmp_path / "one", tmp_path / "two", 1e-9)


@zero2
def test_zero2_equals_one_process(demo: Path, tmp_path: Path) -> None:
    run(demo, tmp_path / "one", **STEPS)
    notes = two(demo, tmp_path / "two", "single", distributed="zero2")
    assert [note["wrapper"] for note in notes] == ["DeepSpeedEngine"] * 2
    assert list((tmp_path / "two/checkpoint-2").glob("global_step*/*zero_pp_rank_1*optim_states.pt"))
    same_run(tmp_path / "one", tmp_path / "two", 1e-4)


@pytest.mark.soak
@pytest.mark.parametrize("changes", [{}, ADAPTER], ids=["full", "lora"])
@pytest.mark.parametrize("kind", ["ddp", "fsdp2", pytest.param("zero2", marks=zero2)])
def test_two_processes_resume_as_if_never_stopped(
    demo: Path, tmp_path: Path, kind: str, changes: dict[str, Any]
) -> None:
    settings = {"distributed": kind, "lora_dropout": 0.2, "eval": True, "max_new_tokens": 4} | changes
    two(demo, tmp_path / "straight", "single", **settings)
    (tmp_path / "resumed").mkdir()
    shutil.copytree(tmp_path / "straight/checkpoint-2", tmp_path / "resumed/checkpoint-2")
    two(demo, tmp_path / "resumed", "single", **settings)
    assert distance(final(tmp_path / "resumed"), final(tmp_path / "straight")) == 0.0
    assert (tmp_path / "straight/eval_after.json").is_file()


@pytest.mark.soak
def test_a_signal_to_one_rank_stops_both(demo: Path, tmp_path: Path) -> None:
    import signal
    import subprocess
    import sys
    import time

    from training import environment

    config = settings(demo, tmp_path, **STEPS | {"max_steps": 400, "num_train_epochs": 200, "save_steps": 0})
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m"]
    process = subprocess.Popen([*command, "phiv_train.cli.train", *flags(config)], env=environment())
    while not (tmp_path / "metrics.jsonl").exists():
        assert process.poll() is None
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    process.wait(timeout=60)
    assert list(tmp_path.glob("checkpoint-*/phiv_checkpoint.json"))


@pytest.mark.soak
def test_a_rank_that_hangs_ends_the_job_with_a_line(
    demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PHIV_RANK_TIMEOUT", "10")
    script = str(Path(__file__).parents[1] / "hanging_rank.py")
    done = torchrun(2, script, *flags(settings(demo, tmp_path / "out", **STEPS | {"save_steps": 1})))
    assert done.returncode != 0
    lines = [line for line in done.stderr.splitlines() if line.startswith("phiv-train: rank 0 of 2: ")]
    what = "another process of this run gave no sign for 10 s: it hangs, or did not start"
    assert lines == [f"phiv-train: rank 0 of 2: {what}. See what each prints last; the same command resumes"]
    assert list(tmp_path.glob("out/checkpoint-1/phiv_checkpoint.json"))


@pytest.mark.parametrize(
    ("error", "what"),
    [
        (
            RuntimeError("[gloo/unbound_buffer.cc:81] Timed out waiting 5000ms for recv operation"),
            "gave no sign for 5 s",
        ),
        (RuntimeError("[gloo/pair.cc:534] Connection closed by peer [127.0.0.1]:3901"), "has ended"),
        (torch.distributed.DistNetworkError("failed to recv, got 0 bytes"), "has ended"),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), None),
    ],
)
def test_a_lost_process_is_no_other_error(error: Exception, what: str | None) -> None:
    problem = distributed._lost_rank(error, 5)
    assert problem is None if what is None else problem is not None and what in str(problem)


LAUNCHED = {"WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}


@pytest.mark.parametrize(
    ("variables", "line"),
    [
        ({"WORLD_SIZE": "2"}, "WORLD_SIZE: this variable of the environment is set (2), but not RANK, LOCAL_RANK, MAS"),
        ({"WORLD_SIZE": ""}, "WORLD_SIZE: this variable of the environment must be a number (found '')"),
        ({"WORLD_SIZE": "abc"}, "WORLD_SIZE: this variable of the environment must be a number (found 'abc')"),
        ({"RANK": "3"}, "RANK: this variable of the environment is set (3), but not WORLD_SIZE, LOCAL_RANK, MAS"),
        ({"LOCAL_RANK": "0"}, "LOCAL_RANK: this variable of the environment is set (0), but not WORLD_SIZE, RANK, MAS"),
        (LAUNCHED | {"RANK": "2"}, "RANK: is 2 of 2 processes (WORLD_SIZE)"),
        ({"OMPI_COMM_WORLD_SIZE": "4"}, "OMPI_COMM_WORLD_SIZE: processes of MPI do not find each other"),
        ({"ACCELERATE_USE_DEEPSPEED": "true"}, "ACCELERATE_USE_DEEPSPEED: this variable of the environment (true)"),
        ({"ACCELERATE_MIXED_PRECISION": "bf16"}, "ACCELERATE_MIXED_PRECISION: this variable of the environment (bf16)"),
        (LAUNCHED, None),
        ({"WORLD_SIZE": "1", "RANK": "0", "MASTER_ADDR": "localhost"}, None),  # a cluster's job of one process
        ({"ACCELERATE_USE_CPU": "False", "ACCELERATE_MIXED_PRECISION": "no", "ACCELERATE_DEBUG_MODE": "true"}, None),
    ],
)
def test_variables_of_a_launcher_that_did_not_start_this_are_refused(
    variables: dict[str, str], line: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in os.environ if name.startswith("ACCELERATE_")]:
        monkeypatch.delenv(name)  # which transformers sets in this process
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    if line is None:
        check_environment()
        return
    with pytest.raises(UsageError) as caught:
        check_environment()
    assert str(caught.value).startswith(line)
    assert "torchrun" in str(caught.value)
