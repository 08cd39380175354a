"""`RejectInput`: the error for an input that cannot be used, with a stable code and a one-line reason.

Codes of clips: `empty-file`, `not-a-video`, `no-video-stream`, `no-frames`, `truncated`, `undecodable`, `too-large`,
`decoder-disagrees`, `decoder-timeout`, `no-timestamps`. Codes of images: `empty-file`, `not-an-image`,
`truncated`, `undecodable`, `too-large`. Converters add their own; a code never changes its meaning, because reports
are counted by it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from stat import S_ISREG
from typing import BinaryIO

from phiv_data.utils.atomic import find_environment_problem, sha256_of
from phiv_schemas.errors import RecordError


class RejectInput(RecordError):
    """One input is left out and reported with the reason; the conversion continues.

    Made while an error of the machine is handled (a disk that does not answer, full memory), it raises
    EnvironmentProblem instead: such an error is no verdict on an input, and the same command can be run again.

    >>> print(RejectInput("a.avi", "truncated", "the file ends at byte 100 of 200"))
    a.avi: the file ends at byte 100 of 200 [truncated]
    """

    def __init__(self, where: str, code: str, reason: str) -> None:
        if problem := find_environment_problem(sys.exc_info()[1], where):
            raise problem
        super().__init__(where, f"{reason} [{code}]")
        self.args = (where, code, reason)  # what pickle gives back to __init__ in the parent process
        self.code, self.reason = code, " ".join(reason.split())


def hash_input(path: Path, where: str) -> str:
    """Hex sha256 of an input file. RejectInput `unreadable` where it is no regular file or cannot be read."""
    with open_input(path, where) as file:
        return sha256_of(file)


@contextmanager
def open_input(path: Path, where: str) -> Iterator[BinaryIO]:
    """An input file, open to be read. RejectInput `unreadable` where it is no regular file or cannot be read."""
    try:
        if not S_ISREG(_mode(path)):  # a pipe would wait for ever
            raise RejectInput(where, "unreadable", "not a regular file")
        with path.open("rb") as file:
            yield file
    except (FileNotFoundError, NotADirectoryError) as error:
        raise RejectInput(where, "unreadable", "no such file") from error
    except OSError as error:
        raise RejectInput(where, "unreadable", " ".join((error.strerror or str(error)).split())) from error


def _mode(path: Path) -> int:
    try:
        return path.stat().st_mode
    except ValueError as error:  # a name that no file can have
        raise FileNotFoundError from error
