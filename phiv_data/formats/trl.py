"""TRL and OpenAI messages: contents are lists of parts, so images have places and text is text.

    {"messages": [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "..."}]}], "images": [...]}

Read as well: contents that are plain text (images then come before the first), parts that name their image
(`image_url`, `image`), `prompt` with or without `completion`, `chosen` (its `rejected` counts as unread), a bare list
of messages, and rows that mark the places in their text too (xtuner: `marker="<IMG_CONTEXT>"`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from phiv_data.formats.dialogue import NAMES, Message, build_row, read_message, take_images, take_videos
from phiv_data.formats.fields import Fields, ParsedRow, RejectRow, fields_of, is_empty
from phiv_data.formats.rendering import chat, common_losses, written_turns
from phiv_data.formats.text import MARKER, Image, Piece, normalize_offsets, split_at
from phiv_data.storage.record_errors import list_keys
from phiv_schemas import Conversation, Turn


def parse(record: Any, where: str, *, marker: str = "", videos: bool = False) -> ParsedRow:
    """The parsed row. RejectInput where phiv cannot use it.

    `marker` is the text at the place of an image: parts then give the images, and the markers their places.
    """
    fields = fields_of({"messages": record} if isinstance(record, list) else record, where, videos=videos)
    column = _read_column(fields)
    refs, clips = take_images(fields), take_videos(fields)
    messages = _join_user_messages([_message(raw, fields, path) for path, raw in column])
    pieces = [piece for message in messages for piece in message.pieces or ()] if marker else []
    has_images = bool(refs) or any(isinstance(piece, Image) for piece in pieces)
    if has_images and any(marker in piece for piece in pieces if isinstance(piece, str)):
        refs, messages = _move_to_markers(messages, refs, marker)
        return build_row(fields, messages, refs, _as_text, videos=clips, normalize=normalize_offsets)
    is_plain_text = all(isinstance(message.get("content"), str | None) for _, message in column)
    unmarked = "" if is_plain_text else None
    return build_row(fields, messages, refs, _as_text, videos=clips, unmarked=unmarked, normalize=_none_if_leading)


def render(conversation: Conversation) -> dict[str, Any]:
    """The row, every content a list of parts: columns of one type, with and without images."""
    return chat(conversation, lambda turn: list(_parts(turn)), lambda text: [{"type": "text", "text": text}])


def losses(conversation: Conversation) -> tuple[str, ...]:
    """Codes of what a row cannot carry of the conversation; `LOSSES` explains them."""
    turns = written_turns(conversation)
    texts = [conversation.system, *(text for turn in turns for text in (turn.user, turn.assistant))]
    return common_losses(
        conversation,
        image_offsets=any(turn.image_offsets is not None and not any(turn.image_offsets) for turn in turns),
        image_token=any(MARKER in text for text in texts if text),
    )


def _parts(turn: Turn) -> Iterator[dict[str, str]]:
    texts = split_at(turn.user, turn.image_offsets or [0] * len(turn.images))
    for i, text in enumerate(texts):
        if i:
            yield {"type": "image"}
        if text or len(texts) == 1:
            yield {"type": "text", "text": text}


def _as_text(text: str) -> tuple[str]:
    return (text,)


def _none_if_leading(text: str, offsets: tuple[int, ...]) -> tuple[str, tuple[int, ...] | None]:
    """Images before all text are in phiv's plain place."""
    return text, offsets if any(offsets) else None


def _read_column(fields: Fields) -> list[tuple[str, Any]]:
    """The messages of any of TRL's dataset types that teaches an answer, each behind its path."""
    if any(not is_empty(fields.left.get(name)) for name in NAMES.messages):
        key = fields.key(*NAMES.messages)
        column = _with_paths(fields.take(*NAMES.messages), key, fields)
    else:
        answer_key = fields.key("completion", "chosen")
        prompt, answer = fields.take("prompt"), fields.take("completion", "chosen")
        column = [
            *_messages(prompt, "user", "prompt", fields),
            *_messages(answer, "assistant", answer_key, fields),
        ]
        if not column or (prompt is None and isinstance(answer, str)):
            found = list_keys(fields.left) or "nothing else"
            raise RejectRow(fields.where, "unsupported-row", f"no messages and no prompt (found {found})")
    return column


def _with_paths(column: Any, key: str, fields: Fields) -> list[tuple[str, Any]]:
    if not isinstance(column, list) or not all(isinstance(message, dict) for message in column):
        raise fields.bad("the messages are not a list of objects", key)
    return [(f"{key}[{i}]", message) for i, message in enumerate(column)]


def _messages(value: Any, role: str, key: str, fields: Fields) -> list[tuple[str, Any]]:
    """A prompt or completion as messages; plain text is one message."""
    if is_empty(value):
        return []
    if isinstance(value, list):
        return _with_paths(value, key, fields)
    return [(key, {"role": role, "content": fields.text(value, key)})]


def _message(raw: Any, fields: Fields, path: str) -> Message:
    message = read_message(raw, fields, NAMES, _as_text, path, "")
    return message if "[" in path else replace(message, key="")  # plain text has no keys


def _join_user_messages(messages: Sequence[Message]) -> list[Message]:
    """The messages, user messages in a row as one: OpenAI's rows have the question and its image in two."""
    joined: list[Message] = []
    for message in messages:
        before = joined[-1] if joined else None
        if before and message.role == before.role == "user" and before.pieces and message.pieces:
            is_text = isinstance(before.pieces[-1], str) and isinstance(message.pieces[0], str)
            joined[-1] = replace(before, pieces=(*before.pieces, *(["\n"] if is_text else []), *message.pieces))
        else:
            joined.append(message)
    return joined


def _move_to_markers(
    messages: Sequence[Message], column: Sequence[Image], marker: str
) -> tuple[tuple[Image, ...], list[Message]]:
    """The images of the parts in order, and the messages with an image place for each marker."""
    named, refs, moved = iter(column), [], []
    for message in messages:
        pieces: list[Piece] = []
        for piece in message.pieces or ():
            if isinstance(piece, Image):
                refs += [piece] if piece.ref is not None else [next(named, Image(""))]
            else:
                first, *rest = piece.split(marker)
                pieces += [first, *(p for text in rest for p in (Image(), text))]
        moved.append(replace(message, pieces=None if message.pieces is None else tuple(pieces)))
    return tuple(one for one in (*refs, *named) if one.ref), moved
