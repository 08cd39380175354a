"""Output paths, checked before the work: hours of it must not end at a folder that cannot be written to.

check_output_file("--output", Path("results/eval.json"))      # the file can be written; missing folders can be made
make_output_folder("--output_dir", Path("runs/a"))            # a folder is there, and takes files
"""

from __future__ import annotations

import secrets
from pathlib import Path

from phiv_data.utils.atomic import TMP_PREFIX, environment_problems
from phiv_schemas.errors import UsageError


def check_output_file(flag: str, path: Path) -> None:
    """UsageError or EnvironmentProblem where `path` cannot be written as a file. Makes nothing."""
    with environment_problems(path):
        if path.is_dir():
            raise UsageError(flag, f"{str(path)!r} is a folder", "Name a file, in it or elsewhere")
    check_output_folder(flag, path.absolute().parent)


def check_output_folder(flag: str, folder: Path) -> None:
    """UsageError or EnvironmentProblem where `folder` is not one, cannot be made, or takes no files. Makes nothing."""
    with environment_problems(folder):
        there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
        if not there.is_dir():
            raise UsageError(
                flag, f"{str(folder)!r} cannot be a folder ({str(there)!r} is a file)", "Choose another name"
            )
        # Tried, because permissions alone do not say it: root, read-only disks, quotas.
        probe = there / f"{TMP_PREFIX}{secrets.token_hex(8)}"
        probe.touch(exist_ok=False)
        probe.unlink()


def make_output_folder(flag: str, folder: Path) -> None:
    """Make `folder`, with the folders above it. UsageError or EnvironmentProblem as of `check_output_folder`."""
    check_output_folder(flag, folder)
    with environment_problems(folder):
        folder.mkdir(parents=True, exist_ok=True)
