"""`phiv_data.__version__` is the version of the installed package, read when it is asked for."""

from __future__ import annotations

from importlib.metadata import version

import pytest

import phiv_data


def test_the_version_is_that_of_the_installed_package() -> None:
    assert phiv_data.__version__ == version("phiv")
    assert "__version__" not in vars(phiv_data)  # import alone reads no package metadata


def test_unknown_names_are_still_an_error() -> None:
    with pytest.raises(AttributeError, match="no attribute '__versions__'"):
        phiv_data.__versions__  # noqa: B018
