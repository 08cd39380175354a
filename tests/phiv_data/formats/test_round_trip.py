"""Properties of every format: what is rendered is read back, and what is read is rendered in one canonical form."""

from __future__ import annotations

import json
from itertools import permutations
from typing import Any

import pytest
from conversations import conversations, rebuilt, without
from hypothesis import given
from hypothesis import strategies as st

from phiv_data.formats import FORMATS, LOSSES
from phiv_data.media.reject import RejectInput
from phiv_schemas import Conversation

NAMES = sorted(FORMATS)


def through(conversation: Conversation, name: str) -> Conversation:
    """There and back, as JSON between."""
    record = json.loads(json.dumps(FORMATS[name].render(conversation)))
    return rebuilt(FORMATS[name].parse(record, "row"))


@pytest.mark.parametrize("name", NAMES)
@given(conversation=conversations())
def test_what_is_rendered_is_read_back_but_for_the_declared_losses(name: str, conversation: Conversation) -> None:
    losses = FORMATS[name].losses(conversation)
    assert through(conversation, name) == without(conversation, losses, name)
    assert set(losses) <= set(LOSSES)


@pytest.mark.parametrize("name", NAMES)
@given(conversation=conversations())
def test_no_loss_is_declared_that_does_not_happen(name: str, conversation: Conversation) -> None:
    costs_other_readers = {
        "empty_system",
        "image_places",
        "image_token",
        "literal_marker",
        "many_images",
        "system",
    }  # as others read
    losses = set(FORMATS[name].losses(conversation)) - costs_other_readers
    assert bool(losses) == (through(conversation, name) != without(conversation, ("system",), name))


@pytest.mark.parametrize("name", NAMES)
@given(conversation=conversations())
def test_a_second_trip_loses_nothing_more(name: str, conversation: Conversation) -> None:
    once = through(conversation, name)
    assert FORMATS[name].render(once) == FORMATS[name].render(conversation)
    assert through(once, name) == once


@pytest.mark.parametrize(("first", "second"), permutations(NAMES, 2))
@given(conversation=conversations())
def test_one_format_after_another_loses_what_both_declare(first: str, second: str, conversation: Conversation) -> None:
    middle = through(conversation, first)
    expected = without(middle, FORMATS[second].losses(middle), second)
    assert through(middle, second) == expected
    if not FORMATS[first].losses(conversation) and not FORMATS[second].losses(conversation):
        assert through(middle, second) == conversation


@pytest.mark.parametrize("name", ["llava", "sharegpt", "swift"])
@given(conversation=conversations())
def test_a_rendered_row_has_as_many_markers_as_images(name: str, conversation: Conversation) -> None:
    record = FORMATS[name].render(conversation)
    refs = record.get("images", record.get("image", []))
    count = 1 if isinstance(refs, str) else len(refs)
    texts = [m.get("content", m.get("value")) for m in record.get("messages", record.get("conversations"))]
    assert sum(text.count("<image>") for text in texts) == count


CODES = {"", "bad-row", "bad-turns", "marker-mismatch", "unsupported-media", "unsupported-row"}


def code_of(name: str, record: Any) -> str:
    """The code of the reject, or nothing where it is a row with turns."""
    try:
        return "" if FORMATS[name].parse(record, "row").turns else "no turns"
    except RejectInput as reject:
        return reject.code


JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.sampled_from(["<image>", "user", "assistant"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
KEYS = ["messages", "conversations", "image", "images", "role", "from", "content", "value", "query", "response", "id"]
KEYS += ["history", "prompt", "completion", "system", "text", "question_id", "type", "label", "tools", "instruction"]
ROWS = st.recursive(
    JSON,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=5),
    max_leaves=20,
)


@pytest.mark.parametrize("name", NAMES)
@given(record=ROWS)
def test_any_json_at_all_is_a_row_or_a_reject(name: str, record: Any) -> None:
    assert code_of(name, record) in CODES


@pytest.mark.parametrize("name", NAMES)
@given(conversation=conversations(), drop=st.integers(0, 30), put=ROWS)
def test_a_row_with_one_value_changed_is_a_row_or_a_reject(
    name: str, conversation: Conversation, drop: int, put: Any
) -> None:
    record = FORMATS[name].render(conversation)
    places = list(places_of(record))
    owner, key = places[drop % len(places)]
    owner[key] = put
    assert code_of(name, record) in CODES


def places_of(value: Any) -> Any:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield value, key
        yield from places_of(inner)
