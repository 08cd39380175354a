"""Fixtures every test may use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[1]


def shared_folder() -> Path | None:
    """The folder with the real sample data and golden tensors, or None where it is absent."""
    folder = Path(os.environ.get("PHIV_SHARED", REPO.parent / "shared"))
    return folder if folder.is_dir() else None


@pytest.fixture(scope="session")
def shared() -> Path:
    """The shared folder; skips the test where it is absent."""
    if (folder := shared_folder()) is None:
        pytest.skip("needs the shared sample data (set PHIV_SHARED to its folder)")
    return folder


@pytest.fixture(scope="session", autouse=True)
def _no_hypothesis_deadlines() -> None:
    """A busy machine must not fail a property."""
    from hypothesis import settings

    settings.register_profile("phiv", deadline=None)
    settings.load_profile("phiv")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--table", action="store_true", help="print a table of the cases and what is seen now")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if not config.getoption("--table", default=False):
        return
    words = {"passed": "right", "failed": "WRONG", "xfailed": "not yet", "xpassed": "right", "skipped": "not run"}
    reports = [
        (report.nodeid.split("::")[0].rsplit("/test_", 1)[-1].removesuffix("_cases.py"), report.nodeid, words[outcome])
        for outcome in words
        for report in terminalreporter.stats.get(outcome, [])
    ]
    for group, nodeid, now in sorted(reports):
        terminalreporter.write_line(f"{group}/{nodeid.partition('[')[2].rstrip(']'):45} {now}")
