"""Runners: a stop signal is never lost, not even while workers are being started."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest

from phiv_data.utils.process_pool import _quiet_start, run_local


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_workers_start_comes_after(stop: signal.Signals) -> None:
    events: list[str] = []
    previous = signal.signal(stop, lambda number, frame: events.append("signal"))
    try:
        with _quiet_start():
            signal.raise_signal(stop)
            events.append("started")
    finally:
        signal.signal(stop, previous)
    assert events == ["started", "signal"]


def _interrupt_self(folder: Path, index: int) -> bool:
    signal.raise_signal(signal.SIGINT)
    time.sleep(0.05)
    return True


def test_a_worker_does_not_hear_ctrl_c(tmp_path: Path) -> None:
    assert dict(run_local(_interrupt_self, tmp_path, range(3), 2)) == {0: True, 1: True, 2: True}
