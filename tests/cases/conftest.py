"""`--table` prints one line per case (scripts/cases)."""

from __future__ import annotations

import pytest


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
