"""Fixtures every test may use."""

from __future__ import annotations

from pathlib import Path

import pytest
from shared_data import shared_folder


@pytest.fixture(scope="session")
def shared() -> Path:
    """The shared folder; skips the test where it is absent."""
    if (folder := shared_folder()) is None:
        pytest.skip("needs the shared sample data (set PHIV_SHARED to its folder)")
    return folder


def pytest_configure() -> None:
    """A busy machine must not fail a property. Before the tests are imported: `@settings` takes what is set then."""
    from hypothesis import settings

    settings.register_profile("phiv", deadline=None)
    settings.load_profile("phiv")
