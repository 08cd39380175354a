"""Fingerprints of what a conversion is made from: the contents of its inputs, its source files, its converter's code.

An input's bytes and sizes go into the plan's hash, which the manifest holds. The times of files do not: a copy of the
source elsewhere gives the same output. They are compared by a second fingerprint, `SourceState`, which stays on this
machine, below `<out>/.phiv/`.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from stat import S_ISREG
from typing import NamedTuple

from phiv_data.utils.atomic import sha256_file

Content = bytes | Path | tuple[bytes | Path, ...]
"""What an input is: its bytes (or a digest of them), a file that the draft reads, or several of these."""


@dataclass(frozen=True, slots=True)
class SourceState:
    """Of all files that the inputs name: a hash of sizes and times; of their contents too where it was asked for."""

    times: str
    sha256: str | None = None

    def is_same(self, now: SourceState) -> bool:
        """True when the files are `now` as they were: by their contents where these were read now, else by their times.

        False too where they were not read before: what is asked for cannot be answered.
        """
        return self.times == now.times if now.sha256 is None else self.sha256 == now.sha256


class FileVersion(NamedTuple):
    """One file, as it was found: `size_bytes` is None for one that cannot be read, `sha256` empty where not read."""

    size_bytes: int | None
    stamp: str = "missing"
    sha256: str = ""


def file_reader(work_dir: Path, *, verify: bool) -> Callable[[Path], FileVersion]:
    """`version(path)` of a file, asked of the disk once for rows that follow each other.

    `verify` reads the contents too. Of files below `work_dir`, which the conversion itself has made, the time has
    no meaning: their contents are read in its place.
    """
    ours = tuple(f"{folder}{os.sep}" for folder in {str(work_dir), str(work_dir.absolute())})

    @lru_cache(maxsize=4096)
    def version(path: Path) -> FileVersion:
        is_ours = str(path).startswith(ours)
        try:
            stat = path.stat()
            # A device or a pipe could be read without end: the draft rejects it.
            sha256 = sha256_file(path) if (verify or is_ours) and S_ISREG(stat.st_mode) else ""
        except (OSError, ValueError):
            return FileVersion(None)
        return FileVersion(stat.st_size, sha256 if is_ours else str(stat.st_mtime_ns), sha256)

    return version


def code_version(of: type) -> str:
    """A hash of the source code of a class: of all *.py of its package, or of its module where it is in none.

    Files below a sub-package (`phiv_converters.ucf101`) count with those in its folders; of a top-level package only
    the files beside the module do. Empty for a class that was typed in.
    """
    module = sys.modules[of.__module__]
    if not (file := getattr(module, "__file__", None)):
        return ""
    path = Path(file)
    package = module.__package__ or ""
    if not package or not path.is_file():
        files = [path] if path.is_file() else []
    else:
        files = sorted(path.parent.rglob("*.py") if "." in package else path.parent.glob("*.py"))
    digest = hashlib.sha256()
    for source in files:
        digest.update(f"{source.relative_to(path.parent).as_posix()}\0".encode())
        digest.update(hashlib.sha256(source.read_bytes()).digest())
    return digest.hexdigest()[:16]
