"""A worker process: it calls `function(shared, argument)` for the arguments it is sent, until it is closed or dies.

    worker = Worker(pickle.dumps((function, shared)))
    worker.send(3)
    worker.receive()          # (3, what the call returned); raises what it raised, or WorkerDied

A call kills its worker where it does so alone, in a fresh process, and again: by a crash (SIGSEGV, SIGABRT, an exit),
or because an input takes too long (watchdog.py). A worker that is killed from outside (full memory, an operator), finds
memory full or does not start is the machine's problem, and no verdict on the call.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any

from phiv_data.engines.base import CRASHED, TIMEOUT, Killed, MemoryProblem
from phiv_data.engines.watchdog import TICK_S, InputClock, new_input_cell, process_tree, use_input_cell
from phiv_data.utils.atomic import find_environment_problem, hush_memory_errors, is_memory_short
from phiv_data.utils.signals import Spawn, SpawnedProcess, held
from phiv_schemas.errors import EnvironmentProblem, PhivError


class _Process(SpawnedProcess):
    """A process that leaves without a word where memory is full, be it while it reports."""

    def run(self) -> None:
        try:
            super().run()
        except MemoryError:
            _leave()


class _Context(Spawn):
    Process = _Process


_SPAWN = _Context()
# The tracker removes what a stop in the middle of a start leaves behind; there is nothing for a person to do.
_NO_LEAK_WARNING = "ignore::UserWarning:multiprocessing.resource_tracker"
_CRASHES = {signal.SIGSEGV, signal.SIGABRT, signal.SIGFPE, signal.SIGILL, signal.SIGTRAP, signal.SIGSYS}
"""Signals of a crash. SIGBUS is none: a disk that fails under a mapped file gives it."""

EXIT_S = 5.0
_FREE_MEMORY = "Free memory or use fewer workers, then run the same again"


class WorkerDied(Exception):
    """A worker process ended without a result of its call."""


class Worker:
    """A process, seen from its parent. `sent` are the arguments that it has not answered, the one at work first."""

    def __init__(self, work: bytes) -> None:
        if _NO_LEAK_WARNING not in sys.warnoptions:  # which Python hands on to the tracker when it starts it
            sys.warnoptions.append(_NO_LEAK_WARNING)
        self.sent: deque[Any] = deque()
        self.connection, other = _SPAWN.Pipe()
        cell = new_input_cell(_SPAWN)
        self._process = _SPAWN.Process(target=_serve, args=(other, work, cell))
        try:
            with held():
                self._process.start()
        except BaseException:
            self.connection.close()
            raise
        finally:
            other.close()  # the child's copy is now the only one: its death ends the connection
        self._clock = InputClock(self._process.pid or 0, cell)
        self._memory_was_short: bool | None = None  # None until it says that it has started
        self._is_overdue = False

    def send(self, argument: object) -> None:
        """Have it make a call after those that were sent before."""
        self.sent.append(argument)
        with suppress(BrokenPipeError, ConnectionResetError):  # it has died, which `receive` reports
            self.connection.send(argument)

    def receive(self) -> tuple[Any, Any] | None:
        """The first of `sent`, and what its call returned; None where it says no more than that it has started.

        Raises what the call raised; WorkerDied.
        """
        try:
            message = self.connection.recv()
        except (EOFError, ConnectionResetError) as death:
            self._process.join()
            raise WorkerDied from death
        if self._memory_was_short is None:
            self._memory_was_short = message
            return None
        argument = self.sent.popleft()
        result, error = message
        if error is not None:
            raise error
        return argument, result

    def kill_if_overdue(self) -> None:
        """End it where the input that it reads has used up its time; `receive` reports that."""
        if not self._is_overdue and self._clock.is_overdue():
            self._is_overdue = True
            for pid in process_tree(self._process.pid or 0):  # a child that it waits for would work for ever
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def cause_of_death(self) -> Killed:
        """What killed a dead process, as far as its call did. EnvironmentProblem where it says nothing of the call."""
        code, what, number = self._process.exitcode or 0, "they do not start", self._clock.input()
        at_input = "" if number is None else f", at input {number}"
        if self._is_overdue:
            return Killed(TIMEOUT, number)
        if self._memory_was_short is None:
            hint = "Call phiv under `if __name__ == '__main__':`, free memory, or use num_workers=0"
            raise EnvironmentProblem("worker processes", what, hint)
        if code < 0 and -code not in _CRASHES:
            what = f"one was killed (signal {-code}), as happens when memory is full{at_input}"
            raise MemoryProblem("worker processes", what, _FREE_MEMORY)
        if self._memory_was_short:
            raise MemoryProblem("worker processes", f"one crashed while memory was short{at_input}", _FREE_MEMORY)
        return Killed(CRASHED, number)

    def close(self) -> None:
        """End the process: one at work at once, one that waits by itself."""
        self.connection.close()
        if not self.sent:
            self._process.join(EXIT_S)
        self._process.kill()
        self._process.join()


def run_alone(work: bytes, argument: object) -> Any:
    """The call in a process of its own, and in another one where it crashes the first; `Killed` where it does so again.

    An input that is overdue needs no second process: its clock is that of the input alone. Raises what the call raises;
    EnvironmentProblem where the process does not start, is killed from outside or crashes while memory is short.
    """
    result = _run_once(work, argument)
    return _run_once(work, argument) if isinstance(result, Killed) and result.reason == CRASHED else result


def _run_once(work: bytes, argument: object) -> Any:
    worker = Worker(work)
    try:
        worker.send(argument)
        answer = None
        while answer is None:
            if worker.connection.poll(TICK_S):
                answer = worker.receive()
            else:
                worker.kill_if_overdue()
        return answer[1]
    except WorkerDied:
        return worker.cause_of_death()
    finally:
        worker.close()


# In the process ---------------------------------------------------------------------------------------------------


def _serve(connection: Connection, work: bytes, cell: Any) -> None:
    """Say that the process has started, and whether memory is short; then answer every argument."""
    function, shared = _start(work)
    use_input_cell(cell)
    connection.send(is_memory_short())
    while True:
        try:
            argument = connection.recv()
        except EOFError:
            return
        answer: tuple[Any, Exception | None]
        try:
            answer = _call(function, shared, argument), None
        except MemoryError:
            raise
        except Exception as error:
            answer = None, error
        try:
            connection.send(answer)
        except (BrokenPipeError, ConnectionResetError):  # who asked is gone
            return


def _start(work: bytes) -> Any:
    """The function with its shared argument: to read it loads libraries, which takes memory.

    The process ends when its parent is gone.
    """
    hush_memory_errors()
    try:
        loaded = pickle.loads(work)
        threading.Thread(target=_end_with_parent, daemon=True).start()
        return loaded
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


def _call(function: Callable[[Any, Any], Any], shared: Any, argument: object) -> Any:
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
        except Exception:  # the parent could not read it
            raise RuntimeError("".join(traceback.format_exception(error))) from None
        raise
