"""Validation inside other people's loops: what passes, what is reported, what each policy does."""

from __future__ import annotations

import re
import sqlite3
import subprocess
import sys
import threading
import tracemalloc
import warnings
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pyarrow as pa
import pytest
from data_builders import conversations, samples
from hypothesis import given, settings
from hypothesis import strategies as st
from integration_rows import OF_ONE_RECORD, line, mutated_lines

from phiv_data.integrations.stream import iter_validated
from phiv_data.storage.jsonl import parse_line
from phiv_data.storage.shards import schema, to_row
from phiv_data.utils.lines import BOM
from phiv_data.validation import validate
from phiv_schemas import Conversation, EnvironmentProblem, Issue, RecordError, UsageError

ROWS = samples("val", 3)
GOOD = [row.conversation for row in ROWS]
BAD: dict[str, Any] = {"id": 3, "source": "s", "conversations": []}
NAMES = ("$.id", "$.source")
EMPTY_ANSWER = {"id": "e", "source": "s", "conversations": [{"images": [], "user": "q", "assistant": " "}]}  # PV211
CONTROL = {"id": "c", "source": "s", "conversations": [{"images": [], "user": "a\x7f", "assistant": "b"}]}  # a warning


def said(issues: list[Issue]) -> list[tuple[str, int | None]]:
    return [(issue.code, issue.line) for issue in issues]


@given(st.lists(conversations(), max_size=4, unique_by=lambda record: record.id))
def test_records_that_the_format_allows_and_no_rule_minds_pass_in_every_form(records: list[Conversation]) -> None:
    whole = iter_validated(records, "collect")
    kept = list(whole)
    assert whole.num_skipped == len(records) - len(kept) == len({i.line for i in whole.report().errors})
    lines = [record.to_line() for record in records]
    for same in (
        [record.to_wire() for record in records],
        lines,
        [raw.encode() for raw in lines],
        [bytearray(raw.encode()) for raw in lines],
        pa.array(lines, pa.string()),
    ):
        again = iter_validated(same, "collect")
        assert list(again) == kept
        assert again.report() == whole.report()


@settings(max_examples=60, deadline=None)
@given(st.randoms(use_true_random=False))
def test_a_stream_of_lines_has_the_findings_of_a_file_of_them(tmp_path_factory: Any, random: Random) -> None:
    lines = [raw for raw in (*mutated_lines(random, 4), *mutated_lines(random, 4)) if means_the_same(raw)]  # ids twice
    first = line("first").encode()  # a mark of UTF-16 means something at the start of a file only
    path = tmp_path_factory.mktemp("file") / "x.jsonl"
    path.write_bytes(b"\n".join([first, *lines, b""]))
    in_file = [issue for issue in validate(path, images=False).issues if issue.code in {*OF_ONE_RECORD, "PV201"}]
    stream = iter_validated([first, *lines], "collect", name="x.jsonl")
    kept = list(stream)
    assert plain(stream.report().issues) == plain(in_file)
    assert len(kept) + stream.num_skipped == stream.num_records


def means_the_same(raw: bytes) -> bool:
    """Whether a line is no other thing in a file: there a mark is an error after line 1, and names may be missing."""
    is_nameless = parse_line(raw, "", 1, may_lack_names=True).conversation and not parse_line(raw, "", 1).conversation
    return not raw.startswith(BOM) and not is_nameless


def plain(issues: list[Issue]) -> list[Issue]:
    """Where an id was seen first is said in other words of a stream."""
    short = [re.sub(r"(first seen) .*", r"\1", issue.message) for issue in issues]
    return [issue.model_copy(update={"message": message}) for issue, message in zip(issues, short, strict=True)]


def test_a_row_without_id_is_bad_in_a_stream_whose_good_rows_are_named_conversations() -> None:
    nameless = b'{"conversations": [{"images": [], "user": "q", "assistant": "a"}]}'
    checked = iter_validated([nameless], "collect")
    assert list(checked) == []
    assert [(issue.code, issue.json_path) for issue in checked.report().issues] == [("PV002", name) for name in NAMES]


def test_raise_stops_at_the_first_bad_record_and_names_it() -> None:
    checked = iter_validated([GOOD[0].to_wire(), BAD, GOOD[1]])
    assert next(checked) == GOOD[0]
    with pytest.raises(RecordError, match=r"record:2: \$\.id: must be a string \(found 3\) \(and 1 more"):
        next(checked)
    assert (checked.num_records, checked.num_skipped) == (2, 1)
    assert list(checked) == [GOOD[1]], "a caller that caught it may continue"


def test_collect_leaves_bad_records_out_and_reports_them() -> None:
    checked = iter_validated([GOOD[0], BAD, "{", "", GOOD[1].to_line(), None, EMPTY_ANSWER], "collect", name="mine")  # type: ignore[list-item]  # None: as data may be
    assert list(checked) == GOOD[:2]
    assert (checked.num_records, checked.num_skipped) == (6, 4)
    report = checked.report()
    assert said(report.issues) == [("PV002", 2), ("PV002", 2), ("PV001", 3), ("PV002", 6), ("PV211", 7)]
    assert (report.path, report.rows, report.ok, report.truncated) == ("mine", 6, False, False)


def test_skip_tells_of_the_first_at_once_and_how_many_at_the_end() -> None:
    checked = iter_validated([BAD, GOOD[0], "{"], "skip")
    with pytest.warns(UserWarning, match=r"record: bad records are left out; the first: record:1: \$\.id: must be a"):
        assert next(checked) == GOOD[0]
    with pytest.warns(UserWarning, match=r"^record: 2 of 3 records were left out$"):
        assert list(checked) == []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert list(iter_validated(GOOD, "skip")) == GOOD


def test_warnings_point_at_the_loop() -> None:
    with warnings.catch_warnings(record=True) as reported:
        for _ in iter_validated([BAD], "skip"):
            pass
    assert [warning.filename for warning in reported] == [__file__] * 2


def test_a_stream_that_is_dropped_early_closes_its_source_at_once() -> None:
    closed = []

    def source() -> Iterator[Any]:
        try:
            yield from GOOD
        finally:
            closed.append(True)

    checked = iter_validated(source())
    assert next(checked) == GOOD[0]
    assert not closed
    del checked
    assert closed


def test_a_function_is_called_with_every_issue_warnings_too() -> None:
    reported: list[Issue] = []
    assert [record.id for record in iter_validated([BAD, CONTROL, GOOD[0]], reported.append)] == ["c", GOOD[0].id]
    assert [(issue.severity, issue.line) for issue in reported] == [("error", 1), ("error", 1), ("warning", 2)]


def test_a_function_that_raises_stops_the_stream_and_the_counts_are_true() -> None:
    def stop(issue: Issue) -> None:
        raise KeyError(issue.code)

    checked = iter_validated([GOOD[0], BAD, GOOD[1]], stop)
    with pytest.raises(KeyError, match="PV002"):
        list(checked)
    assert (checked.num_records, checked.num_skipped, len(checked.report().issues)) == (2, 1, 2)
    assert list(checked) == [GOOD[1]]


def test_ids_are_unique_in_the_stream_unless_that_is_ignored() -> None:
    twice = [GOOD[0], GOOD[1], GOOD[0]]
    checked = iter_validated(twice, "collect")
    assert list(checked) == twice[:2]
    (issue,) = checked.report().issues
    assert str(issue) == f"record:3: $.id: duplicate id '{GOOD[0].id}', first seen at record:1"
    assert list(iter_validated(twice, ignore=["PV201"])) == twice


def test_ignored_findings_leave_no_record_out_but_what_cannot_be_read_is_reported() -> None:
    checked = iter_validated([EMPTY_ANSWER, BAD], "collect", ignore=["PV211", "PV002"])
    assert [record.id for record in checked] == ["e"]
    assert checked.report().counts() == {"PV002": 2}


def test_at_most_max_issues_are_kept_and_all_are_counted() -> None:
    checked = iter_validated(["{"] * 50 + [BAD], "collect", max_issues=5)
    assert list(checked) == []
    report = checked.report()
    assert (len(report.issues), report.truncated, report.counts()) == (5, True, {"PV001": 50, "PV002": 2})
    assert {issue.code for issue in report.issues} == {"PV001", "PV002"}


def test_rows_of_phivs_own_shards_pass_as_dicts_and_as_arrow_scalars() -> None:
    rows = [to_row(row) for row in ROWS]
    assert list(iter_validated(rows)) == GOOD
    table = pa.Table.from_pylist(rows, schema=schema())
    assert list(iter_validated(table.to_struct_array())) == GOOD


def test_wrong_arguments_are_reported_before_anything_is_read() -> None:
    def unread() -> Iterator[Any]:
        raise AssertionError("read")
        yield

    for wrong, match in (
        ({"policy": "ignore"}, r"policy: must be one of raise, skip, collect or a function \(found 'ignore'\)"),
        ({"max_issues": 0}, r"max_issues: must be at least 1 \(found 0\)"),
        ({"ignore": ["PV999"]}, r"ignore: no such rule 'PV999'"),
    ):
        with pytest.raises(UsageError, match=match):
            iter_validated(unread(), **wrong)  # type: ignore[arg-type]  # wrong on purpose


def test_another_thread_may_read_the_stream() -> None:
    checked = iter_validated([GOOD[0], BAD, GOOD[1], GOOD[0]], "collect")
    kept = [next(checked)]
    reader = threading.Thread(target=lambda: kept.extend(checked))
    reader.start()
    reader.join()
    assert kept == GOOD[:2]
    assert checked.report().counts() == {"PV002": 2, "PV201": 1}


def test_memory_does_not_grow_with_the_records() -> None:
    def lines(count: int) -> Iterator[bytes]:
        line = GOOD[0].to_line().encode()  # ids of more than 64 characters are too long for pydantic's cache of strings
        yield from (line.replace(GOOD[0].id.encode(), b"row-%0100d" % n) for n in range(count))
        yield from [b"{"] * count

    peaks = []
    for count in (3000, 3000, 30000):  # the first time pays for imports
        tracemalloc.start()
        checked = iter_validated(lines(count), "collect", max_issues=10)
        assert sum(1 for _ in checked) == count == checked.num_skipped
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[2] - peaks[1] < 20 * 27000  # bytes: less than a number kept for each would take


def test_ids_that_cannot_be_kept_are_a_problem_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    def small(path: str, **how: Any) -> sqlite3.Connection:
        database = connect(path, **how)
        database.execute("PRAGMA max_page_count = 4")  # SQLite's own way to a full disk
        return database

    connect = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", small)
    lines = (GOOD[0].to_line().replace(GOOD[0].id, f"row-{n}" + "x" * 200) for n in range(1000))
    with pytest.raises(
        EnvironmentProblem, match=r"temporary files: database or disk is full\. Free some space, or set SQLITE_TMPDIR"
    ):
        list(iter_validated(lines))


def test_it_needs_no_pyarrow_for_lines() -> None:
    code = (
        "import sys; sys.modules['pyarrow'] = sys.modules['numpy'] = None; from phiv_data import iter_validated;"
        f"assert len(list(iter_validated([{GOOD[0].to_line()!r}]))) == 1"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[3])
    assert done.returncode == 0, done.stderr
