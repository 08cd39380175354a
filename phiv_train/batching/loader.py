"""DataLoader over a plan: rows of a dataset to micro-batches of tensors, in worker processes.

    rows = EncodedRows(dataset, family, processor, selection)
    rows.encode(17)                                # Encoded: ids, labels, image arrays of row 17
    rows[PlannedRow(17, weight=0)]                 # the same without labels: a padding example
    loader = make_loader(rows, PlanSampler(schedule), layout="packed", num_workers=4)
    for batch in loader: model(**batch)

Images are opened in the worker that needs them. Before a batch leaves it, every sample's length has been compared
with the planned one, and the family's collate has compared image slots with image features; errors name the row.
A batch without images holds empty media of the same keys, so every rank always runs the same graph.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from phiv_data.storage.dataset import ConversationDataset
from phiv_schemas import Conversation
from phiv_schemas.errors import RecordError, ShardError
from phiv_train.batching.lengths import Fitted, OnBad, keep_images
from phiv_train.batching.plan import PlannedRow
from phiv_train.families.base import IGNORE, Encoded, Family, Layout

if TYPE_CHECKING:
    from torch import Tensor
    from torch.utils.data import DataLoader

    from phiv_train.batching.sampler import PlanSampler

_log = logging.getLogger(__name__)
_TRACEBACK_LINE = "phiv_train.batching.loader.RowError: "


class RowError(RecordError):
    """A row that cannot be used, raised in a worker. Its text survives the way to the main process.

    torch raises a worker's exception again as `type(text of the traceback)`, so this one finds its line in that text.
    """

    def __init__(self, where: str, what: str = "", hint: str = "") -> None:
        if not what:
            where, _, what = where.strip().rpartition(_TRACEBACK_LINE)[2].partition(": ")
        super().__init__(where, what, hint)


@dataclass(frozen=True, eq=False)
class EncodedRows:
    """A map-style dataset of `Encoded` samples by `PlannedRow`; a row of weight 0 has no labels.

    `selection`: which images of trimmed rows stay, and the lengths every row is compared with.
    `on_bad="skip"`: a row whose images or record cannot be read keeps its place and length in the plan with grey
    images and no labels, so it adds nothing to the loss and moves no other row; a line per row is added to `bad_file`
    (jsonl: id, reason) and a warning logged. Small enough to pickle: spawned workers map the shards again.
    """

    dataset: ConversationDataset
    family: Family
    processor: Any
    selection: Fitted | None = None
    on_bad: OnBad = "error"
    bad_file: Path | None = None

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, row: PlannedRow) -> Encoded:
        encoded = self.encode(row.index)
        return encoded if row.weight else _without_labels(encoded)

    def encode(self, index: int) -> Encoded:
        """The row of this number, with its planned length. RowError where it cannot be used and `on_bad` is error."""
        try:
            sample = self.dataset[index]
            conversation, kept = self._trim(sample.conversation, index)
            images = [sample.images[i].open() for i in kept]
            encoded = self.family.encode(conversation, images, self.processor)
            if (encoded.labels == IGNORE).all():
                raise RecordError(encoded.id, "has nothing to learn", "Leave unlabeled rows out of training")
            if self.selection is not None and len(encoded) != (planned := int(self.selection.lengths.tokens[index])):
                what = f"is {len(encoded)} tokens, not the {planned} its stored sizes give"
                raise RecordError(encoded.id, what, "Convert the data again, its images were changed")
        except (RecordError, ShardError) as error:
            if self.on_bad == "error":
                raise _name_row(error, self._find_id(index)) from error
            return self._replace_bad_row(index, error)
        return encoded

    def _trim(self, conversation: Conversation, index: int) -> tuple[Conversation, Sequence[int]]:
        """The conversation with the images the selection keeps, and the numbers of those."""
        count = len(conversation.image_paths)
        kept = range(count) if self.selection is None else self.selection.kept_images.get(index, range(count))
        return (conversation if len(kept) == count else keep_images(conversation, kept)), kept

    def _replace_bad_row(self, index: int, error: RecordError | ShardError) -> Encoded:
        """The row with grey images of the stored sizes and without labels, reported as left out."""
        from PIL.Image import new

        try:
            conversation, kept = self._trim(self.dataset.conversation(index), index)
            sizes = self.dataset.sizes_of(index)
            images = [new("RGB", sizes[i], (128, 128, 128)) for i in kept]
            encoded = self.family.encode(conversation, images, self.processor)
        except (RecordError, ShardError) as second:  # not even its text can be read
            raise _name_row(second, self._find_id(index)) from second
        _log.warning("%s is left out of training: %s", encoded.id, error)
        if self.bad_file is not None:
            line = json.dumps({"id": encoded.id, "reason": str(error)}) + "\n"
            descriptor = os.open(self.bad_file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
            try:
                os.write(descriptor, line.encode())  # one call: lines of several workers do not mix
            finally:
                os.close(descriptor)
        return _without_labels(encoded)

    def _find_id(self, index: int) -> str:
        try:
            return self.dataset.conversation(index).id
        except ShardError:
            return f"{self.dataset.split} row {index}"


@dataclass(frozen=True, slots=True)
class Collate:
    """`collate_fn`: samples to the model's keyword arguments. RowError, naming the sample, where they do not fit."""

    family: Family
    processor: Any
    layout: Layout = "packed"

    def __call__(self, samples: Sequence[Encoded]) -> dict[str, Tensor]:
        try:
            return self.family.collate(samples, self.processor, layout=self.layout)
        except RecordError as error:
            raise RowError(error.where, error.what, error.hint) from error


def make_loader(
    rows: EncodedRows,
    sampler: PlanSampler,
    *,
    layout: Layout = "packed",
    num_workers: int = 0,
    prefetch_factor: int = 2,
    pin_memory: bool = False,
    seed: int = 0,
) -> DataLoader[Any]:
    """The loader of one process. Any `num_workers` gives the same batches, and none touches torch's global generator.

    torch seeds Python's, numpy's and its own generators in each worker from `seed`; encoding uses none of them.
    """
    import torch

    from phiv_train.batching.workers import WorkerLoader

    return WorkerLoader(
        rows,
        batch_sampler=sampler,
        collate_fn=Collate(rows.family, rows.processor, layout),
        num_workers=num_workers,
        prefetch_factor=prefetch_factor if num_workers else None,
        pin_memory=pin_memory,
        generator=torch.Generator().manual_seed(seed),
    )


def _without_labels(encoded: Encoded) -> Encoded:
    return replace(encoded, labels=np.full_like(encoded.labels, IGNORE))


def _name_row(error: RecordError | ShardError, row_id: str) -> RowError:
    where = error.where if error.where.startswith(row_id) else f"{row_id}: {error.where}"
    return RowError(where, error.what, error.hint)
