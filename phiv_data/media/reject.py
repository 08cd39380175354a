"""`RejectInput`: the error for an input that cannot be used, with a stable code and a one-line reason.

Codes of clips: `empty-file`, `not-a-video`, `no-video-stream`, `no-frames`, `truncated`, `undecodable`, `too-large`,
`decoder-disagrees`, `decoder-timeout`. Codes of images: `empty-file`, `not-an-image`, `truncated`, `undecodable`,
`too-large`. Converters add their own; a code never changes its meaning, because reports are counted by it.
"""

from __future__ import annotations

from pathlib import Path

from phiv_data.utils.atomic import sha256_of
from phiv_schemas.errors import RecordError


class RejectInput(RecordError):
    """One input is left out and reported with the reason; the conversion continues.

    >>> print(RejectInput("a.avi", "truncated", "the file ends at byte 100 of 200"))
    a.avi: the file ends at byte 100 of 200 [truncated]
    """

    def __init__(self, where: str, code: str, reason: str) -> None:
        super().__init__(where, f"{reason} [{code}]")
        self.args = (where, code, reason)  # what pickle gives back to __init__ in the parent process
        self.code, self.reason = code, " ".join(reason.split())


def hash_input(path: Path, where: str) -> str:
    """Hex sha256 of an input file. RejectInput `unreadable` where it is no regular file or cannot be read."""
    try:
        if not path.is_file():
            raise RejectInput(where, "unreadable", "not a regular file" if path.exists() else "no such file")
        with path.open("rb") as file:
            return sha256_of(file)
    except OSError as error:
        raise RejectInput(where, "unreadable", str(error.strerror or error)) from error
