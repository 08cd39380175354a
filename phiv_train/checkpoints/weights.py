"""Save and load weights: of the whole model, or of the adapter alone.

save_weights(family, model, processor, folder)       # rank 0; a checkpoint the family's `load` opens, or an adapter
load_weights(model, folder)                           # exact: no tensor missing, none left over
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from phiv_data.utils.atomic import atomic_write, environment_problems
from phiv_schemas.errors import UsageError
from phiv_train.checkpoints.pickles import report_unreadable
from phiv_train.families.base import Family

ADAPTER = "default"  # peft's name of an adapter in the model; there is never a second one
ADAPTER_WEIGHTS, ADAPTER_CONFIG = "adapter_model.safetensors", "adapter_config.json"
# Keys of peft 0.11, the oldest that Microsoft's recipe pins; servers read some of them without a default.
_ADAPTER_KEYS = {"peft_type", "task_type", "base_model_name_or_path", "r", "lora_alpha", "lora_dropout", "bias"}
_ADAPTER_KEYS |= {"target_modules", "fan_in_fan_out", "init_lora_weights", "modules_to_save", "use_rslora", "use_dora"}
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
    check_finite(str(folder), state)
    if has_adapter(model):
        from peft import set_peft_model_state_dict

        try:
            result = set_peft_model_state_dict(model, state, adapter_name=ADAPTER)
        except (RuntimeError, KeyError) as error:  # other shapes; tensors of modules_to_save that are not there
            first = (str(error).strip().splitlines() or [""])[-1].strip()
            what = f"does not fit this model ({first})"
            raise UsageError(str(folder), what, "Pass the base that it was trained on") from error
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
        # An adapter's are safetensors, else a pickle, as older versions of peft wrote it.
        names = (ADAPTER_WEIGHTS, "adapter_model.bin")
        if (adapter := next((folder / name for name in names if (folder / name).is_file()), None)) is not None:
            with report_unreadable(adapter):
                is_pickle = adapter.suffix == ".bin"
                state = torch.load(adapter, map_location="cpu", weights_only=True) if is_pickle else load_file(adapter)
                named = {name.removeprefix(_PREFIX): tensor for name, tensor in state.items()}
            if model is None:
                return named
            # `x.lora_A.weight` of a file is `x.lora_A.default.weight` in the model.
            return {re.sub(r"(\.lora_[AB])\.", rf"\1.{ADAPTER}.", name): tensor for name, tensor in named.items()}
        state = {}
        for file in sorted(folder.glob("model*.safetensors")):
            with report_unreadable(file):
                state |= load_file(file)
        return state


def check_finite(where: str, tensors: Mapping[str, Tensor]) -> None:
    """UsageError where weights hold NaN or infinity: such a model answers nonsense, and scores 0 without a word."""
    floating = {name: tensor for name, tensor in tensors.items() if tensor.is_floating_point() and tensor.numel()}
    # The extremes are NaN where any number is: one pass, and no copy of the tensor.
    wrong = [name for name, tensor in floating.items() if not torch.isfinite(torch.stack(tensor.aminmax())).all()]
    if wrong:
        what = f"{len(wrong)} of {len(tensors)} tensors hold NaN or infinity (first {wrong[0]!r})"
        raise UsageError(where, what, "Use an older checkpoint, or load it in a wider precision")


def _save_adapter(model: nn.Module, folder: Path, state: Mapping[str, Tensor] | None) -> None:
    from peft import get_peft_model_state_dict
    from safetensors.torch import save

    # lm_head may be wrapped: peft would then save its base weights too, as if they had been trained.
    kept = get_peft_model_state_dict(model, state_dict=state, adapter_name=ADAPTER, save_embedding_layers=False)
    tensors = {_PREFIX + name: tensor.detach().cpu().contiguous() for name, tensor in kept.items()}
    with atomic_write(folder / ADAPTER_WEIGHTS) as file:
        file.write(save(tensors, metadata={"format": "pt"}))
    # What every version of peft knows, and of the rest what is not its default: older ones refuse keys that they do not
    # know; newer ones have a default for each that is missing.
    adapters: Any = model.peft_config
    lora = adapters[ADAPTER]
    values, defaults = lora.to_dict(), type(lora)().to_dict()
    written = {key: value for key, value in values.items() if key in _ADAPTER_KEYS or value != defaults.get(key)}
    plain = {key: sorted(v) if isinstance(v, set) else getattr(v, "value", v) for key, v in written.items()}
    with atomic_write(folder / ADAPTER_CONFIG) as file:
        file.write((json.dumps(plain | {"inference_mode": True}, indent=2, sort_keys=True) + "\n").encode())
    generation: Any = model.generation_config  # servers take the ids that end an answer from here
    generation.save_pretrained(folder)
