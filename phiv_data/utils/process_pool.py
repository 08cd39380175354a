"""A pool of worker processes: call `function(shared, i)` for many `i`. The results do not depend on where it ran.

    run_local(function, shared, indices, n)       results in order of completion; a dead worker ends it
    run_isolated(function, shared, indices, n)    the same, and a call that kills its worker is found and reported
    find_killers(function, shared, items)         which items of such a call kill a process, found by halving

A call kills its worker where it does so alone, in a fresh process, and again: by a crash (SIGSEGV, SIGABRT, an exit).
A worker that is killed from outside (full memory, an operator), finds memory full or does not start is the machine's
problem, and no verdict on the call.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from multiprocessing.connection import Connection
from typing import Any, TypeVar, cast

from phiv_data.utils.atomic import find_environment_problem, hush_memory_errors, is_memory_short
from phiv_data.utils.signals import Spawn, SpawnedProcess, held
from phiv_schemas.errors import EnvironmentProblem, PhivError

S = TypeVar("S")
R = TypeVar("R")


class _Worker(SpawnedProcess):
    """A process that leaves without a word where memory is full, be it while it reports."""

    def run(self) -> None:
        try:
            super().run()
        except MemoryError:
            _leave()


class _WorkerContext(Spawn):
    Process = _Worker


_SPAWN = _WorkerContext()
# The tracker removes what a stop in the middle of a start leaves behind; there is nothing for a person to do.
_NO_LEAK_WARNING = "ignore::UserWarning:multiprocessing.resource_tracker"
_CRASHES = {signal.SIGSEGV, signal.SIGABRT, signal.SIGFPE, signal.SIGILL, signal.SIGTRAP, signal.SIGSYS}
"""Signals of a crash. SIGBUS is none: a disk that fails under a mapped file gives it."""

_FREE_MEMORY = "Free memory or use fewer workers, then run the same again"
_SECONDS_BETWEEN_LOOKS = 2.0


class WorkerDied(Exception):
    """A worker process ended without a result; `indices` were running or next in line."""

    def __init__(self, indices: list[int]) -> None:
        super().__init__(indices)
        self.indices = indices


class Killed:
    """Takes the place of the result of a call that crashes its process, alone and again."""


def default_workers() -> int:
    """The number of CPUs this process may use: affinity, cgroup quotas (containers) and LOKY_MAX_CPU_COUNT count."""
    from loky import cpu_count  # 0.1 s that --help does not need

    return int(cpu_count(only_physical_cores=False))


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
    if _NO_LEAK_WARNING not in sys.warnoptions:  # which Python hands on to the tracker of semaphores when it starts it
        sys.warnoptions.append(_NO_LEAK_WARNING)
    work = pickle.dumps((function, shared))
    with held():
        count = min(num_workers, len(indices)) or 1
        pool = ProcessPoolExecutor(count, _SPAWN, initializer=_start_worker, initargs=(work,))
    try:
        yield from _drain(pool, iter(indices), 2 * num_workers)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def run_isolated(
    function: Callable[[S, int], R], shared: S, indices: Iterable[int], num_workers: int
) -> Iterator[tuple[int, R | Killed]]:
    """`run_local` that survives dead workers: a call that crashes its process (a decoder bug) yields `(i, Killed())`.

    When a worker dies, each call that may have done it runs again in a process of its own; the others keep the result
    of that. So every death leaves less to do, and one from outside costs time only. Raises EnvironmentProblem when
    workers do not start, or are killed from outside where they run alone. With `num_workers` 0 nothing is isolated.
    """
    left = dict.fromkeys(indices)
    while left:
        try:
            for i, result in run_local(function, shared, list(left), num_workers):
                del left[i]
                yield i, result
            return
        except WorkerDied as death:
            suspects = death.indices
        for i in suspects:
            alone = _run_twice(function, shared, i)
            del left[i]
            yield i, alone


def find_killers(function: Callable[[S, Sequence[int]], object], shared: S, items: Sequence[int]) -> list[int]:
    """Those of `items` with which `function(shared, items)` crashes its process, found by halving.

    Call it where all of them did. EnvironmentProblem when none of them does so now.
    """

    def halve(part: Sequence[int]) -> list[int]:
        if not isinstance(_run_twice(function, shared, part), Killed):
            return []
        half = len(part) // 2
        return [*halve(part[:half]), *halve(part[half:])] if half else [part[0]]

    if killers := halve(items):
        return killers
    raise EnvironmentProblem("worker processes", "they die on changing inputs", "Free memory, then run again")


def _run_twice(function: Callable[[S, Any], R], shared: S, argument: object) -> R | Killed:
    """`function(shared, argument)` in a process of its own, and in another where it crashes the first."""
    result = _run_alone(function, shared, argument)
    return _run_alone(function, shared, argument) if isinstance(result, Killed) else result


def _run_alone(function: Callable[[S, Any], R], shared: S, argument: object) -> R | Killed:
    """`function(shared, argument)` in a process of its own. Raises what it raises.

    EnvironmentProblem where the process does not start, is killed from outside or crashes while memory is short.
    """
    results, sender = _SPAWN.Pipe(duplex=False)
    work = pickle.dumps((function, shared))
    process = _SPAWN.Process(target=_work_alone, args=(sender, work, argument))
    started, memory_is_short = False, False
    with held():
        process.start()
    try:
        sender.close()  # the child's copy is now the only one: its death ends the pipe
        memory_is_short = results.recv()
        started = True
        result, error = results.recv()
    except EOFError:
        process.join()
        code, what, hint = process.exitcode or 0, "they do not start", _FREE_MEMORY
        if not started:
            hint = "Call phiv under `if __name__ == '__main__':`, free memory, or use num_workers=0"
        elif code < 0 and -code not in _CRASHES:
            what = f"one was killed (signal {-code}), as happens when memory is full"
        elif memory_is_short:
            what = "one crashed while memory was short"
        else:
            return Killed()
        raise EnvironmentProblem("worker processes", what, hint) from None  # it says nothing of what they worked on
    finally:
        process.kill()
        process.join()
        results.close()
    if error is not None:
        raise error
    return cast("R", result)


def _work_alone(sender: Connection, work: bytes, argument: object) -> None:
    """Runs in a new process: says that it has started, then gives what the call returns or raises."""
    _start_worker(work)
    sender.send(is_memory_short())
    try:
        sender.send((_call(argument), None))
    except Exception as error:
        sender.send((None, error))


def _drain(pool: ProcessPoolExecutor, indices: Iterator[int], window: int) -> Iterator[tuple[int, Any]]:
    """Keep `window` calls submitted, so that a death leaves few suspects and a stop loses little."""
    running: dict[Future[Any], int] = {}
    while True:
        try:
            with held():
                for i in islice(indices, window - len(running)):
                    running[pool.submit(_call, i)] = i
            if not running:
                return
            done, _ = wait(running, _SECONDS_BETWEEN_LOOKS, return_when=FIRST_COMPLETED)
            if not done and not _is_managed(pool):
                raise EnvironmentProblem("worker processes", "they cannot be managed", _FREE_MEMORY)
            for future in done:
                if isinstance(future.exception(), BrokenProcessPool):
                    future.result()
        except BrokenProcessPool as broken:  # `submit` raises it too
            raise WorkerDied(sorted(running.values())) from broken
        for future in done:
            yield running.pop(future), future.result()


def _is_managed(pool: ProcessPoolExecutor) -> bool:
    """False where the thread that hands calls to the workers has died, as it does where memory is too full for a
    thread: no call would ever end. Its workers, which wait for calls, are killed then."""
    manager: Any = pool._executor_manager_thread
    if manager is None or manager.is_alive():
        return True
    for worker in pool._processes.values():
        worker.kill()
    return False


_worker: tuple[Callable[[Any, Any], Any], Any]


def _start_worker(work: bytes) -> None:
    """Runs in a new worker: signals to the group are the parent's, and it ends when the parent is gone.

    `work` is the pickled function with its shared argument: to read it loads libraries, which takes memory.
    """
    global _worker
    hush_memory_errors()
    try:
        _worker = pickle.loads(work)
        threading.Thread(target=_end_with_parent, daemon=True).start()
    except Exception as error:
        if find_environment_problem(error, "memory"):
            _leave()
        raise


def _leave() -> None:
    """End this process as a full machine would. To report takes memory; the parent runs the call again, alone."""
    os.kill(os.getpid(), signal.SIGKILL)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _call(argument: object) -> Any:
    function, shared = _worker
    try:
        return function(shared, argument)
    except Exception as error:
        # Without memory, half-loaded libraries raise whatever comes next.
        if isinstance(error, MemoryError) or (not isinstance(error, PhivError) and is_memory_short()):
            _leave()
        try:
            pickle.loads(pickle.dumps(error))
        except MemoryError:
            _leave()
        except Exception:  # the parent could not read it, and would take the worker for dead
            raise RuntimeError("".join(traceback.format_exception(error))) from None
        raise
