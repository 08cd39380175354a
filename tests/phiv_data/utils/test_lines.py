"""Lines: every line of a file or a byte range once, with its true number and offset."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phiv_data.utils.lines import BOM, numbered_lines

TEXT = st.lists(st.sampled_from([b"a", b"\n", b"\r\n", b" ", BOM, b"\xe2\x80\xa8"])).map(b"".join)


@given(TEXT)
def test_numbers_and_offsets_are_those_of_the_file(text: bytes) -> None:
    lines = list(numbered_lines(io.BytesIO(text)))
    assert [number for number, _, _ in lines] == list(range(1, len(lines) + 1))
    assert all(text[offset : offset + len(raw)] == raw for _, offset, raw in lines)
    assert b"".join(raw for _, _, raw in lines) == text.removeprefix(BOM)
    assert all(raw.count(b"\n") == raw.endswith(b"\n") for _, _, raw in lines)


@given(TEXT, st.data())
def test_two_ranges_that_meet_at_a_line_end_are_the_whole(text: bytes, data: st.DataObject) -> None:
    whole = list(numbered_lines(io.BytesIO(text)))
    ends = [offset + len(raw) for _, offset, raw in whole]
    cut = data.draw(st.sampled_from([0, *ends]))
    before = list(numbered_lines(io.BytesIO(text), end=cut))
    file = io.BytesIO(text)
    file.seek(cut)
    assert before + list(numbered_lines(file, first=len(before) + 1)) == whole


def test_only_the_first_line_of_the_file_loses_a_mark() -> None:
    assert [raw for _, _, raw in numbered_lines(io.BytesIO(BOM + BOM + b"a\n" + BOM))] == [BOM + b"a\n", BOM]
    assert next(numbered_lines(io.BytesIO(BOM), first=2)) == (2, 0, BOM)


@pytest.mark.parametrize("limit", [1, 2, 5])
def test_a_long_line_comes_in_bounded_pieces(limit: int) -> None:
    pieces = [raw for _, _, raw in numbered_lines(io.BytesIO(b"abcd\nef"), max_bytes=limit)]
    assert max(map(len, pieces)) <= limit
    assert b"".join(pieces) == b"abcd\nef"
