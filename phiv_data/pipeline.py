"""Validation inside other people's pipelines, without files: records in, issues or good records out.

>>> issues = Dataset.from_list(records).with_format("arrow").map(
...     validate_batch, batched=True, remove_columns=["line"])      # `datasets`; Ray, Spark, Dask likewise
>>> for conversation in iter_validated(lines, on_error="skip", on_issues=log.extend): ...
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any, Literal, get_args

from pydantic import ValidationError

from phiv_data.jsonl import Line, parse_line, record_error
from phiv_data.record_errors import schema_issues
from phiv_schemas import Conversation, Issue, UsageError

if TYPE_CHECKING:
    import pyarrow as pa

Record = str | bytes | Mapping[str, Any]
OnError = Literal["raise", "skip"]
_WIRE = ("id", "source", "conversations", "system")


def iter_validated(
    records: Iterable[Record],
    on_error: OnError = "raise",
    *,
    name: str = "record",
    on_issues: Callable[[tuple[Issue, ...]], object] | None = None,
) -> Iterator[Conversation]:
    """The good ones of `records` (jsonl lines or dicts) as conversations.

    A bad one raises RecordError, or with "skip" goes to `on_issues`, which is then required: nothing is dropped
    without a word. Issues carry the record's number, from 1.
    """
    if on_error not in get_args(OnError):
        raise ValueError(f"on_error must be one of {get_args(OnError)} (found {on_error!r})")
    if on_error == "skip" and on_issues is None:
        raise UsageError("iter_validated", "on_error='skip' needs on_issues to be told what is skipped")
    for number, record in enumerate(records, start=1):
        line = _check(record, name, number)
        if line.conversation is not None:
            yield line.conversation
        elif on_error == "raise" or on_issues is None:
            raise record_error(line.issues)
        else:
            on_issues(line.issues)


def validate_batch(batch: pa.RecordBatch | pa.Table, *, name: str = "batch") -> pa.RecordBatch:
    """The issues of a batch's rows, as a batch of `code, severity, row, json_path, message, hint`.

    Rows are either one string column `line` of jsonl lines, or the columns of the format (`id`, `source`,
    `conversations`, `system`; others are ignored). `row` counts from 0 in this batch. No issues: no rows.
    """
    import pyarrow as pa

    lines = [_check(record, name, row + 1) for row, record in enumerate(_records(batch))]
    issues = [
        {**issue.model_dump(include=set(_ISSUE_COLUMNS)), "row": line.number - 1}
        for line in lines
        for issue in line.issues
    ]
    return pa.RecordBatch.from_pylist(issues, schema=issue_schema())


_ISSUE_COLUMNS = ("code", "severity", "json_path", "message", "hint")


@cache
def issue_schema() -> pa.Schema:
    """The columns `validate_batch` gives."""
    import pyarrow as pa

    texts: list[pa.Field[Any]] = [pa.field(name, pa.string()) for name in _ISSUE_COLUMNS]
    rows: list[pa.Field[Any]] = [pa.field("row", pa.int64())]
    return pa.schema(rows + texts)


def _records(batch: pa.RecordBatch | pa.Table) -> list[Any]:
    names = batch.schema.names
    if "line" in names:
        return list(batch.column("line").to_pylist())
    if missing := [name for name in _WIRE[:3] if name not in names]:
        what = f"has no column {missing[0]!r} (found: {', '.join(names)[:200]})"
        raise UsageError("batch", what, "Pass the columns id, source, conversations, or jsonl lines as 'line'")
    return list(batch.select([name for name in _WIRE if name in names]).to_pylist())


def _check(record: Record | None, name: str, number: int) -> Line:
    if isinstance(record, str):
        record = record.encode("utf-8", "surrogatepass")
    if isinstance(record, bytes):
        return parse_line(record, name, number)
    try:
        return Line(number, 0, Conversation.model_validate(record))
    except ValidationError as error:
        return Line(number, 0, None, tuple(schema_issues(error, name, number)))
