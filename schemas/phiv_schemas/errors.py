"""The errors phiv shows to people: one line, `where: what is wrong (what was found). What to do.`

    PhivError                     base; prints one line and ends with its exit code
    ├── UsageError         (2)    the call is wrong: a flag, a combination, a path that is invalid
    ├── SourceError        (2)    the raw dataset is not the expected one (missing list, unknown layout)
    ├── EnvironmentProblem (3)    a backend, a permission, disk space or the network is missing
    ├── RecordError        (1)    one record breaks the contract
    └── ShardError         (1)    converted data is unfinished, cut, changed or missing

Anything else that escapes is a bug in phiv and keeps its traceback.
"""

from __future__ import annotations

EXIT_OK = 0
EXIT_DATA = 1
EXIT_USAGE = 2
EXIT_ENVIRONMENT = 3
EXIT_INTERRUPTED = 130


class PhivError(Exception):
    """Base of every error a user is meant to read.

    >>> print(UsageError("--num_frames", "must be at least 1 (found 0)", "Pass 1 or more"))
    --num_frames: must be at least 1 (found 0). Pass 1 or more
    """

    exit_code = EXIT_USAGE

    def __init__(self, where: str, what: str, hint: str = "") -> None:
        super().__init__(where, what, hint)
        self.where, self.what, self.hint = where, what, hint

    def __str__(self) -> str:
        line = f"{self.where}: {self.what}" + (f". {self.hint}" if self.hint else "")
        return " ".join(line.split())


class UsageError(PhivError):
    """The call itself is wrong."""


class SourceError(PhivError):
    """The raw dataset is not there, or not in a layout phiv knows."""


class EnvironmentProblem(PhivError):
    """Something outside the data is missing: a package, a permission, disk space, the network."""

    exit_code = EXIT_ENVIRONMENT


class RecordError(PhivError):
    """One record breaks the contract; `where` is `file:line: $.json.path`."""

    exit_code = EXIT_DATA


class ShardError(PhivError):
    """Converted data is unfinished, cut, changed or missing."""

    exit_code = EXIT_DATA
