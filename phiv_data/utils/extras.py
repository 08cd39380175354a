"""Packages that only some commands need: what is missing is one line that says how to install it here."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from phiv_schemas.errors import EnvironmentProblem


def install_hint(extra: str) -> str:
    """The command that installs an extra of this phiv: from the clone, where it is one."""
    if extra == "flash":  # its build imports torch, which pip hides from builds unless asked not to
        return f'Run, with nvcc on PATH: {sys.executable} -m pip install --no-build-isolation "flash-attn>=2.6"'
    root = Path(__file__).resolve().parents[2]
    if (root / "pyproject.toml").is_file():
        return f'Run: {sys.executable} -m pip install -e "{root}[{extra}]"'
    return f'Run: {sys.executable} -m pip install "phiv[{extra}]"'


@contextmanager
def needs_extra(extra: str) -> Iterator[None]:
    """EnvironmentProblem for a package that is not installed, in place of a traceback. phiv's own modules are there."""
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if not package or package.startswith("phiv"):
            raise
        raise EnvironmentProblem(package, f"is not installed (phiv[{extra}])", install_hint(extra)) from error
