"""`Schedule`: the plans of a run's epochs one after another: all optimizer steps of the run.

schedule = Schedule(plans, max_steps=None)
schedule.num_steps, schedule.sha256
plan, step = schedule.locate(1200)             # sampler.PlanSampler iterates over it for one process
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from phiv_train.batching.plan import Plan
from phiv_train.batching.plan import accumulation as accumulation_of


@dataclass(frozen=True, slots=True)
class Work:
    """What was run: tokens of rows, tokens with padding, tokens there was space for, images."""

    tokens: int = 0
    padded_tokens: int = 0
    capacity: int = 0
    images: int = 0

    def __add__(self, other: Work) -> Work:
        return Work(
            self.tokens + other.tokens,
            self.padded_tokens + other.padded_tokens,
            self.capacity + other.capacity,
            self.images + other.images,
        )


@dataclass(frozen=True)
class Schedule:
    """All optimizer steps of a run; with `max_steps` it ends there. `plans` reach at least as far.

    `parts`: micro-batches that every pack is run in, by a run that resumes with a smaller batch_size_per_gpu: the rows
    of a step and its gradient stay.
    """

    plans: tuple[Plan, ...]
    max_steps: int | None = None
    parts: int = 1

    @cached_property
    def _ends(self) -> list[int]:
        return list(accumulate(plan.num_steps for plan in self.plans))

    @property
    def num_steps(self) -> int:
        """Optimizer steps of the run."""
        return min(self._ends[-1], self.max_steps or self._ends[-1])

    @cached_property
    def sha256(self) -> str:
        """Equal for runs that take the same steps over the same rows."""
        return hashlib.sha256("".join(plan.sha256 for plan in self.plans).encode()).hexdigest()

    def accumulation(self, world_size: int) -> int:
        """Micro-batches of one process per step. UsageError when the processes do not divide a step."""
        return accumulation_of(self.plans[0].spec, world_size) * self.parts

    def locate(self, step: int) -> tuple[Plan, int]:
        """The plan a step of the run is in, and its number there."""
        epoch = bisect_right(self._ends, step)
        return self.plans[epoch], step - (self._ends[epoch - 1] if epoch else 0)

    def epoch_after(self, step: int) -> float:
        """Passes over the data after `step` steps.

        >>> Schedule(plans).epoch_after(Schedule(plans).num_steps)  # doctest: +SKIP
        2.0
        """
        if step <= 0:
            return 0.0
        plan, inside = self.locate(step - 1)
        return plan.epoch + (inside + 1) / plan.num_steps

    def rows_until(self, step: int) -> int:
        """Rows that the first `step` steps of the run take."""
        epoch = bisect_right(self._ends, step)
        rows = sum(len(plan.order) for plan in self.plans[:epoch])
        if epoch == len(self.plans):
            return rows
        plan, inside = self.locate(step)
        return rows + int(plan.offsets[inside * plan.spec.packs_per_step])

    def work(self, step: int, rank: int, world_size: int, images_of_row: NDArray[np.int64]) -> Work:
        """What one process runs in a step."""
        plan, inside = self.locate(step)
        packs = plan.packs_for_rank(inside, rank, world_size)
        rows = [row.index for pack in packs for row in plan.rows(pack) if row.weight]
        padded_tokens = int(plan.padded_tokens[packs].sum())
        packed = plan.spec.layout == "packed" and plan.spec.max_tokens is not None
        return Work(
            tokens=int(plan.tokens[packs].sum()),
            padded_tokens=padded_tokens,
            capacity=len(packs) * plan.spec.max_tokens if packed and plan.spec.max_tokens else padded_tokens,
            images=int(images_of_row[rows].sum()),
        )
