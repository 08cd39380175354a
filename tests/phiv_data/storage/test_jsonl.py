"""Lines keep their true numbers, every error of a record is reported, nothing passes silently."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from data_builders import conversations, sample
from hypothesis import given
from hypothesis import strategies as st

from phiv_data.storage.jsonl import parse_line, read_jsonl, read_lines, write_jsonl
from phiv_data.storage.record_errors import duplicate_key_paths, json_path
from phiv_schemas import Conversation, RecordError, UsageError

GOOD = sample("val", 1).conversation
LINE = GOOD.to_line().encode()


def write(tmp_path: Path, data: bytes) -> Path:
    path = tmp_path / "x.jsonl"
    path.write_bytes(data)
    return path


def codes(raw: bytes) -> list[str]:
    return [issue.code for issue in parse_line(raw, "x.jsonl", 1).issues]


@given(st.lists(conversations(), max_size=5))
def test_write_then_read_is_the_identity(tmp_path_factory: pytest.TempPathFactory, records: list[Conversation]) -> None:
    path = tmp_path_factory.mktemp("round_trip") / "x.jsonl"
    info = write_jsonl(path, records)
    assert list(read_jsonl(path)) == records
    assert path.read_bytes() == "".join(json.dumps(r.to_wire()) + "\n" for r in records).encode()
    assert info.size_bytes == path.stat().st_size


def test_blank_lines_do_not_shift_line_numbers_or_offsets(tmp_path: Path) -> None:
    data = b"\n\r\n" + LINE + b"\r\n  \n" + LINE
    lines = list(read_lines(write(tmp_path, data)))
    assert [line.number for line in lines] == [3, 5]
    for line in lines:
        assert data[line.offset : line.offset + len(LINE)] == LINE
        assert line.conversation == GOOD


def test_offset_of_the_first_line_is_after_the_byte_order_mark(tmp_path: Path) -> None:
    (line,) = read_lines(write(tmp_path, b"\xef\xbb\xbf" + LINE + b"\n"))
    assert (line.number, line.offset, line.conversation) == (1, 3, GOOD)
    assert [(issue.code, issue.severity) for issue in line.issues] == [("PV006", "warning")]


@pytest.mark.parametrize("separator", ["\u2028", "\u0085", "\x0c", "\r"])
def test_only_a_newline_ends_a_line(tmp_path: Path, separator: str) -> None:
    record = GOOD.to_wire() | {"system": f"a{separator}b"}
    raw = json.dumps(record, ensure_ascii=separator in "\x0c\r").encode()
    (line,) = read_lines(write(tmp_path, raw + b"\n"))
    assert line.conversation is not None
    assert line.conversation.system == f"a{separator}b"


def test_every_cut_of_a_last_line_is_reported(tmp_path: Path) -> None:
    for cut in range(1, len(LINE)):
        (_, line) = read_lines(write(tmp_path, LINE + b"\n" + LINE[:cut]))
        assert [issue.code for issue in line.issues] == ["PV004"], LINE[:cut]
        assert line.number == 2


def test_the_same_cut_before_a_newline_is_not_json(tmp_path: Path) -> None:
    (line,) = read_lines(write(tmp_path, LINE[:40] + b"\n"))
    assert [issue.code for issue in line.issues] == ["PV001"]


def test_the_first_bad_record_raises_with_file_line_and_path(tmp_path: Path) -> None:
    bad = json.dumps(GOOD.to_wire() | {"conversations": [{"images": ["a", 3], "user": 4, "assistant": None}]}).encode()
    records = read_jsonl(write(tmp_path, LINE + b"\n\n" + bad + b"\n"))
    assert next(records) == GOOD
    with pytest.raises(RecordError) as caught:
        next(records)
    expected = "x.jsonl:3: $.conversations[0].images[1]: must be a string (found 3) (and 1 more in this record)"
    assert str(caught.value) == expected
    assert caught.value.exit_code == 1


def test_no_file_and_a_folder_are_usage_errors_at_once(tmp_path: Path) -> None:
    for path, words in ((tmp_path / "none.jsonl", "no such file"), (tmp_path, "is a folder")):
        with pytest.raises(UsageError, match=words):
            read_jsonl(path)


@given(conversations(), st.data())
def test_a_repeated_key_never_passes(conversation: Conversation, data: st.DataObject) -> None:
    """The quote count that skips the slow check must not miss one, however the key is spaced or escaped."""
    line = conversation.to_line()
    wire = conversation.to_wire()
    key = data.draw(st.sampled_from(sorted(wire)))
    escaped = "".join(f"\\u{ord(c):04x}" for c in key)
    name = data.draw(st.sampled_from([f'"{key}"', f'"{key}" ', f'"{escaped}"']))
    value = data.draw(st.sampled_from([json.dumps(wire[key]), json.dumps(wire[key]).replace(", ", ",")]))
    assert codes(f"{line[:-1]},{name}: {value}}}".encode()) == ["PV003"]


def test_a_repeated_key_inside_a_turn_is_reported_with_the_turns_path() -> None:
    raw = LINE.replace(b'"user":', b'"user": "first", "user":')
    (issue,) = parse_line(raw, "x.jsonl", 7).issues
    assert (issue.code, issue.line, issue.json_path) == ("PV003", 7, "$.conversations[0]")
    assert "'user'" in issue.message


@given(conversations(), st.sampled_from([",", ", ", " ,\t"]), st.sampled_from([":", ": ", " : "]), st.booleans())
def test_good_records_pass_in_any_spelling(
    conversation: Conversation, comma: str, colon: str, ensure_ascii: bool
) -> None:
    text = json.dumps(conversation.to_wire(), separators=(comma, colon), ensure_ascii=ensure_ascii)
    line = parse_line(text.encode(), "x.jsonl", 1)
    assert line.issues == ()
    assert line.conversation == conversation


@pytest.mark.parametrize(
    "raw", [b'{"id": "caf\xe9"}', b'{"id": "a\x00b"}', b'{"id": "\\ud800"}', b'{"id": "\\udc00x"}']
)
def test_text_that_is_not_unicode_is_pv005(raw: bytes) -> None:
    assert codes(raw) == ["PV005"]


@given(st.binary(max_size=40))
def test_no_bytes_break_the_reader(raw: bytes) -> None:
    line = parse_line(raw, "x.jsonl", 1)
    assert line.conversation is None
    assert line.issues
    assert all("\n" not in str(issue) and "pydantic" not in str(issue) for issue in line.issues)


def test_deep_nesting_and_huge_numbers_do_not_break_the_reader() -> None:
    for raw in (b"[" * 100_000, b'{"a":' * 5000, b'{"id": 1' + b"0" * 5000 + b"}", b'{"id": -1' + b"0" * 300 + b"}"):
        assert set(codes(raw)) <= {"PV001", "PV002"}


def test_a_repeated_key_among_very_many_is_found_in_linear_time() -> None:
    """In quadratic time this would take an hour."""
    raw = "{" + "".join(f'"{i}": 1, ' for i in range(300_000)) + '"7": 2}'
    assert list(duplicate_key_paths(raw.encode())) == [("$", "7")]


def test_a_known_key_at_the_wrong_level_is_sent_to_the_right_one() -> None:
    raw = b'{"id":"a","source":"b","user":"c","conversations":[{"images":[],"user":"","assistant":"","system":""}]}'
    assert [(issue.json_path, issue.hint) for issue in parse_line(raw, "x.jsonl").issues] == [
        ("$.conversations[0].system", "It belongs in the record itself"),
        ("$.user", "It belongs in a turn"),
    ]


def test_json_paths_quote_odd_keys() -> None:
    assert json_path(("conversations", 0, "images", 3)) == "$.conversations[0].images[3]"
    assert json_path(("a b", "c\n")) == '$["a b"]["c\\n"]'


def test_duplicates_are_found_at_every_depth() -> None:
    raw = b'{"a": [{"b": 1, "b": 2}], "c": {"d": {"e": 1, "e": 1}}, "a b": {"x": 1, "x": 2}}'
    assert list(duplicate_key_paths(raw)) == [("$.a[0]", "b"), ("$.c.d", "e"), ('$["a b"]', "x")]
