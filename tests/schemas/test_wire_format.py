"""Properties of the contract: what is written is what is read, and the recipe's own line is ours."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from hypothesis import given

from phiv_schemas import Conversation

sys.path.insert(0, str(Path(__file__).parents[1] / "phiv_data"))
from data_builders import PROMPT, conversations

RECIPE_RECORD = {
    "id": "val-0000000300",
    "source": "ucf101",
    "conversations": [
        {
            "images": [f"val/Archery/v_Archery_g21_c04.{k}.jpg" for k in range(8)],
            "user": PROMPT,
            "assistant": "Archery",
        }
    ],
}


def test_the_recipes_example_line_round_trips_byte_for_byte() -> None:
    line = json.dumps(RECIPE_RECORD)
    conversation = Conversation.model_validate_json(line)
    assert conversation.id == "val-0000000300"
    assert len(conversation.image_paths) == 8
    assert conversation.turns[0].user.endswith("Basketball, BasketballDunk, BenchPress.")
    assert conversation.to_line().encode() == line.encode()


@given(conversations())
def test_write_then_read_is_the_identity(conversation: Conversation) -> None:
    line = conversation.to_line()
    assert line.isascii()
    assert "\n" not in line
    assert Conversation.model_validate_json(line) == conversation
    assert Conversation.model_validate_json(line).to_line() == line


@given(conversations())
def test_wire_dicts_are_read_as_lines_are(conversation: Conversation) -> None:
    assert Conversation.model_validate(conversation.to_wire()) == conversation
