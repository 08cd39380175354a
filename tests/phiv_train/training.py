"""Short runs on the demo set, in this process or as the command, and what they leave behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from phiv_train.checkpoints.weights import read_weights
from phiv_train.cli import train as cli_train
from phiv_train.config import TrainConfig
from phiv_train.training.run import train

QUICK: dict[str, Any] = {
    "model_name_or_path": "tiny",
    "batch_size": 6,
    "learning_rate": 1e-2,
    "logging_steps": 1,
    "report_to": (),
    "tqdm": False,
    "eval": False,
    "num_workers": 0,
    "device": "cpu",
    "gradient_checkpointing": False,
}


STRATEGIES: dict[str, dict[str, Any]] = {
    "full": {},
    "frozen": {"freeze_vision_model": True},
    "lora": {"use_lora": True, "lora_rank": 4},
    "qlora": {"use_qlora": True, "lora_rank": 4},
}


def settings(demo: Path, output_dir: Path, **changes: Any) -> TrainConfig:
    """Settings of a run of four steps per epoch."""
    return TrainConfig(data_dir=demo, output_dir=output_dir, **QUICK | changes)


def run(demo: Path, output_dir: Path, **changes: Any) -> dict[str, Tensor]:
    """Train in this process; the final tensors."""
    assert not train(settings(demo, output_dir, **changes)).stopped
    return final(output_dir)


def call(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    """The command in this process; its exit code."""
    monkeypatch.setattr(sys, "argv", ["phiv-train", *words])
    return cli_train.main()


def final(output_dir: Path) -> dict[str, Tensor]:
    """The tensors of the final model or adapter."""
    return read_weights(output_dir / "final")


def losses(output_dir: Path) -> dict[int, float]:
    """Loss by step."""
    lines = [json.loads(line) for line in (output_dir / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: line["loss"] for line in lines if "loss" in line}


def equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    """Bit for bit."""
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def distance(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    """Largest absolute difference of two sets of tensors of the same names."""
    assert a.keys() == b.keys()
    return max(float((a[name].double() - b[name].double()).abs().max()) for name in a)


def flags(config: TrainConfig) -> list[str]:
    """The command line of settings."""
    words: list[str] = []
    for name, info in TrainConfig.model_fields.items():
        value = getattr(config, name)
        if value == info.get_default(call_default_factory=True):
            continue
        if isinstance(value, bool):
            words.append(f"--{name}" if value else f"--no_{name}")
        elif isinstance(value, tuple):
            words += [f"--{name}", *value]
        else:
            words += [f"--{name}", str(value)]
    return words


def environment() -> dict[str, str]:
    """One thread, as in this process, for the same sums."""
    return os.environ | {"OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}


def start(config: TrainConfig) -> subprocess.Popen[str]:
    """The command in a process of its own."""
    command = [sys.executable, "-m", "phiv_train.cli.train", *flags(config)]
    return subprocess.Popen(
        command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def torchrun(processes: int, *words: str, timeout: float = 240) -> subprocess.CompletedProcess[str]:
    """Several processes on this machine."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}", *words]
    return subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=timeout, check=False)
