"""The plan: which row comes from which input, and which task makes it.

A plan is a pure function of the sorted inputs and the options, so the output's bytes cannot depend on the number
of workers, on the order of a directory listing, on rejects or on retries.

Inputs are listed once, and may be millions: `spool` puts them on disk task by task, and `load_items` reads those of one
task back, in whichever process does it.
"""

from __future__ import annotations

import hashlib
import json
import pickle
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice, pairwise
from pathlib import Path

from phiv_data.convert.base import Converter, Inputs, Item
from phiv_data.utils.atomic import atomic_write
from phiv_schemas import SourceError

# Rows of a task: 32 of any size, more of small ones, so that a report's two syncs to disk are shared by enough work.
MIN_TASK_ROWS = 32
MAX_TASK_ROWS = 256
TASK_BYTES = 2**20


@dataclass(frozen=True, slots=True)
class Task:
    """A run of rows of one split: the unit of work, of resume and of retry. `offset` is its place in the spool."""

    index: int
    split: str
    first: int
    stop: int
    offset: int = -1


@dataclass(frozen=True, slots=True)
class Plan:
    """Items in the order of their ids (none once they are spooled), and the tasks that cover them."""

    converter: Converter
    items: Sequence[Item]
    tasks: tuple[Task, ...]
    sha256: str

    @property
    def num_items(self) -> int:
        """How many inputs there are."""
        return self.tasks[-1].stop


def make_plan(converter: Converter, inputs: Inputs) -> Plan:
    """The plan for what `inputs` lists. Raises SourceError where there is nothing or a key is there twice."""
    items = _sorted_items(converter, inputs)
    return Plan(converter, items, tuple(_tasks(items)), _fingerprint(converter, inputs, items))


def spool(plan: Plan, path: Path) -> Plan:
    """Write the items to `path`, from where `load_items` reads them; the plan with their places in the file alone."""
    iterator, tasks = iter(plan.items), []
    with atomic_write(path, durable=False) as file:
        for task in plan.tasks:
            tasks.append(replace(task, offset=file.size_bytes))
            some = islice(iterator, task.stop - task.first)
            file.write(pickle.dumps([(item.split, item.key, item.size_bytes, item.payload) for item in some]))
    return replace(plan, items=(), tasks=tuple(tasks))


def load_items(path: Path, task: Task) -> list[Item]:
    """The items of a task of a spooled plan."""
    with path.open("rb") as file:
        file.seek(task.offset)
        return [Item(*values) for values in pickle.load(file)]  # plain tuples: half the time of pickled items


def row_id(item: Item, index: int) -> str:
    """The id the engine gives the row at `index` over all splits: `val-0000000300`."""
    return f"{item.split}-{index:010d}"


def _sorted_items(converter: Converter, inputs: Inputs) -> Sequence[Item]:
    if not inputs.items:
        raise SourceError(converter.name, f"no inputs found ({converter.describe()})", "Check --source")
    rank = {split: i for i, split in enumerate(converter.splits)}

    def place(item: Item) -> tuple[int, str]:
        assert item.split in rank, f"{converter.name}: an item of {item.split!r}, which is none of its splits"
        return rank[item.split], item.key

    if all(a < b for a, b in pairwise(map(place, inputs.items))):
        return inputs.items  # sorted already: a listing that makes its items on the fly need not be held in memory
    items = sorted(inputs.items, key=place)
    for a, b in pairwise(items):
        if place(a) == place(b):
            raise SourceError(converter.name, f"input {a.key!r} is listed twice in {a.split!r}")
    return items


def _tasks(items: Iterable[Item]) -> Iterator[Task]:
    index = first = size = stop = 0
    split = ""
    for stop, item in enumerate(items):
        rows = stop - first
        is_full = rows >= MAX_TASK_ROWS or (rows >= MIN_TASK_ROWS and size + item.size_bytes > TASK_BYTES)
        if rows and (item.split != split or is_full):
            yield Task(index, split, first, stop)
            index, first, size = index + 1, stop, 0
        split, size = item.split, size + item.size_bytes
    yield Task(index, split, first, stop + 1)


def _fingerprint(converter: Converter, inputs: Inputs, items: Iterable[Item]) -> str:
    head = [converter.name, converter.options(), list(converter.splits), sorted(inputs.duplicates)]
    digest = hashlib.sha256(json.dumps(head, sort_keys=True).encode())
    encode = json.JSONEncoder().encode
    for item in items:
        digest.update(encode([item.split, item.key, item.size_bytes]).encode())
    return digest.hexdigest()
