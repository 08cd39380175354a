"""What must hold for any bytes: read alone, and as lines of a file. The oracle of the fuzzing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from phiv_data.storage.jsonl import Line, parse_line, read_lines
from phiv_data.validation import validate
from phiv_data.validation.inputs.fast_parse import quick, same
from phiv_data.validation.rules.registry import record_finders
from phiv_schemas import Conversation, Issue

STRUCTURE = {"PV001", "PV002", "PV003", "PV004", "PV005", "PV103"}


def check_line(raw: bytes) -> Line:
    """One line by itself: a record that a plain JSON reader reads the same, or errors of one line of text each."""
    line = parse_line(raw, "x.jsonl", 7)
    assert (line.conversation is None) == any(issue.severity == "error" for issue in line.issues)
    for issue in line.issues:
        assert (issue.code in STRUCTURE, issue.file, issue.line) == (True, "x.jsonl", 7)
        text = str(issue)
        assert text.isprintable(), "one line, and nothing that a terminal obeys"
        assert len(text) < 2000, "a hostile line is never echoed whole"
    if line.conversation is not None:
        check_record(raw, line.conversation)
    check_quick(raw, line)
    return line


def check_quick(raw: bytes, line: Line) -> None:
    """The fast way accepts nothing that pydantic does not, with equal content, and leaves out no rule that finds."""
    if (found := quick(raw)) is None:
        return
    record, issues, is_plain = found
    assert line.conversation is not None, line.issues
    assert (issues, line.issues) == ((), ())
    assert same(record, line.conversation)
    assert record.image_paths == line.conversation.image_paths
    expected = [one for find in record_finders() for one in find(line.conversation)]
    assert expected == [one for find in record_finders(is_plain=is_plain) for one in find(record)]


def check_record(raw: bytes, record: Conversation) -> None:
    """What was accepted is what any JSON reader sees, survives a round trip, and can be shown to the rules."""
    assert _without_absent(json.loads(raw, object_pairs_hook=_once)) == record.to_wire()
    again = Conversation.model_validate_json(record.to_line())
    assert again == record
    for find in record_finders():
        for found in find(record):
            str(found.at("x.jsonl", 7)).encode()


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    assert len(dict(pairs)) == len(pairs), "a key stands twice"
    return dict(pairs)


def _without_absent(value: Any) -> Any:
    """Optional keys may be absent or null, which is the same."""
    for turn in value["conversations"]:
        for key in ("answers", "image_offsets"):
            if turn.get(key, 0) is None:
                del turn[key]
    if value.get("system", 0) is None:
        del value["system"]
    return value


def check_file(path: Path, chunks: list[tuple[bytes, bool]]) -> int:
    """A file of chunks, each a line or, where newlines got into it, several; True: known to be good. Counts bad lines.

    Every line must give in its file what it gives alone, under its true number, and a good one no error; only a
    validation lets it lack `id` and `source`. The first chunk must be good: the first line's marks are a matter of
    their own.
    """
    path.write_bytes(b"\n".join(chunk for chunk, _ in chunks))
    good, number = set[int](), 1
    for chunk, is_good in chunks:
        good |= {number} if is_good else set()
        number += 1 + chunk.count(b"\n")
    raw_lines = path.read_bytes().split(b"\n")
    alone: dict[int, Line] = {}
    own: dict[int, Line] = {}
    for number, raw in enumerate(raw_lines, start=1):
        if raw.strip():
            text, is_cut = raw.rstrip(b"\r"), number == len(raw_lines)
            alone[number] = parse_line(text, path.name, number, is_cut=is_cut)
            own[number] = parse_line(text, path.name, number, is_cut=is_cut, may_lack_names=True)
            check_names(alone[number], own[number])
    together = {line.number: line for line in read_lines(path)}
    assert {n: (line.conversation, line.issues) for n, line in together.items()} == {
        n: (line.conversation, line.issues) for n, line in alone.items()
    }
    report = validate(path, images=False, max_issues=10**6)
    errors = [issue for issue in report.issues if issue.code in STRUCTURE]
    assert sorted(map(_facts, errors)) == sorted(_facts(issue) for line in own.values() for issue in line.issues)
    unnamed = {number for number in own if own[number].conversation and not alone[number].conversation}
    assert report.counts().get("PV404", 0) == bool(unnamed)
    assert report.rows == len(alone)
    bad = {issue.line for issue in errors}
    assert not good & bad
    return len(bad)


def check_names(line: Line, own: Line) -> None:
    """A line that may lack its names differs from one that may not by its missing id and source alone."""
    if own.conversation is None or line.conversation is not None:
        assert (own.conversation, own.issues) == (line.conversation, line.issues)
    else:
        assert own.issues == ()
        assert {(issue.code, issue.json_path) for issue in line.issues} <= {("PV002", "$.id"), ("PV002", "$.source")}


def _facts(issue: Issue) -> tuple[int, str, str, str]:
    return issue.line or 0, issue.code, issue.json_path or "", issue.message
