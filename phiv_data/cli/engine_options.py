"""The flags that choose an engine, and the engine that they choose."""

from __future__ import annotations

import dataclasses
from difflib import get_close_matches
from typing import Any

from phiv_data.utils.plugins import ENGINES, load_plugins
from phiv_schemas.errors import EnvironmentProblem, UsageError


@dataclasses.dataclass(frozen=True)
class EngineOptions:
    """Where the work is done. The output does not depend on it."""

    engine: str = "local"
    """Where the work is done: local (worker processes of this machine), array (one task of an array job of a
    scheduler; phiv-convert alone), ray (a Ray cluster), or an engine that was installed."""
    num_workers: int | None = None
    """Worker processes: one per core when not given, none for little validation; 0 works in this process, for
    debugging."""
    ray_address: str | None = None
    """With --engine ray: auto (the cluster that runs here, or $RAY_ADDRESS; the default), local (start one), or an
    address."""
    task_cpus: float | None = None
    """With --engine ray: processors that a task asks for. Default: 1."""
    task_memory: str | None = None
    """With --engine ray: memory that a task asks for, such as 2GiB. Killed for memory, it is tried again with twice
    as much."""
    task_timeout: str | None = None
    """With --engine ray: a task that takes longer than this, such as 30m, is given away again."""
    task_retries: int | None = None
    """With --engine ray: how often a task is given away again when it is lost. Default: 3."""
    in_flight: int | None = None
    """With --engine ray: tasks that are with Ray at a time. Default: twice as many as run at once, 64 at least."""


def make_engine(options: EngineOptions) -> Any:
    """The engine, of the class that the entry point names: its fields are the flags that it takes.

    UsageError for one that is not installed and for a flag of another one, EnvironmentProblem for a broken one.
    """
    name, plugins = options.engine, load_plugins(ENGINES)
    if name in plugins.broken:
        raise EnvironmentProblem(f"--engine {name}", plugins.broken[name], "Correct it, or pass --engine local")
    if (engine := plugins.loaded.get(name)) is None:
        close = get_close_matches(name, plugins.loaded, n=1)
        hint = f"Did you mean {close[0]!r}?" if close else f"There are: {', '.join(sorted(plugins.loaded))}"
        raise UsageError("--engine", f"{name!r} is no engine", hint)
    of_engines = set().union(*map(_flags_of, plugins.loaded.values()))
    flags = {field.name: getattr(options, field.name) for field in dataclasses.fields(options)}
    given = {flag: value for flag, value in flags.items() if flag in of_engines and value is not None}
    for flag in given:
        if flag not in _flags_of(engine):
            owners = [f"--engine {other}" for other, one in plugins.loaded.items() if flag in _flags_of(one)]
            hint = f"Leave it out, or pass {' or '.join(owners)}" if owners else "Leave it out"
            raise UsageError(f"--{flag}", f"is no flag of --engine {name}", hint)
    return engine(**given)


def _flags_of(engine: Any) -> set[str]:
    return {field.name for field in dataclasses.fields(engine)} if dataclasses.is_dataclass(engine) else set()
