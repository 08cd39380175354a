"""Validation inside other pipelines: dicts, lines and Arrow batches."""

from __future__ import annotations

import pyarrow as pa
import pytest
from data_builders import conversations, samples
from hypothesis import given
from hypothesis import strategies as st

from phiv_data.pipeline import iter_validated, validate_batch
from phiv_schemas import Conversation, Issue, RecordError, UsageError

GOOD = [row.conversation for row in samples("val", 3)]
BAD = {"id": 3, "source": "s", "conversations": []}


@given(st.lists(conversations(), max_size=4))
def test_good_records_pass_as_dicts_and_as_lines(records: list[Conversation]) -> None:
    assert list(iter_validated([r.to_wire() for r in records])) == records
    assert list(iter_validated([r.to_line() for r in records])) == records
    assert list(iter_validated([r.to_line().encode() for r in records])) == records


def test_a_bad_record_raises_with_its_number() -> None:
    with pytest.raises(RecordError, match=r"record:2: \$\.id: must be a string \(found 3\) \(and 1 more"):
        list(iter_validated([GOOD[0].to_wire(), BAD]))


def test_skipped_records_are_told_and_never_silent() -> None:
    told: list[Issue] = []
    records = [GOOD[0].to_wire(), BAD, "{", GOOD[1].to_line(), None]
    kept = list(iter_validated(records, "skip", on_issues=told.extend))  # type: ignore[arg-type]  # None: as data may be
    assert kept == GOOD[:2]
    assert [(issue.line, issue.code) for issue in told] == [(2, "PV002"), (2, "PV002"), (3, "PV001"), (5, "PV002")]
    with pytest.raises(UsageError, match="needs on_issues"):
        list(iter_validated(records, "skip"))  # type: ignore[arg-type]  # as above


def test_a_batch_of_columns_gives_a_batch_of_issues() -> None:
    batch = pa.RecordBatch.from_pylist([row.to_wire() for row in GOOD])
    assert validate_batch(batch).num_rows == 0
    rows = [{**row.to_wire(), "source": "" if i == 1 else "s"} for i, row in enumerate(GOOD)]
    issues = validate_batch(pa.RecordBatch.from_pylist(rows)).to_pylist()
    assert [(issue["row"], issue["code"], issue["json_path"]) for issue in issues] == [(1, "PV002", "$.source")]


def test_rows_of_phivs_own_shards_pass() -> None:
    from phiv_data.shards import schema, to_row

    batch = pa.RecordBatch.from_pylist([to_row(row) for row in samples("val", 3)], schema=schema())
    assert validate_batch(batch).num_rows == 0


def test_a_batch_without_the_columns_says_which_are_missing() -> None:
    with pytest.raises(UsageError, match=r"has no column 'source' \(found: id\)"):
        validate_batch(pa.RecordBatch.from_pylist([{"id": "a"}]))


def test_it_works_in_datasets_map() -> None:
    datasets = pytest.importorskip("datasets")
    lines = [GOOD[0].to_line(), "{}", GOOD[1].to_line(), "["]
    data = datasets.Dataset.from_dict({"line": lines}).with_format("arrow")
    issues = data.map(
        lambda table: pa.table(validate_batch(table)), batched=True, batch_size=2, remove_columns=["line"]
    ).with_format(None)
    assert [(row["row"], row["code"]) for row in issues] == [(1, "PV002")] * 3 + [(1, "PV001")]
