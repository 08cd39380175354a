"""The trainer against a reference loop, and the resume invariant: stopped anywhere and resumed equals never stopped."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock
from reference_loop import History, reference_loop
from torch import Tensor
from training import distance, equal, final, losses, run, settings, start
from transformers import TrainerCallback

from phiv_schemas.errors import EnvironmentProblem, UsageError
from phiv_train.batching.loader import EncodedRows, make_loader
from phiv_train.batching.sampler import PlanSampler
from phiv_train.config import TrainConfig
from phiv_train.training.callbacks import StopOnSignal
from phiv_train.training.prepare import PreparedRun, prepare
from phiv_train.training.run import train
from phiv_train.training.trainable import apply_strategy
from phiv_train.training.trainer import PhivTrainer, Run, refuse_data_parallel


class KeepGradients(TrainerCallback):  # type: ignore[misc]  # transformers is untyped here
    """The gradients of the first step, as they reach the optimizer."""

    def __init__(self, model: torch.nn.Module) -> None:
        self.model, self.gradients = model, {}  # type: ignore[var-annotated]

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        named = self.model.named_parameters()
        self.gradients = self.gradients or {n: p.grad.clone() for n, p in named if p.grad is not None}


def double_model(prepared: PreparedRun) -> tuple[Any, Any]:
    model, _ = prepared.family.load("tiny")
    parts = prepared.family.components(model)
    apply_strategy(model, prepared.family, parts, prepared.config)
    return model.double(), parts


def train_in_double(config: TrainConfig) -> History:
    """A run in float64 by the trainer, as the oracle would record it."""
    prepared = prepare(config)
    model, parts = double_model(prepared)
    rows = EncodedRows(prepared.dataset, prepared.family, prepared.processor, prepared.selection)
    loader = make_loader(rows, PlanSampler(prepared.schedule), layout=prepared.layout)  # type: ignore[arg-type]
    images = prepared.selection.lengths.images
    size = prepared.batch_size_per_gpu
    this = Run(prepared.family, prepared.processor, parts, prepared.schedule, images, size, dtype=torch.float64)
    trainer = PhivTrainer(config, this, model, loader)
    keep = KeepGradients(model)
    trainer.add_callback(keep)
    trainer.train()
    weights = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}
    return History(list(losses(config.output_dir).values()), keep.gradients, weights)


def oracle(config: TrainConfig) -> History:
    prepared = prepare(config)
    model, _ = double_model(prepared)
    return reference_loop(
        model, prepared.family, prepared.processor, prepared.dataset, prepared.schedule, prepared.config
    )


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"packing": False, "batch_size_per_gpu": 3},
        {"max_length": 400},
        {"freeze": ("vision",), "lr_scheduler": "linear", "warmup_steps": 2},
        {"gradient_checkpointing": True, "max_grad_norm": 0.3},
    ],
    ids=["packed", "padded", "long packs", "frozen", "checkpointing"],
)
def test_equals_the_reference_loop(demo: Path, tmp_path: Path, changes: dict[str, Any]) -> None:
    config = settings(demo, tmp_path, max_steps=3, **{"max_grad_norm": 0.0} | changes)
    mine, expected = train_in_double(config), oracle(config)
    assert mine.losses == pytest.approx(expected.losses, rel=1e-6)  # transformers logs in float32
    assert distance(mine.weights, expected.weights) < 1e-9
    if not config.max_grad_norm:
        assert distance(mine.first_gradients, expected.first_gradients) < 1e-12


@pytest.fixture(scope="module")
def one_pack(demo: Path, tmp_path_factory: pytest.TempPathFactory) -> History:
    """All 24 rows are one step; here they are one pack."""
    return train_in_double(settings(demo, tmp_path_factory.mktemp("one"), **_WHOLE, packs_per_step=1, max_length=4096))


_WHOLE: dict[str, Any] = {"batch_size": 24, "num_train_epochs": 3, "max_grad_norm": 0.0, "logging_steps": 1}


@pytest.mark.parametrize(
    "changes",
    [
        {"packs_per_step": 2, "max_length": 4096, "batch_size": 36},
        {"packs_per_step": 4, "max_length": 4096, "batch_size": 36},
        {"packing": False, "batch_size_per_gpu": 24},
        {"packing": False, "batch_size_per_gpu": 6},
    ],
    ids=["2 packs", "4 packs", "padded", "padded in 4"],
)
def test_packs_and_accumulation_do_not_change_a_step(
    demo: Path, tmp_path: Path, one_pack: History, changes: dict[str, Any]
) -> None:
    other = train_in_double(settings(demo, tmp_path, **_WHOLE | changes))
    assert distance(other.first_gradients, one_pack.first_gradients) < 1e-12
    assert other.losses == pytest.approx(one_pack.losses, rel=1e-6)
    assert distance(other.weights, one_pack.weights) < 1e-9


# -- resume -----------------------------------------------------------------------------------------------------------
_RESUMABLE: dict[str, Any] = {
    "use_lora": True,
    "lora_rank": 4,
    "lora_dropout": 0.3,
    "max_steps": 6,  # of four in an epoch: the data is gone over again
    "save_steps": 1,
    "save_total_limit": 9,
}


@pytest.fixture(scope="module")
def uninterrupted(demo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of six steps over one and a half epochs, with dropout, that kept every checkpoint."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    run(demo, folder, **_RESUMABLE)
    return folder


@pytest.mark.parametrize("step", [1, 2, 3, 4, 5])
def test_resuming_from_any_step_equals_never_stopping(
    demo: Path, tmp_path: Path, uninterrupted: Path, step: int
) -> None:
    shutil.copytree(uninterrupted / f"checkpoint-{step}", tmp_path / f"checkpoint-{step}")
    shutil.copy(uninterrupted / "metrics.jsonl", tmp_path)
    weights = run(demo, tmp_path, **_RESUMABLE)
    assert equal(weights, final(uninterrupted))
    assert losses(tmp_path) == losses(uninterrupted)
    assert optimizer_state(tmp_path) == optimizer_state(uninterrupted)


def test_dropout_changes_the_result(demo: Path, tmp_path: Path, uninterrupted: Path) -> None:
    """Without it, restoring the random generators would not be tested."""
    assert not equal(run(demo, tmp_path, **_RESUMABLE | {"lora_dropout": 0.0}), final(uninterrupted))


def test_resuming_with_another_number_of_workers_is_equal(demo: Path, tmp_path: Path, uninterrupted: Path) -> None:
    shutil.copytree(uninterrupted / "checkpoint-3", tmp_path / "checkpoint-3")
    assert equal(run(demo, tmp_path, **_RESUMABLE | {"num_workers": 2}), final(uninterrupted))


def test_resuming_full_training_is_equal(demo: Path, tmp_path: Path) -> None:
    changes = {"max_steps": 4, "save_steps": 2, "part_learning_rates": {"vision": 1e-3}}
    straight = run(demo, tmp_path / "straight", **changes)
    (tmp_path / "resumed").mkdir()
    shutil.copytree(tmp_path / "straight/checkpoint-2", tmp_path / "resumed/checkpoint-2")
    assert equal(run(demo, tmp_path / "resumed", **changes), straight)
    with pytest.raises(
        UsageError, match=r"To train \S+/final further, use another --output_dir with --model_name_or_path"
    ):
        run(demo, tmp_path / "straight", **changes | {"max_steps": 8})


def test_a_killed_run_resumes_as_if_never_stopped(demo: Path, tmp_path: Path, uninterrupted: Path) -> None:
    config = settings(demo, tmp_path, **_RESUMABLE)
    process = start(config)
    wait_for(tmp_path / "checkpoint-2/phiv_checkpoint.json", process)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=60)
    assert not (tmp_path / "final").exists()
    assert not train(config).stopped
    assert equal(final(tmp_path), final(uninterrupted))
    assert losses(tmp_path) == losses(uninterrupted)
    assert not list(tmp_path.glob(".phiv-tmp-*"))


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1])
def test_a_signal_ends_the_run_with_a_checkpoint(
    demo: Path,
    tmp_path: Path,
    uninterrupted: Path,
    sent: signal.Signals,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    config = settings(demo, tmp_path, **_RESUMABLE | {"save_steps": 0})
    if signal.getsignal(sent) == signal.SIG_IGN:  # the tests run under nohup
        signal.signal(sent, signal.SIG_DFL)
    with monkeypatch.context() as patch:
        patch.setattr(
            TrainerCallback, "on_substep_end", lambda *_, **__: os.kill(os.getpid(), sent) if first() else None
        )
        signals = iter([True])
        first = lambda: next(signals, False)  # noqa: E731
        assert train(config).stopped
    assert "stopped after step 1, run the same command to resume" in capsys.readouterr().err
    assert [p.name for p in tmp_path.glob("checkpoint-*")] == ["checkpoint-1"]
    assert not (tmp_path / "final").exists()
    assert not train(config).stopped
    assert equal(final(tmp_path), final(uninterrupted))


def test_a_signal_during_the_last_save_ends_the_run_before_its_evaluation(
    demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = settings(demo, tmp_path, max_steps=1, eval=True, max_new_tokens=2)
    with monkeypatch.context() as patch:
        patch.setattr(TrainerCallback, "on_save", lambda *_, **__: os.kill(os.getpid(), signal.SIGTERM))
        result = train(config)
    assert (result.stopped, result.final) == (True, tmp_path / "final")
    assert "stopped before the evaluation, run the same command for it" in capsys.readouterr().err
    assert not (tmp_path / "eval_after.json").exists()
    weights = final(tmp_path)
    assert not train(config).stopped
    assert (tmp_path / "eval_after.json").is_file()
    assert equal(final(tmp_path), weights)


def test_ctrl_c_once_more_ends_the_run_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter([0.0, 0.5, 3.0])
    monkeypatch.setattr("phiv_train.training.callbacks.time.monotonic", lambda: next(now))
    stop = StopOnSignal()
    with stop.catch_signals():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGTERM)  # the cluster again: nothing changes
        signal.raise_signal(signal.SIGINT)  # torchrun hands on what the terminal has sent as well
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert stop.requested


def test_a_second_run_in_a_folder_is_refused(demo: Path, tmp_path: Path) -> None:
    with FileLock(tmp_path / ".phiv-lock"), pytest.raises(UsageError) as caught:
        run(demo, tmp_path, max_steps=1, resume="never")
    assert str(caught.value).startswith(f"--output_dir: another run is writing into {str(tmp_path)!r}. Wait for it")
    assert [path.name for path in tmp_path.iterdir()] == [".phiv-lock"]
    run(demo, tmp_path, max_steps=1)


def test_a_finished_run_started_again_says_so_and_changes_nothing(
    demo: Path, uninterrupted: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (uninterrupted / "metrics.jsonl").read_bytes()
    assert equal(run(demo, uninterrupted, **_RESUMABLE), final(uninterrupted))
    assert "phiv-train: this run is finished: 6 steps" in capsys.readouterr().err
    assert (uninterrupted / "metrics.jsonl").read_bytes() == before


def test_a_finished_run_is_evaluated_again_only_where_that_gives_something_else(demo: Path, tmp_path: Path) -> None:
    changes: dict[str, Any] = {"max_steps": 1, "eval": True, "max_new_tokens": 2, "max_eval_rows": 2}
    run(demo, tmp_path, **changes)
    after = tmp_path / "eval_after.json"
    first = after.stat().st_ino
    run(demo, tmp_path, **changes)
    assert after.stat().st_ino == first
    run(demo, tmp_path, **changes | {"max_eval_rows": 3})
    assert json.loads(after.read_text())["counts"]["rows"] == 3
    after.unlink()
    run(demo, tmp_path, **changes)
    assert json.loads(after.read_text())["counts"]["rows"] == 2


@pytest.mark.parametrize("packing", [True, False], ids=["packed", "padded"])
def test_a_smaller_batch_size_per_gpu_takes_the_same_steps(
    demo: Path, tmp_path: Path, packing: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    changes: dict[str, Any] = {"packing": packing, "max_steps": 4, "save_steps": 1, "save_total_limit": 9}
    straight = run(demo, tmp_path / "straight", batch_size_per_gpu=3, **changes)
    (tmp_path / "resumed").mkdir()
    shutil.copytree(tmp_path / "straight/checkpoint-1", tmp_path / "resumed/checkpoint-1")
    smaller = run(demo, tmp_path / "resumed", batch_size_per_gpu=2, **changes)
    assert "begun with batch_size_per_gpu 3, now 2: each pack is run in 2 parts" in capsys.readouterr().err
    assert distance(smaller, straight) < 1e-4
    shutil.rmtree(tmp_path / "resumed/checkpoint-4")  # and once more, from a checkpoint of the smaller one
    again = run(demo, tmp_path / "resumed", batch_size_per_gpu=1, **changes)
    assert "begun with batch_size_per_gpu 3, now 1: each pack is run in 3 parts" in capsys.readouterr().err
    assert distance(again, straight) < 1e-4


def test_old_checkpoints_are_pruned_and_an_unfinished_one_is_not_resumed(demo: Path, tmp_path: Path) -> None:
    (tmp_path / "checkpoint-99").mkdir(parents=True)  # no metadata: not complete
    (tmp_path / ".phiv-tmp-checkpoint").mkdir()
    run(demo, tmp_path, max_steps=4, save_steps=1, save_total_limit=2)
    assert sorted(p.name for p in tmp_path.glob("checkpoint-*")) == ["checkpoint-3", "checkpoint-4", "checkpoint-99"]
    assert not (tmp_path / ".phiv-tmp-checkpoint").exists()


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"model_name_or_path": "tiny:1"}, "is of another model ('tiny', this run has 'tiny:1')"),
        ({"learning_rate": 1.0}, "was made with other settings (learning_rate=0.01, this run has 1.0)"),
        ({"use_lora": False}, "was made with other settings (use_lora=True, this run has False)"),
    ],
)
def test_a_checkpoint_of_something_else_is_refused(
    demo: Path, tmp_path: Path, uninterrupted: Path, changes: dict[str, Any], line: str
) -> None:
    shutil.copytree(uninterrupted / "checkpoint-2", tmp_path / "checkpoint-2")
    with pytest.raises(UsageError) as caught:
        run(demo, tmp_path, **_RESUMABLE | changes)
    assert line in str(caught.value)
    assert "--resume never" in str(caught.value)


def test_a_checkpoint_of_another_plan_is_refused(demo: Path, tmp_path: Path, uninterrupted: Path) -> None:
    folder = tmp_path / "checkpoint-2"
    shutil.copytree(uninterrupted / "checkpoint-2", folder)
    metadata = json.loads((folder / "phiv_checkpoint.json").read_text())
    (folder / "phiv_checkpoint.json").write_text(json.dumps(metadata | {"plan": "0" * 64}))
    with pytest.raises(UsageError, match="was made from another plan: the data, their lengths or the plan's rules"):
        run(demo, tmp_path, **_RESUMABLE)


def test_resume_never_starts_over(demo: Path, tmp_path: Path, uninterrupted: Path) -> None:
    shutil.copytree(uninterrupted / "checkpoint-2", tmp_path / "checkpoint-2")
    run(demo, tmp_path, max_steps=1, resume="never")
    assert [p.name for p in tmp_path.glob("checkpoint-*")] == ["checkpoint-1"]
    with pytest.raises(UsageError, match="no such checkpoint"):
        run(demo, tmp_path, resume=str(tmp_path / "checkpoint-7"))


# -- what the trainer logs and refuses --------------------------------------------------------------------------------
def test_the_log_has_the_figures_of_every_step(uninterrupted: Path) -> None:
    lines = [json.loads(line) for line in (uninterrupted / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if "loss" in line]
    assert [line["step"] for line in steps] == [1, 2, 3, 4, 5, 6]
    figures = "grad_norm learning_rate tokens_per_s images_per_s data_wait_percent fill_percent padding_percent"
    assert all(line.keys() >= {*figures.split(), "peak_memory_gb", "epoch"} for line in steps)
    assert all(0 < line["fill_percent"] <= 100 and line["padding_percent"] == 0 for line in steps)
    assert steps[-1]["epoch"] == pytest.approx(1.5, abs=0.3)


def test_the_speed_is_of_the_steps_that_were_run(demo: Path, tmp_path: Path, uninterrupted: Path) -> None:
    shutil.copytree(uninterrupted / "checkpoint-4", tmp_path / "checkpoint-4")
    train(settings(demo, tmp_path, **_RESUMABLE))
    for folder, steps, rows in ((uninterrupted, 6, 24 + 12), (tmp_path, 2, 12)):
        lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        (whole,) = [line for line in lines if "train_runtime" in line]
        seconds = whole["train_runtime"]
        assert whole["train_steps_per_second"] * seconds == pytest.approx(steps, rel=1e-2)
        assert whole["train_samples_per_second"] * seconds == pytest.approx(rows, rel=0.1)


def test_tensorboard_gets_the_figures(demo: Path, tmp_path: Path) -> None:
    run(demo, tmp_path, max_steps=1, report_to=("tensorboard",))
    assert list(tmp_path.rglob("events.out.tfevents.*"))


def test_a_full_disk_is_reported_before_training(demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9, 1000))  # type: ignore[attr-defined]
    with pytest.raises(EnvironmentProblem, match=r"MB are needed for checkpoints \(0 MB are free\)"):
        run(demo, tmp_path)
    assert not (tmp_path / "metrics.jsonl").exists()


def test_a_cut_graph_is_detected_in_the_first_step(demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tower run under no_grad although it is to be trained: the audit must name its tensors."""
    from phiv_train.families.phi3_vision.vision import ClipTower

    forward = ClipTower.forward
    monkeypatch.setattr(ClipTower, "forward", lambda self, pixels: forward(self, pixels).detach())
    with pytest.raises(
        UsageError, match=r"37 trainable tensors got no gradient in the first step \(model\.vision_embed"
    ):
        run(demo, tmp_path, max_steps=1)


def test_one_process_with_several_gpus_is_refused() -> None:
    class Args:
        n_gpu = 4

    with pytest.raises(UsageError, match=r"one process sees 4 GPUs\. Start with torchrun --nproc_per_node 4"):
        refuse_data_parallel(Args())  # type: ignore[arg-type]


def optimizer_state(folder: Path) -> str:
    state = torch.load(folder / "checkpoint-6/optimizer.pt", weights_only=True)
    tensors = [v for values in state["state"].values() for v in values.values() if isinstance(v, Tensor)]
    return str([hash(t.numpy().tobytes()) for t in tensors])


def wait_for(path: Path, process: Any, seconds: float = 90) -> None:
    end = time.monotonic() + seconds
    while not path.exists():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < end
        time.sleep(0.01)
