"""Addresses of object stores, as people type them and as `Path` spells them.

>>> str(Address.parse("s3://bucket/sets/ucf101/"))
's3://bucket/sets/ucf101'
>>> find_address(Path("s3://bucket/sets"))               # Path makes one slash of two
Address(scheme='s3', path='bucket/sets')
>>> find_address("ucf101") is None
True
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from phiv_schemas.errors import UsageError

_ADDRESS = re.compile(r"(s3|gs|hf|file):/{1,3}(?=[^/])(.*)", re.DOTALL)
_LIKE_ONE = re.compile(r"(s3|gs|hf|file|s3a|s3n|gcs|az|abfss?|wasbs?|hdfs|oss|r2|https?):/", re.IGNORECASE)
_WRONG = "is no address of an object store"
_SHAPE = "Write s3://BUCKET/FOLDER, gs://BUCKET/FOLDER, hf://datasets/OWNER/NAME/FOLDER or file:///FOLDER"


@dataclass(frozen=True, slots=True)
class Address:
    """A folder of objects, or one object: `path` is `bucket/key` without slashes around it."""

    scheme: str
    path: str

    @classmethod
    def parse(cls, text: str) -> Address:
        """The address that `text` is. UsageError for another kind of address, for credentials or options in it."""
        if (match := _ADDRESS.fullmatch(text.rstrip("/"))) is None:
            raise UsageError(text, _WRONG, _SHAPE)
        scheme, path = match.groups()
        bucket = path.partition("/")[0]
        if "@" in bucket:
            raise UsageError(f"{scheme}://...@...", "holds credentials", "Pass them as the store's own tools take them")
        if "?" in path and scheme != "file":
            what = "holds options, which are not read from addresses"
            raise UsageError(text.partition("?")[0], what, "For another S3 server set AWS_ENDPOINT_URL_S3")
        if any(part in ("", ".", "..") for part in path.split("/")):
            raise UsageError(text, f"{_WRONG} (it has an empty part, '.' or '..')", _SHAPE)
        return cls(scheme, path)

    def __str__(self) -> str:
        return f"{self.scheme}://{'/' * (self.scheme == 'file')}{self.path}"

    def __truediv__(self, name: str) -> Address:
        return Address(self.scheme, f"{self.path}/{name}")

    @property
    def full_path(self) -> str:
        """As pyarrow's file systems take it: `bucket/key`, or an absolute path for `file`."""
        return f"/{self.path}" if self.scheme == "file" else self.path


def find_address(place: Path | str) -> Address | None:
    """The address that a path or text is; None for a local path. UsageError for one that no store here answers to."""
    text = str(place)
    return Address.parse(text) if _LIKE_ONE.match(text) else None


def resolve_place(place: Path | str) -> Address | Path:
    """The address that a path or text is, a `Path` for what is on this machine (`file://` too).

    >>> resolve_place("file:///data/a"), resolve_place(Path("gs://b/a"))
    (PosixPath('/data/a'), Address(scheme='gs', path='b/a'))
    """
    address = find_address(place)
    if address is None or address.scheme == "file":
        return Path(address.full_path if address else place)
    return address


def require_local(flag: str, path: Path | None) -> None:
    """UsageError where an output that is written to a folder of this machine is to go to an object store."""
    if path is not None and find_address(path):
        what = f"{spell_place(path)!r} is an address, and only phiv-convert writes to object stores"
        raise UsageError(flag, what, "Pass a local path")


def spell_place(place: Path | str) -> str:
    """For messages: an address with both its slashes, a local path as it is."""
    return str(find_address(place) or place)
