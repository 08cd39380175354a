"""The local engine: calls that kill their process are found, and a stop signal is never lost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from multiprocessing.popen_spawn_posix import Popen
from pathlib import Path
from typing import Any

import pytest

from phiv_data.engines import worker
from phiv_data.engines.base import CRASHED, Killed
from phiv_data.engines.local import LocalEngine, default_workers, find_killers
from phiv_data.utils.signals import SPAWN, STOPS, held, on_stop
from phiv_schemas import EnvironmentProblem


def _square_or_die(fatal: frozenset[int], index: int) -> int:
    if index in fatal:
        os.kill(os.getpid(), signal.SIGSEGV)
    return index * index


def _exit_at_three(shared: None, index: int) -> int:
    if index == 3:
        os._exit(7)
    return index


def _die_the_first_time(folder: Path, index: int) -> int:
    """A worker killed from outside: the same call ends well when it runs again."""
    seen = folder / str(index)
    if index == 2 and not seen.exists():
        seen.touch()
        os._exit(1)
    return index


def _raise(shared: None, index: int) -> int:
    raise ValueError(f"no {index}")


def _die_with(fatal: frozenset[int], items: Sequence[int]) -> None:
    if fatal & frozenset(items):
        os._exit(1)


def _die_once(flag: Path, items: Sequence[int]) -> None:
    if not flag.exists():
        flag.touch()
        os._exit(1)


# Calls that kill their process ------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("fatal", [{4}, {0, 9}, set(range(3))])
def test_a_call_that_kills_its_process_is_reported_and_the_others_keep_their_results(
    workers: int, fatal: set[int]
) -> None:
    found = list(LocalEngine(workers).map(_square_or_die, frozenset(fatal), range(10)))
    assert sorted(i for i, _ in found) == list(range(10))
    assert {i for i, result in found if isinstance(result, Killed)} == fatal
    assert {i: result for i, result in found if i not in fatal} == {i: i * i for i in range(10) if i not in fatal}


def test_an_exit_inside_a_worker_counts_as_a_kill() -> None:
    found = dict(LocalEngine(2).map(_exit_at_three, None, [3, 5]))
    assert isinstance(found[3], Killed)
    assert found[5] == 5


def test_a_worker_killed_from_outside_costs_no_result(tmp_path: Path) -> None:
    assert dict(LocalEngine(2).map(_die_the_first_time, tmp_path, range(5))) == {i: i for i in range(5)}


def fill_memory(shared: str, i: int) -> int:
    raise MemoryError


def find_memory_short(shared: str, i: int) -> int:
    worker.is_memory_short = lambda: True  # in the worker alone
    raise AttributeError("partially initialized module 'numpy' has no attribute 'array'")


class Unreportable(Exception):
    """Memory is full when it is reported."""

    def __reduce__(self) -> Any:
        raise MemoryError


def report_without_memory(shared: str, i: int) -> int:
    raise Unreportable


class Large:
    """Memory is full when a worker reads it."""

    def __reduce__(self) -> Any:
        return fill_memory, ("", 0)


@pytest.mark.parametrize(
    ("function", "shared", "what"),
    [
        (find_memory_short, "", r"one was killed \(signal 9\), as happens when memory is full"),
        (fill_memory, "", r"one was killed \(signal 9\), as happens when memory is full"),
        (report_without_memory, "", r"one was killed \(signal 9\), as happens when memory is full"),
        (_exit_at_three, Large(), "they do not start"),
    ],
)
def test_a_worker_whose_memory_is_full_leaves_without_a_word(
    function: Any, shared: Any, what: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(EnvironmentProblem, match=what):
        list(LocalEngine(1).map(function, shared, range(2)))
    assert capfd.readouterr() == ("", "")


def test_an_exception_is_raised_as_it_is() -> None:
    with pytest.raises(ValueError, match="no 0"):
        list(LocalEngine(1).map(_raise, None, [0]))


def test_without_workers_nothing_is_isolated_and_nothing_pickled() -> None:
    assert dict(LocalEngine(0).map(lambda shared, i: shared + i, 10, [1, 2])) == {1: 11, 2: 12}


def test_workers_that_do_not_start_are_an_environment_problem(tmp_path: Path) -> None:
    script = tmp_path / "no_guard.py"
    script.write_text(
        "import os\nfrom phiv_data.engines.local import LocalEngine\n"
        "def call(shared, index):\n    return index\n"
        "list(LocalEngine(2).map(call, None, range(3)))\n"
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=60)
    assert "EnvironmentProblem: worker processes: they do not start. Call phiv under" in done.stderr


# The items of such a call -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("fatal", [{10}, {13, 16}, {12, 13}])
def test_halving_finds_exactly_the_items_that_kill(fatal: set[int]) -> None:
    assert find_killers(_die_with, frozenset(fatal), range(10, 17)) == dict.fromkeys(sorted(fatal), CRASHED)


def test_items_that_kill_only_sometimes_are_an_environment_problem(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentProblem, match="worker processes: they die on changing inputs"):
        find_killers(_die_once, tmp_path / "flag", range(4))


# Stop signals -----------------------------------------------------------------------------------------------------


def _return_index(shared: object, index: int) -> int:
    return index


@pytest.mark.parametrize("stop", STOPS)
def test_a_signal_while_workers_start_comes_after(stop: signal.Signals, monkeypatch: pytest.MonkeyPatch) -> None:
    events, launch = list[str](), Popen._launch

    def stopped(process: Any, worker: Any) -> None:
        signal.raise_signal(stop)
        launch(process, worker)
        events.append("started")

    monkeypatch.setattr(Popen, "_launch", stopped)
    previous = signal.signal(stop, lambda number, frame: events.append("signal"))
    try:
        assert dict(LocalEngine(1).map(_return_index, None, [0])) == {0: 0}
    finally:
        signal.signal(stop, previous)
    assert events == ["started", "signal"]


def _stop_self(folder: Path, index: int) -> bool:
    for stop in STOPS:
        os.kill(os.getpid(), stop)
    time.sleep(0.05)
    return True


def test_a_worker_leaves_stop_signals_to_the_main_process(tmp_path: Path) -> None:
    assert dict(LocalEngine(2).map(_stop_self, tmp_path, range(3))) == {0: True, 1: True, 2: True}


def _sleep(seconds: float) -> None:
    time.sleep(seconds)


def test_a_process_that_is_deaf_to_signals_ends_by_terminate() -> None:
    with held():
        process = SPAWN.Process(target=_sleep, args=(600,))
        process.start()
    os.kill(process.pid or 0, signal.SIGTERM)
    process.terminate()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL


def test_sighup_stays_ignored_under_nohup() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with on_stop(lambda number, frame: pytest.fail("was heard")), held():
            signal.raise_signal(signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


# The default number of workers ------------------------------------------------------------------------------------

PRINT_WORKERS = "from phiv_data.engines.local import default_workers; print(default_workers())"


@pytest.mark.skipif(default_workers() < 2, reason="needs two CPUs")
def test_a_limit_on_cpus_limits_the_workers() -> None:
    env = os.environ | {"LOKY_MAX_CPU_COUNT": "1"}
    done = subprocess.run([sys.executable, "-c", PRINT_WORKERS], env=env, capture_output=True, text=True, check=True)
    assert done.stdout == "1\n"


@pytest.mark.skipif(default_workers() < 2, reason="needs two CPUs")
def test_a_cgroup_quota_limits_the_workers(tmp_path: Path) -> None:
    """As in a container: a control group of its own, seen at /sys/fs/cgroup, that grants half a CPU."""
    (tmp_path / "cpu.max").write_text("50000 100000\n")
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text("50000\n")
    (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000\n")
    mount = ["unshare", "--mount", "sh", "-c", 'mount --bind "$0" /sys/fs/cgroup && exec "$@"', str(tmp_path)]
    if subprocess.run([*mount, "true"], capture_output=True).returncode:
        pytest.skip("needs the right to mount")
    done = subprocess.run([*mount, sys.executable, "-c", PRINT_WORKERS], capture_output=True, text=True, check=True)
    assert done.stdout == "1\n"
