"""PV241: images in two splits that look the same (near-duplicates).

An image leaks when one of an earlier split has a difference hash with at most `MAX_BITS` other bits of 64
(`imaging.hamming_index`), and grey pixels that correlate (`imaging.perceptual_hash`). It is reported once, at its first
row; PV240 reports it instead where an earlier split has the same bytes. Images with little detail are left out. Keys of
images stay on disk; in memory are some 120 bytes for each distinct image, and another 100 for those with a similar
hash in another split (`benchmarks/near_duplicates.py`).

Of many images that all look the same, such as frames of a scene that does not move, each is compared with a few
hundred: those that could add nothing new are left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from phiv_data.validation.core.finding import Finding, ImageFacts, RowContext
from phiv_data.validation.core.key_index import QUOTED, GroupRule, Key, KeyIndex, Occurrence
from phiv_data.validation.imaging.hamming_index import candidate_buckets, iter_blocks, split_by_kind, within_max_bits
from phiv_data.validation.imaging.perceptual_hash import DHASH_BYTES, MIN_DETAIL_SIMILAR, PHASH_BYTES, are_similar
from phiv_data.validation.rules.leakage import image_json_path, image_positions, split_kind, split_label

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

USES, PIXELS = "phash_use", "phash_pixels"
_CHUNK = 16
_FIELDS = [("hi", "<u8"), ("lo", "<u8"), ("line", "<u8"), ("position", "<u4"), ("place", "<u4"), ("kind", "i1")]
NO_PARTNER = 2**63 - 1
_UNKNOWN_KIND = 127


def image_name(facts: ImageFacts) -> bytes:
    """Begins with bytes that are spread evenly, for the files that keys are kept in."""
    return facts.sha256[:8] + facts.phash[:DHASH_BYTES]


def _use_keys(row: RowContext) -> Iterable[Key]:
    """A key for each use of an image with enough detail."""
    if not row.images or row.sharing.of(row.conversation.source).shares_similar:
        return ()
    pairs = zip(row.images, image_positions(row.conversation), strict=True)
    return [(image_name(facts), b"", position) for facts, position in pairs if facts.detail >= MIN_DETAIL_SIMILAR]


def _pixel_keys(row: RowContext) -> Iterable[Key]:
    """The pixels of each, 16 bytes a key."""
    if not row.images or row.sharing.of(row.conversation.source).shares_similar:
        return ()
    return [
        (image_name(facts), facts.phash[DHASH_BYTES + start : DHASH_BYTES + start + _CHUNK], start)
        for facts in row.images
        if facts.detail >= MIN_DETAIL_SIMILAR
        for start in range(0, PHASH_BYTES - DHASH_BYTES, _CHUNK)
    ]


KEYS = {USES: GroupRule(_use_keys, of_images=True), PIXELS: GroupRule(_pixel_keys, of_images=True)}


def find_near_duplicates(index: KeyIndex) -> Iterator[tuple[Occurrence, Finding]]:
    """Each image that looks like one of an earlier split, at its first row, with the first such of the earliest."""
    images = _distinct_images(index)
    images = images[have_similar_hash(images["lo"], images["kind"])]
    partners = find_partners(images["lo"], images["kind"], read_pixels(index, images["hi"]))
    for image, partner in zip(images, partners, strict=True):
        if partner != NO_PARTNER:
            row, other = index.occurrence(image), index.occurrence(images[partner])
            what = f"{QUOTED} looks like an image of {other.location}, which is in {split_label(other.split)}"
            yield row, Finding("PV241", image_json_path(row.position), what)


def find_links(hashes: NDArray[np.uint64], pixels: NDArray[np.uint8]) -> Iterator[tuple[int, int]]:
    """Pairs (earlier, later) of images that look the same, as few as join all that do, be it over others.

    So they do among the first n images alone, for every n: each image has a pair with every group of those before it
    that holds a similar one.
    """
    import numpy as np

    for members in candidate_buckets(hashes, np.arange(len(hashes))):
        group, start = np.arange(len(members)), 0
        for left in iter_blocks(members):
            similar = _similar_earlier(members, start, left, group, hashes, pixels)
            for row, j in enumerate(range(start, start + len(left))):
                found = np.flatnonzero(similar[row])
                joined, first = np.unique(group[found], return_index=True)
                yield from ((int(members[i]), int(members[j])) for i in found[first])
                if len(joined):
                    group[j] = joined[0]
                if len(joined) > 1:
                    group[:j][np.isin(group[:j], joined)] = joined[0]
            start += len(left)


def _similar_earlier(
    members: NDArray[np.int64],
    start: int,
    left: NDArray[np.int64],
    group: NDArray[np.int64],
    hashes: NDArray[np.uint64],
    pixels: NDArray[np.uint8],
) -> NDArray[np.bool_]:
    """[len(left), earlier members]: which look the same. Of a group one is enough, where a whole block is of it."""
    import numpy as np

    similar, at = np.zeros((len(left), start + len(left)), bool), 0
    has_one_of: dict[int, NDArray[np.bool_]] = {}
    for others in iter_blocks(members[: start + len(left)]):
        groups, none = group[at : at + len(others)], np.zeros(len(left), bool)
        is_one = at < start and (groups == groups[0]).all()
        done = has_one_of.setdefault(int(groups[0]), none) if is_one else none
        rest = np.flatnonzero(~done)
        pairs = within_max_bits(hashes[left[rest]], hashes[others]) & (left[rest][:, None] > others)
        rows, columns = np.flatnonzero(pairs.any(axis=1)), np.flatnonzero(pairs.any(axis=0))
        if len(rows):
            pairs[np.ix_(rows, columns)] &= are_similar(pixels[left[rest[rows]]], pixels[others[columns]])
        similar[rest, at : at + len(others)] = pairs
        done[rest] = pairs.any(axis=1)
        at += len(others)
    return similar


def read_pixels(index: KeyIndex, names: NDArray[np.uint64]) -> NDArray[np.uint8]:
    """The pixels of images [n, 128], from their keys; `names` are the first halves of keys: of the image's sha256."""
    import numpy as np

    known, where = np.unique(names, return_inverse=True)
    pixels = np.zeros((len(known), PHASH_BYTES - DHASH_BYTES), np.uint8)
    for entries in index.sorted_entries(PIXELS) if len(known) else ():
        found = np.searchsorted(known, entries["hi"]).clip(max=len(known) - 1)
        wanted = known[found] == entries["hi"]
        rows, start = found[wanted], entries["position"][wanted]
        chunks = np.ascontiguousarray(entries["value"][wanted]).view(np.uint8).reshape(-1, _CHUNK)
        pixels[rows[:, None], start[:, None] + np.arange(_CHUNK)] = chunks
    return pixels[where]


def _distinct_images(index: KeyIndex) -> NDArray[Any]:
    """The first use of every distinct image, with its split kind: by kind, file, line and position."""
    import numpy as np

    kinds = np.array(
        [_UNKNOWN_KIND if (kind := split_kind(split)) is None else kind for split in index.splits()], np.int8
    )
    parts = [np.empty(0, _FIELDS)]
    for entries in index.sorted_entries(USES):
        # of each image the first use in its earliest split
        entries = entries[kinds[entries["place"]] != _UNKNOWN_KIND]
        kind_of = kinds[entries["place"]]
        new = np.ones(len(entries), bool)
        new[1:] = (entries["hi"][1:] != entries["hi"][:-1]) | (entries["lo"][1:] != entries["lo"][:-1])
        order = np.lexsort((kind_of, np.cumsum(new)))  # stable: within a kind they stay by file, line and position
        first = order[new]
        part = np.empty(len(first), _FIELDS)
        for name in ("hi", "lo", "line", "position", "place"):
            part[name] = entries[name][first]
        part["kind"] = kind_of[first]
        parts.append(part)
    images = np.concatenate(parts)
    rank = index.ranks()[images["place"]]
    return images[np.lexsort((images["position"], images["line"], rank, images["kind"]))]


def have_similar_hash(hashes: NDArray[np.uint64], kinds: NDArray[Any]) -> NDArray[np.bool_]:
    """Which hashes have a similar one of another kind."""
    import numpy as np

    found = np.zeros(len(hashes), bool)
    for members in candidate_buckets(hashes, kinds):
        later, earlier = split_by_kind(members, kinds)
        _mark_similar(found, later, earlier, hashes, kinds)
        _mark_similar(found, earlier, later, hashes, kinds)
    return found


def _mark_similar(
    found: NDArray[np.bool_],
    these: NDArray[np.int64],
    those: NDArray[np.int64],
    hashes: NDArray[np.uint64],
    kinds: NDArray[Any],
) -> None:
    """Mark hashes that are similar to one of `those`. One is enough, so where all are similar each takes a few
    comparisons."""
    for left in iter_blocks(these[~found[these]]):
        for others in iter_blocks(those):
            pairs = within_max_bits(hashes[left], hashes[others]) & (kinds[left][:, None] != kinds[others])
            found[left[pairs.any(axis=1)]] = True
            if not len(left := left[~found[left]]):
                break


def find_partners(hashes: NDArray[np.uint64], kinds: NDArray[Any], pixels: NDArray[np.uint8]) -> NDArray[np.int64]:
    """For each the first image of an earlier kind that looks the same, or `NO_PARTNER`. They are sorted by kind."""
    import numpy as np

    partner = np.full(len(hashes), NO_PARTNER)
    for members in candidate_buckets(hashes, kinds):
        later, earlier = split_by_kind(members, kinds)
        for left in iter_blocks(later):
            for others in iter_blocks(earlier):
                if not len(left := left[partner[left] > others[0]]):  # indices ascend: no earlier one follows
                    break
                pairs = within_max_bits(hashes[left], hashes[others]) & (kinds[left][:, None] > kinds[others])
                rows, columns = np.flatnonzero(pairs.any(axis=1)), np.flatnonzero(pairs.any(axis=0))
                if len(rows):
                    pairs[np.ix_(rows, columns)] &= are_similar(pixels[left[rows]], pixels[others[columns]])
                partner[left] = np.minimum(partner[left], np.where(pairs, others, NO_PARTNER).min(axis=1))
    return partner
