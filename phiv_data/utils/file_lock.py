"""A lock file that one process holds alone or several hold together, on one machine or on a disk that several share.

    with FileLock(path) as lock:
        if not lock.acquire(shared=False, wait=False):
            ...                                # another process holds it

The system frees it when its process ends, however that ends. It may be removed while others wait: they see that.
"""

from __future__ import annotations

import errno
import fcntl
import os
from contextlib import AbstractContextManager
from pathlib import Path

from phiv_data.utils.atomic import environment_problems
from phiv_schemas.errors import EnvironmentProblem

_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


def make_folder(folder: Path) -> None:
    """Make a folder and those around it, also where other processes make and remove them at the same time."""
    for is_last in (*[False] * 100, True):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            return
        except FileNotFoundError:  # one around it was removed just now; or it is below a link that leads nowhere
            if is_last:
                raise


class FileLock(AbstractContextManager["FileLock"]):
    """The lock at `path`, held from `acquire` to the end of the block. Missing folders are made."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: int | None = None

    def acquire(self, *, shared: bool, wait: bool) -> bool:
        """Take it, alone or `shared`, or change one into the other. False where others hold it and `wait` is False."""
        kind = (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB)
        while True:
            if self._file is None:
                try:
                    with environment_problems(self.path):
                        self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
                except FileNotFoundError:  # its folder is new, or was removed meanwhile
                    make_folder(self.path.parent)
                    continue
            try:
                fcntl.flock(self._file, kind)
            except BlockingIOError:
                return False
            except OSError as error:
                if error.errno not in _NO_LOCKS:
                    raise
                hint = "Mount it with flock, or choose another folder"
                raise EnvironmentProblem(str(self.path), "its disk keeps no locks", hint) from error
            if self._is_in_place():
                return True
            self.release()  # who held it before has removed the file

    def release(self) -> None:
        """Let go of it."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def __exit__(self, *_: object) -> None:
        self.release()

    def _is_in_place(self) -> bool:
        assert self._file is not None
        try:
            return os.path.samestat(os.fstat(self._file), self.path.stat())
        except FileNotFoundError:
            return False
