"""Mutated rows of other tools among good ones: no crash, no finding at a good row, no bad line passed over."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from line_mutations import mutated

from phiv_data.formats import FORMATS
from phiv_data.validation import validate
from phiv_schemas import Conversation, Turn

NAMES = sorted(FORMATS)
BROKEN = ("PV001", "PV002", "PV003", "PV004", "PV005", "PV103", "PV501", "PV502", "PV503", "PV504", "PV505")


def good(name: str, number: int) -> bytes:
    """A row in the format, unlike all others."""
    turns = tuple(Turn(images=(), user=f"What is {number} and {k}?", assistant=f"It is {k}.") for k in range(2))
    row = Conversation(id=f"good-{number}", source="fuzzed", conversations=turns, system=None)
    return json.dumps(FORMATS[name].render(row)).encode()


def is_object(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def check(path: Path, name: str, random: Random, mutants: int) -> int:
    """Write and validate a file; how many of its mutants had findings."""
    lines, bad = [good(name, 0)], {}
    for number in range(1, mutants + 1):
        bad[len(lines) + 1] = mutant = mutated(good(name, -number), random).replace(b"\n", b" ").replace(b"\r", b" ")
        lines += [mutant, good(name, number)]
    path.write_bytes(b"\n".join(lines) + b"\n")
    report = validate(path, input_format=name, images=False, max_issues=100 * len(lines))
    found = {issue.line for issue in report.issues if issue.code in BROKEN}
    assert found <= bad.keys(), "a good row was found fault with"
    missed = {line for line, mutant in bad.items() if mutant.strip() and not is_object(mutant)} - found
    assert not missed, [bad[line] for line in missed]
    odd = [issue for issue in report.issues if not str(issue).isprintable() or len(str(issue)) >= 2000]
    assert odd == []
    assert report.rows == mutants + 1 + sum(bool(mutant.strip()) for mutant in bad.values())
    return len(found)


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=25)
@given(random=st.randoms(use_true_random=False))
def test_mutated_rows(name: str, random: Random, tmp_path_factory: pytest.TempPathFactory) -> None:
    check(tmp_path_factory.mktemp("rows") / "rows.jsonl", name, random, 8)


@pytest.mark.parametrize("name", NAMES)
def test_several_hundred_mutants_in_one_file(name: str, tmp_path: Path) -> None:
    assert check(tmp_path / "rows.jsonl", name, Random(7), 400) > 200


@pytest.mark.soak
@pytest.mark.parametrize("name", NAMES)
def test_twenty_five_thousand_mutants(name: str, tmp_path: Path) -> None:
    assert sum(check(tmp_path / "rows.jsonl", name, Random(seed), 500) for seed in range(50)) > 12_000
