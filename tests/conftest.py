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


def pytest_configure() -> None:
    """A busy machine must not fail a property. Before the tests are imported: `@settings` takes what is set then."""
    from hypothesis import settings

    settings.register_profile("phiv", deadline=None)
    settings.load_profile("phiv")
