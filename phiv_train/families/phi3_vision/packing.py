"""Several samples in one row: where each begins, how long it is, and what a position must predict.

The positions alone say it: a sample begins wherever `position_ids` does not rise by one. Packed rows carry no
attention mask; rows with padding carry one and hold one sample each.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from phiv_schemas.errors import UsageError
from phiv_train.families.base import IGNORE


def segment_starts(position_ids: Tensor) -> Tensor:
    """bool [B, L], True at the first position of every sample.

    >>> segment_starts(torch.tensor([[0, 1, 2, 0, 1, 0]])).int().tolist()
    [[1, 0, 0, 1, 0, 1]]
    """
    starts_BL = torch.ones_like(position_ids, dtype=torch.bool)
    starts_BL[:, 1:] = position_ids[:, 1:] != position_ids[:, :-1] + 1
    return starts_BL


def segment_lengths(starts_BL: Tensor) -> Tensor:
    """int64 [B, L], at every position the length of the sample it belongs to.

    >>> segment_lengths(torch.tensor([[True, False, False, True, False, True]])).tolist()
    [[3, 3, 3, 2, 2, 1]]
    """
    # Row starts are always True, so numbering through the flattened batch never joins two rows.
    segments = starts_BL.flatten().cumsum(0) - 1
    return torch.bincount(segments)[segments].view_as(starts_BL)


def find_packing(position_ids: Tensor, attention_mask: Tensor | None, past: int = 0) -> Tensor | None:
    """The starts [B, L] if any row holds more than one sample, else None.

    UsageError for packed rows with an attention mask: transformers would ignore the packing then.
    """
    if past or position_ids.shape[1] == 1:
        return None
    starts_BL = segment_starts(position_ids)
    if attention_mask is None:
        return starts_BL if bool(starts_BL[:, 1:].any()) else None
    if attention_mask.shape == position_ids.shape:
        real_BL = attention_mask.bool()
        # Positions of padding are arbitrary; a restart between two real ones is a pack.
        if bool((starts_BL[:, 1:] & real_BL[:, 1:] & real_BL[:, :-1]).any()):
            raise UsageError("attention_mask", "given for rows whose position_ids restart", "Packs take no mask")
    return None


@dataclass(frozen=True, slots=True)
class Varlen:
    """Flash attention's description of a pack: int32 [samples + 1] offsets into the flattened rows."""

    cu_seqlens: Tensor
    max_length: int

    def kwargs(self) -> dict[str, Tensor | int]:
        """The keyword arguments transformers' flash attention takes."""
        return {
            "cu_seq_lens_q": self.cu_seqlens,
            "cu_seq_lens_k": self.cu_seqlens,
            "max_length_q": self.max_length,
            "max_length_k": self.max_length,
        }


def varlen(starts_BL: Tensor) -> Varlen:
    """Where every sample of the flattened rows begins and ends.

    >>> varlen(torch.tensor([[True, False, True], [True, False, False]])).cu_seqlens.tolist()
    [0, 2, 3, 6]
    """
    offsets = starts_BL.flatten().nonzero().flatten()
    cu_seqlens = torch.cat([offsets, offsets.new_tensor([starts_BL.numel()])]).to(torch.int32)
    return Varlen(cu_seqlens, int(cu_seqlens.diff().max()))


def next_token_targets(labels: Tensor, starts_BL: Tensor | None = None) -> Tensor:
    """int64 [B, L]: the label of the position after this one, -100 where there is none in the same sample.

    >>> starts = torch.tensor([[True, False, True, False]])
    >>> next_token_targets(torch.tensor([[5, 6, 7, 8]]), starts).tolist()
    [[6, -100, 8, -100]]
    """
    targets_BL = torch.full_like(labels, IGNORE)
    targets_BL[:, :-1] = labels[:, 1:]
    if starts_BL is not None:
        targets_BL[:, :-1].masked_fill_(starts_BL[:, 1:], IGNORE)
    return targets_BL
