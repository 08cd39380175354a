"""Runners: call `function(shared, i)` for many `i`, somewhere. The result must not depend on where.

The local runner uses spawned processes, never fork: a forked child inherits locks and threads of decoders.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from itertools import islice
from typing import Any, TypeVar

S = TypeVar("S")
R = TypeVar("R")


class WorkerDied(Exception):
    """A worker process ended without a result; `indices` were under way or next in line."""

    def __init__(self, indices: list[int]) -> None:
        super().__init__(indices)
        self.indices = indices


def default_workers() -> int:
    """The number of cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run_local(
    function: Callable[[S, int], R], shared: S, indices: Iterable[int], num_workers: int
) -> Iterator[tuple[int, R]]:
    """Yield `(i, function(shared, i))` in order of completion. In this process when `num_workers` is 0.

    `function` and `shared` are pickled to each worker once. Raises what `function` raises; WorkerDied when a worker
    was killed.
    """
    if not num_workers:
        yield from ((i, function(shared, i)) for i in indices)
        return
    indices = list(indices)
    pool = ProcessPoolExecutor(
        min(num_workers, len(indices)) or 1,
        multiprocessing.get_context("spawn"),
        initializer=_start_worker,
        initargs=(function, shared),
    )
    try:
        yield from _drain(pool, iter(indices), 2 * num_workers)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def survives(function: Callable[[S, int], R], shared: S, index: int) -> bool:
    """True when `function(shared, index)` ends, with a result or an exception, without killing its process."""
    with ProcessPoolExecutor(
        1, multiprocessing.get_context("spawn"), initializer=_start_worker, initargs=(function, shared)
    ) as pool:
        return not isinstance(pool.submit(_call, index).exception(), BrokenProcessPool)


def can_start() -> bool:
    """True when a worker process comes up at all. It cannot where a script starts work outside `if __name__`."""
    return survives(_nothing, None, 0)


def _nothing(shared: None, index: int) -> None:
    pass


def _drain(pool: ProcessPoolExecutor, indices: Iterator[int], window: int) -> Iterator[tuple[int, Any]]:
    """Keep `window` calls under way, so that a death names few suspects and a stop loses little."""
    running: dict[Future[Any], int] = {}
    while True:
        with _quiet_start():
            running |= {pool.submit(_call, i): i for i in islice(indices, window - len(running))}
        if not running:
            return
        done, _ = wait(running, return_when=FIRST_COMPLETED)
        if any(isinstance(future.exception(), BrokenProcessPool) for future in done):
            raise WorkerDied(sorted(running.values()))
        for future in done:
            yield running.pop(future), future.result()


@contextmanager
def _quiet_start() -> Iterator[None]:
    """While workers are started, both stop signals wait; SIGINT is blocked, which the workers inherit from birth.

    Otherwise a stop in these milliseconds would leave half-started workers that print tracebacks, or get lost.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    held: list[int] = []
    stops = (signal.SIGINT, signal.SIGTERM)
    previous = {which: signal.signal(which, lambda number, frame: held.append(number)) for which in stops}
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        for which, handler in previous.items():
            signal.signal(which, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    for number in held:
        signal.raise_signal(number)


_worker: tuple[Callable[[Any, int], Any], Any]


def _start_worker(function: Callable[[Any, int], Any], shared: Any) -> None:
    """Runs in a new worker: Ctrl-C is the parent's (blocked since birth), and it ends when the parent is gone."""
    global _worker
    _worker = (function, shared)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _call(index: int) -> Any:
    function, shared = _worker
    return function(shared, index)
