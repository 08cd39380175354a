"""JSON read row by row: what json.load gives, with true places, in flat memory."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phiv_data.media.reject import RejectInput
from phiv_data.sources import json_stream as json_rows
from phiv_data.sources.json_stream import read_json_array, read_json_lines, read_rows, read_value, text_of, value_of
from phiv_schemas import SourceError

_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | _text,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_text, inner, max_size=4),
    max_leaves=12,
)
_spaces = st.sampled_from(["", " ", "\n", "\r\n\t ", "\n\n"])


def write(path: Path, content: bytes | str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@given(st.lists(_values, max_size=8), st.booleans(), _spaces, st.sampled_from([1, 2, 3, 7, 64, 1 << 16]))
def test_array_elements_are_those_of_json_load_at_every_window(
    tmp_path_factory: pytest.TempPathFactory, values: list[Any], ascii_only: bool, space: str, chunk: int
) -> None:
    elements = f"{space},{space}".join(json.dumps(value, ensure_ascii=ascii_only) for value in values)
    path = write(tmp_path_factory.mktemp("array") / "a.json", f"{space}[{space}{elements}{space}]{space}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_rows, "_CHUNK", chunk)
        rows = list(read_json_array(path))
    assert [row.value for row in rows] == values
    data = path.read_bytes()
    for row in rows:
        assert read_value(path, row.offset, row.length) == row.value
        assert row.line == 1 + data.count(b"\n", 0, row.offset)


@given(st.lists(_values.filter(lambda v: v is not None), max_size=6), st.sampled_from(["\n", "\r\n", "\n\n", "  \n"]))
def test_lines_and_arrays_hold_the_same_values(
    tmp_path_factory: pytest.TempPathFactory, values: list[Any], end: str
) -> None:
    folder = tmp_path_factory.mktemp("lines")
    lines = write(folder / "a.jsonl", "".join(json.dumps(value) + end for value in values))
    array = write(folder / "a.json", json.dumps({"version": [1, {"data": 2}], "data": values, "more": 3}))
    rows = list(read_json_lines(lines))
    assert [row.value for row in rows] == [row.value for row in read_json_array(array, "data")] == values
    assert [read_value(lines, row.offset, row.length) for row in rows] == values


def test_blank_lines_crlf_and_a_byte_order_mark_do_not_shift_line_numbers_or_offsets(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", b'\xef\xbb\xbf{"a": 1}\r\n\r\n  {"a": "\xc3\xa9"} \r\n\n{"a": 3}')
    rows = list(read_json_lines(path))
    assert [(row.line, row.value["a"]) for row in rows] == [(1, 1), (3, "é"), (5, 3)]
    assert [read_value(path, row.offset, row.length)["a"] for row in rows] == [1, "é", 3]


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (b'{"a": 1', "not valid JSON: Expecting"),
        (b'{"a": "\xff"}', "byte 0xff at byte 8 is not UTF-8"),
        (b"[" * 100_000, "not readable as JSON"),
        (b'{"a": ' + b"9" * 5000 + b"}", "not readable as JSON: Exceeds the limit"),
    ],
)
def test_a_broken_line_is_reported_and_the_others_are_read(tmp_path: Path, line: bytes, problem: str) -> None:
    path = write(tmp_path / "a.jsonl", b'{"a": 0}\n' + line + b'\n{"a": 2}\n')
    first, broken, last = read_json_lines(path)
    assert (first.value, last.value, broken.value, broken.line) == ({"a": 0}, {"a": 2}, None, 2)
    assert problem in broken.problem
    with pytest.raises(RejectInput, match=r"a\.jsonl:2: .* \[bad-row\]"):
        read_value(path, broken.offset, broken.length, where="a.jsonl:2")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('[{"a": 1},\n{"a": }]', r"a\.json:2: not valid JSON: Expecting value"),
        ('[{"a": 1},\n{"a": 1}', r"a\.json:2: the file ends before the array does"),
        ('[{"a": 1},\n{"a": "cut', r"a\.json:2: not valid JSON: Unterminated string"),
        ('[{"a": 1}\n{"a": 2}]', r"a\.json:2: expected a comma \(found '\{'\)"),
        ('[{"a": 1},\n]', r"a\.json:2: a comma before the end"),
        ('{"a": 1}', r"a\.json:1: expected an array \(found '\{'\)"),
        ("", r"a\.json:1: the file ends before"),
        ("[" * 100_000, r"a\.json:1: not valid JSON"),
        ("[1]\n[2]\n", r"a\.json:2: the file continues after the end of its array"),
    ],
)
def test_a_broken_array_is_one_line_with_its_place(tmp_path: Path, content: str, message: str) -> None:
    with pytest.raises(SourceError, match=message):
        list(read_json_array(write(tmp_path / "a.json", content)))


def test_an_object_without_the_asked_array_is_named(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="the object has no 'data'"):
        list(read_json_array(write(tmp_path / "a.json", '{"rows": [1]}'), "data"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\n<!DOCTYPE html><html>Log in", "is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1", "Git LFS pointer"),
        ('{"a": 1}'.encode("utf-16"), "is UTF-16"),
    ],
)
def test_what_is_no_json_file_at_all_is_one_error(tmp_path: Path, content: bytes, message: str) -> None:
    with pytest.raises(SourceError, match=message):
        list(read_rows(write(tmp_path / "train.json", content)))


def test_read_rows_tells_lines_from_arrays_by_content(tmp_path: Path) -> None:
    lines = write(tmp_path / "lines.json", '{"a": 1}\n{"a": 2}\n')
    array = write(tmp_path / "array.jsonl", '\n [{"a": 1}, {"a": 2}]')
    keyed = write(tmp_path / "keyed.json", '{"data": [{"a": 1}, {"a": 2}]}')
    found = [[row.value for row in rows] for rows in (read_rows(lines), read_rows(array), read_rows(keyed, "data"))]
    assert found == [[{"a": 1}, {"a": 2}]] * 3


def test_memory_is_that_of_an_element_not_of_the_file(tmp_path: Path) -> None:
    with (path := tmp_path / "a.json").open("w") as file:
        file.write("[")
        for i in range(20_000):
            file.write(f'{"," if i else ""}{{"id": {i}, "text": "{"x" * 1000}"}}')
        file.write("]")
    tracemalloc.start()
    try:
        count = sum(1 for _ in read_json_array(path))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert count == 20_000
    assert peak < path.stat().st_size / 10  # 2 MB of 20


def test_a_broken_element_is_reported_without_reading_on(tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", '[{"a": 1},\n{"a": }' + ', {"a": 2}' * 2_000_000)
    tracemalloc.start()
    try:
        with pytest.raises(SourceError, match=r"a\.json:2: not valid JSON"):
            list(read_json_array(path))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2_000_000  # of 20 MB


def test_a_line_or_element_without_an_end_does_not_fill_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_rows, "MAX_ELEMENT_BYTES", 1000)
    monkeypatch.setattr(json_rows, "_CHUNK", 100)
    path = write(tmp_path / "a.json", '["' + "x" * 5000)
    with pytest.raises(SourceError, match=r":1: not valid JSON: Unterminated"):
        list(read_json_array(path))
    with pytest.raises(SourceError, match=r":1: a line of over 1000 bytes"):
        list(read_json_lines(path))


def test_typed_fields_say_what_is_there_instead() -> None:
    row = {"id": "7", "label": True}
    assert value_of(row, "id", (int, str), "f:1") == "7"
    for name, kinds, message in (
        ("label", int, r"f:1: 'label' is not int \(found True\)"),
        ("text", str, r"f:1: no 'text' \(found id, label\)"),
    ):
        with pytest.raises(RejectInput, match=message):
            value_of(row, name, kinds, "f:1")
    with pytest.raises(RejectInput, match=r"not an object \(found \[1\]\)"):
        value_of([1], "id", str, "f:1")


@pytest.mark.parametrize(("text", "message"), [(" \n", "'q' is empty"), ("a\ud800", "half a surrogate pair at 1")])
def test_text_that_no_file_can_hold_is_rejected(text: str, message: str) -> None:
    assert text_of({"q": "é \n"}, "q", "f:1") == "é \n"
    with pytest.raises(RejectInput, match=rf"f:1: .*{message}"):
        text_of({"q": text}, "q", "f:1")
