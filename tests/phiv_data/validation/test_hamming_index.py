"""Close hashes are those that a comparison of every two finds, with far fewer comparisons."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from phiv_data.validation.imaging import hamming_index
from phiv_data.validation.imaging.hamming_index import candidate_buckets, iter_blocks, split_by_kind
from phiv_data.validation.imaging.perceptual_hash import MAX_BITS

Hashes = NDArray[np.uint64]
Roles = NDArray[np.int8]

EVERY_BIT = 2**64 - 1
words = st.sampled_from([0, EVERY_BIT, 0xFFFF, 0xFFFF << 48]) | st.integers(0, EVERY_BIT)
flips = st.lists(st.integers(0, 63), max_size=5).map(lambda bits: sum(1 << bit for bit in set(bits)))


@st.composite
def hashes_and_roles(draw: st.DrawFn) -> tuple[Hashes, Roles]:
    """Some hundred hashes around a few words, most of them a few bits away, and roles that rise."""
    some = draw(st.lists(words, min_size=1, max_size=4))
    near = draw(st.lists(st.tuples(st.sampled_from(some), flips), max_size=200))
    roles = sorted(draw(st.lists(st.integers(0, 2), min_size=len(near), max_size=len(near))))
    return np.array([word ^ flip for word, flip in near], np.uint64), np.array(roles, np.int8)


def every_pair(hashes: Hashes, roles: Roles) -> set[tuple[int, int]]:
    """(later, earlier), by comparing all."""
    numbered = [(i, int(word), int(role)) for i, (word, role) in enumerate(zip(hashes, roles, strict=True))]
    return {
        (j, i)
        for (i, one, role), (j, other, later) in combinations(numbered, 2)
        if role < later and (one ^ other).bit_count() <= MAX_BITS
    }


def pairs_of(hashes: Hashes, roles: Roles) -> set[tuple[int, int]]:
    found = set()
    for members in candidate_buckets(hashes, roles):
        assert len(set(roles[members])) > 1
        assert (np.diff(members) > 0).all()
        later, earlier = split_by_kind(members, roles)
        are = hamming_index.within_max_bits(hashes[later], hashes[earlier]) & (roles[later][:, None] > roles[earlier])
        found |= {(int(later[i]), int(earlier[j])) for i, j in np.argwhere(are)}
    return found


@given(hashes_and_roles())
@settings(max_examples=150, deadline=None)
def test_the_pairs_are_those_of_comparing_all(given_: tuple[Hashes, Roles]) -> None:
    assert pairs_of(*given_) == every_pair(*given_)


@given(hashes_and_roles(), st.integers(0, 9))
@settings(max_examples=150, deadline=None)
def test_nor_do_they_depend_on_how_buckets_are_divided(given_: tuple[Hashes, Roles], large: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hamming_index, "_LARGE", large)
        assert pairs_of(*given_) == every_pair(*given_)


@given(st.integers(0, 2000))
def test_what_is_cut_is_whole(count: int) -> None:
    members = np.arange(count)
    assert [one for part in iter_blocks(members) for one in part] == list(members)


def test_any_three_bits_are_close_and_any_four_are_not() -> None:
    roles = np.array([0, 1], np.int8)
    for count, is_close in ((3, True), (4, False)):
        for bits in combinations(range(0, 64, 3), count):
            hashes = np.array([0x0123456789ABCDEF, 0x0123456789ABCDEF ^ sum(1 << bit for bit in bits)], np.uint64)
            assert pairs_of(hashes, roles) == ({(1, 0)} if is_close else set()), bits


def test_a_part_that_very_many_share_is_divided() -> None:
    random = np.random.default_rng(0)
    hashes = random.integers(0, 2**64, 60_000, np.uint64)
    hashes[::6] &= np.uint64(EVERY_BIT << 16 & EVERY_BIT)  # a black bar at the bottom: 10,000 with the same 16 bits
    roles = np.repeat(np.array([0, 1], np.int8), 30_000)
    sizes = [(len(members), *map(len, split_by_kind(members, roles))) for members in candidate_buckets(hashes, roles)]
    assert max(size for size, _, _ in sizes) < 100
    assert sum(later * earlier for _, later, earlier in sizes) < 60_000**2 / 4 / 1000
