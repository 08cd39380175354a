"""PV244: rows of one split that ask the same of images that look the same, under other paths and in other bytes.

A copy that was scaled or stored again counts twice in training, and with another answer it teaches both. Rows are
compared where their questions are equal, and count as copies when each image of one is a near duplicate of the
other's in its place (`near_duplicates`). Images with the same bytes are `duplicates.CONTENT`'s: PV203, PV214.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from phiv_data.validation.core.finding import Finding, RowContext
from phiv_data.validation.core.key_index import QUOTED, GroupRule, Key, KeyIndex, Occurrence, digest
from phiv_data.validation.imaging.hamming_index import within_max_bits
from phiv_data.validation.imaging.perceptual_hash import MIN_DETAIL_SIMILAR, are_similar
from phiv_data.validation.rules.duplicates import location_of
from phiv_data.validation.rules.leakage import image_json_path, image_positions, split_label
from phiv_data.validation.rules.near_duplicates import (
    NO_PARTNER,
    find_partners,
    have_similar_hash,
    image_name,
    read_pixels,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

ASKED = "asked"
_ANSWERS = 2**32 - 1  # the position of a row's last key, whose value identifies its answers
_VALUE = [("name", "<u8"), ("hash", "<u8")]


def _asked_keys(row: RowContext) -> Iterable[Key]:
    """A key for each image of a row, and one for its answers: equal for all rows that ask the same."""
    record, images = row.conversation, row.images
    if not images or row.sharing.of(record.source).shares_similar:
        return ()
    if any(facts.detail < MIN_DETAIL_SIMILAR for facts in images):
        return ()
    turns = [f"{len(turn.images)} {len(turn.user)} {turn.user}" for turn in record.conversations]
    key = digest("\0".join((split_label(row.split), record.system or "", *turns)))
    pairs = zip(images, image_positions(record), strict=True)
    answers = digest("\0".join(str(turn.assistant) for turn in record.conversations))
    return [*((key, image_name(facts), position) for facts, position in pairs), (key, answers, _ANSWERS)]


KEYS = {ASKED: GroupRule(_asked_keys, of_images=True)}


def find_near_copies(index: KeyIndex) -> Iterator[tuple[Occurrence, Finding]]:
    """Each row that is a near copy of an earlier one of its split, at its first image."""
    import numpy as np

    groups = list(_similar_rows(index))
    if not groups:
        return
    names = np.concatenate([_images(rows)["name"].ravel() for rows in groups])
    pixels, start = read_pixels(index, names), 0
    for rows in groups:
        images = _images(rows)
        of_rows = pixels[start : start + images.size].reshape(*images.shape, -1)
        start += images.size
        partners = find_partners(images["hash"][:, 0], np.arange(len(rows)), of_rows[:, 0])
        for i, partner in enumerate(partners.tolist()):
            if partner != NO_PARTNER and _are_copies(images, of_rows, i, partner):
                row, first = index.occurrence(rows[i, 0]), index.occurrence(rows[partner, 0])
                replies = "the same answer" if rows[i, -1]["value"] == rows[partner, -1]["value"] else "another answer"
                what = f"{QUOTED} looks like the image {location_of(first, row)}, and is asked the same, with {replies}"
                yield row, Finding("PV244", image_json_path(row.position), what)


def _similar_rows(index: KeyIndex) -> Iterator[NDArray[Any]]:
    """Of each question the keys of rows [n, images + 1] whose first image has a similar hash in another row."""
    import numpy as np

    for entries in index.sorted_entries(ASKED):
        same = (entries["hi"][1:] == entries["hi"][:-1]) & (entries["lo"][1:] == entries["lo"][:-1])
        edges = np.flatnonzero(~np.concatenate(([False], same, [False])))
        for start, end in pairwise(edges):
            per_row = int(np.argmax(entries["position"][start:end] == _ANSWERS)) + 1
            if end - start > per_row:
                rows = entries[start:end].reshape(-1, per_row)
                rows = rows[have_similar_hash(_images(rows)["hash"][:, 0], np.arange(len(rows)))]
                if len(rows):
                    yield rows


def _images(rows: NDArray[Any]) -> NDArray[Any]:
    """Name and hash of each image [n, images]."""
    import numpy as np

    return np.ascontiguousarray(rows["value"][:, :-1]).view(_VALUE)


def _are_copies(images: NDArray[Any], pixels: NDArray[Any], i: int, j: int) -> bool:
    """Whether all images of two rows look the same and are not all the same bytes. The first do."""
    if (images["name"][i] == images["name"][j]).all():
        return False
    hashes = images["hash"]
    return all(
        within_max_bits(hashes[i, k : k + 1], hashes[j, k : k + 1]).all()
        and are_similar(pixels[i, k : k + 1], pixels[j, k : k + 1]).all()
        for k in range(1, images.shape[1])
    )
