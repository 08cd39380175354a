"""A bounded folder of whole files fetched from object stores, shared by any number of processes.

    cache = Cache.from_environment()                  # PHIV_CACHE (~/.cache/phiv), PHIV_CACHE_SIZE (100 GiB)
    cache.fetch(store, "arrow/train/data-00000-of-00004.arrow", folder / "...", sha256="...")

A file is fetched beside its place, compared with its size and sha256, then renamed: what is there is whole. One process
fetches, others that want the same file wait for it. Files used least recently make room; those in a folder that a
command has pinned stay. A file that is removed while it is mapped stays readable for who has mapped it.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from phiv_data.stores.address import Address
from phiv_data.stores.base import BLOCK_BYTES, ObjectStat, Store
from phiv_data.utils.atomic import TMP_PREFIX, HashingWriter, atomic_write, environment_problems
from phiv_schemas.errors import EnvironmentProblem, ShardError, UsageError

PIN = ".pin"
MANIFEST = "manifest.json"
"""Of a dataset, stays: it is small, and what the other files are compared with."""
_LOCKS = "locks"
_DEFAULT_SIZE_BYTES = 100 * 2**30
_UNITS = {"": 1, "B": 1} | {
    f"{letter}{suffix}": base**power
    for power, letter in enumerate("KMGTP", 1)
    for suffix, base in (("", 1000), ("B", 1000), ("IB", 1024))
}
_STALE_S = 24 * 3600.0
"""After which a half-fetched file is one that a killed process left."""


class Stopping(KeyboardInterrupt):
    """The process ends while a thread of it fetches."""


@dataclass(frozen=True, slots=True)
class Cache:
    """The folder and how much may be in it."""

    root: Path
    limit_bytes: int = _DEFAULT_SIZE_BYTES

    @classmethod
    def from_environment(cls) -> Cache:
        """As `PHIV_CACHE` and `PHIV_CACHE_SIZE` say. UsageError for a size that is none."""
        root = Path(os.environ.get("PHIV_CACHE") or Path.home() / ".cache/phiv")
        return cls(root.expanduser().absolute(), parse_size(os.environ.get("PHIV_CACHE_SIZE", "")))

    def fetch(
        self, store: Store, name: str, path: Path, *, sha256: str = "", has_room: bool = False
    ) -> ObjectStat | None:
        """Have the object `name` at `path`: what was fetched, or None where it was there already.

        `has_room`: `make_room` was called for it, which for many small files costs less at once than one by one.
        FileNotFoundError where the store has no such object, ShardError where it has another sha256 than the one given.
        """
        if _use(path):
            return None
        with environment_problems(path), self._lock(path):
            return None if _use(path) else self._fetch(store, name, path, sha256, has_room)

    def _fetch(self, store: Store, name: str, path: Path, sha256: str, has_room: bool) -> ObjectStat:
        for _ in range(2):  # an object that is replaced while it is read, or damaged on its way, is read again
            with suppress(_Replaced):
                with atomic_write(path, durable=False) as out:
                    found = self._copy(store, name, out, has_room)
                    if sha256 and out.sha256 != sha256:
                        raise _Replaced
                return found
        what = "is not the file that its manifest names (another sha256), or changes while it is read"
        raise ShardError(str(store.address / name), what, "If another dataset has been written there, start again")

    def _copy(self, store: Store, name: str, out: HashingWriter, has_room: bool) -> ObjectStat:
        """Write an object to `out`, block by block."""
        first = store.read_range(name, 0, BLOCK_BYTES)
        if not has_room:
            self.make_room(first.of.size_bytes)
        out.write(first.data)
        while out.size_bytes < first.of.size_bytes:
            if not threading.main_thread().is_alive():
                raise Stopping
            block = store.read_range(name, out.size_bytes, BLOCK_BYTES)
            if block.of != first.of or not block.data:
                raise _Replaced
            out.write(block.data)
        return first.of

    def make_room(self, size_bytes: int) -> None:
        """Remove the files used least recently until `size_bytes` more fit in. EnvironmentProblem where they cannot."""
        if size_bytes > self.limit_bytes:
            what = f"{spell_size(self.limit_bytes)} are too few (needed at once: {spell_size(size_bytes)})"
            raise EnvironmentProblem("PHIV_CACHE_SIZE", what, "Raise it")
        with environment_problems(self.root), self._lock(self.root):
            files = sorted(_files(self.root), key=lambda file: file.used_ns)
            excess = sum(file.size_bytes for file in files) + size_bytes - self.limit_bytes
            pinned: dict[Path, bool] = {}
            for file in files:
                if excess <= 0:
                    return
                folder = _folder_of(self.root, file.path)
                if folder not in pinned:
                    pinned[folder] = _is_pinned(folder)
                if not pinned[folder]:
                    file.path.unlink(missing_ok=True)
                    excess -= file.size_bytes
        if excess > 0:
            what = f"{spell_size(self.limit_bytes)} are in use by running commands"
            raise EnvironmentProblem("PHIV_CACHE_SIZE", what, "Raise it, or wait for them to end")

    @contextmanager
    def pinned(self, folder: Path) -> Iterator[Path]:
        """`folder`, of which nothing is removed meanwhile."""
        with environment_problems(folder):
            folder.mkdir(parents=True, exist_ok=True)
            with (folder / PIN).open("ab") as file:
                fcntl.flock(file, fcntl.LOCK_SH)
                yield folder

    @contextmanager
    def _lock(self, path: Path) -> Iterator[None]:
        from filelock import FileLock

        folder = self.root / _LOCKS
        folder.mkdir(parents=True, exist_ok=True)
        # A number of locks for all files: they need no cleaning up, and two files that share one wait for each other.
        name = "root" if path == self.root else f"{_number_of(path):03d}"
        with FileLock(folder / f"{name}.lock"):
            yield


class _Replaced(Exception):
    """The object is not the one that it was a block before, or not the one asked for."""


class _File(NamedTuple):
    path: Path
    size_bytes: int
    used_ns: int


def _use(path: Path) -> bool:
    """Whether the file is there; it counts as used now."""
    try:
        stat = path.stat()
        os.utime(path, ns=(time.time_ns(), stat.st_mtime_ns))
    except FileNotFoundError:
        return False
    return True


def _files(root: Path) -> Iterator[_File]:
    """All fetched files. What a killed process left half-fetched is removed."""
    for folder, names, files in os.walk(root):
        if Path(folder) == root:
            names[:] = [name for name in names if name in ("datasets", "sources")]
            continue
        for name in files:
            path = Path(folder, name)
            if name == PIN or (name == MANIFEST and Path(folder).parent == root / "datasets"):
                continue
            with suppress(FileNotFoundError):
                stat = path.stat()
                if not name.startswith(TMP_PREFIX):
                    yield _File(path, stat.st_size, stat.st_atime_ns)
                elif time.time() - stat.st_mtime > _STALE_S:
                    path.unlink()


def _folder_of(root: Path, path: Path) -> Path:
    """The folder that is pinned as one: `<root>/<kind>/<one>`."""
    return root.joinpath(*path.relative_to(root).parts[:2])


def _is_pinned(folder: Path) -> bool:
    try:
        with (folder / PIN).open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def _number_of(path: Path) -> int:
    from zlib import crc32

    return crc32(str(path).encode()) % 256


def parse_size(text: str) -> int:
    """Bytes of `10GB`, `1.5 GiB` or `4096`; the default for "".

    >>> parse_size("10GB"), parse_size("2 MiB")
    (10000000000, 2097152)
    """
    if not text:
        return _DEFAULT_SIZE_BYTES
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([A-Z]*)", text.strip().upper())
    if match is None or match[2] not in _UNITS:
        raise UsageError("PHIV_CACHE_SIZE", f"is no size (found {text!r})", "Write it as 500GB or 200GiB")
    return int(float(match[1]) * _UNITS[match[2]])


def folder_name(address: Address) -> str:
    """A folder's name for an address: readable, and another one for every address."""
    readable = re.sub(r"[^\w.-]+", "-", address.path)[-60:].strip("-.")
    return f"{address.scheme}-{readable}-{hashlib.sha256(str(address).encode()).hexdigest()[:12]}"


def spell_size(size_bytes: int) -> str:
    """For messages.

    >>> spell_size(1536 * 2**20)
    '1.5 GiB'
    """
    units = ("bytes", "KiB", "MiB", "GiB")
    power = min(max(size_bytes.bit_length() - 1, 0) // 10, len(units) - 1)
    return f"{round(size_bytes / 1024**power, 1):.12g} {units[power]}"
