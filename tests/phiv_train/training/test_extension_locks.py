"""A lock that a killed build left is removed; one that a process holds stays, and torch waits for it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from phiv_train.training import extension_locks
from phiv_train.training.extension_locks import STALE_AFTER_S, release_stale_locks

HOLDS = "import sys, time; held = open(sys.argv[1], 'w'); print('held', flush=True); time.sleep(600)"


@pytest.fixture
def lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The place of an extension's lock."""
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    (tmp_path / "some_op").mkdir()
    return tmp_path / "some_op/lock"


def test_the_lock_of_a_killed_build_goes(lock: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLDS, str(lock)], stdout=subprocess.PIPE) as builder:
        assert builder.stdout is not None
        assert builder.stdout.readline()
        long_ago = time.time() - STALE_AFTER_S - 1
        os.utime(lock, (long_ago, long_ago))
        builder.kill()
    release_stale_locks()
    assert not lock.exists()
    assert capfd.readouterr().err.count(str(lock)) == 1


def test_the_lock_of_a_running_build_stays(lock: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLDS, str(lock)], stdout=subprocess.PIPE) as builder:
        assert builder.stdout is not None
        assert builder.stdout.readline()
        long_ago = time.time() - STALE_AFTER_S - 1
        os.utime(lock, (long_ago, long_ago))
        release_stale_locks()
        assert lock.exists()
        builder.kill()


def test_a_young_lock_is_waited_for(lock: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extension_locks, "STALE_AFTER_S", 1.0)
    lock.touch()
    born = lock.stat().st_mtime
    release_stale_locks()
    assert not lock.exists()
    assert time.time() - born >= 1.0
