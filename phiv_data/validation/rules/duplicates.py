"""Rules about repeats: an image twice in a turn, an id in two rows, rows with the same images and questions.

    find_repeated_images   PV117: an image twice in a turn
    IDS                    PV201: the same id
    CONTENT                PV203 and PV214: the same images, questions and system prompt, in one split

Images are the same when their bytes are, under any paths; where they were not read, when their paths are.

PV214 compares short answers to one question about images; longer ones may differ and all be right (captions). A row
with short answers gives a key per accepted answer, equal where the same is asked; others give one key, equal where all
is equal.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import groupby
from zlib import crc32

from phiv_data.storage.record_errors import quote_path
from phiv_data.validation.core.finding import Finding, RowContext
from phiv_data.validation.core.key_index import QUOTED, GroupRule, Key, Occurrence, digest
from phiv_data.validation.rules.leakage import split_label
from phiv_schemas import Conversation

MAX_ANSWERS = 1000  # different ones to one question, of those that are remembered
_MAX_WORDS, _MAX_LENGTH, _MAX_UNSPACED = 4, 40, 6
_UNSPACED = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u2e80-\u9fff]")  # Thai to Khmer, Chinese, Japanese


def find_repeated_images(record: Conversation) -> Iterable[Finding]:
    """PV117. In another turn it may be shown again."""
    if all(len(turn.images) < 2 or len(set(turn.images)) == len(turn.images) for turn in record.conversations):
        return ()
    return [
        Finding("PV117", f"$.conversations[{t}].images[{i}]", f"{quote_path(path)} is images[{first}] again")
        for t, turn in enumerate(record.conversations)
        for i, path in enumerate(turn.images)
        if (first := turn.images.index(path)) < i
    ]


def _check_ids(group: Sequence[Occurrence]) -> Iterator[tuple[Occurrence, Finding]]:
    """PV201: the second and every later row of an id."""
    first = group[0]
    for row in group[1:]:
        yield row, Finding("PV201", "$.id", f"duplicate id {QUOTED}, first seen {location_of(first, row)}")


IDS = GroupRule(lambda row: ((digest(row.conversation.id), b"", 0),), _check_ids)


def location_of(first: Occurrence, row: Occurrence) -> str:
    """Where `first` is, for a message about `row`."""
    return f"on line {first.line}" if first.file == row.file else f"at {first.location}"


# Content -----------------------------------------------------------------------------------------------------------


def _content_keys(row: RowContext) -> Iterable[Key]:
    """A value is 12 bytes for an answer (none: not to be compared) and 4 for the id."""
    record = row.conversation
    turns, who = record.conversations, crc32(record.id.encode()).to_bytes(4, "little")
    if len(turns) == 1 and turns[0].images and (answers := _short_answers(turns[0].assistant, turns[0].answers)):
        key = digest(_question(row))
        if len(answers) == 1:  # so it is for nearly all rows
            return ((key, answers[0] + who, 0),)
        return [(key, answer + who, i) for i, answer in enumerate(answers)]
    replies = ["-" if turn.assistant is None else f"{len(turn.assistant)} {turn.assistant}" for turn in turns]
    return ((digest("\0".join(("", *replies, _question(row)))), bytes(12) + who, 0),)


def _question(row: RowContext) -> str:
    """Everything that is shown and asked, as one text. Lengths separate its parts, whatever they contain."""
    parts, facts = [row.conversation.system or ""], iter(row.images)
    for turn in row.conversation.conversations:
        images, user = turn.images, turn.user
        parts += [known.sha256.hex() or path for path, known in zip(images, facts)] if row.images else images  # noqa: B905
        parts.append(f"{len(images)} {len(user)}{turn.image_offsets or ''} {user}")
    return "\0".join(parts)


@lru_cache(4096)  # classes come again and again
def _short_answers(assistant: str | None, accepted: tuple[str, ...] | None) -> tuple[bytes, ...]:
    """The accepted answers, `assistant` first, without case, outer blanks and full stop; () if one is not short.

    Each as 12 bytes, not all zero, that identify it: most answers fit into them.
    """
    if assistant is None or len(assistant) > _MAX_LENGTH:
        return ()
    answers = [assistant, *(accepted or ())]
    words = [answer.casefold().split() for answer in answers]
    if max(map(len, words)) > _MAX_WORDS or max(map(len, answers)) > _MAX_LENGTH:
        return ()
    if not all(answer.isascii() or len(_UNSPACED.findall(answer)) <= _MAX_UNSPACED for answer in answers):
        return ()
    texts = [" ".join(some).rstrip(".").encode() for some in words]
    packed = (text.ljust(11, b"\0") + b"=" if len(text) <= 11 else digest(text)[:11] + b"#" for text in texts)
    return tuple(dict.fromkeys(packed))


@dataclass(slots=True)
class _Replies:
    """What one split answers to one question: the first row's accepted answers, and who first gave each answer."""

    first: Occurrence
    accepted: set[bytes]
    by_answer: dict[bytes, Occurrence] = field(default_factory=dict)


def _check_content(group: Sequence[Occurrence]) -> Iterator[tuple[Occurrence, Finding]]:
    """PV203 where a row has the answer of an earlier one, PV214 where none of its answers is accepted there."""
    splits: dict[str, _Replies] = {}
    for _, keys in groupby(group, key=lambda key: (key.file, key.line)):
        of_row = list(keys)
        row, answers = of_row[0], {key.value[:12] for key in of_row}
        replies = splits.setdefault(split_label(row.split), _Replies(row, answers))
        before = replies.by_answer.get(row.value[:12])
        if before is not None:
            if before.value != row.value:  # equal: of one id, which PV201 reports
                what = f"the same images, questions and answers as {location_of(before, row)}, under another id"
                yield row, Finding("PV203", None, what)
            continue
        if not answers & replies.accepted:
            what = f"answers {QUOTED}, but the same question about the same images has another answer"
            yield row, Finding("PV214", "$.conversations[0].assistant", f"{what} {location_of(replies.first, row)}")
        if len(replies.by_answer) < MAX_ANSWERS:
            replies.by_answer[row.value[:12]] = row


CONTENT = GroupRule(_content_keys, _check_content)
