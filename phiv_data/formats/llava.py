r"""LLaVA: `{"id": ..., "image": "a.jpg" or [...], "conversations": [{"from": "human", "value": "<image>\n..."}, ...]}`.

Also LLaVA's evaluation questions, `{"question_id": 0, "image": "a.jpg", "text": "..."}`, which have an answer where the
row has `answer`, `answers` or `label` (POPE), and the `system_prompt` of lmms-finetune.
"""

from __future__ import annotations

from typing import Any

from phiv_data.formats.dialogue import NAMES, Markers, read_dialogue, take_images, take_videos
from phiv_data.formats.fields import Fields, ParsedRow, ParsedTurn, TurnPaths, fields_of
from phiv_data.formats.rendering import images_of, marker_losses, roles_and_contents, written_turns
from phiv_data.formats.text import MARKER, escape
from phiv_schemas import Conversation

_FROM = {"user": "human", "assistant": "gpt"}


def parse(
    record: Any, where: str, *, markers: Markers = "strict", marker: str = MARKER, videos: bool = False
) -> ParsedRow:
    """The parsed row. RejectInput where phiv cannot use it; `markers`: whether counts that disagree are an error."""
    fields = fields_of(record, where, videos=videos)
    if "question_id" in fields.left and not fields.left.keys() & set(NAMES.messages):
        return _question(fields)
    return read_dialogue(fields, markers=markers, marker=marker)


def render(conversation: Conversation) -> dict[str, Any]:
    """The row: `image` a string where there is one, a list where there are more, absent where there is none."""
    images = images_of(conversation)
    record: dict[str, Any] = {"id": conversation.id, "source": conversation.source}
    if images:
        record["image"] = images[0] if len(images) == 1 else images
    if conversation.system:
        record["system_prompt"] = escape(conversation.system)
    record["conversations"] = [
        {"from": _FROM[role], "value": content} for role, content in roles_and_contents(conversation)
    ]
    return record


def losses(conversation: Conversation) -> tuple[str, ...]:
    """Codes of what a row cannot carry of the conversation; `LOSSES` explains them."""
    here = {
        "image_places": any(any(turn.image_offsets or ()) for turn in written_turns(conversation)),
        "many_images": len(images_of(conversation)) > 1,
        "system": conversation.system is not None,
    }
    return tuple(sorted({*marker_losses(conversation), *(code for code, is_so in here.items() if is_so)}))


def _question(fields: Fields) -> ParsedRow:
    """An evaluation question, with its answers if there are any; images and videos stand before the text, unmarked."""
    placed = [*take_images(fields), *(one for video in take_videos(fields) for one in video)]
    fields.refuse_media()
    fields.refuse_bad_label()
    text = fields.text(fields.take("text"), "text")
    key, answer, accepted = fields.take_answer("answer", "answers", "label")
    if answer is not None:
        fields.text(answer, key)
    refs = tuple(one.ref or "" for one in placed)
    videos = {k: one.video for k, one in enumerate(placed) if one.video is not None}
    paths = TurnPaths("text", key if answer is not None else "", tuple(one.path for one in placed))
    row_id, source = fields.take_id("question_id"), fields.take_source()
    fields.refuse_unread_images(refs)
    turn = ParsedTurn(refs, text, answer, paths=paths, answers=accepted, videos=videos)
    return ParsedRow((turn,), None, row_id, source, fields.all_unread())
