"""Rules over rows that share something: one id, or all that is shown and asked.

IDS       PV201: the id
CONTENT   PV203 and PV214: images by path, questions and system prompt, in one split

PV214 compares short answers to one question about images; longer ones may differ and all be right (captions). Rows
with such give a key per accepted answer, equal where the same is asked; others give one, equal where all is equal.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import groupby
from zlib import crc32

from phiv_data.validation.core.finding import Found, RowContext
from phiv_data.validation.core.key_index import QUOTED, Key, KeyRule, Seen, digest
from phiv_data.validation.rules.leakage import told_as
from phiv_schemas import Conversation

MAX_ANSWERS = 1000  # different ones to one question, of those that are remembered
_MAX_WORDS, _MAX_LENGTH, _MAX_UNSPACED = 4, 40, 6
_UNSPACED = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u2e80-\u9fff]")  # Thai to Khmer, Chinese, Japanese


def _ids(row: RowContext) -> Iterable[Key]:
    return ((digest(row.conversation.id), b"", 0),)


def _judge_ids(group: Sequence[Seen]) -> Iterator[tuple[Seen, Found]]:
    """PV201: the second and every later row of an id."""
    first = group[0]
    for seen in group[1:]:
        yield seen, Found("PV201", "$.id", f"duplicate id {QUOTED}, first seen {_where(first, seen)}")


IDS = KeyRule(_ids, _judge_ids)


def _where(first: Seen, seen: Seen) -> str:
    return f"on line {first.line}" if first.file == seen.file else f"at {first.file}:{first.line}"


# Content -----------------------------------------------------------------------------------------------------------


def _content(row: RowContext) -> Iterable[Key]:
    """A value is 12 bytes for an answer (none: not to be compared) and 4 for the id."""
    record = row.conversation
    turns, who = record.conversations, crc32(record.id.encode()).to_bytes(4, "little")
    if len(turns) == 1 and turns[0].images and (answers := _short_answers(turns[0].assistant, turns[0].answers)):
        key = digest(_asked(record))
        if len(answers) == 1:  # so it is for nearly all rows
            return ((key, answers[0] + who, 0),)
        return [(key, answer + who, i) for i, answer in enumerate(answers)]
    said = ["-" if turn.assistant is None else f"{len(turn.assistant)} {turn.assistant}" for turn in turns]
    return ((digest("\0".join(("", *said, _asked(record)))), bytes(12) + who, 0),)


def _asked(record: Conversation) -> str:
    """All that is shown and asked. Lengths keep parts apart, whatever they hold."""
    parts = [record.system or ""]
    for turn in record.conversations:
        images, user = turn.images, turn.user
        parts += images
        parts.append(f"{len(images)} {len(user)}{turn.image_offsets or ''} {user}")
    return "\0".join(parts)


@lru_cache(4096)  # classes come again and again
def _short_answers(assistant: str | None, accepted: tuple[str, ...] | None) -> tuple[bytes, ...]:
    """The accepted answers, `assistant` first, but for case, blanks and a full stop; () where they are not short."""
    if assistant is None or len(assistant) > _MAX_LENGTH:
        return ()
    answers = [assistant, *(accepted or ())]
    words = [answer.casefold().split() for answer in answers]
    if max(map(len, words)) > _MAX_WORDS or max(map(len, answers)) > _MAX_LENGTH:
        return ()
    is_short = all(answer.isascii() or len(_UNSPACED.findall(answer)) <= _MAX_UNSPACED for answer in answers)
    return tuple(dict.fromkeys(_packed(" ".join(some).rstrip(".")) for some in words)) if is_short else ()


def _packed(answer: str) -> bytes:
    """12 bytes, not all zero, that stand for an answer: most are short enough to be them."""
    raw = answer.encode()
    return raw.ljust(11, b"\0") + b"=" if len(raw) <= 11 else digest(raw)[:11] + b"#"


@dataclass(slots=True)
class _Asked:
    """What one split answers to one question: the first row's accepted answers, and who first gave each answer."""

    first: Seen
    accepted: set[bytes]
    by_answer: dict[bytes, Seen] = field(default_factory=dict)


def _judge_content(group: Sequence[Seen]) -> Iterator[tuple[Seen, Found]]:
    splits: dict[str, _Asked] = {}
    for _, keys in groupby(group, key=lambda seen: (seen.file, seen.line)):
        row = list(keys)
        seen, answers = row[0], {one.value[:12] for one in row}
        asked = splits.setdefault(told_as(seen.split), _Asked(seen, answers))
        before = asked.by_answer.get(seen.value[:12])
        if before is not None:
            if before.value != seen.value:  # of one id: PV201 tells it
                what = f"the same images, questions and answers as {_where(before, seen)}, under another id"
                yield seen, Found("PV203", None, what)
            continue
        if not answers & asked.accepted:
            what = f"answers {QUOTED}, but the same question about the same images has another answer"
            yield seen, Found("PV214", "$.conversations[0].assistant", f"{what} {_where(asked.first, seen)}")
        if len(asked.by_answer) < MAX_ANSWERS:
            asked.by_answer[seen.value[:12]] = seen


CONTENT = KeyRule(_content, _judge_content)
