"""Rules about what two splits have in common: what is trained on must not be tested with.

    IMAGES                PV240    the same image, byte for byte
    RECORDS               PV242    the same questions about the same images
    GROUPS                PV243    images of one group: a source video, a document, an image set
    near_duplicates.py    PV241    images that look the same

Splits count as train, val or test by their names; others (`part-1`, `llava`) are compared with nothing. Each image,
record or group is reported once in every split but the first that has it. Only images that were decoded count.
What a dataset shares on purpose, and how its images are grouped, it declares itself (`core.sharing`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache, partial

from phiv_data.validation.core.finding import Finding, RowContext
from phiv_data.validation.core.key_index import QUOTED, GroupRule, Key, Occurrence, digest
from phiv_data.validation.imaging.perceptual_hash import MIN_DETAIL
from phiv_schemas import Conversation

_KINDS = {
    "train": 0, "training": 0,
    "val": 1, "valid": 1, "validation": 1, "dev": 1, "eval": 1,
    "test": 2, "test1": 2, "test2": 2, "testing": 2,
}  # fmt: skip
_KIND_NAMES = ("train", "val", "test")
_MAX_INDEX = 2**16 - 1


@lru_cache(maxsize=1024)
def split_kind(split: str) -> int | None:
    """0 for train, 1 for val, 2 for test, by the words in a split's name; None without such a word, or with two."""
    words = re.split(r"[^a-z0-9]+", split.lower())  # train2017, train_set, trainset
    plain = [word if word in _KINDS else word.rstrip("0123456789").removesuffix("set") for word in words]
    kinds = {_KINDS[word] for word in plain if word in _KINDS}
    return kinds.pop() if len(kinds) == 1 else None


@lru_cache(maxsize=1024)
def split_label(split: str) -> str:
    """The name of a split in messages: that of its kind, where it has one."""
    kind = split_kind(split)
    return split if kind is None else _KIND_NAMES[kind]


def report_crossings(
    code: str, what: str, group: Sequence[Occurrence], *, of_image: bool = True
) -> Iterator[tuple[Occurrence, Finding]]:
    """Of rows that share something, the first of each split but the earliest: `code`, at its image or as a whole.

    `what` is a format of the `place` of the earliest split's first row, and of the key's value (`kind`).
    """
    first_entries: dict[int, Occurrence] = {}
    for row in group:
        if (kind := split_kind(row.split)) is not None:
            first_entries.setdefault(kind, row)
    ordered = [first_entries[kind] for kind in sorted(first_entries)]
    for later in ordered[1:]:
        first = ordered[0]
        message = what.format(place=first.location, kind=later.value.rstrip(b"\0").decode())
        path = image_json_path(later.position) if of_image else None
        yield later, Finding(code, path, f"{message}, which is in {split_label(first.split)}")


def image_position(turn: int, image: int) -> int:
    """Turn and image in one number, as keys have it: both up to 65,535."""
    return min(turn, _MAX_INDEX) << 16 | min(image, _MAX_INDEX)


def image_json_path(position: int) -> str:
    """The JSON path of an `image_position`."""
    return f"$.conversations[{position >> 16}].images[{position & _MAX_INDEX}]"


def image_positions(record: Conversation) -> Iterator[int]:
    """An `image_position` for each of `record.image_paths`."""
    for t, turn in enumerate(record.conversations):
        for i in range(len(turn.images)):
            yield image_position(t, i)


# Images ----------------------------------------------------------------------------------------------------------


def _image_keys(row: RowContext) -> Iterable[Key]:
    """A key for each use of an image that shows something."""
    if not row.images or row.sharing.of(row.conversation.source).shares_images:
        return ()
    pairs = zip(row.images, image_positions(row.conversation), strict=True)
    return [(facts.sha256[:16], b"", position) for facts, position in pairs if facts.detail >= MIN_DETAIL]


_SAME_IMAGE = QUOTED + " is the very image of {place}"
IMAGES = GroupRule(_image_keys, partial(report_crossings, "PV240", _SAME_IMAGE), of_images=True)


# Records -----------------------------------------------------------------------------------------------------------


def _record_keys(row: RowContext) -> Iterable[Key]:
    """Answers do not count: one split may have none, and a question that was trained on is not worth asking."""
    if not row.images or not all(facts.sha256 for facts in row.images):
        return ()
    record = row.conversation
    texts = [record.system or "", *(f"{len(turn.images)} {turn.user}" for turn in record.conversations)]
    parts = [text.encode() for text in texts]
    lengths = b"".join([len(part).to_bytes(8, "little") for part in parts])
    return ((digest(b"".join([lengths, *parts, *(facts.sha256 for facts in row.images)])), b"", 0),)


_SAME_QUESTIONS = "asks what {place} asks of the same images"
RECORDS = GroupRule(_record_keys, partial(report_crossings, "PV242", _SAME_QUESTIONS, of_image=False), of_images=True)


# Groups ------------------------------------------------------------------------------------------------------------


def _group_keys(row: RowContext) -> Iterable[Key]:
    """A key for each group of the row's images, mostly one. Its value is what the group is: `source video`."""
    known = row.sharing.of(row.conversation.source) if row.images else None
    if known is None or known.pattern is None:
        return ()
    groups: dict[str, int] = {}
    record = row.conversation
    for path, facts, position in zip(record.image_paths, row.images, image_positions(record), strict=True):
        if facts.sha256 and (group := known.group_of(path)):
            groups.setdefault(group, position)
    return [(digest(known.group + b" " + group.encode()), known.group, position) for group, position in groups.items()]


_SAME_GROUP = QUOTED + " is of the same {kind} as {place}"
GROUPS = GroupRule(_group_keys, partial(report_crossings, "PV243", _SAME_GROUP), of_images=True)
