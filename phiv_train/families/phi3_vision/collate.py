"""Samples to one micro-batch of torch tensors: packed in one row, or padded to a rectangle.

| key | dtype, shape | |
|---|---|---|
| input_ids | int64 [B, L] | image slots hold the image token id |
| labels | int64 [B, L] | -100 outside answers and at padding |
| position_ids | int64 [B, L] | 0, 1, ... per sample; 0 at padding |
| attention_mask | int64 [B, L] | padded layouts only: 1 on a sample, 0 on padding |
| crops | uint8 [C, S, S, 3] | every real crop of the batch, row-major per image, images in order |
| image_sizes | int64 [N, 2] | (height, width) after padding |

Samples may hold any number of images, of any size, or none: then `crops` and `image_sizes` are empty. The mask comes
from the lengths, never from the pad id, which is also `<|endoftext|>` and stands inside every sample.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, get_args

import numpy as np

from phiv_schemas.errors import RecordError, UsageError
from phiv_train.families.base import IGNORE, Encoded, Layout
from phiv_train.families.phi3_vision.encoding import image_slots
from phiv_train.families.phi3_vision.processor import Processor

if TYPE_CHECKING:
    from torch import Tensor


def collate(samples: Sequence[Encoded], processor: Processor, *, layout: Layout = "packed") -> dict[str, Tensor]:
    """The batch. RecordError, naming the sample, where image slots and crops do not match; UsageError without any."""
    import torch

    if not samples:
        raise UsageError("samples", "a batch of none has no shape", "Pass at least one")
    if layout not in get_args(Layout):
        raise UsageError("layout", f"{layout!r} is unknown", "Pass packed, right or left")
    for sample in samples:
        _check_slots(sample, processor)
    if layout == "packed":
        rows = {
            "input_ids": np.concatenate([s.input_ids for s in samples])[None],
            "labels": np.concatenate([s.labels for s in samples])[None],
            "position_ids": np.concatenate([np.arange(len(s)) for s in samples])[None],
        }
    else:
        longest = max(len(s) for s in samples)
        fill = {"input_ids": processor.pad_id, "labels": IGNORE, "position_ids": 0, "attention_mask": 0}
        rows = {name: np.full((len(samples), longest), value, np.int64) for name, value in fill.items()}
        for i, sample in enumerate(samples):
            span = slice(longest - len(sample), longest) if layout == "left" else slice(0, len(sample))
            rows["input_ids"][i, span] = sample.input_ids
            rows["labels"][i, span] = sample.labels
            rows["position_ids"][i, span] = np.arange(len(sample))
            rows["attention_mask"][i, span] = 1
    media = {name: np.concatenate([s.media[name] for s in samples]) for name in ("crops", "image_sizes")}
    return {name: torch.from_numpy(array) for name, array in (rows | media).items()}


def _check_slots(sample: Encoded, processor: Processor) -> None:
    """The invariant: as many image slots as the vision tower will return rows. RecordError with the sample's id."""
    if len(sample.labels) != len(sample.input_ids):
        raise RecordError(sample.id, f"has {len(sample.input_ids)} ids and {len(sample.labels)} labels")
    if not len(sample.input_ids):
        raise RecordError(sample.id, "has no ids", "Leave the row out")
    crops, sizes = sample.media["crops"], sample.media["image_sizes"]
    areas = sizes // processor.crop_size
    if (needed := int(areas.prod(axis=1).sum())) != len(crops):
        raise RecordError(sample.id, f"has {len(crops)} crops, its image sizes need {needed}")
    found = int((sample.input_ids == processor.image_id).sum())
    if found != (needed := sum(image_slots(size, processor) for size in sizes.tolist())):
        what = f"has {found} image slots for {needed} image features"
        raise RecordError(sample.id, what, "Cut whole images, never the middle of one")
    if np.any(sample.labels[sample.input_ids == processor.image_id] != IGNORE) or sample.labels[0] != IGNORE:
        raise RecordError(sample.id, "labels an image slot or its first position")
