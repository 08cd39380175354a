"""`PlanSampler`: the micro-batches of one process, for `DataLoader(batch_sampler=...)`, from any step on.

    sampler = PlanSampler(Schedule(plans), rank=1, world_size=2, start=1200)
    for rows in sampler: ...                      # the PlannedRows of one micro-batch

Iterating changes no state, so prefetching workers cannot make it run ahead: the progress of a run is the number of its
finished steps. A run resumed at step s, with any number of workers, or of ranks that divides a step, takes exactly the
micro-batches the uninterrupted run would have taken. Finding step s is one lookup, not a replay.
"""

from __future__ import annotations

from collections.abc import Iterator

from phiv_train.batching.plan import PlannedRow
from phiv_train.batching.schedule import Schedule


class PlanSampler:
    """Yields the rows of each micro-batch. `len()` counts the micro-batches from `start` to the end of the run.

    `start`: finished optimizer steps of the run, 0..num_steps. The object is neither sharded nor skipped again by a
    framework: hand a DataLoader built on it to nothing that "prepares" it (`split_batches`, `dispatch_batches`).
    """

    def __init__(self, schedule: Schedule, *, rank: int = 0, world_size: int = 1, start: int = 0) -> None:
        assert 0 <= rank < world_size
        assert 0 <= start <= schedule.num_steps
        self.schedule, self.rank, self.world_size, self.start = schedule, rank, world_size, start
        self.accumulation = schedule.accumulation(world_size)

    def __len__(self) -> int:
        return (self.schedule.num_steps - self.start) * self.accumulation

    def __iter__(self) -> Iterator[list[PlannedRow]]:
        for step in range(self.start, self.schedule.num_steps):
            plan, inside = self.schedule.locate(step)
            for pack in plan.packs_for_rank(inside, self.rank, self.world_size):
                rows, parts = plan.rows(pack), self.schedule.parts
                for i in range(parts):  # a padding example where there is no row for a part
                    yield rows[i::parts] or [PlannedRow(plan.padding_row, weight=0)]
