"""Hashes of 64 bits that differ in at most `MAX_BITS`, without comparing every two.

    >>> for members in buckets(hashes, roles):         # small sets; close ones are together in one or more
    ...     later, earlier = sides(members, roles)
    ...     close(hashes[later], hashes[earlier]) & (roles[later][:, None] > roles[earlier])

Two hashes with 3 other bits are equal in one of four parts of 16 bits, so only those that share a part are compared. A
part that very many share (a black bar over the image) is divided by the other 48 bits, in the same way.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from phiv_data.validation.imaging.perceptual_hash import MAX_BITS

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_BITS = tuple(range(64))
_LARGE = 4096  # from here on, a bucket is worth dividing
_BLOCK = 512  # compared with as many others at a time: what this takes stays in the processor's cache


def buckets(hashes: NDArray[np.uint64], roles: NDArray[np.int8]) -> Iterator[NDArray[np.int64]]:
    """Numbers of hashes, rising, of two roles at least: any two close ones of different roles are in one together."""
    import numpy as np

    if len(hashes):
        yield from _divided(np.arange(len(hashes)), hashes, roles, _BITS)


def sides(members: NDArray[np.int64], roles: NDArray[np.int8]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Those that are not of the lowest role, and those that are not of the highest: later and earlier ones."""
    of_members = roles[members]
    return members[of_members > of_members.min()], members[of_members < of_members.max()]


def cut(members: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    """As many at a time as are compared at once."""
    return (members[i : i + _BLOCK] for i in range(0, len(members), _BLOCK))


def close(these: NDArray[np.uint64], those: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """[len(these), len(those)]: do at most `MAX_BITS` bits differ?"""
    import numpy as np

    bits = these[:, None] ^ those
    for _ in range(MAX_BITS):
        bits &= bits - np.uint64(1)  # takes away a bit
    few: NDArray[np.bool_] = bits == 0
    return few


def _divided(
    members: NDArray[np.int64], hashes: NDArray[np.uint64], roles: NDArray[np.int8], bits: tuple[int, ...]
) -> Iterator[NDArray[np.int64]]:
    """Buckets of members that differ in `bits` only. Dividing again pays where it leaves a fourth or less."""
    parts = [bits[len(bits) * i // (MAX_BITS + 1) : len(bits) * (i + 1) // (MAX_BITS + 1)] for i in range(MAX_BITS + 1)]
    for part in parts:
        for equal in _equal(members, hashes, roles, part):
            if _LARGE < len(equal) <= len(members) // 4:
                yield from _divided(equal, hashes, roles, tuple(bit for bit in bits if bit not in part))
            else:
                yield equal


def _equal(
    members: NDArray[np.int64], hashes: NDArray[np.uint64], roles: NDArray[np.int8], part: tuple[int, ...]
) -> Iterator[NDArray[np.int64]]:
    """Those of two roles or more that are equal in the bits `part`."""
    import numpy as np

    values = hashes[members] & np.uint64(sum(1 << bit for bit in part))
    order = np.argsort(values, kind="stable")
    ordered, values = members[order], values[order]
    starts = np.flatnonzero(np.concatenate(([True], values[1:] != values[:-1])))
    ends = np.append(starts[1:], len(ordered))
    mixed = np.minimum.reduceat(roles[ordered], starts) != np.maximum.reduceat(roles[ordered], starts)
    for start, end in zip(starts[mixed], ends[mixed], strict=True):
        yield ordered[start:end]
