"""The fast way through clean data, compared with pydantic: what it accepts is good, and equal."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from phiv_data.storage.jsonl import parse_line
from phiv_data.validation.inputs.fast_parse import fast_record, fast_row, quick, same
from phiv_data.validation.rules.registry import record_finders

RECORD = {
    "id": "val-0000000300",
    "source": "ucf101",
    "conversations": [{"images": ["val/Archery/v_g21_c04.0.jpg"], "user": "What is it?", "assistant": "Archery"}],
}
TURN = RECORD["conversations"][0]

texts = st.one_of(
    st.text(max_size=12),
    st.sampled_from(["USER: hi", "ASSISTANT : no", "  ### Human: x", "x: y", "###response:", " a", "b ", " ", "a: [I"]),
    st.sampled_from(
        ["", "A", 'a"b', "back\\slash", '\\"', "nul\0", "<|end|>", "null", "na\u00efve", "[INST] x", "\t x"]
    ),
)
paths = st.sampled_from(
    ["a.jpg", "val/a b/c.0.jpg", "../a", "/a", "a//b", "a/./b", "C:/a", "a\\b", "", "a/", "a\n", ".a", "é.jpg"]
)
ints = st.one_of(st.integers(-2, 9), st.sampled_from([True, 1.0, 1.5, 10**30, "1", None]))
turns = st.fixed_dictionaries(
    {"images": st.lists(paths | st.just("ok/x.png"), max_size=3), "user": texts, "assistant": st.none() | texts},
    optional={
        "answers": st.none() | st.lists(texts, max_size=3),
        "image_offsets": st.none() | st.lists(ints, max_size=3),
        "extra": texts,
    },
)
records = st.fixed_dictionaries(
    {"id": texts | st.just("x-1"), "source": texts | st.just("s"), "conversations": st.lists(turns, max_size=3)},
    optional={"system": st.none() | texts, "extra": st.none()},
)
anything = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)


def assert_invariant(raw: bytes) -> bool:
    """Whether it was accepted; what is accepted must be good and equal."""
    fast = fast_record(raw)
    if fast is None:
        return False
    line = parse_line(raw.rstrip(b"\r\n"), "f", 1)
    assert line.conversation is not None, (raw, line.issues)
    assert not line.issues
    assert same(fast, line.conversation)
    assert fast.image_paths == line.conversation.image_paths
    return True


@settings(max_examples=600, deadline=None)
@given(records, st.booleans())
def test_what_is_accepted_pydantic_accepts_with_equal_content(record: dict[str, Any], ascii_only: bool) -> None:
    assert_invariant(json.dumps(record, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass"))


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(["", "id", "source", "conversations", "system"]), anything)
def test_values_of_any_type_are_no_exception(key: str, value: object) -> None:
    record = {**RECORD, key: value} if key else value
    assert_invariant(json.dumps(record).encode())


@settings(max_examples=600, deadline=None)
@given(st.integers(0, 200), st.binary(min_size=0, max_size=3), st.integers(0, 3))
@example(1, b'"id": "x", ', 0)
def test_bytes_put_anywhere_are_no_exception(at: int, put: bytes, cut: int) -> None:
    raw = json.dumps(RECORD).encode()
    assert_invariant(raw[:at] + put + raw[at + cut :] + b"\n")


@pytest.mark.parametrize(
    "raw",
    [
        json.dumps(RECORD),
        json.dumps(RECORD, separators=(",", ":")),
        json.dumps({**RECORD, "system": "Be short."}),
        json.dumps({**RECORD, "conversations": [TURN, {**TURN, "images": [], "user": 'Say "why"'}]}),
        json.dumps({**RECORD, "conversations": [{**TURN, "answers": ["Archery", "archery"], "image_offsets": [0]}]}),
        json.dumps({**RECORD, "conversations": [{**TURN, "assistant": None}]}),
    ],
)
def test_clean_records_are_accepted(raw: str) -> None:
    assert assert_invariant(raw.encode())


@pytest.mark.parametrize(
    "raw",
    [
        '{"id": "a", "id": "b", "source": "s", "conversations": [{"images": [], "user": "u", "assistant": "a"}]}',
        '{"id": "a", "source": "s", "conversations": [{"images": [], "user": "\\"", "user": "u", "assistant": "a"}]}',
        '{"id": "a", "source": "s", "conversations": [{"images": [], "user": "\\\\", "user":"", "assistant": "\\\\"}]}',
        '{"id": "a", "source": "s", "system": null, "conversations": [{"images": [], "user": "u", "assistant": "a"}]}',
    ],
)
def test_keys_that_stand_twice_and_explicit_nulls_are_left_to_pydantic(raw: str) -> None:
    assert not assert_invariant(raw.encode())


@settings(max_examples=300, deadline=None)
@given(records)
def test_rows_of_shards_are_held_to_the_same_invariant(record: dict[str, Any]) -> None:
    record.pop("extra", None)
    fast = fast_row({"system": None, **record})
    if fast is not None:
        wire = {key: value for key, value in record.items() if value is not None}
        assert same(fast, parse_line(json.dumps(wire).encode(), "f").conversation)  # type: ignore[arg-type]  # None fails


@settings(max_examples=600, deadline=None)
@given(records, st.booleans())
def test_a_plain_line_holds_nothing_for_the_rules_that_are_left_out(record: dict[str, Any], ascii_only: bool) -> None:
    raw = json.dumps(record, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")
    found = quick(raw)
    if found is None or not found[2]:
        return
    line = parse_line(raw, "f", 1)
    assert line.conversation
    expected = [one for find in record_finders() for one in find(line.conversation)]
    assert expected == [one for find in record_finders(is_plain=True) for one in find(found[0])]


def test_an_ordinary_line_of_a_file_is_plain() -> None:
    found = quick(json.dumps(RECORD).encode() + b"\r\n")
    assert found is not None
    assert found[2]
