"""Rules about one record: pure functions of a Conversation, listed in `rule_set.RECORD_RULES`."""

from __future__ import annotations

import re
from collections.abc import Iterator

from phiv_data.validation.found import Found
from phiv_schemas import Conversation

_MARKER = re.compile(r"<\|?(?:image|img|vision_start|image_pad)(?:_?\d+)?\|?>", re.IGNORECASE)


def image_marker(conversation: Conversation) -> Iterator[Found]:
    """PV401: text that other formats take for the place of an image."""
    for t, turn in enumerate(conversation.conversations):
        if "<" in turn.user and (marker := _MARKER.search(turn.user)):
            what = f"text holds {marker[0]!r}, which is text here and stands for no image"
            yield Found("PV401", f"$.conversations[{t}].user", what)
