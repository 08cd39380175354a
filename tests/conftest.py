"""Fixtures every test may use."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest
from object_store import S3Server
from shared_data import shared_folder

from phiv_data.utils.signals import STOPS


@pytest.fixture(scope="session")
def shared() -> Path:
    """The shared folder; skips the test where it is absent."""
    if (folder := shared_folder()) is None:
        pytest.skip("needs the shared sample data (set PHIV_SHARED to its folder)")
    return folder


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    """A real S3 server on a port of its own, for all tests of a process."""
    pytest.importorskip("moto.server")
    with S3Server() as server:
        yield server


_bucket_numbers = count()


@pytest.fixture
def bucket(s3_server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The address of a new bucket, `s3://...`, with the environment that reaches it and a cache of its own."""
    from pyarrow import fs

    for name, value in {
        "AWS_ENDPOINT_URL_S3": s3_server.url,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "PHIV_CACHE": str(tmp_path / "cache"),
    }.items():
        monkeypatch.setenv(name, value)
    name = f"bucket-{os.getpid()}-{next(_bucket_numbers)}"
    fs.S3FileSystem(endpoint_override=s3_server.url, allow_bucket_creation=True).create_dir(name)
    return f"s3://{name}"


@pytest.fixture(autouse=True)
def restored_signals() -> Iterator[None]:
    """A stopped command keeps its handlers to the end of its process, which here continues."""
    before = {which: signal.getsignal(which) for which in STOPS}
    yield
    for which, handler in before.items():
        signal.signal(which, handler)


def pytest_configure() -> None:
    """A busy machine must not fail a property. Before the tests are imported: `@settings` takes what is set then."""
    from hypothesis import settings

    settings.register_profile("phiv", deadline=None)
    settings.load_profile("phiv")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """One line per shared case, for scripts/cases."""
    if not os.environ.get("PHIV_CASE_TABLE"):
        return
    words = {"passed": "right", "failed": "WRONG", "xfailed": "not yet", "skipped": "not run"}
    reports = [(r.nodeid, words[outcome]) for outcome in words for r in terminalreporter.stats.get(outcome, [])]
    for nodeid, now in sorted(reports):
        module, _, name = nodeid.partition("::test_case[")
        group = module.rsplit("/test_", 1)[-1].removesuffix("_cases.py")
        terminalreporter.write_line(f"{group + '/' + name.rstrip(']'):45} {now}")
