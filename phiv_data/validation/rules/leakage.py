"""Rules about what stands in two splits: what is trained on must not be tested with.

    IMAGES   PV240    the same image, byte for byte
    RECORDS    PV242    the same questions about the same images
    GROUPS     PV243    images of one origin: a source video, a document, an image set
    near.py    PV241    images that look the same

Splits count as train, val or test by their names; others (`part-1`, `llava`) are compared with nothing. Each image,
record or group is told once in every split but the first that has it. Only images that were decoded count.

Datasets share on purpose, by the records' `source`:

    hateful_memes   images: the same one with another caption, and other ones with the same, train models to read both
    nlvr2           images: image sets were searched for one by one, and images recur over them (83 of the 7,962
                    official hashes of dev do); but all pairs of an image set belong to one split
    docvqa          looks: the pages of one form; but all pages of a document belong to one split
    ucf101          all clips of a group (v_Archery_g21_c04: g21) show one scene, and belong to one split
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache

from phiv_data.validation.core.finding import Found, RowContext
from phiv_data.validation.core.key_index import QUOTED, Key, KeyRule, Seen, digest
from phiv_data.validation.imaging.perceptual_hash import FLAT
from phiv_schemas import Conversation

IMAGES_SHARED = frozenset({"hateful_memes", "nlvr2"})
LOOKS_SHARED = IMAGES_SHARED | {"docvqa"}

_ROLES = {
    "train": 0, "training": 0,
    "val": 1, "valid": 1, "validation": 1, "dev": 1, "eval": 1,
    "test": 2, "test1": 2, "test2": 2, "testing": 2,
}  # fmt: skip
_ROLE_NAMES = ("train", "val", "test")
_GROUPS = {
    "ucf101": ("source video", re.compile(r"(?:^|/)v_([^/]+_g\d\d)_c\d\d\.", re.IGNORECASE)),
    "docvqa": ("document", re.compile(r"(?:^|/)([a-z]{4}\d{4})_\d+\.[a-z]+$", re.IGNORECASE)),
    "nlvr2": ("image set", re.compile(r"(?:^|/)([a-z]+\d?-\d+)-\d+-img[01]\.")),
}
_MAX_INDEX = 2**16 - 1


@lru_cache(maxsize=1024)
def role(split: str) -> int | None:
    """0 for train, 1 for val, 2 for test: what the name of a split says; None where it says none, or two."""
    words = re.split(r"[^a-z0-9]+", split.lower())  # train2017, train_set, trainset
    plain = [word if word in _ROLES else word.rstrip("0123456789").removesuffix("set") for word in words]
    roles = {_ROLES[word] for word in plain if word in _ROLES}
    return roles.pop() if len(roles) == 1 else None


def has_roles(splits: Iterable[str]) -> bool:
    """True when two of the splits can leak into one another."""
    return len({role(split) for split in splits} - {None}) > 1


def base(source: str) -> str:
    """The dataset that a record's `source` names: drawn ones follow their model."""
    return source.removesuffix("-synthetic")


def crossings(group: Sequence[Seen]) -> list[tuple[Seen, Seen]]:
    """Of rows that share something, the first of the earliest split, with the first of each later one."""
    firsts: dict[int, Seen] = {}
    for seen in group:
        if (its_role := role(seen.split)) is not None:
            firsts.setdefault(its_role, seen)
    ordered = [firsts[one] for one in sorted(firsts)]
    return [(ordered[0], one) for one in ordered[1:]]


def image_item(t: int, i: int) -> int:
    """Image `i` of turn `t` as the number of a key."""
    return min(t, _MAX_INDEX) << 16 | min(i, _MAX_INDEX)


def image_path(item: int) -> str:
    """The JSON path of an `image_item`."""
    return f"$.conversations[{item >> 16}].images[{item & _MAX_INDEX}]"


def items(record: Conversation) -> Iterator[int]:
    """An `image_item` for each of `record.image_paths`."""
    for t, turn in enumerate(record.conversations):
        for i in range(len(turn.images)):
            yield image_item(t, i)


@lru_cache(maxsize=1024)
def told_as(split: str) -> str:
    """How a split is called in a message."""
    its_role = role(split)
    return split if its_role is None else _ROLE_NAMES[its_role]


def at(seen: Seen) -> str:
    """Where a row stands."""
    return f"{seen.file}:{seen.line}"


# Images ----------------------------------------------------------------------------------------------------------


def _images(row: RowContext) -> Iterable[Key]:
    if not row.images or base(row.conversation.source) in IMAGES_SHARED:
        return ()
    pairs = zip(row.images, items(row.conversation), strict=True)
    return [(facts.sha256[:16], b"", item) for facts, item in pairs if facts.strength >= FLAT]


def _judge_images(group: Sequence[Seen]) -> Iterator[tuple[Seen, Found]]:
    for first, later in crossings(group):
        what = f"{QUOTED} is the very image of {at(first)}, which is in {told_as(first.split)}"
        yield later, Found("PV240", image_path(later.item), what)


IMAGES = KeyRule(_images, _judge_images, of_images=True)


# Records -----------------------------------------------------------------------------------------------------------


def _records(row: RowContext) -> Iterable[Key]:
    """Answers do not count: one split may have none, and a question that was trained on is not worth asking."""
    if not row.images or not all(facts.sha256 for facts in row.images):
        return ()
    record = row.conversation
    said = [record.system or "", *(f"{len(turn.images)} {turn.user}" for turn in record.conversations)]
    parts = [text.encode() for text in said]
    lengths = b"".join([len(part).to_bytes(8, "little") for part in parts])
    return ((digest(b"".join([lengths, *parts, *(facts.sha256 for facts in row.images)])), b"", 0),)


def _judge_records(group: Sequence[Seen]) -> Iterator[tuple[Seen, Found]]:
    for first, later in crossings(group):
        what = f"asks what {at(first)} asks of the same images, which is in {told_as(first.split)}"
        yield later, Found("PV242", None, what)


RECORDS = KeyRule(_records, _judge_records, of_images=True)


# Groups ------------------------------------------------------------------------------------------------------------


def _groups(row: RowContext) -> Iterable[Key]:
    """One for each group that a row shows, which is mostly one."""
    known = _GROUPS.get(base(row.conversation.source)) if row.images else None
    if known is None:
        return ()
    groups: dict[str, int] = {}
    for path, facts, item in zip(row.conversation.image_paths, row.images, items(row.conversation), strict=True):
        if facts.sha256 and (match := known[1].search(path)):
            groups.setdefault(match[1].lower(), item)
    kind = known[0].encode()
    return [(digest(f"{known[0]} {group}"), kind, item) for group, item in groups.items()]


def _judge_groups(group: Sequence[Seen]) -> Iterator[tuple[Seen, Found]]:
    for first, later in crossings(group):
        kind = later.value.rstrip(b"\0").decode()
        what = f"{QUOTED} is of the same {kind} as {at(first)}, which is in {told_as(first.split)}"
        yield later, Found("PV243", image_path(later.item), what)


GROUPS = KeyRule(_groups, _judge_groups, of_images=True)
