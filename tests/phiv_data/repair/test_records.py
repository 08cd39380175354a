"""Fixes of one record: what they change can be undone, asked again they change nothing, no meaning goes."""

from __future__ import annotations

import json
import unicodedata
from typing import Any

import pytest
from data_builders import conversations
from hypothesis import example, given
from hypothesis import strategies as st

from phiv_data.repair.records import compose, fix, undo
from phiv_data.storage.jsonl import parse_line
from phiv_data.validation.rules.text import check_composition
from phiv_schemas import Conversation

PIECES = [
    "e",
    "\u0301",
    "\u0323",
    "\u0302",
    "\u00e9",
    "o",
    "\u0308",
    "\u09af",
    "\u09bc",
    "\uac00",
    "\u1100",
    "\u1161",
    "\u11a8",
    " ",
    "x",
]
texts = st.lists(st.sampled_from(PIECES), max_size=12).map("".join) | st.text(max_size=8)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 20) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)


@st.composite
def turns(draw: st.DrawFn) -> dict[str, Any]:
    """A turn with decomposed letters and offsets in any order; keys may be missing, unknown or of odd types."""
    user = draw(texts)
    images = draw(st.lists(st.sampled_from(["a.jpg", "b.png", "c/d.gif"]), max_size=3))
    turn: dict[str, Any] = {"images": images, "user": user, "assistant": draw(st.none() | texts)}
    if draw(st.booleans()):
        turn["image_offsets"] = [draw(st.integers(0, len(user))) for _ in images]
    if turn["assistant"] is not None and draw(st.booleans()):
        turn["answers"] = [turn["assistant"], *draw(st.lists(texts, max_size=2))]
    for key in draw(st.lists(st.sampled_from(["images", "assistant", "user", "answers"]), max_size=2)):
        turn.pop(key, None)
    for key in draw(st.lists(st.sampled_from([*turn, "more"]), max_size=1)):
        turn[key] = draw(json_values)
    return dict(draw(st.permutations(list(turn.items()))))


@st.composite
def records(draw: st.DrawFn) -> dict[str, Any]:
    record = {"id": draw(texts), "source": "s", "conversations": draw(st.lists(turns(), max_size=3))}
    if draw(st.booleans()):
        record["system"] = draw(texts)
    return dict(draw(st.permutations(list(record.items()))))


RENAMED = {"a.jpg": "a.png", "c/d.gif": "c/d.gif.webp"}


@given(records() | json_values)
def test_what_was_changed_can_be_undone_to_the_byte(record: Any) -> None:
    before = json.dumps(record)
    fixed_line, changes = fix(record, RENAMED)
    assert json.dumps(record) == before, "the record given was changed"
    assert json.dumps(undo(fixed_line, changes)) == before
    assert (json.dumps(fixed_line) == before) == (not changes)


@given(records() | json_values)
def test_what_was_fixed_needs_no_fix(record: Any) -> None:
    fixed_line, _ = fix(record, RENAMED)
    assert fix(fixed_line, RENAMED) == (fixed_line, [])


@given(conversations())
def test_a_good_record_stays_good_and_says_the_same(record: Conversation) -> None:
    fixed_line, _ = fix(record.to_wire())
    assert parse_line(json.dumps(fixed_line).encode(), "x").conversation is not None
    assert decomposed(fixed_line) == decomposed(record.to_wire())


def decomposed(record: dict[str, Any]) -> Any:
    """A record in which letters are written in one way; offsets become the text before them."""
    turns_of = [
        {**turn, "image_offsets": [turn["user"][:offset] for offset in turn.get("image_offsets", [])]}
        for turn in record["conversations"]
    ]
    return json.loads(
        unicodedata.normalize("NFD", json.dumps({**record, "conversations": turns_of}, ensure_ascii=False))
    )


@given(texts)
@example("e\u0323\u0302 o\u0308\u0304 \u1100\u1161\u11a8 \u09af\u09bc")
def test_composed_text_is_the_same_text_and_has_no_more_to_compose(text: str) -> None:
    found = compose(text)
    assert unicodedata.normalize("NFD", found) == unicodedata.normalize("NFD", text)
    assert check_composition(found) == ""
    assert (found == text) == (check_composition(text) == "")


def test_offsets_stay_at_their_characters() -> None:
    user = "cafe\u0301, then e"
    turn = {"images": ["a", "b", "c"], "user": user, "assistant": None, "image_offsets": [0, 7, 12]}
    fixed_line, changes = fix({"id": "i", "source": "s", "conversations": [turn]})
    assert fixed_line["conversations"][0]["user"] == "caf\u00e9, then e"
    assert fixed_line["conversations"][0]["image_offsets"] == [0, 6, 11]
    assert [change.json_path for change in changes] == [
        f"$.conversations[0].{key}" for key in ("user", "image_offsets")
    ]


def test_nothing_is_composed_across_an_image() -> None:
    turn = {"images": ["a"], "user": "e\u0301 and e\u0301", "assistant": None, "image_offsets": [1]}
    (fixed_line,) = fix({"id": "i", "source": "s", "conversations": [turn]})[0]["conversations"]
    assert (fixed_line["user"], fixed_line["image_offsets"]) == ("e\u0301 and \u00e9", [1])


def test_images_go_along_with_their_offsets() -> None:
    turn = {"images": ["a", "b", "c", "d"], "user": "0123456789", "assistant": None, "image_offsets": [7, 2, 7, 0]}
    (fixed_line,) = fix({"id": "i", "source": "s", "conversations": [turn]})[0]["conversations"]
    assert (fixed_line["images"], fixed_line["image_offsets"]) == (["d", "b", "a", "c"], [0, 2, 7, 7])


@pytest.mark.parametrize(
    "turn",
    [
        {"images": [], "assistant": None},  # no question: no turn of this format
        {"images": ["a", "b"], "user": "u", "assistant": None, "image_offsets": [1, 2]},  # beyond the text
        {"images": ["a"], "user": "u", "assistant": None, "image_offsets": [1, 0]},  # of other images
        {"images": ["a", "b"], "user": "u", "assistant": None, "image_offsets": [1, True]},
        {"images": "a", "user": 3, "assistant": ["e"], "answers": {"e": 1}},
    ],
)
def test_what_cannot_be_fixed_safely_is_left_alone(turn: dict[str, Any]) -> None:
    record = {"id": "i", "source": "s", "conversations": [turn]}
    assert fix(record) == (record, [])


def test_a_change_is_one_short_line_that_shows_the_difference() -> None:
    record = {
        "id": "i",
        "source": "s",
        "conversations": [{"images": [], "user": "x" * 500 + "e\u0301", "assistant": ""}],
    }
    (change,) = fix(record)[1]
    assert str(change) == f'$.conversations[0].user: ...{"x" * 20}e\\u0301" -> ...{"x" * 20}\\u00e9"'
