"""PV241: images that look the same, in two splits.

An image leaks when one of an earlier split has a hash with at most `MAX_BITS` other bits of 64 (`close`), and grey
pixels that correlate (`looks`). It is told once, at its first row; one that stands byte for byte in an earlier split is
told by PV240 instead, and plain ones are left out. Keys of images stay on disk; in memory are some 120 bytes for each
distinct image, and another 100 for those that have a close one (`benchmarks/near_duplicates.py`).

Of many images that all look the same, such as frames of a scene that stands still, each is compared with a few
hundred: those that could tell nothing new are left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from phiv_data.validation.core.finding import Found, RowContext
from phiv_data.validation.core.key_index import QUOTED, Key, KeyIndex, KeyRule, Seen
from phiv_data.validation.imaging.hamming_index import buckets, close, cut, sides
from phiv_data.validation.imaging.perceptual_hash import HASH_BYTES, LOOK_BYTES, PLAIN, alike
from phiv_data.validation.rules.leakage import LOOKS_SHARED, at, base, image_path, items, role, told_as

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

PLACES, LOOKS = "near", "look"
_CHUNK = 16
_FIELDS = [("hi", "<u8"), ("lo", "<u8"), ("line", "<u8"), ("item", "<u4"), ("place", "<u4"), ("role", "i1")]
_NEVER = 2**63 - 1
_NO_ROLE = 127


def _key(sha256: bytes, look: bytes) -> bytes:
    """Begins with what is spread evenly, for the files that keys are kept in."""
    return sha256[:8] + look[:HASH_BYTES]


def _places(row: RowContext) -> Iterable[Key]:
    """A key for each use of an image that is not plain."""
    if not row.images or base(row.conversation.source) in LOOKS_SHARED:
        return ()
    pairs = zip(row.images, items(row.conversation), strict=True)
    return [(_key(facts.sha256, facts.look), b"", item) for facts, item in pairs if facts.strength >= PLAIN]


def _looks(row: RowContext) -> Iterable[Key]:
    """The pixels of each, 16 bytes a key."""
    if not row.images or base(row.conversation.source) in LOOKS_SHARED:
        return ()
    return [
        (_key(facts.sha256, facts.look), facts.look[HASH_BYTES + start : HASH_BYTES + start + _CHUNK], start)
        for facts in row.images
        if facts.strength >= PLAIN
        for start in range(0, LOOK_BYTES - HASH_BYTES, _CHUNK)
    ]


KEYS = {PLACES: KeyRule(_places, of_images=True), LOOKS: KeyRule(_looks, of_images=True)}


def near_leaks(index: KeyIndex) -> Iterator[tuple[Seen, Found]]:
    """Each image that looks like one of an earlier split, at its first row, with the first such of the earliest."""
    images = _distinct(index)
    images = images[_have_close(images["lo"], images["role"])]
    partner = _partners(images["lo"], images["role"], _packed(index, images))
    for one, other in zip(images, partner, strict=True):
        if other != _NEVER:
            yield _told(index.seen(one), index.seen(images[other]))


def _told(seen: Seen, other: Seen) -> tuple[Seen, Found]:
    what = f"{QUOTED} looks like an image of {at(other)}, which is in {told_as(other.split)}"
    return seen, Found("PV241", image_path(seen.item), what)


def _distinct(index: KeyIndex) -> NDArray[Any]:
    """The first place of every different image, with the number of its `role`: by role, file, line and item."""
    import numpy as np

    roles = np.array([_NO_ROLE if (one := role(split)) is None else one for split in index.splits()], np.int8)
    parts = [_first_places(entries, roles) for entries in index.sorted_entries(PLACES)]
    images = np.concatenate(parts or [np.empty(0, _FIELDS)])
    rank = index.ranks()[images["place"]]
    return images[np.lexsort((images["item"], images["line"], rank, images["role"]))]


def _first_places(entries: NDArray[Any], roles: NDArray[np.int8]) -> NDArray[Any]:
    """Of entries that are sorted by key, file, line and item."""
    import numpy as np

    entries = entries[roles[entries["place"]] != _NO_ROLE]
    role_of = roles[entries["place"]]
    new = np.ones(len(entries), bool)
    new[1:] = (entries["hi"][1:] != entries["hi"][:-1]) | (entries["lo"][1:] != entries["lo"][:-1])
    order = np.lexsort((role_of, np.cumsum(new)))  # stable: within a role they stay by file, line and item
    first = order[new]
    images = np.empty(len(first), _FIELDS)
    for name in ("hi", "lo", "line", "item", "place"):
        images[name] = entries[name][first]
    images["role"] = role_of[first]
    return images


def _have_close(hashes: NDArray[np.uint64], roles: NDArray[np.int8]) -> NDArray[np.bool_]:
    """Which hashes have a close one of another role."""
    import numpy as np

    found = np.zeros(len(hashes), bool)
    for members in buckets(hashes, roles):
        later, earlier = sides(members, roles)
        _mark(found, later, earlier, hashes, roles)
        _mark(found, earlier, later, hashes, roles)
    return found


def _mark(
    found: NDArray[np.bool_],
    these: NDArray[np.int64],
    those: NDArray[np.int64],
    hashes: NDArray[np.uint64],
    roles: NDArray[np.int8],
) -> None:
    """Mark what is close to one of `those`. One is enough, so a set that is all close takes a few comparisons each."""
    for left in cut(these[~found[these]]):
        for others in cut(those):
            pairs = close(hashes[left], hashes[others]) & (roles[left][:, None] != roles[others])
            found[left[pairs.any(axis=1)]] = True
            if not len(left := left[~found[left]]):
                break


def _partners(hashes: NDArray[np.uint64], roles: NDArray[np.int8], packed: NDArray[np.uint8]) -> NDArray[np.int64]:
    """For each the first of an earlier role that is close and looks alike, or `_NEVER`. They are sorted by role."""
    import numpy as np

    partner = np.full(len(hashes), _NEVER)
    for members in buckets(hashes, roles):
        later, earlier = sides(members, roles)
        for left in cut(later):
            for others in cut(earlier):
                if not len(left := left[partner[left] > others[0]]):  # numbers rise: no better one is to come
                    break
                first = _first_alike(left, others, hashes, roles, packed)
                partner[left] = np.minimum(partner[left], first)
    return partner


def _first_alike(
    later: NDArray[np.int64],
    earlier: NDArray[np.int64],
    hashes: NDArray[np.uint64],
    roles: NDArray[np.int8],
    packed: NDArray[np.uint8],
) -> NDArray[np.int64]:
    import numpy as np

    pairs = close(hashes[later], hashes[earlier]) & (roles[later][:, None] > roles[earlier])
    rows, columns = np.flatnonzero(pairs.any(axis=1)), np.flatnonzero(pairs.any(axis=0))
    if len(rows):
        pairs[np.ix_(rows, columns)] &= alike(packed[later[rows]], packed[earlier[columns]])
    first: NDArray[np.int64] = np.where(pairs, earlier, _NEVER).min(axis=1)
    return first


def _packed(index: KeyIndex, images: NDArray[Any]) -> NDArray[np.uint8]:
    """[n, LOOK_BYTES - HASH_BYTES]: the pixels of images, read from their keys."""
    import numpy as np

    order = np.argsort(images["hi"])
    names = images["hi"][order]  # the first half of a key, which is of the image's sha256
    packed = np.zeros((len(images), LOOK_BYTES - HASH_BYTES), np.uint8)
    for entries in index.sorted_entries(LOOKS) if len(names) else ():
        found = np.searchsorted(names, entries["hi"]).clip(max=len(names) - 1)
        wanted = names[found] == entries["hi"]
        rows, start = order[found[wanted]], entries["item"][wanted]
        chunks = np.ascontiguousarray(entries["value"][wanted]).view(np.uint8).reshape(-1, _CHUNK)
        packed[rows[:, None], start[:, None] + np.arange(_CHUNK)] = chunks
    return packed
