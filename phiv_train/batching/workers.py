"""`WorkerLoader`: torch's DataLoader, with workers that are spawned and leave stop signals to the main process.

A worker that a signal to the whole group ends is a RuntimeError in the main process, which then can save no checkpoint.
"""

from __future__ import annotations

from typing import Any

from torch.utils.data import DataLoader

from phiv_data.utils.signals import SPAWN, held


class WorkerLoader(DataLoader[Any]):
    """As DataLoader; `num_workers` 0 starts none."""

    def __init__(self, dataset: Any, *, num_workers: int, **options: Any) -> None:
        context = SPAWN if num_workers else None
        super().__init__(dataset, num_workers=num_workers, multiprocessing_context=context, **options)

    def __iter__(self) -> Any:
        with held():
            return super().__iter__()
