"""Distributed training: DDP, ZeRO-2 (DeepSpeed) or FSDP2, and what each keeps in a checkpoint.

| | parameters | gradients, optimizer state | in checkpoints |
|---|---|---|---|
| ddp | whole on every process | whole | as a single process writes them |
| zero2 | whole | split | DeepSpeed's files, for as many processes |
| fsdp2 | split, layer by layer | split | gathered, for any number of processes |
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from importlib.util import find_spec
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from phiv_data.utils.extras import install_hint
from phiv_schemas.errors import EnvironmentProblem, UsageError
from phiv_train.config import TrainConfig
from phiv_train.training.extension_locks import release_stale_locks
from phiv_train.training.launcher import rank, world_size

# The DeepSpeed configuration of Microsoft's recipe, without the defaults of its fp16 section.
ZERO2: dict[str, Any] = {
    "zero_optimization": {
        "stage": 2,
        "allgather_partitions": True,
        "allgather_bucket_size": 5e8,
        "overlap_comm": True,
        "reduce_scatter": True,
        "reduce_bucket_size": 5e8,
        "contiguous_gradients": True,
        "round_robin_gradients": True,
    },
    "fp16": {
        "enabled": "auto",
        "loss_scale": 0,
        "loss_scale_window": 1000,
        "initial_scale_power": 16,
        "hysteresis": 2,
        "min_loss_scale": 1,
    },
    "bf16": {"enabled": "auto"},
    "train_micro_batch_size_per_gpu": "auto",
    "train_batch_size": "auto",
    "gradient_accumulation_steps": "auto",
    "gradient_clipping": "auto",
}


# Waiting longer than this for another process means that it hangs: rank 0 alone writes final/, in minutes at most.
RANK_TIMEOUT_S = 1800.0


@contextmanager
def process_group(on_gpu: bool) -> Iterator[None]:
    """torch.distributed inside the block, where torchrun started this process.

    EnvironmentProblem where another process ended, or gave no sign for PHIV_RANK_TIMEOUT seconds (30 minutes).
    """
    if "LOCAL_RANK" not in os.environ:
        yield
        return
    text = os.environ.get("PHIV_RANK_TIMEOUT", str(RANK_TIMEOUT_S))
    try:
        timeout_s = float(text)
    except ValueError:
        timeout_s = 0.0
    if not 1 <= timeout_s < 1e9:
        raise UsageError("PHIV_RANK_TIMEOUT", f"must be a number of seconds, 1 or more (found {text!r})")
    try:
        if on_gpu:
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        dist.init_process_group("nccl" if on_gpu else "gloo", timeout=timedelta(seconds=timeout_s))
        yield
        dist.destroy_process_group()  # after an error others may wait for ever for this one
    except (RuntimeError, ValueError) as error:
        if (problem := _lost_rank(error, timeout_s)) is None:
            raise
        raise problem from error


def _lost_rank(error: Exception, timeout_s: float) -> EnvironmentProblem | None:
    """The problem of another process behind torch's error; None for any other error. gloo's are plain RuntimeErrors."""
    text = str(error).lower()
    where = f"rank {rank()} of {world_size()}"
    if "timed out" in text or "timeout" in text:
        what = f"another process of this run gave no sign for {timeout_s:g} s: it hangs, or did not start"
        return EnvironmentProblem(where, what, "See what each prints last; the same command resumes")
    if isinstance(error, dist.DistError) or re.search(r"gloo|connection (closed|reset|refused)|broken pipe", text):
        what = "another process of this run has ended"
        return EnvironmentProblem(where, what, "See what it prints; the same command resumes")
    return None


def wait() -> None:
    """Until every process is here."""
    if dist.is_available() and dist.is_initialized():
        dist.barrier()


def choose_sharding(config: TrainConfig, on_gpu: bool) -> str:
    """`whole`, or `zero2`, `fsdp2`. EnvironmentProblem without DeepSpeed, UsageError where it cannot run."""
    has_deepspeed = find_spec("deepspeed") is not None
    if config.distributed == "auto":
        full = not config.lora and on_gpu and world_size() > 1 and has_deepspeed
        return "zero2" if full else "whole"
    if config.distributed == "zero2" and not has_deepspeed:
        raise EnvironmentProblem("--distributed zero2", "the deepspeed package is missing", install_hint("deepspeed"))
    if config.distributed in ("zero2", "fsdp2") and "LOCAL_RANK" not in os.environ:
        where = f"--distributed {config.distributed}"
        raise UsageError(where, "needs several processes", "Start with torchrun --nproc_per_node N")
    return "whole" if config.distributed == "ddp" else config.distributed


def deepspeed_config(sharding: str, on_gpu: bool) -> dict[str, Any] | None:
    """The `deepspeed` argument of TrainingArguments; DeepSpeed can then build what it needs."""
    if sharding != "zero2":
        return None
    release_stale_locks()
    if not on_gpu:  # read when deepspeed is first imported; without it, it searches for CUDA's compiler
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    return {key: dict(value) if isinstance(value, dict) else value for key, value in ZERO2.items()}


def shard_fsdp2(model: nn.Module, device: torch.device, dtype: torch.dtype) -> None:
    """Split the model in place, every layer on its own.

    By hand, because accelerate silently uses DDP where FSDP is asked for on CPUs.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard

    mesh = init_device_mesh(device.type, (world_size(),))
    mixed = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32, output_dtype=torch.float32)
    options: dict[str, Any] = {"mesh": mesh, "mp_policy": mixed} if dtype != torch.float32 else {"mesh": mesh}
    layers = set(getattr(model, "_no_split_modules", None) or ())
    for module in model.modules():
        if type(module).__name__ in layers:
            fully_shard(module, **options)
    fully_shard(model, **options)
    assert isinstance(model, FSDPModule)
    prepared: Any = model
    prepared._is_accelerate_prepared = True  # accelerate then leaves the model as it is, and does not put DDP around it
