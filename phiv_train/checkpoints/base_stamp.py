"""A stamp of the base model that an adapter was trained on: its configuration, and a sample of every tensor.

    stamp_base("microsoft/Phi-3.5-vision-instruct")     # 64 hex digits; a folder, a hub id, or a name as `tiny:7`

An adapter on weights other than those it was trained on gives another model without an error. The stamp reads the
first, middle and last row of each tensor (a moment for 8 GB), so any training or merging shows in it; moving,
resharding or pickling the files does not. A model that is built when loaded is stamped by its name.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from phiv_data.utils.json_files import read_object
from phiv_train.checkpoints.pickles import report_unreadable
from phiv_train.families.hub import local_folder

# Keys of config.json that change with the library that wrote it, not with the model.
_OF_THE_WRITER = {"_name_or_path", "architectures", "auto_map", "dtype", "torch_dtype", "transformers_version"}
_OF_THE_WRITER |= {"use_cache", "_attn_implementation", "attn_implementation"}


def stamp_base(base: str) -> str:
    """Equal for equal weights and settings, whatever files they are in."""
    from safetensors import safe_open

    if not Path(base).is_dir() and base.count("/") != 1:
        return hashlib.sha256(base.encode()).hexdigest()
    folder = local_folder(base)
    config = read_object(folder / "config.json")
    settings = {key: value for key, value in config.items() if key not in _OF_THE_WRITER}
    samples: list[bytes] = []
    files = sorted(folder.glob("model*.safetensors"))
    for file in files:
        with report_unreadable(file), safe_open(file, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 (not a dict)
                piece = tensors.get_slice(name)
                samples.append(_describe(name, piece, tuple(piece.get_shape())))
    for file in () if files else sorted(folder.glob("pytorch_model*.bin")):
        with report_unreadable(file):
            state = torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))
        samples += [_describe(name, tensor, tuple(tensor.shape)) for name, tensor in state.items()]
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for sample in sorted(samples):
        digest.update(sample)
    return digest.hexdigest()


def _describe(name: str, tensor: Any, shape: tuple[int, ...]) -> bytes:
    """A tensor's name, shape, and the bytes of three of its rows."""
    rows = sorted({0, shape[0] // 2, shape[0] - 1}) if shape and shape[0] else []
    sample: list[Tensor] = [tensor[row : row + 1] for row in rows] if rows else [tensor[...]]
    data = b"".join(part.contiguous().flatten().view(torch.uint8).numpy().tobytes() for part in sample)
    return f"{name} {list(shape)} ".encode() + data
