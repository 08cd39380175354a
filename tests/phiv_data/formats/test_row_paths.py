"""Every part of a row and every reject has its JSON path, by the names that the row itself has."""

from __future__ import annotations

import json
from typing import Any

import pytest
from conversations import conversations
from hypothesis import given
from hypothesis import strategies as st
from test_round_trip import NAMES, ROWS, places_of

from phiv_data.formats import FORMATS
from phiv_data.formats.fields import RejectRow
from phiv_data.formats.text import join_pieces, read_markers
from phiv_data.validation.core.finding import value_at
from phiv_schemas import Conversation


def at(record: Any, path: str) -> Any:
    return value_at(record, f"$.{path}")


def text_of(content: Any) -> str:
    """The text of a rendered message, without its images."""
    if isinstance(content, list):
        return "".join(part.get("text", "") for part in content)
    return join_pieces(read_markers(content))[0]


@pytest.mark.parametrize("name", NAMES)
@given(conversation=conversations())
def test_every_part_of_a_row_stands_where_it_says(name: str, conversation: Conversation) -> None:
    record = json.loads(json.dumps(FORMATS[name].render(conversation)))
    row = FORMATS[name].parse(record, "row")
    for turn in row.turns:
        assert text_of(at(record, turn.paths.user)) in (turn.user, f"\n{turn.user}")
        if turn.assistant is not None:
            assert text_of(at(record, turn.paths.assistant)) == turn.assistant
        assert [at(record, path) for path in turn.paths.images] == list(turn.images)
    assert row.system is None or text_of(at(record, row.system_path)) == row.system


@pytest.mark.parametrize("name", NAMES)
@given(conversation=conversations(), drop=st.integers(0, 30), put=ROWS)
def test_a_reject_stands_where_it_says(name: str, conversation: Conversation, drop: int, put: Any) -> None:
    record = FORMATS[name].render(conversation)
    places = list(places_of(record))
    owner, key = places[drop % len(places)]
    owner[key] = put
    path = path_of_reject(name, record)
    assert not path or exists(record, path), path


def path_of_reject(name: str, record: Any) -> str:
    try:
        FORMATS[name].parse(record, "row")
    except RejectRow as reject:
        return reject.path
    return ""


def exists(record: Any, path: str) -> bool:
    """True where a path leads somewhere, be it to a null."""
    parent, name = path, ""
    for step in (".", "["):
        cut = path.rfind(step)
        if cut >= 0 and cut > path.rfind("." if step == "[" else "["):
            parent, name = path[:cut], path[cut + 1 :].rstrip("]")
    owner = record if parent == path else at(record, parent)
    key = path if parent == path else name
    return key in owner if isinstance(owner, dict) else isinstance(owner, list) and int(key) < len(owner)


@pytest.mark.parametrize(
    ("name", "record", "user", "assistant", "images"),
    [
        (
            "llava",
            {"image": "a", "conversations": [{"from": "human", "value": "<image>\nu"}]},
            "conversations[0].value",
            "",
            ["image"],
        ),
        ("llava", {"question_id": 1, "image": ["a"], "text": "u"}, "text", "", ["image[0]"]),
        ("swift", {"query": "<img>a</img>u", "response": "b"}, "query", "response", ["query"]),
        ("swift", {"instruction": "u", "input": "v", "output": "b"}, "instruction", "output", []),
        ("swift", {"history": [["u", "b"]], "query": "q", "images": "a"}, "history[0][0]", "history[0][1]", ["images"]),
        (
            "swift",
            {"conversation": [{"human": "u", "assistant": "b"}]},
            "conversation[0].human",
            "conversation[0].assistant",
            [],
        ),
        ("trl", {"prompt": "u", "chosen": "b", "rejected": "c"}, "prompt", "chosen", []),
        (
            "trl",
            {
                "prompt": [{"role": "user", "content": [{"type": "image", "url": "a"}]}],
                "completion": [{"role": "assistant", "content": "b"}],
            },
            "prompt[0].content",
            "completion[0].content",
            ["prompt[0].content[0]"],
        ),
        (
            "trl",
            {
                "messages": [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "u"}]}],
                "images": ["a"],
            },
            "messages[0].content",
            "",
            ["images[0]"],
        ),
    ],
)
def test_rows_of_every_kind(name: str, record: Any, user: str, assistant: str, images: list[str]) -> None:
    places = FORMATS[name].parse(record, "row").turns[0].paths
    assert (places.user, places.assistant, list(places.images)) == (user, assistant, images)


@pytest.mark.parametrize(
    ("name", "record", "path", "message"),
    [
        (
            "llava",
            {"conversations": [{"from": "human", "value": 3}]},
            "conversations[0].value",
            "is not text (found 3)",
        ),
        (
            "llava",
            {"image": [{"a": 1}], "conversations": []},
            "image[0]",
            "has no 'path', 'url' or 'bytes' (found {'a': 1})",
        ),
        (
            "sharegpt",
            {"messages": [{"role": "bird", "content": "u"}]},
            "messages[0]",
            "is of the role 'bird', not one of user, human, assistant, gpt, bot, system, developer",
        ),
        (
            "sharegpt",
            {"messages": [{"role": "user", "content": "u"}] * 2},
            "messages[1]",
            "message 2 is of the user, not of the assistant: the two take turns",
        ),
        (
            "trl",
            {"messages": [{"role": "user", "content": [{"type": "bird"}]}]},
            "messages[0].content[0]",
            "is no part with a known 'type' (found {'type': 'bird'})",
        ),
    ],
)
def test_rejects_of_every_kind(name: str, record: Any, path: str, message: str) -> None:
    with pytest.raises(RejectRow) as error:
        FORMATS[name].parse(record, "row")
    assert (error.value.path, error.value.message) == (path, message)
