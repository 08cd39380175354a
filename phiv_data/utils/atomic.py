"""Atomic writes of files and folders, sha256 of files, and errors of the system as one plain line.

>>> with atomic_write(path) as out:          # written beside, flushed to disk, then renamed
...     out.write(b"hello")
>>> out.sha256[:8], out.size_bytes
('2cf24dba', 5)
"""

from __future__ import annotations

import errno
import hashlib
import io
import mmap
import os
import re
import secrets
import shutil
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from phiv_schemas.errors import EnvironmentProblem, UsageError

if TYPE_CHECKING:
    from typing_extensions import Buffer

# A killed run leaves such a file behind; it is never read, and may be deleted. The name does not hold the
# final one, so the longest file name a disk allows can still be written.
TMP_PREFIX = ".phiv-tmp-"

_PROBLEMS = {
    errno.ENOSPC: ("disk full", "Free some space, then run the same command again"),
    errno.EDQUOT: ("disk quota reached", "Free some space, then run the same command again"),
    errno.EACCES: ("no permission", "Change its permissions, or choose another path"),
    errno.EPERM: ("no permission", "Change its permissions, or choose another path"),
    errno.EROFS: ("the disk is read-only", "Choose a folder you may write to"),
    errno.EFBIG: ("the file grows too large", "Raise the limit (ulimit -f), or choose another disk"),
    errno.EMFILE: ("too many open files", "Raise the limit (ulimit -n) or use fewer workers"),
    errno.ENFILE: ("too many open files", "Close other programs or use fewer workers"),
    errno.ENAMETOOLONG: ("the name is too long", "Choose a shorter one"),
    errno.ELOOP: ("its links lead in a circle", "Fix the link"),
    errno.EIO: ("the disk fails to read or write", "Check the disk"),
    errno.ENOMEM: ("memory is full", "Free memory, raise its limit (ulimit -v) or use fewer workers"),
    errno.EAGAIN: ("no more processes can be started", "Raise the limit (ulimit -u) or use fewer workers"),
} | dict.fromkeys(
    (
        *(errno.ESTALE, errno.ETIMEDOUT, errno.ENODEV, errno.ENXIO, errno.ENOTCONN, errno.ESHUTDOWN),
        *(errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENETDOWN, errno.ENETUNREACH, errno.ECONNRESET, errno.EBUSY),
    ),
    ("its disk does not answer", "Connect it, then run the same command again"),
)
_NO_ROOM_FOR_CODE = re.compile("map segment|allocate memory|out of memory")  # as the dynamic loader says it
_OF_THE_NAME = (errno.ENAMETOOLONG, errno.ELOOP)  # what is wrong with an input, wherever it lies
PROBE_BYTES = 2**31
"""Memory that libraries and an image of the largest size accepted need together, with room to spare."""


class HashingWriter(io.RawIOBase):
    """A binary file that knows the size and sha256 of what was written to it.

    It does not own the file beneath: closing it only ends the writing.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._hash = file, hashlib.sha256()
        self.size_bytes = 0

    def writable(self) -> bool:
        return True

    def write(self, data: Buffer, /) -> int:
        """Append all of `data`; returns its length in bytes."""
        size = self._file.write(data)
        self._hash.update(data)
        self.size_bytes += size
        return size

    @property
    def sha256(self) -> str:
        """Hex digest of everything written so far."""
        return self._hash.hexdigest()


@contextmanager
def atomic_write(path: Path, *, durable: bool = True) -> Iterator[HashingWriter]:
    """Write `path` as a whole or not at all: beside it first, then renamed over it.

    Missing parent folders are made. `durable` waits for the disk before the rename, so that a power cut
    cannot leave an empty file; pass False for many small files that are checked later anyway. A full disk, a
    missing permission and the like raise EnvironmentProblem.
    """
    with environment_problems(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        tmp = path.parent / f"{TMP_PREFIX}{secrets.token_hex(8)}"
        try:
            with tmp.open("xb") as file:
                yield HashingWriter(file)
                file.flush()
                if durable:
                    os.fsync(file.fileno())
            tmp.replace(path)
        except BaseException:
            tmp.unlink(missing_ok=True)
            raise
        if durable:
            sync_folder(path.parent)


@contextmanager
def atomic_folder(path: Path, *, replace: bool = False) -> Iterator[Path]:
    """A new folder beside `path`, renamed to it at the end, or removed where anything fails.

    An empty folder at `path` is replaced; one that holds anything only with `replace`: it is moved aside first and
    removed last. UsageError where that is not so at the end, or `path` cannot be a new folder.
    """
    with environment_problems(path):
        given, path = path, Path(os.path.realpath(path))  # without symbolic links
        if above := next((folder for folder in path.parents if folder.exists() and not folder.is_dir()), None):
            raise UsageError(str(given), f"{above} is a file", "Pass a new folder")
        if path.is_dir() and (os.path.ismount(path) or path.samefile(Path.cwd())):
            raise UsageError(str(given), "is a mount point or the current folder", "Pass a new folder below it")
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.parent / f"{TMP_PREFIX}{secrets.token_hex(8)}"
        try:
            unfinished.mkdir()
            yield unfinished
            os.sync()  # the images too, before the rename makes them final
            sync_folder(unfinished)
            old = unfinished.with_name(f"{unfinished.name}-old")
            if replace and path.is_dir() and any(path.iterdir()):
                path.rename(old)
            try:
                unfinished.rename(path)
            except OSError as error:
                if os.path.lexists(path):
                    what = "appeared while it was written"
                    raise UsageError(str(path), what, "Run one command at a time") from error
                if old.is_dir():
                    old.rename(path)
                raise
            sync_folder(path.parent)
            shutil.rmtree(old, ignore_errors=True)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)


@contextmanager
def environment_problems(where: Path | str) -> Iterator[None]:
    """Turn the system's errors (full disk or memory, permission, quota, ...) into EnvironmentProblem; others pass."""
    try:
        yield
    except (OSError, MemoryError) as error:
        if problem := _find_system_problem(error, where):
            raise problem from error
        raise


@contextmanager
def must_stay(path: Path) -> Iterator[None]:
    """EnvironmentProblem where `path` is gone at the end, or another one: what was found in it is no verdict then.

    Inside `atomic_folder`, so that nothing is published of it.
    A network disk that goes away for a moment has the same look as a folder of missing files.
    """
    before = _identity(path)
    try:
        yield
    except Exception as error:
        if before and _identity(path) != before:
            raise _away_problem(path) from error
        raise
    if before is None or _identity(path) != before:
        raise _away_problem(path)


def _away_problem(path: Path) -> EnvironmentProblem:
    return EnvironmentProblem(str(path), "was moved away or replaced while it was read", "Run the same command again")


def _identity(path: Path) -> tuple[int, int] | None:
    """What the file system knows a file or folder by; None where there is none."""
    try:
        status = path.stat()
    except (OSError, ValueError):
        return None
    return status.st_dev, status.st_ino


def find_environment_problem(error: BaseException | None, where: Path | str) -> EnvironmentProblem | None:
    """The problem of the machine behind `error` or one that it came from; None where the data alone explain it.

    A verdict on an input must not come from such an error: a disk that does not answer, memory that is full.
    """
    seen: list[BaseException] = []
    while error is not None and error not in seen:
        if isinstance(error, EnvironmentProblem):
            return error
        if getattr(error, "errno", None) not in _OF_THE_NAME and (problem := _find_system_problem(error, where)):
            return problem
        seen.append(error)
        error = error.__cause__ or error.__context__
    return None


def raise_if_of_machine(error: Exception, where: Path | str) -> None:
    """EnvironmentProblem for a disk that fails or does not answer, and the like. A missing permission is a finding."""
    if not isinstance(error, PermissionError) and (problem := find_environment_problem(error, where)):
        raise problem from error


@cache
def hush_memory_errors() -> None:
    """Have Python print no traceback of full memory where it cannot be raised: in a thread, or while it cleans up; and
    no warning of a progress bar that gets no thread for it.

    The call that ran out of memory fails by itself, and says so in one line.
    """
    warnings.filterwarnings("ignore", "tqdm:disabling monitor support")
    unraisable, in_thread = sys.unraisablehook, threading.excepthook
    sys.unraisablehook = lambda args: None if _is_of_memory(args.exc_value) else unraisable(args)
    threading.excepthook = lambda args: None if _is_of_memory(args.exc_value) else in_thread(args)


def _is_of_memory(error: BaseException | None) -> bool:
    return isinstance(error, MemoryError) or "can't start new thread" in str(error)


def is_memory_short() -> bool:
    """True where `PROBE_BYTES` more cannot be had: then a crash says nothing of the data that it came with."""
    try:
        mmap.mmap(-1, PROBE_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS).close()
    except (OSError, MemoryError):
        return True
    return False


def _find_system_problem(error: BaseException, where: Path | str) -> EnvironmentProblem | None:
    """A system's error as EnvironmentProblem; None for any other."""
    number, named = getattr(error, "errno", None), str(getattr(error, "filename", None) or where)
    if type(error).__module__.startswith("av.") or isinstance(error, SystemError):
        # FFmpeg reads through a file of Python's, so the numbers of its errors are about the data; all but one.
        # SystemError: without memory, Python finds that a function of its own failed and does not know why.
        is_of_memory = isinstance(error, MemoryError | SystemError) and is_memory_short()
        number = errno.ENOMEM if is_of_memory else None
    elif isinstance(error, MemoryError) or (isinstance(error, ImportError) and _NO_ROOM_FOR_CODE.search(str(error))):
        number = errno.ENOMEM
    elif isinstance(error, RuntimeError) and _is_of_memory(error):
        number = errno.EAGAIN
    elif not isinstance(error, OSError):
        return None
    if number not in _PROBLEMS:
        return None
    return EnvironmentProblem(str(where) if TMP_PREFIX in named else named, *_PROBLEMS[number])


def sync_folder(folder: Path) -> None:
    """Make renames inside `folder` survive a power cut, where the system can (POSIX)."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # file systems that cannot sync a folder
            raise
    finally:
        os.close(descriptor)


def sha256_file(path: Path) -> str:
    """Hex sha256 of a file, read in blocks."""
    with environment_problems(path), path.open("rb") as file:
        return sha256_of(file)


def sha256_of(file: BinaryIO) -> str:
    """Hex sha256 of an open file, from its current position, read in blocks."""
    return hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]  # typeshed asks for a raw file
