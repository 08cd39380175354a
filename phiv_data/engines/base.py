"""What an engine is: the thing that calls `function(shared, i)` for many `i`, somewhere.

    for i, value in engine.map(run_task, job, range(len(plan.tasks))):
        ...                                 # in the order of completion; `value` may be a `Killed`

The number of tasks belongs to the plan, never to the engine, and a task gives the same bytes wherever it is done. Only
`shared`, numbers and small reports travel; images stay on disk. What fails of the system, the engine tries again; what
fails of the data is a result.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, TypeVar

from phiv_schemas.errors import EnvironmentProblem

S = TypeVar("S")
R = TypeVar("R")

CRASHED, TIMEOUT = "crashed", "timeout"


@dataclass(frozen=True, slots=True)
class Killed:
    """Takes the place of the result of a call that ends its process, alone and again: `crashed`, or `timeout`.

    `input` is the number of the input that was read then, where the call says so (`watchdog.reading`).
    """

    reason: str = CRASHED
    input: int | None = None


class TaskOutcome(NamedTuple):
    """The result of one call: what the function returned, or `Killed`."""

    task: int
    value: Any


class MemoryProblem(EnvironmentProblem):
    """A process was killed from outside, or crashed, where memory is short. No verdict on what it worked on."""


class Engine(Protocol):
    """Runs the tasks of a plan. Registered as a class under the entry point group `phiv.engines`.

    Where the class is a dataclass, its fields are the flags that `--engine NAME` takes.
    """

    def map(self, function: Callable[[S, int], R], shared: S, indices: Iterable[int]) -> Iterator[TaskOutcome]:
        """`(i, function(shared, i))` of each of `indices`, once, in the order of completion.

        Raises what `function` raises: a PhivError as it is. EnvironmentProblem where the system fails again and again.
        A call that is closed or interrupted leaves no process behind.
        """
        ...
