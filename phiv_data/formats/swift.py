r"""ms-swift: `{"messages": [{"role": ..., "content": "<image>..."}, ...], "images": [...]}`, its standard format.

Read as well, as ms-swift does: `conversation(s)` of `from`/`value` or of `{"human": ..., "assistant": ...}` pairs;
`query`, `response`, `history`, `system` under any of their names; Alpaca's `instruction`, `input`, `output`;
`<img>a.jpg</img>` inside queries. Images without a marker come before the first text.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from phiv_data.formats.content import ReadText, read_content
from phiv_data.formats.dialogue import (
    NAMES,
    Markers,
    Message,
    build_row,
    read_dialogue,
    take_images,
    take_videos,
    text_reader,
    unescape_markers,
)
from phiv_data.formats.fields import Fields, ParsedRow, RejectRow, fields_of, is_empty
from phiv_data.formats.rendering import chat, marker_losses
from phiv_data.formats.text import IMG_TAG, MARKER, Image, Piece
from phiv_data.storage.record_errors import list_keys, truncated_repr
from phiv_schemas import Conversation

QUERIES = ("prompt", "input", "instruction", "question", "problem")
RESPONSES = (
    "answer",
    "output",
    "targets",
    "target",
    "answer_key",
    "answers",
    "solution",
    "text",
    "completion",
    "content",
)
_GROUNDING = ("<bbox>", "<ref-object>")


def parse(
    record: Any, where: str, *, markers: Markers = "strict", marker: str = MARKER, videos: bool = False
) -> ParsedRow:
    """The parsed row. RejectInput where phiv cannot use it; `markers`: whether counts that disagree are an error."""
    fields = fields_of(record, where, videos=videos)
    if not is_empty(fields.left.get("objects")):
        rest = str([value for name, value in fields.left.items() if name != "objects"])
        if any(word in rest for word in _GROUNDING):
            what = "the text has places for the boxes of 'objects', which phiv does not fill in"
            raise RejectRow(where, "unsupported-row", what, "objects")
    key = next((name for name in NAMES.messages if not is_empty(fields.left.get(name))), None)
    if key is None:
        return _query(fields, markers, marker)
    if isinstance(fields.left[key], list) and all(_is_pair(item) for item in fields.left[key]):
        return _pairs(fields, key, markers, marker)
    return read_dialogue(fields, markers=markers, marker=marker, unmarked="\n", inline=_split_inline_images)


def render(conversation: Conversation) -> dict[str, Any]:
    """The row in the standard format."""
    return chat(conversation)


def losses(conversation: Conversation) -> tuple[str, ...]:
    """Codes of what a row cannot carry of the conversation; `LOSSES` explains them."""
    return marker_losses(conversation)


def _is_pair(item: Any) -> bool:
    keys = set(item) if isinstance(item, dict) else set()
    return bool(keys & set(NAMES.user)) and not keys & {*NAMES.role, *NAMES.content}


def _pairs(fields: Fields, key: str, markers: Markers, marker: str) -> ParsedRow:
    """A dialogue as `{"human": ..., "assistant": ...}` pairs."""
    refs, videos, messages = take_images(fields), take_videos(fields), []
    read_text = text_reader(marker, videos=bool(videos)) if refs or videos else _split_inline_images
    for i, pair in enumerate(fields.take(key)):
        one = Fields(dict(pair), fields.where, f"{key}[{i}]")
        for role, names in zip(_ROLES, (NAMES.user, NAMES.assistant), strict=True):
            path = f"{key}[{i}].{one.key(*names)}"
            messages.append(_message(role, one.take(*names), fields, read_text, path))
        if not is_empty(one.take("tool")):
            raise RejectRow(fields.where, "unsupported-media", "a pair has 'tool': phiv has no tools", one.path)
        one.refuse_media()
        one.refuse_unread_images()
        fields.unread |= {f"{key}[].{name}" for name in one.all_unread()}
    return build_row(fields, messages, refs, read_text, videos=videos, markers=markers, unmarked="\n")


def _query(fields: Fields, markers: Markers, marker: str) -> ParsedRow:
    """Query, response and the turns before them."""
    refs, videos, messages, left = take_images(fields), take_videos(fields), [], fields.left
    read_text = text_reader(marker, videos=bool(videos)) if refs or videos else _split_inline_images
    history = fields.take("history") or []
    if not isinstance(history, list) or not all(isinstance(pair, list) and len(pair) == 2 for pair in history):
        raise fields.bad(f"'history' is not a list of pairs (found {truncated_repr(history)})", "history")
    for i, pair in enumerate(history):
        for k, content in enumerate(pair):
            messages.append(_message(_ROLES[k], content, fields, read_text, f"history[{i}][{k}]"))
    if is_empty(left.get("query")) and not is_empty(left.get("instruction")) and not is_empty(left.get("input")):
        # Alpaca's, with a newline between them
        path, query = "instruction", "\n".join([fields.text(left.pop(name), name) for name in ("instruction", "input")])
    else:
        names = _aliases(fields, "query", QUERIES)
        path, query = fields.key(*names), fields.take(*names)
    answer_path, answer, accepted = fields.take_answer(*_aliases(fields, "response", RESPONSES))
    if query is None:
        found = list_keys(fields.left) or "nothing else"
        raise fields.bad(f"no 'messages' and no 'query' (found {found})")
    messages += [
        _message("user", query, fields, read_text, path),
        _message("assistant", answer, fields, read_text, answer_path),
    ]
    row = build_row(fields, messages, refs, read_text, videos=videos, markers=markers, unmarked="\n")
    return replace(row, turns=(*row.turns[:-1], replace(row.turns[-1], answers=accepted)))


def _message(role: str, content: Any, fields: Fields, read_text: ReadText, path: str) -> Message:
    return Message(role, None if content is None else read_content(content, fields, path, read_text), path)


_ROLES = ("user", "assistant")


def _aliases(fields: Fields, name: str, others: tuple[str, ...]) -> tuple[str, ...]:
    """`name`, and where it holds nothing the other keys that have its meaning."""
    return (name,) if not is_empty(fields.left.get(name)) else (name, *others)


def _split_inline_images(text: str) -> Iterator[Piece]:
    """Text of a row without an image column: images are named in the text."""
    for i, chunk in enumerate(IMG_TAG.split(text)):
        yield from [Image(chunk)] if i % 2 else unescape_markers(chunk)
