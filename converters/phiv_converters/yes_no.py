"""A text of The Cauldron (its columns `images` and `texts`) whose answer is yes or no: nlvr2 and hateful_memes there.

>>> read_yes_no([{"user": "Is it so?", "assistant": "Yes."}], 0, "row 7")
('Is it so?', 'Yes.', True)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from phiv_data.media.reject import RejectInput
from phiv_data.sources.json_stream import text_of


def read_yes_no(texts: Sequence[Any], turn: int, where: str) -> tuple[str, str | None, bool | None]:
    """(question, answer, whether that is yes) of a turn, both texts as they are; without an answer two are None.

    RejectInput `bad-turns` for a row without texts, `bad-row` for another answer than yes or no.
    """
    if not texts:
        raise RejectInput(where, "bad-turns", "the row has no texts")
    user, assistant = text_of(texts[turn], "user", where), texts[turn].get("assistant") or None
    word = str(assistant).strip().strip(".").lower()
    if assistant is not None and word not in ("yes", "no"):
        raise RejectInput(where, "bad-row", f"the answer is neither yes nor no (found {assistant!r})")
    return user, assistant, None if assistant is None else word == "yes"
