"""What an engine takes beside the work: one-second tasks by local processes, by an array and by Ray; large plans.

    python benchmarks/engines.py [--tasks 40] [--workers 2] [--ray]

The tasks sleep, so the machine's other work does not count. An array's tasks are whole commands; the time of a start is
shown apart, as the tasks of a real one take minutes.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from phiv_data.convert.array import convert_share
from phiv_data.convert.array_status import find_status
from phiv_data.convert.base import Converter, Item
from phiv_data.convert.plan import MIN_TASK_ROWS
from phiv_data.convert.shared_plan import load_plan, read_array, spell_command
from phiv_data.convert.staging import Workspace
from phiv_data.engines import ArrayEngine, Engine, LocalEngine, RayEngine
from phiv_data.storage.sample import Draft
from phiv_data.utils.terminal import say
from phiv_schemas import Turn

NO_TASK = "999999/1000000"
"""A share without tasks: the plan is made, and nothing done."""


@dataclass(frozen=True)
class Sleepy(Converter):
    """`tasks` tasks of large inputs, of which the first takes a second."""

    tasks: int
    seconds: float = 1.0
    name = "sleepy"

    def inputs(self) -> Iterator[Item]:
        return (Item("train", f"{i:08d}", b"", i, 2**20) for i in range(self.tasks * MIN_TASK_ROWS))

    def draft(self, item: Item) -> Draft:
        if item.payload % MIN_TASK_ROWS == 0:
            time.sleep(self.seconds)
        return Draft((Turn(images=(), user="Is it?", assistant="yes"),), ())


def sleep_once(seconds: float, task: int) -> int:
    time.sleep(seconds)
    return task


def time_map(engine: Engine, tasks: int) -> float:
    """Seconds from the first result to the last, scaled to all tasks: without what it takes to start."""
    start, arrived = time.perf_counter(), list[float]()
    for _ in engine.map(sleep_once, 1.0, range(tasks)):
        arrived.append(time.perf_counter() - start)
    say(f"    first result after {arrived[0]:.2f} s, last after {arrived[-1]:.2f} s")
    return arrived[-1] - arrived[0]


def time_shares(tasks: int, shares: int, workers: int, out: Path) -> float:
    """Seconds in which `shares` array tasks at once, of `workers` processes each, do all of a plan that is there."""
    options = Sleepy(tasks)
    convert_share(options, out, ArrayEngine(NO_TASK, 0))
    start = time.perf_counter()
    with ThreadPoolExecutor(shares) as pool:
        list(pool.map(lambda i: convert_share(options, out, ArrayEngine(f"{i}/{shares}", workers)), range(shares)))
    return time.perf_counter() - start


def time_planning(num_tasks: int, out: Path) -> None:
    """Seconds to list and to share a plan, to join it, and to say what is done."""
    options = Sleepy(num_tasks, 0.0)
    start = time.perf_counter()
    convert_share(options, out, ArrayEngine(NO_TASK, 0))
    listed = time.perf_counter() - start
    workspace = Workspace(out)
    array = read_array(workspace)
    assert array is not None
    command = spell_command(options, {"arrow": True, "include_unlabeled": False, "verify": False})
    start = time.perf_counter()
    assert len(load_plan(workspace, array, command).tasks) == num_tasks
    joined = time.perf_counter() - start
    start = time.perf_counter()
    find_status(out)
    say(
        f"plan of {num_tasks} tasks ({num_tasks * MIN_TASK_ROWS} inputs): made in {listed:.1f} s,"
        f" joined in {joined:.3f} s, its status in {time.perf_counter() - start:.3f} s"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tasks", type=int, default=40)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--ray", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        say("local:")
        local = time_map(LocalEngine(args.workers), args.tasks)
        one = time_shares(args.tasks, 1, args.workers, Path(folder) / "one")
        many = time_shares(args.tasks, args.workers, 1, Path(folder) / "many")
        say(f"array: one command {one:.2f} s, {args.workers} commands {many:.2f} s, {many / one - 1:+.1%}")
        if args.ray:
            import ray

            ray.init("local", num_cpus=args.workers, include_dashboard=False, log_to_driver=False)
            say("ray:")
            seconds = time_map(RayEngine(), args.tasks)
            say(f"    {seconds / local - 1:+.1%} of local, starts not counted")
        time_planning(10_000, Path(folder) / "plan")


if __name__ == "__main__":
    main()
