"""How long a process has been at one input, by a clock that a slow machine does not advance.

    with reading(index, seconds=300):        # in a worker process: which input is read, and its limit
        draft = converter.draft(item)
    clock.is_overdue()                       # in its parent, now and then

Counted are the seconds of processor time that the process and its children use, and the seconds in which all of them
sleep, with nothing to do. Not counted: waiting for a processor that others use, waiting for a disk, being stopped or
suspended. So only the input itself can use up its limit.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import Any, NamedTuple

from phiv_schemas.errors import UsageError

TICK_S = 0.5
"""How often the parent asks; more than two ticks between two questions count as two."""

IDLE_SHARE = 0.1
"""Of the time that passes: who uses less of a processor, and sleeps whenever that is asked, has nothing to do."""

_PROC = Path("/proc")
_SECONDS_PER_TICK = 1 / os.sysconf("SC_CLK_TCK")

_shared: Any = None
_serials = count(1)


def new_input_cell(context: BaseContext) -> Any:
    """Memory that a worker and its parent share: a serial number, 0 while no input is read; its index; its limit."""
    return context.RawArray("d", 3)


def use_input_cell(cell: Any) -> None:
    """Have `reading` write to `cell`; in a worker process, when it starts."""
    global _shared
    _shared = cell


@contextmanager
def reading(index: int, seconds: float) -> Iterator[None]:
    """Say that input `index` is read, and for how long it may be (0: without a limit). No effect outside of workers."""
    if _shared is None:
        yield
        return
    _shared[1], _shared[2] = index, seconds
    _shared[0] = next(_serials)  # last: from now on the parent counts
    try:
        yield
    finally:
        _shared[0] = 0


class InputClock:
    """The clock of one worker process, read by its parent."""

    def __init__(self, pid: int, cell: Any) -> None:
        self._pid, self._cell = pid, cell
        self._serial, self._asked, self._used_s = 0.0, 0.0, 0.0
        self._before: ProcessUse | None = None

    def input(self) -> int | None:
        """The index of the input that is read now, or was when the process ended."""
        return int(self._cell[1]) if self._cell[0] else None

    def is_overdue(self) -> bool:
        """Whether the input that is read now has used up its limit."""
        now = time.monotonic()
        if (passed := now - self._asked) < TICK_S:
            return False
        serial, limit, self._asked = self._cell[0], self._cell[2], now
        if not serial or not limit or serial != self._serial:  # one that is read in an instant is not measured
            self._serial, self._used_s, self._before = serial, 0.0, None
            return False
        use, before, passed = measure_use(self._pid), self._before, min(passed, 2 * TICK_S)
        if before is not None:
            worked = max(use.cpu_s - before.cpu_s, 0.0)
            is_idle = use.is_asleep and before.is_asleep and worked < IDLE_SHARE * passed
            self._used_s += passed if is_idle else worked
        self._before = use
        return bool(self._used_s > limit)


class ProcessUse(NamedTuple):
    """The processor time of a process and its children so far; whether all their threads sleep, waiting for no disk."""

    cpu_s: float
    is_asleep: bool


def check_limit(seconds: float) -> None:
    """UsageError for a limit of an input that is none."""
    if seconds < 0:
        raise UsageError("--input_timeout", f"must be 0 (no limit) or more seconds (found {seconds:g})")


def measure_use(pid: int) -> ProcessUse:
    """As /proc has it. On a system without it, time that passes counts as sleep."""
    cpu_s, states = 0.0, set[str]()
    for one in process_tree(pid):
        process = _PROC / str(one)
        with suppress(OSError, ValueError, IndexError):  # it has just ended
            cpu_s += sum(map(int, _stat_fields(process)[11:15])) * _SECONDS_PER_TICK  # with children that have ended
            states |= {_stat_fields(thread)[0] for thread in (process / "task").iterdir()}
    return ProcessUse(cpu_s, states <= {"S", "I", "Z"})


def process_tree(pid: int) -> list[int]:
    """A process and its children, and theirs, as far as /proc knows them."""
    pids = [pid]
    for one in pids:  # it grows meanwhile
        with suppress(OSError):
            for thread in (_PROC / str(one) / "task").iterdir():
                pids += map(int, (thread / "children").read_text().split())
    return pids


def _stat_fields(folder: Path) -> list[str]:
    """The fields of a `stat` file from the state on. The name before it may hold anything."""
    return (folder / "stat").read_text(errors="replace").rpartition(")")[2].split()
