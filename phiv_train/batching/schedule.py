"""`Schedule`: the plans of a run's epochs one after another, as the trainer walks them.

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
from phiv_train.training.throughput import Load


@dataclass(frozen=True)
class Schedule:
    """All optimizer steps of a run. `max_steps` ends it earlier; it never makes it longer."""

    plans: tuple[Plan, ...]
    max_steps: int | None = None

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
        return accumulation_of(self.plans[0].spec, world_size)

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

    def load(self, step: int, rank: int, world_size: int, images_of_row: NDArray[np.int64]) -> Load:
        """What one process runs in a step."""
        plan, inside = self.locate(step)
        packs = plan.packs_of(inside, rank, world_size)
        rows = [row for pack in packs for row in plan.rows(pack) if row >= 0]
        positions = int(plan.positions[packs].sum())
        packed = plan.spec.layout == "packed" and plan.spec.max_tokens is not None
        return Load(
            tokens=int(plan.tokens[packs].sum()),
            positions=positions,
            capacity=len(packs) * plan.spec.max_tokens if packed and plan.spec.max_tokens else positions,
            images=int(images_of_row[rows].sum()),
        )
