"""A conversation as messages, and what of it no list of messages can carry."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from phiv_data.formats.text import escape, has_leading_images, write_markers
from phiv_schemas import Conversation, Turn

UserContent = Callable[[Turn], Any]
TextContent = Callable[[str], Any]


def written_turns(conversation: Conversation) -> tuple[Turn, ...]:
    """The turns up to the first without an answer: user and assistant alternate, so nothing can follow it."""
    answered = sum(turn.assistant is not None for turn in conversation.turns)
    return conversation.turns[: answered + 1]


def images_of(conversation: Conversation) -> list[str]:
    """The images of the written turns, in order."""
    return [path for turn in written_turns(conversation) for path in turn.images]


def roles_and_contents(
    conversation: Conversation, user_content: UserContent = write_markers, text_content: TextContent = escape
) -> Iterator[tuple[str, Any]]:
    """("user" or "assistant", content) of every message but the system prompt."""
    for turn in written_turns(conversation):
        yield "user", user_content(turn)
        if turn.assistant is not None:
            yield "assistant", text_content(turn.assistant)


def chat(
    conversation: Conversation, user_content: UserContent = write_markers, text_content: TextContent = escape
) -> dict[str, Any]:
    """`id`, `source`, `messages` of `role` and `content`, the system prompt first, and `images`, always a list."""
    pairs = list(roles_and_contents(conversation, user_content, text_content))
    if conversation.system is not None:
        pairs.insert(0, ("system", text_content(conversation.system)))
    messages = [{"role": role, "content": content} for role, content in pairs]
    return {
        "id": conversation.id,
        "source": conversation.source,
        "messages": messages,
        "images": images_of(conversation),
    }


def marker_losses(conversation: Conversation) -> tuple[str, ...]:
    """The codes for a format with `<image>` in its text."""
    turns = written_turns(conversation)
    texts = [conversation.system, *(text for turn in turns for text in (turn.user, turn.assistant))]
    is_ambiguous = any(
        turn.image_offsets == () or has_leading_images(turn.user, turn.image_offsets or ()) for turn in turns
    )
    return common_losses(
        conversation,
        image_offsets=is_ambiguous,
        literal_marker=any(text is not None and escape(text) != text for text in texts),
    )


def common_losses(conversation: Conversation, **more: bool) -> tuple[str, ...]:
    """The codes of what holds of a conversation, sorted."""
    turns = written_turns(conversation)
    found = more | {
        "answers": any(turn.answers is not None for turn in turns),
        "unanswered_turns": len(turns) < len(conversation.turns),
    }
    return tuple(sorted(code for code, is_so in found.items() if is_so))
