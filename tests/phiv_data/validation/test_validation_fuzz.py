"""Mutated lines among good ones: no crash, every error under its true line number, no error for a good line.

`scripts/soak` runs 100,000 of them; `scripts/fuzz` runs the same oracle under atheris.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from line_mutations import HOSTILE, good_line, mutated
from line_oracle import check_file, check_line

from phiv_data.validation import validate


def chunks(random: Random, mutants: int) -> list[tuple[bytes, bool]]:
    """A good line, then mutants with good lines and blank ones between them."""
    found = [(good_line(random, 0), True)]
    for number in range(1, mutants + 1):
        found.append((mutated(good_line(random, number), random), False))
        if random.random() < 0.3:
            found.append((good_line(random, -number) + random.choice([b"", b"\r", b" \t"]), True))
        if random.random() < 0.1:
            found.append((random.choice([b"", b"\r", b" \t "]), True))
    return found


@settings(max_examples=80, deadline=None)
@given(st.randoms(use_true_random=False))
def test_bad_lines_have_their_true_numbers_and_good_lines_no_error(random: Random) -> None:
    with tempfile.TemporaryDirectory() as folder:
        check_file(Path(folder) / "x.jsonl", chunks(random, 6))


@settings(max_examples=150, deadline=None)
@given(st.randoms(use_true_random=False))
def test_a_line_is_a_record_that_any_reader_reads_the_same_or_errors(random: Random) -> None:
    check_line(mutated(good_line(random, 0), random).replace(b"\n", b""))


@settings(max_examples=60, deadline=None)
@given(st.randoms(use_true_random=False), st.sampled_from([b"", b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff", b"\x00"]))
def test_a_mutated_first_line_does_not_shift_the_others(random: Random, mark: bytes) -> None:
    first = mark + mutated(good_line(random, 0), random).replace(b"\n", b" ")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.jsonl"
        path.write_bytes(first + b"\n" + good_line(random, 1) + b"\n{}\n")
        report = validate(path, images=False)
    lines = {issue.line for issue in report.issues if issue.code == "PV002"} - {1}
    assert lines == (set() if first.startswith((b"\xff\xfe", b"\xfe\xff")) else {3})


@pytest.mark.parametrize("hostile", HOSTILE, ids=lambda token: repr(token[:12]))
def test_each_hostile_token_in_each_place(hostile: bytes) -> None:
    line = b'{"id": "a", "source": "b", "conversations": [{"images": ["c"], "user": "d", "assistant": "e"}]}'
    for at in range(len(line) + 1):
        check_line((line[:at] + hostile + line[at:]).replace(b"\n", b""))


def test_a_thousand_mutants_in_one_file(tmp_path: Path) -> None:
    assert check_file(tmp_path / "x.jsonl", chunks(Random(1), 1000)) > 600


@pytest.mark.soak
def test_a_hundred_thousand_mutants(tmp_path: Path) -> None:
    bad = 0
    for seed in range(100):
        found = chunks(Random(seed), 1000)
        bad += check_file(tmp_path / "x.jsonl", found)
        for chunk, is_good in found:
            if not is_good and b"\n" not in chunk:
                check_line(chunk)
    assert bad > 60_000
