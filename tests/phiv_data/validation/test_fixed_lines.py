"""--fix over mutated lines: no crash; what it changes is valid, can be undone, needs no fix again; the rest is kept."""

from __future__ import annotations

import json
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from line_mutations import HOSTILE, good_line, mutated

from phiv_data.repair.lines import mend_line
from phiv_data.repair.records import undo
from phiv_data.storage.jsonl import parse_line

RENAMED = {"a.png": "a.jpg"}


def check(raw: bytes) -> None:
    fixed_line = mend_line(raw + b"\n", RENAMED)
    if not fixed_line.changes:
        assert fixed_line.raw == raw + b"\n"
        assert fixed_line.is_bad == (bool(raw.strip()) and parse_line(raw.strip(b"\r\n"), "x").conversation is None)
        return
    assert parse_line(fixed_line.raw.rstrip(b"\n"), "x").conversation is not None
    assert fixed_line.raw.endswith(b"\r\n" if raw.endswith(b"\r") else b"\n")
    assert json.dumps(undo(fixed_line.record, fixed_line.changes)) == json.dumps(json.loads(raw))
    assert mend_line(fixed_line.raw, RENAMED).changes == ()


@given(st.randoms(use_true_random=False))
def test_mutated_lines(random: Random) -> None:
    check(mutated(good_line(random, 0), random).replace(b"\n", b""))


@pytest.mark.parametrize("hostile", HOSTILE, ids=lambda token: repr(token[:12]))
def test_each_hostile_token_in_each_place(hostile: bytes) -> None:
    line = b'{"source": "b", "id": "a", "conversations": [{"images": ["c"], "user": "d"}]}'
    for at in range(len(line) + 1):
        check((line[:at] + hostile + line[at:]).replace(b"\n", b""))


@pytest.mark.parametrize("depth", [100, 300, 480, 900, 100_000])
def test_lines_of_any_depth(depth: int) -> None:
    check(b'{"source": "b", "id": "a", "conversations": [{"user": "d", "more": ' + b"[" * depth + b"]" * depth + b"}]}")
