"""torch's pickle files (`.pt`, `.pth`, `.bin`): read as data, never as code, and each named where it cannot be read.

    with without_code():
        trainer.train(resume_from_checkpoint=folder)    # DeepSpeed's own torch.load(weights_only=False) included
    check_pickles(folder, is_zero2=False)               # UsageError naming the file that is no plain data

A pickle is a program: who writes a checkpoint could run anything on the machine that resumes from it. torch's
`weights_only` unpickler builds tensors, plain containers and the few classes of `_DEEPSPEED`, and refuses the rest.
"""

from __future__ import annotations

import os
import pickle
import zipfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from phiv_schemas.errors import PhivError, UsageError

SUFFIXES = (".pt", ".pth", ".bin")
HINT = "Copy it again, or use another checkpoint"
# torch reads both at every load: the first wins over a caller's weights_only=False, the second contradicts it.
_FORCE, _FORCE_NOT = "TORCH_FORCE_WEIGHTS_ONLY_LOAD", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"
# What DeepSpeed puts into optimizer states besides tensors: places in a flat buffer, the loss scale, the stage.
_DEEPSPEED = {
    "deepspeed.utils.tensor_fragment": ("fragment_address",),
    "deepspeed.runtime.fp16.loss_scaler": ("LossScaler", "DynamicLossScaler"),
    "deepspeed.runtime.zero.config": ("ZeroStageEnum",),
}


@contextmanager
def without_code() -> Iterator[None]:
    """In the block no `torch.load` of this process runs code from a file, whatever its caller asks for."""
    before = {name: os.environ.pop(name, None) for name in (_FORCE, _FORCE_NOT)}
    os.environ[_FORCE] = "1"
    try:
        yield
    finally:
        os.environ.pop(_FORCE)
        os.environ.update({name: value for name, value in before.items() if value is not None})


def allow_deepspeed_states(needed: bool) -> AbstractContextManager[Any]:
    """Context: with `needed`, `weights_only` builds the classes of DeepSpeed's states too. Imports DeepSpeed then."""
    if not needed:
        return nullcontext()
    classes = [getattr(import_module(module), name) for module, names in _DEEPSPEED.items() for name in names]
    return torch.serialization.safe_globals(classes)


def check_pickles(folder: Path, *, is_zero2: bool) -> None:
    """UsageError naming the first file of a checkpoint that is not plain data. Tensors are mapped, not read."""
    if is_zero2 and find_spec("deepspeed") is None:
        return  # nothing of it can be loaded here
    from transformers.trainer_pt_utils import safe_globals as allow_numpy  # the state of numpy's generator

    files = sorted(path for path in folder.rglob("*") if path.suffix in SUFFIXES)
    with allow_numpy(), allow_deepspeed_states(is_zero2):
        for path in files:
            with report_unreadable(path):
                torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))


@contextmanager
def report_unreadable(path: Path) -> Iterator[None]:
    """UsageError where `path` cannot be read, or what it holds is not what the block expects."""
    try:
        yield
    except (PhivError, OSError, MemoryError, ImportError, torch.OutOfMemoryError):
        raise
    except pickle.UnpicklingError as error:  # torch's words would have the user allow the file to run code
        is_code = "GLOBAL" in str(error)
        why = "it could run code: it holds more than numbers" if is_code else "its bytes are not what torch.save writes"
        raise UsageError(str(path), f"cannot be read ({why})", HINT) from error
    except Exception as error:  # random bytes make torch and safetensors raise two dozen types
        why = f"no {error}" if isinstance(error, KeyError) else str(error) or type(error).__name__
        raise UsageError(str(path), f"cannot be read ({why.strip().splitlines()[0]})", HINT) from error
