"""No file that even root cannot read can be kept in git; the system has one."""

from pathlib import Path

import pytest


def make(folder: Path) -> None:
    if not Path("/proc/self/clear_refs").is_file():
        pytest.skip("needs /proc")
