"""Inputs that hang are rejected; slow machines, stopped processes and full processors reject nothing."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from phiv_data.convert import Converter, Draft, Item, Turn
from phiv_data.convert.engine import convert
from phiv_data.engines.base import TIMEOUT, Killed
from phiv_data.engines.local import LocalEngine
from phiv_data.engines.watchdog import measure_use, reading
from phiv_schemas import Reject, UsageError

LIMIT_S = 1.0


@dataclass(frozen=True)
class Hanging(Converter):
    """Each input is a word: how to behave."""

    words: tuple[str, ...]
    name = "hanging"

    def inputs(self) -> Iterator[Item]:
        return (Item("train", f"{i:03d}", word.encode(), word) for i, word in enumerate(self.words))

    def draft(self, item: Item) -> Draft:
        behave(item.payload)
        return Draft((Turn(images=(), user="Is it?", assistant=item.payload),), ())


def behave(word: str) -> None:
    if word == "spins":
        while True:
            pass
    if word == "sleeps":
        time.sleep(3600)
    if word == "sleeps in C":  # and keeps Python's lock: no thread of the worker can see it
        ctypes.PyDLL(None).sleep(3600)
    if word == "waits for a thread":
        threading.Event().wait()
    if word == "waits for a child that spins":
        subprocess.run([sys.executable, "-c", f"while True: 'for {os.getppid()}'"], check=True)
    if word == "crashes":
        os.kill(os.getpid(), signal.SIGSEGV)


HANGS = ("spins", "sleeps", "sleeps in C", "waits for a child that spins")


def test_inputs_that_hang_are_rejected_and_the_others_of_their_task_kept(tmp_path: Path) -> None:
    words = ("fine", "spins", "fine", "sleeps in C", "crashes", "fine")
    outcome = convert(Hanging(words), tmp_path / "out", num_workers=1, input_timeout=LIMIT_S)
    assert outcome.manifest.accounting.rejected == {"crashed": 1, "timeout": 2}
    assert outcome.manifest.accounting.written == 3
    rejects = [Reject.model_validate_json(line) for line in (tmp_path / "out/rejects.jsonl").read_bytes().splitlines()]
    assert [(reject.input, reject.code) for reject in rejects] == [
        ("001", "timeout"),
        ("003", "timeout"),
        ("004", "crashed"),
    ]
    assert rejects[0].reason == "reading it does not end within 1 s, alone and again"


def _read(seconds: float, index: int) -> str:
    with reading(index, seconds):
        behave(HANGS[index])
    return "done"


def command_lines() -> Iterator[str]:
    """Of every process there is."""
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            yield file.read_bytes().decode(errors="replace")


@pytest.mark.parametrize("index", range(len(HANGS)), ids=HANGS)
def test_every_way_to_hang_is_seen(index: int) -> None:
    found = dict(LocalEngine(1).map(_read, LIMIT_S, [index]))
    assert found == {index: Killed(TIMEOUT, index)}
    assert not any(f"while True: 'for {os.getpid()}'" in line for line in command_lines())


def _be_stopped_then_end(seconds: float, index: int) -> str:
    """Stopped for longer than the limit, as by a scheduler; another process wakes it."""
    wake = f"import os, signal, time; time.sleep(3); os.kill({os.getpid()}, signal.SIGCONT)"
    with reading(index, seconds):
        subprocess.Popen([sys.executable, "-c", wake])
        os.kill(os.getpid(), signal.SIGSTOP)
    return "done"


def test_a_worker_that_is_stopped_for_longer_than_the_limit_loses_nothing() -> None:
    assert dict(LocalEngine(1).map(_be_stopped_then_end, LIMIT_S, [0])) == {0: "done"}


def _use_half_the_limit(seconds: float, index: int) -> str:
    with reading(index, seconds):
        end = time.process_time() + seconds / 2
        while time.process_time() < end:
            pass
    return "done"


def test_many_workers_on_few_processors_lose_nothing() -> None:
    """Six at once on one processor: each takes three times its limit."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        found = dict(LocalEngine(6).map(_use_half_the_limit, LIMIT_S, range(6)))
    finally:
        os.sched_setaffinity(0, before)
    assert found == dict.fromkeys(range(6), "done")


def _wait_and_work(seconds: float, index: int) -> str:
    """Asleep at most moments, at work in between, for more than its limit: slow, and not idle."""
    end = time.process_time() + seconds / 2
    with reading(index, seconds):
        while time.process_time() < end:
            time.sleep(0.05)
            for _ in range(2_000_000):
                pass
    return "done"


def test_an_input_that_works_in_turns_is_charged_for_its_work_alone() -> None:
    assert dict(LocalEngine(1).map(_wait_and_work, LIMIT_S, [0])) == {0: "done"}


def _read_many(seconds: float, index: int) -> str:
    for number in range(6):
        with reading(number, seconds):
            time.sleep(seconds / 3)
    return "done"


def test_the_limit_is_of_one_input_and_not_of_its_task() -> None:
    assert dict(LocalEngine(1).map(_read_many, LIMIT_S, [0])) == {0: "done"}


def test_without_a_limit_nothing_is_watched(tmp_path: Path) -> None:
    outcome = convert(Hanging(("fine",)), tmp_path / "out", num_workers=1, input_timeout=0)
    assert outcome.manifest.accounting.written == 1
    with pytest.raises(UsageError, match=r"--input_timeout: must be 0 \(no limit\) or more seconds \(found -1\)"):
        convert(Hanging(("fine",)), tmp_path / "other", input_timeout=-1)
    assert not (tmp_path / "other").exists()


def test_the_use_of_a_process_counts_its_children_and_whether_they_work() -> None:
    here = measure_use(os.getpid())
    assert not here.is_asleep
    assert here.cpu_s > 0
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        deadline = time.monotonic() + 30
        while not measure_use(child.pid).is_asleep:
            assert time.monotonic() < deadline
            time.sleep(0.1)
    finally:
        child.kill()
        child.wait()
