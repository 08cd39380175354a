"""Distributed training: DDP, ZeRO-2 (DeepSpeed) or FSDP2, and what each keeps in a checkpoint.

| | parameters | gradients, optimizer state | in checkpoints |
|---|---|---|---|
| ddp | whole on every process | whole | as a single process writes them |
| zero2 | whole | split | DeepSpeed's files, for as many processes |
| fsdp2 | split, layer by layer | split | gathered, for any number of processes |
"""

from __future__ import annotations

import os
from importlib.util import find_spec
from typing import Any

import torch
from torch import nn

from phiv_schemas.errors import EnvironmentProblem, UsageError
from phiv_train.config import TrainConfig

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


def world_size() -> int:
    """Number of processes of this run, from torchrun's environment."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    """Number of this process, from torchrun's environment."""
    return int(os.environ.get("RANK", "0"))


def choose_sharding(config: TrainConfig, on_gpu: bool) -> str:
    """`whole`, or `zero2`, `fsdp2`. EnvironmentProblem without DeepSpeed, UsageError where it cannot run."""
    has_deepspeed = find_spec("deepspeed") is not None
    if config.distributed == "auto":
        full = not config.lora and on_gpu and world_size() > 1 and has_deepspeed
        return "zero2" if full else "whole"
    if config.distributed == "zero2" and not has_deepspeed:
        raise EnvironmentProblem("--distributed zero2", "the deepspeed package is missing", "Install phiv[gpu]")
    if config.distributed == "fsdp2" and "WORLD_SIZE" not in os.environ:
        raise UsageError("--distributed fsdp2", "needs several processes", "Start with torchrun --nproc_per_node N")
    return "whole" if config.distributed == "ddp" else config.distributed


def deepspeed_config(sharding: str, on_gpu: bool) -> dict[str, Any] | None:
    """The `deepspeed` argument of TrainingArguments."""
    if sharding != "zero2":
        return None
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
