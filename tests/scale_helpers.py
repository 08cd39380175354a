"""Commands over the toy converter, for tests of engines: run in processes of their own, as a scheduler does."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from filelock import FileLock

TESTS = Path(__file__).resolve().parent
COMMAND_ENV = os.environ | {"PYTHONPATH": str(TESTS), "OMP_NUM_THREADS": "1"}
_SCRIPT = TESTS / "toy_command.py"


@contextmanager
def only_ray(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One Ray at a time among the processes of pytest-xdist: a second one would be taken for the first, or join it."""
    with FileLock(tmp_path_factory.getbasetemp().parent / "ray.lock"):
        yield


def command(source: Path, out: Path, *args: object) -> list[str]:
    """`phiv-convert toy`, which is not installed."""
    return [sys.executable, str(_SCRIPT), "toy", "--source", str(source), "--out_dir", str(out), *map(str, args)]


def run(args: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(args, capture_output=True, text=True, env=COMMAND_ENV, timeout=240, check=False)


def tree(out: Path) -> dict[str, str]:
    """The sha256 of every file of an output, and the names of what its work folder keeps."""
    files = [path for path in out.rglob("*") if path.is_file() and path.parent.name != "kept"]
    hashes = {p: "" if ".phiv" in p.parts else hashlib.sha256(p.read_bytes()).hexdigest() for p in files}
    return {path.relative_to(out).as_posix(): sha256 for path, sha256 in sorted(hashes.items())}
