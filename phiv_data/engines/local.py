"""The engine of one machine: worker processes that take calls one after the other.

    LocalEngine(num_workers=2).map(run_task, job, range(40))

A call whose worker dies runs again in a process of its own; the other workers keep theirs. So a death from outside
costs time only, and a call that kills its process is found, and reported as `Killed`.
"""

from __future__ import annotations

import pickle
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from multiprocessing.connection import wait

from phiv_data.engines.base import Killed, R, S, TaskOutcome
from phiv_data.engines.watchdog import TICK_S
from phiv_data.engines.worker import Worker, WorkerDied, run_alone
from phiv_schemas.errors import EnvironmentProblem, UsageError


@dataclass(frozen=True, slots=True)
class LocalEngine:
    """`num_workers` processes on this machine; None is one per core. 0 works in this process: nothing is isolated."""

    num_workers: int | None = None

    def __post_init__(self) -> None:
        if self.num_workers is not None and self.num_workers < 0:
            raise UsageError("--num_workers", f"must be 0 or more (found {self.num_workers})")

    def map(self, function: Callable[[S, int], R], shared: S, indices: Iterable[int]) -> Iterator[TaskOutcome]:
        """As `Engine.map`. `function` and `shared` are pickled to each worker once."""
        workers = default_workers() if self.num_workers is None else self.num_workers
        if not workers:
            yield from (TaskOutcome(i, function(shared, i)) for i in indices)
            return
        with closing(Pool(pickle.dumps((function, shared)), workers)) as pool:
            yield from pool.map(indices)


def default_workers() -> int:
    """The number of CPUs this process may use: affinity, cgroup quotas (containers) and LOKY_MAX_CPU_COUNT count."""
    from loky import cpu_count  # 0.1 s that --help does not need

    return int(cpu_count(only_physical_cores=False))


class Pool:
    """Worker processes for one function and what its calls share, pickled. They start when there are calls for them."""

    def __init__(self, work: bytes, num_workers: int) -> None:
        self._work = work
        self._num_workers = num_workers
        self._workers: list[Worker] = []

    def map(self, indices: Iterable[int]) -> Iterator[TaskOutcome]:
        """The outcome of every call, in the order of completion."""
        waiting = deque(indices)
        while waiting or any(worker.sent for worker in self._workers):
            self._send(waiting)
            by_connection = {worker.connection: worker for worker in self._workers if worker.sent}
            ready = wait(list(by_connection), TICK_S)
            for worker in by_connection.values():
                worker.kill_if_overdue()
            for connection in ready:
                worker = by_connection[connection]  # type: ignore[index]  # they are those that were passed
                try:
                    answer = worker.receive()
                except WorkerDied:
                    self._workers.remove(worker)
                    worker.close()
                    suspect = worker.sent.popleft()
                    waiting.extendleft(reversed(worker.sent))
                    answer = suspect, run_alone(self._work, suspect)
                if answer is not None:
                    yield TaskOutcome(*answer)

    def _send(self, waiting: deque[int]) -> None:
        """Give every worker a call, and a second one to begin when that is done, as long as there are enough."""
        while waiting and len(self._workers) < self._num_workers and all(worker.sent for worker in self._workers):
            self._workers.append(Worker(self._work))
            self._workers[-1].send(waiting.popleft())
        for depth in (0, 1):
            for worker in self._workers:
                if len(worker.sent) <= depth and len(waiting) > depth * self._num_workers:
                    worker.send(waiting.popleft())

    def close(self) -> None:
        """End the processes, also those that are at work."""
        for worker in self._workers:
            worker.connection.close()  # all of them at once: one that is not at work then ends by itself
        for worker in self._workers:
            worker.close()
        self._workers = []


def find_killers(
    function: Callable[[S, Sequence[int]], object], shared: S, items: Sequence[int], suspect: int | None = None
) -> dict[int, str]:
    """Those of `items` with which `function(shared, items)` kills its process, each alone, and how.

    Call it where all of them did, maybe at `suspect`. Others are found by halving. EnvironmentProblem when none of them
    does so now.
    """
    work = pickle.dumps((function, shared))

    def search(part: Sequence[int], suspect: int | None) -> dict[int, str]:
        if suspect is None:
            result = run_alone(work, part)
            if not isinstance(result, Killed):
                return {}
            if len(part) == 1:
                return {part[0]: result.reason}
            suspect = result.input
        if suspect in part and isinstance(alone := run_alone(work, [suspect]), Killed):
            assert suspect is not None
            rest = [item for item in part if item != suspect]
            return {suspect: alone.reason} | (search(rest, None) if rest else {})
        half = len(part) // 2
        return search(part[:half], None) | search(part[half:], None)

    if killers := search(items, suspect):
        return dict(sorted(killers.items()))
    raise EnvironmentProblem("worker processes", "they die on changing inputs", "Free memory, then run again")
