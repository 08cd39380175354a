"""The protocol of an object store: a flat map of names to whole objects below one address.

Names are relative, with forward slashes. Whatever fails for good is an EnvironmentProblem that names the address; what
a store cannot promise is one too, before anything is sent.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, Protocol

from phiv_data.stores.address import Address

BLOCK_BYTES = 16 * 2**20
"""Objects are read in blocks of this size: a cut answer costs one of them."""


class Entry(NamedTuple):
    """One object of a listing."""

    name: str
    size_bytes: int
    mtime_ns: int


class ObjectStat(NamedTuple):
    """One object, asked for by name. `etag` is another one when the object is; "" where a store has none."""

    size_bytes: int
    etag: str


class Block(NamedTuple):
    """Part of an object, and the object that it is part of: blocks with the same `of` fit together."""

    data: bytes
    of: ObjectStat


class Store(Protocol):
    """Objects below an address. Safe to use from several threads; processes open their own."""

    address: Address
    has_conditional_put: bool
    """Whether `put_if_absent` is more than a look before the put."""

    def list(self) -> Iterator[Entry]:
        """Every object below the address, by name; none where there is none. One listing, whatever the depth."""
        ...

    def stat(self, name: str) -> ObjectStat | None:
        """The object called `name`, or None."""
        ...

    def read(self, name: str) -> bytes | None:
        """A whole object, or None where there is none."""
        ...

    def read_range(self, name: str, start: int, size_bytes: int) -> Block:
        """`size_bytes` of an object from byte `start` on, fewer at its end. FileNotFoundError where there is none."""
        ...

    def put(self, name: str, data: bytes | Path) -> None:
        """Store an object, from bytes or a local file, in place of an older one. It is there as a whole or not."""
        ...

    def put_if_absent(self, name: str, data: bytes) -> bool:
        """Store a small object where there is none of the name; False where there is one. Atomic, or refused."""
        ...

    def delete(self, name: str) -> None:
        """Remove an object; nothing happens where there is none."""
        ...
