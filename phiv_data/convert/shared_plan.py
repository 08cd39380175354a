"""The plan that all tasks of an array job share, made once by whichever comes first.

    <out>/.phiv/shared_plan      the plan with its converter, and what else the tasks need: a pickle
    <out>/.phiv/array.json       last: what was asked for, the inputs of each task, the size of the array
    <out>/.phiv/failed/*.json    tasks that ended with an error: one line each

A task that finds it does not list the source again. One that asks for something else is refused.
"""

from __future__ import annotations

import dataclasses
import json
import os
import pickle
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from phiv_data.convert.base import ConverterOptions
from phiv_data.convert.fingerprint import spell
from phiv_data.convert.plan import ConversionPlan
from phiv_data.convert.staging import ARRAY, FAILED, SHARED_PLAN, PlanRecord, Workspace, report_name
from phiv_data.utils.atomic import atomic_write, environment_problems
from phiv_schemas import ShardError, UsageError


@dataclass(frozen=True, slots=True)
class ArrayJob:
    """What `array.json` says: the command, the number of inputs of each of the plan's tasks, how many array tasks."""

    name: str
    command: dict[str, str]
    inputs: tuple[int, ...]
    array_tasks: int | None = None


def spell_command(options: ConverterOptions, output_options: Mapping[str, object]) -> dict[str, str]:
    """What all tasks of an array must agree on, by the names of its flags."""
    kind = type(options)
    fields = {field.name: getattr(options, field.name) for field in dataclasses.fields(options)}  # type: ignore[arg-type]  # a dataclass
    words = {name: spell(value) for name, value in (fields | dict(output_options)).items()}
    return words | {"converter": f"{kind.__module__}:{kind.__qualname__}", "version of the converter": options.version}


def read_array(workspace: Workspace) -> ArrayJob | None:
    """The array job that works in an output folder; None where there is none."""
    try:
        value = json.loads((workspace.root / ARRAY).read_bytes())
        return ArrayJob(value["name"], value["command"], tuple(value["inputs"]), value["array_tasks"])
    except (FileNotFoundError, NotADirectoryError, ValueError, LookupError, TypeError):
        return None


def write_array(workspace: Workspace, array: ArrayJob) -> None:
    """Write `array.json`, as a whole or not at all."""
    with atomic_write(workspace.root / ARRAY) as file:
        file.write(json.dumps(dataclasses.asdict(array)).encode())


def write_plan(workspace: Workspace, plan: ConversionPlan, command: dict[str, str]) -> None:
    """Share the plan, whose items lie in the workspace."""
    with atomic_write(workspace.root / SHARED_PLAN) as file:
        pickle.dump(plan, file)
    inputs = tuple(task.stop - task.first for task in plan.tasks)
    write_array(workspace, ArrayJob(plan.converter.name, command, inputs))


def forget_plan(workspace: Workspace) -> None:
    """End the sharing: who holds the folder alone may then make another plan."""
    for name in (ARRAY, SHARED_PLAN):
        (workspace.root / name).unlink(missing_ok=True)


def load_plan(workspace: Workspace, array: ArrayJob, command: dict[str, str]) -> ConversionPlan:
    """The plan that is shared. UsageError where its command is another one, or its file is of another user."""
    keys = array.command.keys() | command.keys()
    if differing := sorted(key for key in keys if array.command.get(key) != command.get(key)):
        raise UsageError(
            str(workspace.out_dir),
            f"holds an array job that differs in {', '.join(differing)}",
            "Repeat its command, or pass another --out_dir",
        )
    path = workspace.root / SHARED_PLAN
    with environment_problems(path):
        for file in (path, *workspace.items.glob("*")):
            if file.stat().st_uid != os.geteuid():
                raise UsageError(str(file), "is of another user, and may hold code", "Run the array as one user")
        plan: ConversionPlan = pickle.loads(path.read_bytes())
    tasks = tuple(replace(task, file=workspace.items / task.file.name) for task in plan.tasks)
    return replace(plan, tasks=tasks)


def find_missing(workspace: Workspace, array: ArrayJob) -> list[int]:
    """The plan's tasks that have no report."""
    done = {path.name for path in workspace.parts.glob("*.json")}
    return [task for task in range(len(array.inputs)) if report_name(task) not in done]


def check_finishable(
    workspace: Workspace, wanted: PlanRecord | None = None, plan: ConversionPlan | None = None
) -> None:
    """ShardError where tasks are missing: by the array job, or by the `plan` of the source as it is now.

    UsageError where nothing was begun, or something other than `wanted`.
    """
    array, out_dir = read_array(workspace), str(workspace.out_dir)
    begun = workspace.begun_record()
    if array is None and begun is None:
        raise UsageError(out_dir, "holds nothing to finish", "Run the tasks of the array first")
    if wanted is not None and (begun is None or not begun.is_same(wanted)):
        hint = "Repeat their command. If the source has changed, run it without --finish and --engine array"
        raise UsageError(out_dir, "holds the work of another command, or of a source that has changed since", hint)
    if plan is not None:
        array = ArrayJob("", {}, tuple(task.stop - task.first for task in plan.tasks))
    if array is not None and (missing := find_missing(workspace, array)):
        what = f"{len(missing)} of {len(array.inputs)} tasks are missing ({spell_ranges(missing)})"
        numbers = spell_array(missing, array)
        hint = f"Run the array's tasks --array={numbers} again" if numbers else "Run the tasks of the array first"
        raise ShardError(out_dir, what, f"{hint}, then --finish")


def note_failure(workspace: Workspace, task: int, error: Exception) -> None:
    """Keep what ended a task, for `--status`."""
    with atomic_write(_failure(workspace, task), durable=False) as file:
        file.write(json.dumps(" ".join(str(error).split())).encode())


def forget_failure(workspace: Workspace, task: int) -> None:
    """The task is done after all."""
    _failure(workspace, task).unlink(missing_ok=True)


def read_failures(workspace: Workspace) -> dict[int, str]:
    """What ended the tasks that failed, by their numbers."""
    files = sorted((workspace.root / FAILED).glob("[0-9]*.json"))
    return {int(file.stem): str(json.loads(file.read_bytes())) for file in files}


def _failure(workspace: Workspace, task: int) -> Path:
    return workspace.root / FAILED / report_name(task)


def spell_array(missing: list[int], array: ArrayJob) -> str:
    """The array tasks that do what is missing, as `sbatch --array` takes them; "" where no array is known."""
    return spell_ranges(sorted({task % array.array_tasks for task in missing})) if array.array_tasks else ""


def spell_ranges(numbers: list[int]) -> str:
    """Ascending numbers as Slurm writes them.

    >>> spell_ranges([3, 17, 18, 19])
    '3,17-19'
    """
    ranges: list[list[int]] = []
    for number in numbers:
        if ranges and number == ranges[-1][1] + 1:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in ranges)
