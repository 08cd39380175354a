"""Files on the Hugging Face hub, `hf://datasets/OWNER/NAME/FOLDER`, through huggingface_hub's file system. Read only.

Writing would be a commit for each object; `phiv-export hub` writes a folder that `hf upload` sends as one.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from phiv_data.stores.address import Address
from phiv_data.stores.base import Block, Entry, ObjectStat
from phiv_data.stores.retry import CutAnswer, retried
from phiv_data.utils.extras import needs_extra
from phiv_schemas.errors import UsageError

T = TypeVar("T")


def open_hub(address: Address) -> HubStore:
    """The store of an `hf://` address. EnvironmentProblem where huggingface_hub is not installed."""
    with needs_extra("hub"):
        from huggingface_hub import HfFileSystem
    return HubStore(address, HfFileSystem())


class HubStore:
    """The files below an `hf://` address. `file_system` is one of fsspec's."""

    has_conditional_put = False

    def __init__(self, address: Address, file_system: Any) -> None:
        self.address, self._fs = address, file_system

    def list(self) -> Iterator[Entry]:
        """Every file below the address, by name. The hub gives no times: a change shows in the etag alone."""
        root = self.address.path
        try:
            found = self._ask(self.address, lambda: self._fs.find(root, detail=True))
        except FileNotFoundError:
            return
        for path, info in sorted(found.items()):
            yield Entry(path.strip("/")[len(root) + 1 :], info["size"], 0)

    def stat(self, name: str) -> ObjectStat | None:
        """The file called `name`, or None; `etag` is the hash that git or the large file storage knows it by."""
        try:
            return self._ask(self.address / name, lambda: _stat_of(self._fs.info(self._path(name))))
        except FileNotFoundError:
            return None

    def read(self, name: str) -> bytes | None:
        """A whole file, or None where there is none."""
        try:
            return self.read_range(name, 0, sys.maxsize).data
        except FileNotFoundError:
            return None

    def read_range(self, name: str, start: int, size_bytes: int) -> Block:
        """`size_bytes` of a file from byte `start` on, fewer at its end. FileNotFoundError where there is none."""

        def ask() -> Block:
            of = _stat_of(self._fs.info(self._path(name)))
            wanted = min(size_bytes, max(of.size_bytes - start, 0))
            data: bytes = self._fs.cat_file(self._path(name), start=start, end=start + wanted) if wanted else b""
            if len(data) != wanted:
                raise CutAnswer(f"{len(data)} of {wanted} bytes came, cut short")
            return Block(data, of)

        return self._ask(self.address / name, ask)

    def put(self, name: str, data: bytes | Path) -> None:
        """UsageError: the hub is read only here."""
        raise self._read_only()

    def put_if_absent(self, name: str, data: bytes) -> bool:
        """UsageError: the hub is read only here."""
        raise self._read_only()

    def delete(self, name: str) -> None:
        """UsageError: the hub is read only here."""
        raise self._read_only()

    def _read_only(self) -> UsageError:
        hint = "Convert to a local folder, then: phiv-export hub DATA OUT, and hf upload OWNER/NAME OUT"
        return UsageError(str(self.address), "is read only here (a commit for each file would be needed)", hint)

    def _path(self, name: str) -> str:
        return f"{self.address.path}/{name}"

    def _ask(self, address: Address, operation: Callable[[], T]) -> T:
        def ask() -> T:
            try:
                return operation()
            except OSError:
                raise
            except Exception as error:  # of the HTTP library below, whichever it is
                raise OSError(f"{type(error).__name__}: {error}") from error

        return retried(address, "cannot be read", ask)


def _stat_of(info: Any) -> ObjectStat:
    large = info.get("lfs") or {}
    return ObjectStat(info["size"], str(large.get("sha256") or info.get("blob_id") or ""))
