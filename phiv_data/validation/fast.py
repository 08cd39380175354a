"""Good records, parsed some ten times faster than pydantic does it: the validator's way through clean data.

    fast_record(raw)    a record, or None: pydantic (`jsonl.parse_line`) must say what is wrong, or that nothing is

The law, which the tests hold against pydantic: what `fast_record` accepts, pydantic accepts, with equal content. It may
turn down good records (odd paths, escaped quotes beside equal keys), never the other way. A fast record has the
attributes of a `Conversation` and none of its methods.
"""

from __future__ import annotations

import re
from itertools import chain
from typing import Any, cast

import msgspec

from phiv_schemas import Conversation

# A subset of `check_image_path`: parts begin with a letter, digit or underscore, so none is "", "." or "..".
_PART = r"[A-Za-z0-9_][\w .()+,=@~-]*+"
_PATH = rf"{_PART}(?:/{_PART})*+"
_good_paths = re.compile(rf"{_PATH}(?:\0{_PATH})*+", re.ASCII).fullmatch
_good_name = re.compile(r"[A-Za-z0-9_](?:[\w .:/()+,=@~-]*[A-Za-z0-9_])?", re.ASCII).fullmatch


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


_PLAIN = bytes(byte for byte in range(32, 127) if chr(byte) not in "<\\")

_decode = msgspec.json.Decoder(FastRecord).decode


def fast_record(raw: bytes) -> Conversation | None:
    """The record of a line, when it is plainly good. None says nothing."""
    try:
        record = _decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    return cast(Conversation, record) if _is_good(record) and _has_each_key_once(raw, record) else None


def quick(raw: bytes) -> tuple[Conversation, tuple[()], bool] | None:
    """`fast_record` as `jsonl.read_range` asks for it."""
    record = fast_record(raw)
    return None if record is None else (record, (), not raw.translate(None, _PLAIN) and b"[I" not in raw)


def same(a: Conversation, b: Conversation) -> bool:
    """True when both hold the same, be they fast records or pydantic's."""
    return a == b or (type(a) is not type(b) and _wire(a) == _wire(b))


def _wire(record: Conversation) -> list[Any]:
    turns = [(t.images, t.user, t.assistant, t.answers, t.image_offsets) for t in record.conversations]
    return [record.id, record.source, record.system, turns]


def fast_row(row: Any) -> Conversation | None:
    """As `fast_record`, of a shard's row as a dict."""
    wire = {key: row[key] for key in ("id", "source", "conversations", "system")}
    try:
        record = msgspec.convert(wire, FastRecord)
    except (msgspec.ValidationError, RecursionError):
        return None
    return cast(Conversation, record) if _is_good(record) else None


def _is_good(record: FastRecord) -> bool:
    """Everything the models check beyond types and keys."""
    turns, paths = record.conversations, record.image_paths
    if not (turns and _good_name(record.id) and _good_name(record.source)):
        return False
    if paths and not _good_paths("\0".join(paths)):
        return False
    if len(turns) == 1:
        turn = turns[0]
        return (turn.answers is None and turn.image_offsets is None) or _is_good_turn(turn)
    labeled = [turn.assistant is not None for turn in turns]
    return labeled == sorted(labeled, reverse=True) and all(map(_is_good_turn, turns))


def _is_good_turn(turn: FastTurn) -> bool:
    answers, offsets = turn.answers, turn.image_offsets
    if answers is not None and (not answers or (turn.assistant is not None and turn.assistant not in answers)):
        return False
    if offsets is None:
        return True
    fits = len(offsets) == len(turn.images) and list(offsets) == sorted(offsets)
    return fits and all(0 <= offset <= len(turn.user) for offset in offsets)


def _has_each_key_once(raw: bytes, record: FastRecord) -> bool:
    """True when the number of quotes proves that no key stands twice.

    A record without repeats has two quotes per key and per string; a repeated key adds at least two, and so does an
    escaped quote inside text, which is counted for itself. An explicit null of an optional key adds two as well.
    """
    strings = 5 if record.system is None else 7  # id, source and their keys, the key conversations
    for turn in record.conversations:
        strings += 4 + len(turn.images) + (turn.assistant is not None)
        if turn.image_offsets is not None:
            strings += 1
        if turn.answers is not None:
            strings += 1 + len(turn.answers)
    quotes = raw.count(b'"')
    if quotes > 2 * strings and b"\\\\" not in raw:  # no escaped backslash, so a quote after one is escaped
        quotes -= raw.count(b'\\"')
    return quotes == 2 * strings
