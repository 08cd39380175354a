"""Validation of batches of columns, as `datasets`, Ray Data, Spark, Dask and Daft pass them to a function.

    >>> checked = lines.with_format("arrow").map(validate_batch, batched=True, remove_columns=["line"])    # datasets
    >>> checked = rows.map_batches(validate_batch, batch_format="pyarrow")                                 # Ray Data
    >>> checked = frame.mapInArrow(validate_batches, from_arrow_schema(result_schema()))                   # Spark

One row per row of the batch, in its order, whatever is wrong with it; `result_schema()` has the columns:

    id       the record's id; null where there is none to read
    ok       true when no error was found; warnings do not count
    issues   list of {code, severity, json_path, message, hint}

So `table.filter(validate_batch(table)["ok"])` keeps the good rows. Pure functions that can be pickled: no state, no
files, and what a row gets does not depend on the rows beside it. So ids are not compared: group by `id` to find those
seen twice. `docs/pipelines.md` shows every integration.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from functools import cache, partial
from itertools import repeat
from typing import TYPE_CHECKING, Any, TypeVar, cast

from phiv_data.integrations.stream import ask_rules, check_record, has_error
from phiv_data.storage.jsonl import Line
from phiv_data.storage.shards import schema
from phiv_data.validation.inputs.fast_parse import quick
from phiv_data.validation.inputs.shard_checks import EmbeddedImageChecks, row_line
from phiv_data.validation.partial_result import IssueCollector
from phiv_schemas import RULES, Issue, Turn, UsageError

if TYPE_CHECKING:
    import pyarrow as pa

_WIRE = ("id", "source", "conversations", "system")
_NAME = "batch"
_ROWS = 1000
_JSON = "extension<arrow.json>"
_TEXTS = ("code", "severity", "json_path", "message", "hint")

Batch = TypeVar("Batch")
Row = dict[str, Any]
Columns = Mapping[str, Any]
Checked = tuple[Any, tuple[Issue, ...]]
"""The value of its id, and the issues."""


def validate_batch(batch: Batch, *, deep: bool = False, ignore: Collection[str] = ()) -> Batch:
    """What is wrong with each row of `batch`: a row of `id`, `ok` and `issues` each, in the form that was given.

    A batch is a pyarrow RecordBatch or Table, a pandas DataFrame, or a dict of lists. Its rows are jsonl lines, as text
    or bytes in a column `line` or in the only column (a blank line is fine and has no id); or records in the columns
    `id`, `source`, `conversations` and perhaps `system`, as in phiv's shards. Other columns are ignored.
    `deep` decodes the images of a shard's columns `images` and `media` too, and compares them with `media`.
    `ignore`: codes of rules whose findings in readable records are left out.

    Raises UsageError where the columns are not there.
    """
    import pyarrow as pa

    if unknown := sorted(set(ignore) - RULES.keys()):
        raise UsageError("ignore", f"no such rule {unknown[0]!r}", "docs/rules.md lists them")
    columns = _columns(batch)
    if all(name in columns for name in _WIRE[:3]):
        checked = _check_rows(columns, deep, ignore)
    else:
        if deep:
            raise UsageError("deep", "needs the Arrow columns images and media of phiv's shards")
        checked = _check_lines(columns, ignore)
    result, given = _result(checked), cast(Any, batch)
    if _is_frame(given):
        given = result.to_pandas().set_index(given.index)
    elif isinstance(given, pa.RecordBatch):
        given = result
    else:
        given = pa.Table.from_batches([result]) if isinstance(given, pa.Table) else result.to_pydict()
    return cast(Batch, given)


def validate_batches(
    batches: Iterable[pa.RecordBatch], *, deep: bool = False, ignore: Collection[str] = ()
) -> Iterator[pa.RecordBatch]:
    """`validate_batch` of each, as Spark's `mapInArrow` passes them."""
    return map(partial(validate_batch, deep=deep, ignore=ignore), batches)


@cache
def result_schema() -> pa.Schema:
    """The columns that `validate_batch` gives, whatever it is given: id, ok, issues."""
    import pyarrow as pa

    issue = pa.struct([pa.field(name, pa.string()) for name in _TEXTS])
    columns: dict[str, pa.DataType] = {"id": pa.string(), "ok": pa.bool_(), "issues": pa.list_(issue)}
    return pa.schema(columns)


# Rows ---------------------------------------------------------------------------------------------------------------


def _check_lines(columns: Columns, ignore: Collection[str]) -> Iterator[Checked]:
    for raw in _texts(columns):
        text = raw.encode("utf-8", "surrogatepass") if isinstance(raw, str) else raw
        known = quick(text) if isinstance(text, bytes) else None
        if known:
            record, _, is_plain = known
            line = ask_rules(Line(1, 0, record), _NAME, None, ignore, is_plain=is_plain)
        else:
            line = check_record(text, _NAME, None, ignore)
        if line.conversation:
            yield line.conversation.id, line.issues
        else:  # its id, as far as it is JSON
            value = _json(text)
            yield value.get("id") if isinstance(value, dict) else None, line.issues


def _check_rows(columns: Columns, deep: bool, ignore: Collection[str]) -> Iterator[Checked]:
    names = [name for name in _WIRE if name in columns]
    if len({len(columns[name]) for name in names}) > 1:
        raise UsageError("batch", f"its columns are of different lengths ({', '.join(names)})")
    wire = {name: _values(columns[name]) for name in names}
    embedded = _embedded(columns) if deep else repeat(None)
    checks = EmbeddedImageChecks(deep=deep)
    for values, images in zip(zip(*wire.values(), strict=True), embedded, strict=False):
        row = {"system": None, **dict(zip(wire, values, strict=True))}
        # without the fields that only other rows have: Arrow does not distinguish an absent key from a null
        turns, known = row["conversations"], Turn.model_fields.keys()
        if isinstance(turns, list) and any(isinstance(turn, dict) and not turn.keys() <= known for turn in turns):
            row["conversations"] = [
                {k: v for k, v in turn.items() if v is not None or k in known} if isinstance(turn, dict) else turn
                for turn in turns
            ]
        line = row_line(row, _NAME, 1)
        if line.conversation is not None:
            line = ask_rules(line, _NAME, None, ignore)
            if images:
                issues = IssueCollector(2**31, frozenset(ignore))
                checks.check(_NAME, line, images, issues)
                line.issues += tuple(issues.listed())
        yield row["id"], line.issues


# Columns ------------------------------------------------------------------------------------------------------------


def _columns(batch: Any) -> Columns:
    import pyarrow as pa

    if isinstance(batch, pa.RecordBatch | pa.Table):
        columns = list(zip(batch.schema.names, batch.columns, strict=True))
    elif _is_frame(batch):
        columns = list(batch.items())
    elif isinstance(batch, Mapping):
        return batch
    else:
        what = "must be a pyarrow RecordBatch or Table, a pandas DataFrame, or a dict of lists"
        raise UsageError("batch", f"{what} (found {type(batch).__name__})")
    if len(found := dict(columns)) < len(columns):
        names = [str(name) for name, _ in columns]
        raise UsageError("batch", f"has two columns of one name (found {', '.join(names)[:200]})", "Keep one")
    return found


def _texts(columns: Columns) -> Iterator[Any]:
    """The column of jsonl lines. Arrow's texts come as bytes: what is not UTF-8 is reported as in a file."""
    import pyarrow as pa

    name = "line" if "line" in columns else next(iter(columns)) if len(columns) == 1 else None
    column: Any = None if name is None else columns[name]
    if _is_arrow(column) and not pa.types.is_primitive(column.type):
        with suppress(pa.ArrowNotImplementedError, pa.ArrowInvalid):
            return _values(column.cast(pa.large_binary()))
    elif name is not None and not _is_arrow(column):
        values = list(_values(column))
        if all(value is None or isinstance(value, str | bytes) for value in values):
            return iter(values)
    found = ", ".join(map(str, columns))[:200] or "none"
    hint = "Pass jsonl lines as column 'line' or alone, or the columns id, source and conversations"
    raise UsageError("batch", f"has neither lines nor records (found columns: {found})", hint)


def _embedded(columns: Columns) -> Iterator[Row]:
    """The images of each row, as shards have them."""
    import pyarrow as pa

    fields = [schema().field(name) for name in ("images", "media")]
    if not all(_is_arrow(columns.get(field.name)) for field in fields):
        raise UsageError("deep", "needs the Arrow columns images and media of phiv's shards")
    try:
        images, media = [columns[field.name].cast(field.type) for field in fields]
    except pa.ArrowException as error:
        raise UsageError("deep", f"images and media are not those of phiv's shards ({error})") from error
    for image, meta in zip(images, media, strict=True):
        yield {"images": image.as_py(), "media": meta.as_py()}


def _is_arrow(column: Any) -> bool:
    import pyarrow as pa

    return isinstance(column, pa.Array | pa.ChunkedArray)


def _values(column: Any) -> Iterator[Any]:
    """The values of a column as JSON has them, a few rows of Arrow at a time."""
    if not _is_arrow(column):
        missing = column.isna() if hasattr(column, "isna") else repeat(False)
        yield from (None if gone else _plain(value) for value, gone in zip(column, missing, strict=False))
        return
    for start in range(0, len(column), _ROWS):
        try:
            values: list[Any] = column[start : start + _ROWS].to_pylist()
        except UnicodeDecodeError as error:
            raise UsageError("batch", f"a column of text is not UTF-8 ({error})", "Pass lines, as binary") from error
        yield from [_parse_json(value, column.type) for value in values] if _JSON in str(column.type) else values


def _parse_json(value: Any, kind: Any) -> Any:
    """`value` with the JSON in it read: `datasets` keeps values of mixed types as text of a type of its own."""
    import pyarrow as pa

    if value is None:
        return None
    if str(kind) == _JSON:
        return _json(value)
    if pa.types.is_struct(kind):
        return {field.name: _parse_json(value[field.name], field.type) for field in kind}
    return [_parse_json(one, kind.value_type) for one in value] if isinstance(value, list) else value


def _plain(value: Any) -> Any:
    """A value out of pandas or numpy: lists for arrays, Python's numbers for numpy's."""
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return _plain(value.tolist()) if hasattr(value, "tolist") else value


def _json(text: Any) -> Any:
    """What `text` holds, or `text` itself where it is no JSON."""
    try:
        return json.loads(text)
    except (ValueError, TypeError, RecursionError):
        return text


# Results ------------------------------------------------------------------------------------------------------------


def _result(checked: Iterable[Checked]) -> pa.RecordBatch:
    import pyarrow as pa

    rows = [
        {
            "id": _printable(record_id) if isinstance(record_id, str) else None,
            "ok": not has_error(found),
            "issues": [{name: _printable(getattr(issue, name)) for name in _TEXTS} for issue in found],
        }
        for record_id, found in checked
    ]
    return pa.RecordBatch.from_pylist(rows, schema=result_schema())


def _printable(text: str | None) -> str | None:
    """Text that Arrow can hold: a lone surrogate is shown escaped."""
    return text if text is None or text.isascii() else text.encode("utf-8", "backslashreplace").decode()


def _is_frame(batch: Any) -> bool:
    """True for a pandas DataFrame; pandas need not be installed."""
    pandas = sys.modules.get("pandas")
    return pandas is not None and isinstance(batch, pandas.DataFrame)
