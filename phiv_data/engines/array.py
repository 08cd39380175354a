"""Array jobs: many commands on many machines, each with its share of one plan's tasks.

    ArrayEngine(task="17/256").share()         # the tasks whose number is 17 modulo 256

Share I of N is of the tasks whose number is I modulo N, so arrays that count from 0 and arrays that count from 1 cover
the same: 0/256 and 256/256 are one share. Without `task`, Slurm's variables name it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from phiv_data.engines.base import R, S, TaskOutcome
from phiv_data.engines.local import LocalEngine
from phiv_schemas.errors import UsageError

_TASK = re.compile(r"(\d{1,9})/(\d{1,9})")
_PASS = "Pass --task I/N, the number of this array task and how many there are"


class Share(NamedTuple):
    """The tasks of a plan whose number is `part` modulo `parts`."""

    part: int
    parts: int

    def of(self, indices: Iterable[int]) -> list[int]:
        """Those of `indices` that are in it."""
        return [i for i in indices if i % self.parts == self.part]


@dataclass(frozen=True, slots=True)
class ArrayEngine:
    """One task of an array job: its share of the plan, done by `num_workers` processes of this machine."""

    task: str | None = None
    num_workers: int | None = None

    def __post_init__(self) -> None:
        LocalEngine(self.num_workers)
        if self.task is not None:
            parse_share(self.task)

    def share(self, recorded: int | None = None) -> Share:
        """Which tasks are its own. `recorded` is the size of the array as its first task knew it.

        Slurm tells a task that was submitted again the size of that submission alone.
        """
        if self.task is not None:
            return parse_share(self.task)
        return find_slurm_share(os.environ, recorded)

    def map(self, function: Callable[[S, int], R], shared: S, indices: Iterable[int]) -> Iterator[TaskOutcome]:
        """As `Engine.map`, for its share alone."""
        yield from LocalEngine(self.num_workers).map(function, shared, self.share().of(indices))


def parse_share(text: str) -> Share:
    """The share that `17/256` names. UsageError for any other text."""
    match = _TASK.fullmatch(text)
    index, count = map(int, match.groups()) if match else (0, 0)
    if not count or index > count:
        hint = "Pass the number of the task, from 0 or from 1, and how many there are: 17/256"
        raise UsageError("--task", f"{text!r} is no part of an array", hint)
    return Share(index % count, count)


def find_slurm_share(environ: Mapping[str, str], recorded: int | None = None) -> Share:
    """The share of a task of a Slurm array. UsageError where its numbers have gaps and no array was recorded."""
    try:
        number = int(environ["SLURM_ARRAY_TASK_ID"])
        count = recorded or int(environ["SLURM_ARRAY_TASK_COUNT"])
        first = int(environ.get("SLURM_ARRAY_TASK_MIN", 0))
        last = int(environ.get("SLURM_ARRAY_TASK_MAX", first + count - 1))
    except (KeyError, ValueError) as error:
        raise UsageError("--engine array", "is given no --task, and no Slurm array runs here", _PASS) from error
    if recorded is None and not first <= number <= last == first + count - 1:
        raise UsageError("--engine array", f"the numbers of the Slurm array have gaps ({count} up to {last})", _PASS)
    return Share(number % count, count)
