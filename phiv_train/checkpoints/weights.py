"""Save and load weights: of the whole model, or of the adapter alone.

save_weights(family, model, processor, folder)       # rank 0; a checkpoint the family's `load` opens, or an adapter
load_weights(model, folder)                           # exact: no tensor missing, none left over
"""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from phiv_data.utils.atomic import atomic_write, environment_problems
from phiv_schemas.errors import UsageError
from phiv_train.families.base import Family

ADAPTER = "default"  # peft's name of an adapter in the model; there is never a second one
ADAPTER_WEIGHTS, ADAPTER_CONFIG = "adapter_model.safetensors", "adapter_config.json"
# peft's names in files: two wrappers around the model.
_PREFIX = "base_model.model."


def has_adapter(model: nn.Module) -> bool:
    """True when adapters were put into the model."""
    return bool(getattr(model, "peft_config", None))


def save_weights(
    family: Family, model: nn.Module, processor: Any, folder: Path, state: Mapping[str, Tensor] | None = None
) -> None:
    """Write model or adapter, and the processor's files, into `folder`. `state`: gathered tensors of a split model."""
    with environment_problems(folder):
        folder.mkdir(parents=True, exist_ok=True)
        if has_adapter(model):
            _save_adapter(model, folder, state)
            processor.save(folder)
        elif state is None:
            family.save(model, processor, folder)
        else:
            for old in folder.glob("model*.safetensors*"):  # one file where this save makes shards, or the reverse
                old.unlink()
            model.save_pretrained(folder, state_dict=dict(state))  # type: ignore[operator]  # transformers' model
            processor.save(folder)
        # Weights get the mode of the umask: safetensors writes 0600, which nobody else may read.
        mask = os.umask(0o077)
        os.umask(mask)
        for path in folder.glob("*.safetensors"):
            with contextlib.suppress(PermissionError):  # file systems without modes
                path.chmod(0o666 & ~mask)


def load_weights(model: nn.Module, folder: Path) -> None:
    """Copy what `save_weights` wrote into a model of the same strategy. UsageError when names do not match."""
    state = read_weights(folder)
    if has_adapter(model):
        from peft import set_peft_model_state_dict

        result = set_peft_model_state_dict(model, state, adapter_name=ADAPTER)
        missing = [name for name in result.missing_keys if ".lora_" in name]
    else:
        result = model.load_state_dict(state, strict=False)
        missing = list(result.missing_keys)
    if wrong := [*missing, *result.unexpected_keys]:
        raise UsageError(str(folder), f"does not fit this model ({len(wrong)} tensors, first {wrong[0]!r})")


def read_weights(folder: Path, model: nn.Module | None = None) -> dict[str, Tensor]:
    """The tensors of a folder: the model's, or an adapter's as peft names them; with `model`, as it names them."""
    from safetensors.torch import load_file

    with environment_problems(folder):
        if (adapter := folder / ADAPTER_WEIGHTS).is_file():
            with report_unreadable(adapter):
                named = {name.removeprefix(_PREFIX): tensor for name, tensor in load_file(adapter).items()}
            if model is None:
                return named
            # `x.lora_A.weight` of a file is `x.lora_A.default.weight` in the model.
            return {re.sub(r"(\.lora_[AB])\.", rf"\1.{ADAPTER}.", name): tensor for name, tensor in named.items()}
        state: dict[str, Tensor] = {}
        for file in sorted(folder.glob("model*.safetensors")):
            with report_unreadable(file):
                state |= load_file(file)
        return state


@contextlib.contextmanager
def report_unreadable(path: Path) -> Iterator[None]:
    """UsageError where safetensors or torch.load cannot read `path`."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except (SafetensorError, RuntimeError, pickle.UnpicklingError, EOFError) as error:
        # torch would have the user allow the file to run code.
        pickled = isinstance(error, pickle.UnpicklingError)
        why = "its bytes are not what torch.save writes" if pickled else (str(error) or type(error).__name__)
        hint = "Copy it again, or use another checkpoint"
        raise UsageError(str(path), f"cannot be read ({why.strip().splitlines()[0]})", hint) from error


def _save_adapter(model: nn.Module, folder: Path, state: Mapping[str, Tensor] | None) -> None:
    from peft import get_peft_model_state_dict
    from safetensors.torch import save

    # lm_head may be wrapped: peft would then save its base weights too, as if they had been trained.
    kept = get_peft_model_state_dict(model, state_dict=state, adapter_name=ADAPTER, save_embedding_layers=False)
    tensors = {_PREFIX + name: tensor.detach().cpu().contiguous() for name, tensor in kept.items()}
    with atomic_write(folder / ADAPTER_WEIGHTS) as file:
        file.write(save(tensors, metadata={"format": "pt"}))
    config: Any = model.peft_config
    with atomic_write(folder / ADAPTER_CONFIG) as file:
        text = json.dumps(
            config[ADAPTER].to_dict() | {"inference_mode": True},
            indent=2,
            sort_keys=True,
            default=lambda value: sorted(value) if isinstance(value, set) else getattr(value, "value", str(value)),
        )
        file.write((text + "\n").encode())
