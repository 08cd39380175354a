"""The engine of a Ray cluster: one Ray task for each task of the plan.

    convert(options, out_dir, engine=RayEngine(ray_address="auto", task_memory="2GiB"))

What goes through Ray is the plan, once, then numbers and small reports: images are read and written where the tasks
run, on a disk that all machines share. A Ray worker has the work done by a process of its own, which crashes or hangs
in its place. A task that is lost with its worker or its machine is given to another one.
"""

from __future__ import annotations

import logging
import os
import secrets
import signal
import socket
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from phiv_data.engines.base import MemoryProblem, R, S, TaskOutcome
from phiv_data.engines.local import Pool
from phiv_data.engines.units import parse_bytes, parse_seconds
from phiv_data.utils.extras import needs_extra
from phiv_data.utils.terminal import say
from phiv_schemas.errors import EnvironmentProblem, UsageError

MIN_IN_FLIGHT = 64
PROBE_S = 10.0
_POLL_S = 1.0


@dataclass(frozen=True, slots=True)
class RayEngine:
    """`ray_address` is a cluster's, `auto` the one that runs here or $RAY_ADDRESS, `local` one that is started here.

    A task asks Ray for `task_cpus` and `task_memory` (such as 2GiB). Lost, or ended after `task_timeout` (such as 30m),
    it is given away again up to `task_retries` times; killed for memory, once more with twice the memory. `in_flight`
    tasks are with Ray at a time: by default twice as many as run at once, and no fewer than 64.
    """

    ray_address: str = "auto"
    task_cpus: float = 1.0
    task_memory: str | int | None = None
    task_timeout: str | float | None = None
    task_retries: int = 3
    in_flight: int | None = None

    def __post_init__(self) -> None:
        parse_bytes("--task_memory", self.task_memory)
        parse_seconds("--task_timeout", self.task_timeout)
        for flag, value, least in (("task_cpus", self.task_cpus, 0), ("task_retries", self.task_retries, 0)):
            if value < least:
                raise UsageError(f"--{flag}", f"must be {least} or more (found {value:g})")
        if self.in_flight is not None and self.in_flight < 1:
            raise UsageError("--in_flight", f"must be 1 or more (found {self.in_flight})")

    def map(self, function: Callable[[S, int], R], shared: S, indices: Iterable[int]) -> Iterator[TaskOutcome]:
        """As `Engine.map`. EnvironmentProblem where ray is not installed, or no cluster answers."""
        with needs_extra("ray"):
            import ray
        _connect(ray, self.ray_address)
        work = ray.put(ray.cloudpickle.dumps((function, shared)))
        calls = _Calls(ray, self, work, deque(_Call(i) for i in indices), ray.remote(run_in_ray_worker))
        try:
            yield from calls.run()
        finally:
            calls.cancel()


@dataclass(frozen=True, slots=True)
class _Call:
    """One task of the plan: how often it was lost, and how much of the usual memory it asks for."""

    task: int
    num_lost: int = 0
    memory: int = 1


@dataclass(slots=True)
class _Calls:
    """The calls of one `map`: those that wait, and those that are with Ray."""

    ray: Any
    engine: RayEngine
    work: Any
    waiting: deque[_Call]
    remote: Any
    running: dict[Any, _Call] = field(default_factory=dict)
    has_warned: bool = False
    key: str = field(default_factory=lambda: secrets.token_hex(8))

    def run(self) -> Iterator[TaskOutcome]:
        while self.waiting or self.running:
            most = self._max_in_flight()
            while self.waiting and len(self.running) < most:
                call = self.waiting.popleft()
                self.running[self._submit(call)] = call
            ready, _ = self.ray.wait(list(self.running), timeout=_POLL_S)
            if not ready:
                self._warn_if_none_fits()
            for reference in ready:
                call = self.running.pop(reference)
                try:
                    value, error = self.ray.get(reference)
                except self.ray.exceptions.RayError as lost:
                    value, error = None, lost
                if error is None:
                    yield TaskOutcome(call.task, value)
                else:
                    self.waiting.append(self._again(call, error))

    def cancel(self) -> None:
        """Have Ray end what is left, as after a stop."""
        for reference in self.running:
            self.ray.cancel(reference, force=True)
        self.running = {}

    def _submit(self, call: _Call) -> Any:
        engine = self.engine
        memory = parse_bytes("--task_memory", engine.task_memory)
        if call.memory > 1:
            memory = self._twice_the_memory(memory)
        options = {"num_cpus": engine.task_cpus, "max_retries": 0} | ({"memory": memory} if memory else {})
        timeout = parse_seconds("--task_timeout", engine.task_timeout)
        return self.remote.options(**options).remote(self.key, [self.work], call.task, timeout)

    def _warn_if_none_fits(self) -> None:
        """Say once that Ray waits where no machine of the cluster has what a task asks for, or none is left."""
        memory = parse_bytes("--task_memory", self.engine.task_memory) or 0
        if not self.has_warned and not any(has >= memory for has, _ in self._machines()):
            self.has_warned = True
            asked = f"{self.engine.task_cpus:g} processors" + (f" and {memory} bytes of memory" if memory else "")
            say(f"phiv: no machine of the cluster has {asked}: waiting for one", to=sys.stderr)

    def _machines(self) -> list[tuple[float, float]]:
        """Memory in bytes and processors of each machine that has as many as a task asks for."""
        alive = [node["Resources"] for node in self.ray.nodes() if node["Alive"]]
        least = self.engine.task_cpus or 1
        return [(has["memory"], has["CPU"]) for has in alive if has.get("memory") and has.get("CPU", 0) >= least]

    def _twice_the_memory(self, asked: int | None) -> int | None:
        """Twice what a task asks for, or its share of a machine by the processors; no more than a machine has.

        None where no machine is known to have any: Ray would wait for one without end.
        """
        if not (machines := self._machines()):
            return None
        share = asked or min(memory * (self.engine.task_cpus or 1) / num_cpus for memory, num_cpus in machines)
        return int(min(2 * share, max(memory for memory, _ in machines)))

    def _max_in_flight(self) -> int:
        if self.engine.in_flight:
            return self.engine.in_flight
        at_once = self.ray.cluster_resources().get("CPU", 0) / (self.engine.task_cpus or 1)
        return max(MIN_IN_FLIGHT, int(2 * at_once))

    def _again(self, call: _Call, error: Exception) -> _Call:
        """The call for another try. Raises what is no failure of the system, and what has failed too often."""
        where = f"task {call.task}"
        if isinstance(error, MemoryProblem | self.ray.exceptions.OutOfMemoryError):
            if call.memory == 1:
                return replace(call, memory=2)
            what = f"was killed for memory, with twice the memory too ({_first_line(error)})"
            raise MemoryProblem(where, what, "Pass more --task_memory, or free memory on the machines") from error
        if not isinstance(error, EnvironmentProblem | self.ray.exceptions.RayError):
            raise error
        if call.num_lost == self.engine.task_retries:
            what = f"failed {call.num_lost + 1} times, at last by {_first_line(error)}"
            hint = "Correct that, pass more --task_retries or --task_timeout, then run the same command again"
            raise EnvironmentProblem(where, what, hint) from error
        return replace(call, num_lost=call.num_lost + 1)


def _first_line(error: Exception) -> str:
    if isinstance(error, EnvironmentProblem):
        return str(error)
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0].partition('. ')[0]}"


def _connect(ray: Any, address: str) -> None:
    """Join the cluster, or start one; it is left when this process ends. Signals stay with who handled them."""
    if ray.is_initialized():
        return
    handlers = {which: signal.getsignal(which) for which in (signal.SIGTERM, signal.SIGINT)}
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR, "configure_logging": False}
    if address == "local":
        options["include_dashboard"] = False
    try:
        _probe(os.environ.get("RAY_ADDRESS", "") if address == "auto" else address)
        ray.init(address, **options)
    except (ConnectionError, ValueError, RuntimeError, OSError) as error:
        what = f"no Ray cluster answers ({_first_line(error)})"
        hint = "Start one with: ray start --head, or pass --ray_address local"
        raise EnvironmentProblem(f"--ray_address {address}", what, hint) from error
    finally:
        if threading.current_thread() is threading.main_thread():
            for which, handler in handlers.items():
                signal.signal(which, handler)


def _probe(address: str) -> None:
    """OSError where nothing listens at `host:port`: Ray itself would try for minutes."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host, int(port)), PROBE_S).close()


# In a worker of Ray -----------------------------------------------------------------------------------------------

_pool: tuple[str, Pool] | None = None
"""The work that this Ray worker has done before, and the process that does it."""


def run_in_ray_worker(key: str, work: list[Any], task: int, timeout: float | None) -> tuple[Any, Exception | None]:
    """What the call for `task` returns, or the error that it raises. `work` is a reference: it is fetched once."""
    global _pool
    import ray

    if timeout:
        limit = threading.Timer(timeout, os._exit, (1,))  # the call is lost, with the process that does it
        limit.daemon = True
        limit.start()
    try:
        with _no_main_module():
            if _pool is None or _pool[0] != key:
                if _pool is not None:
                    _pool[1].close()
                _pool = key, Pool(ray.get(work[0]), 1)
            ((_, value),) = _pool[1].map([task])
            return value, None
    except Exception as error:
        return None, error
    finally:
        if timeout:
            limit.cancel()


@contextmanager
def _no_main_module() -> Iterator[None]:
    """Processes that are started inside do not load Ray's main program."""
    main = vars(sys.modules["__main__"])
    file, spec = main.pop("__file__", None), main.get("__spec__")
    main["__spec__"] = None
    try:
        yield
    finally:
        main["__spec__"] = spec
        if file is not None:
            main["__file__"] = file
