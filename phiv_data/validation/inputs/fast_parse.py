"""Parses good records with msgspec, some ten times faster than pydantic: the validator's fast path for clean data.

    fast_record(raw)    a record, or None: then pydantic (`jsonl.parse_line`) decides whether and what is wrong

Invariant (tested): what `fast_record` accepts, pydantic accepts, with equal content. It may
reject good records (unusual paths, escaped quotes beside equal keys), but accepts no bad one. A fast record has the
attributes of a `Conversation` and none of its methods.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import chain
from typing import Any

import msgspec

from phiv_schemas import Conversation

# Subsets of `check_name` and `check_image_path`, all of a record in one match: parts of a path begin with a letter,
# digit or underscore, so none is "", "." or "..".
_NAME = r"[A-Za-z0-9_][\w.:/()+,=@~-]*+"
_PART = r"[A-Za-z0-9_][\w .()+,=@~-]*+"
_are_good = re.compile(rf"{_NAME}\0{_NAME}(?:\0{_PART}(?:/{_PART})*+)*+", re.ASCII).fullmatch


class FastTurn(msgspec.Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    """As `Turn`."""

    images: tuple[str, ...]
    user: str
    assistant: str | None
    answers: tuple[str, ...] | None = None
    image_offsets: tuple[int, ...] | None = None


class FastRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    """As `Conversation`."""

    id: str
    source: str
    conversations: tuple[FastTurn, ...]
    system: str | None = None

    @property
    def turns(self) -> tuple[FastTurn, ...]:
        """`conversations` by its plainer name."""
        return self.conversations

    @property
    def image_paths(self) -> tuple[str, ...]:
        """Every image of the dialogue, in order, repeats included."""
        turns = self.conversations
        return turns[0].images if len(turns) == 1 else tuple(chain.from_iterable(turn.images for turn in turns))


_PLAIN = bytes(byte for byte in (*b"\t\n\r", *range(32, 127)) if chr(byte) not in "<[#\\")

_decode: Callable[[bytes], Any] = msgspec.json.Decoder(FastRecord).decode


def fast_record(raw: bytes) -> Conversation | None:
    """The record of a line that is good without doubt; None where pydantic must decide.

    A record in which no key stands twice has two quotes per key and per string; a repeated key adds at least two, and
    so does an explicit null of an optional key. Escaped quotes inside text are counted for themselves.
    """
    try:
        record = _decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    quotes, expected = raw.count(b'"'), 2 * _count_strings(record)
    if quotes > expected and b"\\\\" not in raw:  # no escaped backslash, so a quote after one is escaped
        quotes -= raw.count(b'\\"')
    return record if quotes == expected else None


def quick(raw: bytes) -> tuple[Conversation, tuple[()], bool] | None:
    """`fast_record` in the form that `jsonl.read_range` takes."""
    record = fast_record(raw)
    return None if record is None else (record, (), is_plain(raw, record))


def is_plain(raw: bytes, record: Conversation) -> bool:
    """True where no text of a line can hold what `text.find_unusual_text` looks for.

    That is no escape, no `<`, no `#`, no role in capitals, and no bracket but those of the lists.
    """
    lists = 1 + len(record.conversations)
    return raw.translate(None, _PLAIN) == b"[" * lists and b"USER" not in raw and b"ASSIST" not in raw


def same(a: Conversation, b: Conversation) -> bool:
    """True when both hold the same, be they fast records or pydantic's."""
    return a == b or (type(a) is not type(b) and values_of(a) == values_of(b))


def values_of(record: Conversation) -> list[Any]:
    """What a record holds, its id first, whichever of both classes it has."""
    turns = [(t.images, t.user, t.assistant, t.answers, t.image_offsets) for t in record.conversations]
    return [record.id, record.source, record.system, turns]


def fast_row(row: Any) -> Conversation | None:
    """As `fast_record`, of a shard's row as a dict."""
    wire = {key: row[key] for key in ("id", "source", "conversations", "system")}
    try:
        record: Any = msgspec.convert(wire, FastRecord)
    except (msgspec.ValidationError, RecursionError):
        return None
    return record if _count_strings(record) else None


def _count_strings(record: FastRecord) -> int:
    """How many strings the JSON of a good record has, keys among them; 0 where pydantic must decide.

    Good: everything the models check beyond types and keys.
    """
    strings = 5 if record.system is None else 7  # id, source and their keys, the key conversations
    names, was_labeled = [record.id, record.source], True
    for turn in record.conversations:
        names += turn.images
        strings += 4 + len(turn.images)
        if turn.assistant is None:
            was_labeled = False
        elif was_labeled:
            strings += 1
        else:
            return 0
        if (answers := turn.answers) is not None:
            if not answers or (turn.assistant is not None and turn.assistant not in answers):
                return 0
            strings += 1 + len(answers)
        if (offsets := turn.image_offsets) is not None:
            fits = len(offsets) == len(turn.images) and list(offsets) == sorted(offsets)
            if not fits or not all(0 <= offset <= len(turn.user) for offset in offsets):
                return 0
            strings += 1
    return strings if record.conversations and _are_good("\0".join(names)) else 0
