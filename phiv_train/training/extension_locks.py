"""Locks that a killed build of a C++ extension left, which torch would wait for without end.

DeepSpeed builds its operators when they are first needed. torch holds `lock` open in the folder of such a build and
removes it after; every other process polls until the file is gone (torch/utils/file_baton.py, 2.13). A process that
was killed meanwhile leaves the file, and each later run on this machine hangs at its first step, saying nothing.
"""

from __future__ import annotations

import fcntl
import os
import sys
import time
from contextlib import suppress
from pathlib import Path

from phiv_data.utils.terminal import say

# A lock that no process here holds may be another machine's, where home folders are shared: a build takes less.
STALE_AFTER_S = 60.0


def release_stale_locks() -> None:
    """Remove each lock of torch's extensions that no process holds open; waits until it is a minute old."""
    from torch.utils.cpp_extension import get_default_build_root

    chosen = os.environ.get("TORCH_EXTENSIONS_DIR")
    root = Path(chosen or get_default_build_root())
    for lock in sorted(root.glob("*/lock" if chosen else "*/*/lock")):
        with (lock.parent / "lock.check").open("w") as ours:
            fcntl.flock(ours, fcntl.LOCK_EX)  # the ranks of a run look in turn: none removes what another just made
            with suppress(FileNotFoundError):  # its build has ended
                while not _is_open(lock):
                    if time.time() - lock.stat().st_mtime >= STALE_AFTER_S:
                        lock.unlink()
                        say(f"phiv-train: removed {lock}, left by a build that was killed", to=sys.stderr)
                        break
                    time.sleep(0.5)


def _is_open(path: Path) -> bool:
    """Whether a process of this machine that we may look at holds the file open; FileNotFoundError without the file."""
    import psutil

    name = str(path.resolve(strict=True))
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if any(file.path == name for file in process.open_files()):
                return True
    return False
