"""Stop signals are obeyed once, wherever they arrive: also in a `__del__`, and a second time while a run cleans up."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import pytest

PROGRAM = """
import sys, time
from phiv_data.cli.common import run

class Slow:
    def __del__(self):
        print("in __del__", flush=True)
        end = time.monotonic() + 0.5
        while time.monotonic() < end:
            time.sleep(0.01)

def command():
    if sys.argv[1] == "del":
        Slow()
    try:
        print("working", flush=True)
        time.sleep(30)
    finally:
        print("cleaning", flush=True)
        end = time.monotonic() + (60 if sys.argv[1] == "long" else 0.5)
        while time.monotonic() < end:
            time.sleep(0.01)
        print("clean", flush=True)
    return 0

code = run("program", command)
if sys.argv[1] == "exit":
    print("leaving", flush=True)
    time.sleep(0.3)
    print("left", flush=True)
sys.exit(code)
"""


def start(kind: str) -> subprocess.Popen[str]:
    pipe = subprocess.PIPE
    return subprocess.Popen([sys.executable, "-c", PROGRAM, kind], stdout=pipe, stderr=pipe, text=True)


def wait_for(process: subprocess.Popen[str], line: str) -> None:
    assert process.stdout is not None
    assert process.stdout.readline() == f"{line}\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_in_a_finalizer_is_not_lost(number: signal.Signals) -> None:
    process = start("del")
    wait_for(process, "in __del__")
    process.send_signal(number)
    _, err = process.communicate(timeout=20)
    assert (process.returncode, err) == (130, "program: interrupted. Run the same command to continue\n")


@pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_does_not_stop_the_cleaning_up(second: signal.Signals) -> None:
    process = start("plain")
    wait_for(process, "working")
    process.send_signal(signal.SIGTERM)
    wait_for(process, "cleaning")
    process.send_signal(second)
    out, err = process.communicate(timeout=20)
    assert (process.returncode, out) == (130, "clean\n")
    assert err.count("interrupted") == 1


def test_ctrl_c_once_more_ends_a_slow_cleaning_up() -> None:
    process = start("long")
    wait_for(process, "working")
    process.send_signal(signal.SIGTERM)
    wait_for(process, "cleaning")
    time.sleep(1.2)  # sooner it is the same one, by another way
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=20)
    assert (process.returncode, out) == (130, "")


@pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_second_signal_does_not_kill_a_program_that_ends(second: signal.Signals) -> None:
    process = start("exit")
    wait_for(process, "working")
    process.send_signal(signal.SIGTERM)
    for line in ("cleaning", "clean", "leaving"):
        wait_for(process, line)
    process.send_signal(second)
    assert process.communicate(timeout=20) == ("left\n", "program: interrupted. Run the same command to continue\n")
    assert process.returncode == 130
