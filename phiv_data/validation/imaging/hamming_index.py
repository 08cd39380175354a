"""A Hamming index: hashes of 64 bits that differ in at most `MAX_BITS`, without comparing every two.

    >>> for members in candidate_buckets(hashes, kinds):         # small sets; similar hashes share one or more
    ...     later, earlier = split_by_kind(members, kinds)
    ...     within_max_bits(hashes[later], hashes[earlier]) & (kinds[later][:, None] > kinds[earlier])

`kinds` are numbers of split kinds (0 train, 1 val, 2 test); only hashes of different kinds are of interest. Two hashes
that differ in 3 bits are equal in one of four parts of 16 bits, so only those that share a part are compared. A part
that very many share (a black bar over the image) is divided by the other 48 bits, in the same way (multi-index
hashing).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from phiv_data.validation.imaging.perceptual_hash import MAX_BITS

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_BITS = tuple(range(64))
_LARGE = 4096  # from here on, a bucket is worth dividing
_BLOCK = 512  # compared with as many others at a time: what this takes stays in the processor's cache


def candidate_buckets(hashes: NDArray[np.uint64], kinds: NDArray[Any]) -> Iterator[NDArray[np.int64]]:
    """Indices of hashes, ascending, of two kinds at least: any two similar ones of different kinds share a bucket."""
    import numpy as np

    if len(hashes):
        yield from _divide(np.arange(len(hashes)), hashes, kinds, _BITS)


def split_by_kind(members: NDArray[np.int64], kinds: NDArray[Any]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The later ones, which are not of the lowest kind, and the earlier ones, which are not of the highest."""
    of_members = kinds[members]
    return members[of_members > of_members.min()], members[of_members < of_members.max()]


def iter_blocks(members: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    """As many at a time as are compared at once."""
    return (members[i : i + _BLOCK] for i in range(0, len(members), _BLOCK))


def within_max_bits(these: NDArray[np.uint64], those: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """[len(these), len(those)]: do at most `MAX_BITS` bits differ?"""
    import numpy as np

    bits = these[:, None] ^ those
    for _ in range(MAX_BITS):
        bits &= bits - np.uint64(1)  # clears the lowest bit
    few: NDArray[np.bool_] = bits == 0
    return few


def _divide(
    members: NDArray[np.int64], hashes: NDArray[np.uint64], kinds: NDArray[Any], bits: tuple[int, ...]
) -> Iterator[NDArray[np.int64]]:
    """Buckets of members that differ in `bits` only. Dividing again pays where it leaves a fourth or less."""
    import numpy as np

    parts = [bits[len(bits) * i // (MAX_BITS + 1) : len(bits) * (i + 1) // (MAX_BITS + 1)] for i in range(MAX_BITS + 1)]
    for part in parts:
        values = hashes[members] & np.uint64(sum(1 << bit for bit in part))
        order = np.argsort(values, kind="stable")
        ordered, values = members[order], values[order]
        starts = np.flatnonzero(np.concatenate(([True], values[1:] != values[:-1])))
        ends = np.append(starts[1:], len(ordered))
        is_mixed = np.minimum.reduceat(kinds[ordered], starts) != np.maximum.reduceat(kinds[ordered], starts)
        for start, end in zip(starts[is_mixed], ends[is_mixed], strict=True):
            equal = ordered[start:end]
            if _LARGE < len(equal) <= len(members) // 4:
                yield from _divide(equal, hashes, kinds, tuple(bit for bit in bits if bit not in part))
            else:
                yield equal
