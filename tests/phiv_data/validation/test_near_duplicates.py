"""Images that look the same in two splits are those that a comparison of every two finds."""

from __future__ import annotations

import hashlib
import math
import tempfile
import tracemalloc
from collections.abc import Iterable, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phiv_data.utils.groups import JoinedGroups
from phiv_data.validation.core.finding import ImageFacts, RowContext
from phiv_data.validation.core.key_index import KeyBlock, KeyIndex, pack
from phiv_data.validation.imaging import hamming_index
from phiv_data.validation.imaging.perceptual_hash import (
    DHASH_BYTES,
    MAX_BITS,
    MIN_CORRELATION,
    MIN_DETAIL_SIMILAR,
    PHASH_BYTES,
)
from phiv_data.validation.rules import near_duplicates as near
from phiv_data.validation.rules.near_duplicates import KEYS, find_near_duplicates
from phiv_schemas import Conversation, Turn

ROLES = {"train": 0, "val": 1, "dev": 1, "test": 2}
random = np.random.default_rng(0)
HASHES = [random.integers(0, 256, PHASH_BYTES, np.uint8).tobytes() for _ in range(3)]


def facts(name: str, phash: bytes, detail: int = MIN_DETAIL_SIMILAR) -> ImageFacts:
    """Of the image called `name`: those of one name are one, byte for byte."""
    return ImageFacts((9, 9), "PNG", hashlib.sha256(name.encode() + phash).digest(), detail=detail, phash=phash)


def row(split: str, line: int, *images: ImageFacts, file: str = "", source: str = "mine") -> RowContext:
    turn = Turn(images=tuple(f"{k}.png" for k in range(len(images))), user="", assistant="a")
    record = Conversation(id="a", source=source, conversations=(turn,))
    return RowContext(file or f"{split}.jsonl", line, split, record, images)


def blocks_of(rows: Iterable[RowContext]) -> list[KeyBlock]:
    """A piece for each row."""
    return [
        KeyBlock(name, one.file, one.split, packed)
        for one in rows
        for name, rule in KEYS.items()
        if (packed := pack(rule.keys, [one]))
    ]


def leaks(blocks: Iterable[KeyBlock], spill_bytes: int = 2**25) -> list[tuple[str, int, str, str]]:
    """File and line, JSON path, and where the other one is."""
    with tempfile.TemporaryDirectory() as folder:
        index = KeyIndex(lambda: Path(folder), spill_bytes)
        for block in blocks:
            index.add([block])
        return sorted(
            (seen.file, seen.line, str(one.json_path), one.message[1:]) for seen, one in find_near_duplicates(index)
        )


def flipped(phash: bytes, bits: Iterable[int]) -> bytes:
    """Other bits of the hash."""
    changed = int.from_bytes(phash[:DHASH_BYTES]) ^ sum(1 << bit for bit in set(bits))
    return changed.to_bytes(DHASH_BYTES) + phash[DHASH_BYTES:]


def shaken(phash: bytes, count: int) -> bytes:
    """Other pixels: the first `count` pairs of them are turned dark."""
    return phash[:DHASH_BYTES] + bytes(count) + phash[DHASH_BYTES + count :]


# The slow way ------------------------------------------------------------------------------------------------------


def look_the_same(a: bytes, b: bytes) -> bool:
    bits = int.from_bytes(a[:DHASH_BYTES]) ^ int.from_bytes(b[:DHASH_BYTES])
    return bits.bit_count() <= MAX_BITS and correlation(levels(a), levels(b)) >= MIN_CORRELATION


def levels(phash: bytes) -> list[int]:
    return [level for byte in phash[DHASH_BYTES:] for level in divmod(byte, 16)]


def correlation(a: Sequence[int], b: Sequence[int]) -> float:
    n, sum_a, sum_b = len(a), sum(a), sum(b)
    together = n * sum(x * y for x, y in zip(a, b, strict=True)) - sum_a * sum_b
    spread = (n * sum(x * x for x in a) - sum_a**2) * (n * sum(y * y for y in b) - sum_b**2)
    return together / math.sqrt(spread) if spread else 0.0


def slow_leaks(rows: Sequence[RowContext]) -> list[tuple[str, int, str, str]]:
    """Every image at its first place, compared with all of earlier splits, in order."""
    uses = sorted(
        (ROLES[one.split], one.file, one.line, k, one.split, image.sha256, image.phash)
        for one in rows
        if one.split in ROLES
        for k, image in enumerate(one.images)
        if image.detail >= MIN_DETAIL_SIMILAR
    )
    first_entries = {sha256: use for *use, sha256, _ in reversed(uses)}
    stored = [use for use in uses if first_entries[use[5]] == list(use[:5])]
    found = []
    for kind, file, line, k, _, _, phash in stored:
        others = (one for one in stored if one[0] < kind and look_the_same(phash, one[6]))
        if other := next(others, None):
            name = ("train", "val", "test")[other[0]]
            reported = f" looks like an image of {other[1]}:{other[2]}, which is in {name}"
            found.append((file, line, f"$.conversations[0].images[{k}]", reported))
    return sorted(found)


names = st.sampled_from("abcd")
hashes_of_images = st.builds(
    lambda phash, bits, count: shaken(flipped(phash, bits), count),
    st.sampled_from(HASHES[:2]),
    st.lists(st.integers(0, 63), max_size=4),
    st.sampled_from([0, 0, 0, 1, 2, 40]),
)
stored = st.builds(
    facts,
    names,
    hashes_of_images,
    st.sampled_from([MIN_DETAIL_SIMILAR, MIN_DETAIL_SIMILAR, MIN_DETAIL_SIMILAR, 127, MIN_DETAIL_SIMILAR - 1]),
)
split_files = st.sampled_from(
    [("train", "a"), ("train", "z"), ("val", "v"), ("dev", "b"), ("test", "c"), ("more", "m")]
)


@st.composite
def some_rows(draw: st.DrawFn) -> list[RowContext]:
    """Rows of a few files in any order, with up to three images; some images stand in several."""
    pool = draw(st.lists(stored, min_size=1, max_size=12))
    uses = draw(st.lists(st.tuples(split_files, st.lists(st.sampled_from(pool), max_size=3)), max_size=25))
    return [row(split, line, *images, file=file) for line, ((split, file), images) in enumerate(uses, 1)]


@given(some_rows(), st.randoms(use_true_random=False))
@settings(max_examples=200, deadline=None)
def test_findings_are_those_of_comparing_every_two(rows: list[RowContext], shuffle: Any) -> None:
    expected = slow_leaks(rows)
    blocks = blocks_of(rows)
    assert leaks(blocks) == expected
    shuffle.shuffle(blocks)
    assert leaks(blocks) == expected, "pieces come in any order"
    assert leaks(blocks, spill_bytes=0) == expected, "keys are on disk"
    assert leaks(blocks, spill_bytes=2000) == expected, "some are"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hamming_index, "_BLOCK", 2)
        assert leaks(blocks) == expected, "few are compared at a time"


images_in_order = st.lists(hashes_of_images, max_size=20)


def groups_of(hashes: Sequence[bytes], pairs: Iterable[tuple[int, int]]) -> set[frozenset[int]]:
    """The images of each group that pairs join."""
    groups = JoinedGroups[int]()
    for pair in pairs:
        groups.join(pair)
    names = [groups.name(i) for i in range(len(hashes))]
    return {frozenset(i for i, other in enumerate(names) if other == name) for name in names}


@given(images_in_order, st.integers(0, 20))
@settings(max_examples=200, deadline=None)
def test_links_join_what_comparing_every_two_joins_among_the_first_ones_too(hashes: list[bytes], count: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hamming_index, "_BLOCK", 2)
        packed = np.frombuffer(b"".join(hashes), np.uint8).reshape(len(hashes), PHASH_BYTES)
        dhash = packed[:, :DHASH_BYTES].copy().view("<u8").ravel()
        links = list(near.find_links(dhash, packed[:, DHASH_BYTES:]))
    assert all(a < b and look_the_same(hashes[a], hashes[b]) for a, b in links)
    first = hashes[:count]
    every_two = [(a, b) for a, b in combinations(range(len(first)), 2) if look_the_same(first[a], first[b])]
    assert groups_of(first, [(a, b) for a, b in links if b < count]) == groups_of(first, every_two)


def test_links_of_many_images_that_look_the_same_are_few() -> None:
    count = 5000
    hashes = np.full(count, 7, np.uint64)
    pixels = np.tile(np.frombuffer(HASHES[0][DHASH_BYTES:], np.uint8), (count, 1))
    links = set(near.find_links(hashes, pixels))
    assert {later for _, later in links} == set(range(1, count))
    assert len(links) < 2 * count


def test_an_image_is_reported_once_with_the_first_of_the_earliest_split() -> None:
    a, b, c, d = (facts(name, HASHES[0]) for name in "abcd")
    rows = [row("val", 4, a), row("train", 7, b), row("train", 9, c), row("test", 2, d), row("test", 3, d)]
    reported = " looks like an image of train.jsonl:7, which is in train"
    path = "$.conversations[0].images[0]"
    assert leaks(blocks_of(rows)) == [("test.jsonl", 2, path, reported), ("val.jsonl", 4, path, reported)]


def test_the_first_one_is_that_of_the_first_file_by_name() -> None:
    rows = [row("train", 1, facts("a", HASHES[0]), file="z"), row("val", 1, facts("b", HASHES[0]))]
    rows.append(row("train", 9, facts("c", HASHES[0]), file="m"))
    reported = " looks like an image of m:9, which is in train"
    for blocks in (blocks_of(rows), blocks_of(rows[::-1])):
        assert leaks(blocks) == [("val.jsonl", 1, "$.conversations[0].images[0]", reported)]


def test_images_of_one_split_are_not_compared() -> None:
    other = facts("o", shaken(HASHES[0], 100))  # of train, with the same hash
    val = [row("val", line, facts(name, HASHES[0])) for line, name in enumerate("ab", 1)]
    rows = [row("train", 1, other), *val, row("test", 1, facts("c", HASHES[0]))]
    reported = " looks like an image of val.jsonl:1, which is in val"
    assert leaks(blocks_of(rows)) == [("test.jsonl", 1, "$.conversations[0].images[0]", reported)]


def test_the_image_of_a_row_is_named() -> None:
    rows = [row("train", 1, facts("a", HASHES[1]), facts("b", HASHES[0])), row("val", 1, facts("c", HASHES[2]))]
    rows.append(row("val", 2, facts("d", HASHES[2]), facts("e", HASHES[0])))
    ((file, line, path, _),) = leaks(blocks_of(rows))
    assert (file, line, path) == ("val.jsonl", 2, "$.conversations[0].images[1]")


@pytest.mark.parametrize("source", ["hateful_memes", "nlvr2", "docvqa", "nlvr2-synthetic"])
def test_datasets_that_share_similar_images_on_purpose_are_left_out(source: str) -> None:
    rows = [row("train", 1, facts("a", HASHES[0]), source=source), row("val", 1, facts("b", HASHES[0]), source=source)]
    assert leaks(blocks_of(rows)) == []
    assert list(KEYS[near.PIXELS].keys(rows[0])) == [], "nor do they fill the disk"


def test_images_with_little_detail_take_no_space() -> None:
    plain, other = facts("a", HASHES[0], MIN_DETAIL_SIMILAR - 1), facts("b", HASHES[1])
    both = row("train", 1, plain, other)
    assert [item for *_, item in KEYS[near.USES].keys(both)] == [1]
    assert len(list(KEYS[near.PIXELS].keys(both))) == 8


def test_an_image_that_is_in_an_earlier_split_too_is_left_to_pv240() -> None:
    both, other = facts("a", HASHES[0]), facts("b", HASHES[0])
    assert leaks(blocks_of([row("train", 1, both), row("val", 1, both), row("train", 2, other)])) == []
    ((file, line, *_),) = leaks(blocks_of([row("val", 1, both), row("test", 1, both), row("train", 2, other)]))
    assert (file, line) == ("val.jsonl", 1)


def test_of_very_many_that_look_the_same_each_is_compared_with_a_few(monkeypatch: pytest.MonkeyPatch) -> None:
    compared = 0

    def counted(these: Any, those: Any) -> Any:
        nonlocal compared
        compared += len(these) * len(those)
        return hamming_index.within_max_bits(these, those)

    monkeypatch.setattr(near, "within_max_bits", counted)
    count = 20_000
    hashes = random.choice([0, 1, 2, 4, 1 << 20, 1 << 40], count).astype(np.uint64)
    packed = np.frombuffer(HASHES[0][DHASH_BYTES:] * count, np.uint8).reshape(count, -1)
    kinds = np.repeat(np.array([0, 1], np.int8), count // 2)
    tracemalloc.start()
    assert near.have_similar_hash(hashes, kinds).all()
    partner = near.find_partners(hashes, kinds, packed)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (partner[: count // 2] == near.NO_PARTNER).all()
    assert (partner[count // 2 :] == 0).all()
    assert compared < count * 512 * 3 < (count / 2) ** 2 / 3
    assert most < count * 1000
