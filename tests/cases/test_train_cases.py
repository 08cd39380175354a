"""Trouble that people have with training (cases/train of the shared folder): what must be seen of each.

Each starts phiv-train several times, so scripts/cases runs them, not the default test run.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from case_runner import CaseRun, run_case
from shared_data import shared_folder

CHECKS: dict[str, Callable[[CaseRun], None]] = {}
SHARED = shared_folder()
NAMES = sorted(p.name for p in (SHARED / "cases/train").iterdir() if (p / "cmd").is_file()) if SHARED else []
SIGNALLING = ("ctrl_c_reaches_workers", "two_runs_one_output")  # signal, or wait for, the process they start
LONGEST_LINE = 600


def case(check: Callable[[CaseRun], None]) -> Callable[[CaseRun], None]:
    """Register the check of the case of the same name."""
    CHECKS[check.__name__] = check
    return check


@pytest.mark.soak
@pytest.mark.skipif(not NAMES, reason="needs the shared cases (set PHIV_SHARED to their folder)")
@pytest.mark.parametrize("name", NAMES or ["none"])
def test_case(name: str, tmp_path: Path) -> None:
    run = run_case(SHARED / "cases/train" / name, tmp_path, record=name not in SIGNALLING)
    assert "Traceback" not in run.stdout + run.stderr, run.stderr
    assert all(len(line) < LONGEST_LINE for line in (run.stdout + run.stderr).splitlines()), "a line too long to read"
    CHECKS[name](run)
