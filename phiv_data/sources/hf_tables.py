"""Tables as the Hugging Face hub and `datasets` keep them, read with pyarrow alone, a few rows at a time.

    >>> for table in find_tables(Path("DocVQA")):      # parquet files, save_to_disk folders, the cache's arrow files
    ...     print(table.split, table.num_rows, table.columns)
    validation 5349 ('questionId', 'question', 'image', 'answers')

`iter_rows` and `read_row` read only the columns asked for; `"image.path"` reads one field of a struct, and not the
bytes beside it. Memory does not grow with the file: of parquet one data page is held, arrow files are mapped.
"""

from __future__ import annotations

import atexit
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from phiv_data.media.reject import RejectInput
from phiv_data.sources.hf_layout import named_tables
from phiv_data.utils.atomic import environment_problems
from phiv_schemas import SourceError

# Rows per batch: of images few, as a scanned page takes a megabyte.
_ROWS, _ROWS_WITH_BYTES = 256, 8
# Column chunks are read in pieces of this size, and no row group ahead of its turn (pre_buffer): of 200 MB in ten row
# groups this holds 82 MB at once, pyarrow's defaults 288. What stays is a data page, which pyarrow writes for up to
# 1024 rows of a row group; the hub's image datasets have 100 rows in a group.
_BUFFER_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Table:
    """One file of rows. `split` is spelled as in the source (`validation`, `balanced_dev`)."""

    path: Path
    kind: Literal["parquet", "arrow"]
    split: str
    config: str | None
    num_rows: int
    columns: tuple[str, ...]


def find_tables(root: Path) -> tuple[Table, ...]:
    """Every table in the folder or file `root`, sorted by config and path; () where there is none.

    SourceError for a damaged file, and for a saved dataset that lacks one of its files.
    """
    found: list[Table] = []
    for path, split, config in named_tables(root):
        if any("\ud800" <= char <= "\udfff" for char in str(path)):
            raise SourceError(str(path), "its path is not UTF-8, and Arrow opens no such file", "Rename it")
        kind: Literal["parquet", "arrow"] = "parquet" if path.suffix == ".parquet" else "arrow"
        with _damage_as_source_error(path), _open_reader(path, kind) as file:
            if kind == "parquet":  # its footer counts the rows; an arrow file's batch headers do
                rows, names = file.metadata.num_rows, file.schema_arrow.names
            else:
                rows, names = sum(batch.num_rows for batch in _arrow_batches(file)), file.schema.names
        if again := next((name for name in names if names.count(name) > 1), None):
            raise SourceError(str(path), f"has two columns {again!r}", "Rename one")
        found.append(Table(path, kind, split, config, rows, tuple(names)))
    return tuple(sorted(found, key=lambda table: (table.config or "", table.path.as_posix())))


def iter_rows(table: Table, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    """The rows of `table` in order, with `columns` only. SourceError for a damaged file or a missing column."""
    for _, batch in _batches(table, tuple(columns), 0):
        yield from _to_dicts(table, batch)


def read_row(table: Table, row: int, columns: Sequence[str] | None = None) -> dict[str, Any]:
    """Row `row` (from 0). The file stays open at its last position: rows read in order cost one pass."""
    if not 0 <= row < table.num_rows:
        raise IndexError(f"{table.path}: row {row} of {table.num_rows}")
    names = table.columns if columns is None else tuple(columns)
    with _damage_as_source_error(table.path):
        stat = table.path.stat()
    # One open file per process and choice of columns, the last used at the end.
    key = (table.path, stat.st_mtime_ns, stat.st_size, names)
    cursor = _cursors.pop(key, None)
    if cursor is None or not cursor.is_near(row):
        cursor = _Cursor(table, names, row)
    while len(_cursors) >= _MAX_CURSORS:
        del _cursors[next(iter(_cursors))]
    _cursors[key] = cursor
    try:
        return cursor.seek(row)
    except BaseException:
        _cursors.clear()
        raise


def image_cell(cell: Any, where: str) -> tuple[bytes, str | None]:
    """(encoded image, its name) of an image column's cell: a struct of bytes and path, or plain bytes.

    RejectInput `missing-image` where the cell is empty or only names a file, `bad-row` where it is something else.
    """
    data, name = (cell.get("bytes"), cell.get("path")) if isinstance(cell, dict) else (cell, None)
    if isinstance(cell, str) or (data is None and name is not None):
        raise RejectInput(where, "missing-image", f"the row names the file {name or cell!r} and holds no image")
    if data is None:
        raise RejectInput(where, "missing-image", "the row holds no image")
    if not isinstance(data, bytes) or not isinstance(name, str | None):
        raise RejectInput(where, "bad-row", f"the image is neither bytes nor a struct of them ({type(cell).__name__})")
    return data, name


def class_names(table: Table) -> dict[str, tuple[str, ...]]:
    """The names behind the integers of ClassLabel columns, by column; read from the schema's `huggingface` entry."""
    with _damage_as_source_error(table.path), _open_reader(table.path, table.kind) as file:
        schema = file.schema_arrow if table.kind == "parquet" else file.schema
        info = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
    features = (info.get("info") or {}).get("features") or {}
    labels = {
        name: f["names"] for name, f in features.items() if isinstance(f, dict) and f.get("_type") == "ClassLabel"
    }
    return {name: tuple(names) for name, names in labels.items()}


def missing_shards(files: Iterable[Path]) -> tuple[str, ...]:
    """Names of the files that `-00000-of-00006` announces and that are not among `files`."""
    present = set(files)
    missing: set[str] = set()
    for path in present:
        if match := re.search(r"-(\d+)-of-(\d+)(?=\.\w+$)", path.name):
            prefix, digits = path.name[: match.start()], len(match[1])
            shards = (f"{prefix}-{i:0{digits}d}-of-{match[2]}{path.suffix}" for i in range(int(match[2])))
            missing.update(name for name in shards if path.with_name(name) not in present)
    return tuple(sorted(missing))


# Reading ---------------------------------------------------------------------------------------------------------


@contextmanager
def _open_reader(path: Path, kind: str) -> Iterator[Any]:
    """pyarrow's reader: ParquetFile, RecordBatchFileReader or RecordBatchStreamReader."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if kind == "parquet":
        with pq.ParquetFile(
            path, buffer_size=_BUFFER_BYTES, pre_buffer=False, page_checksum_verification=True
        ) as parquet:
            yield parquet
        return
    with pa.memory_map(str(path)) as source:
        is_file = source.read(6) == b"ARROW1"
        # A stream cut between two batches opens short without an error; only the missing end mark shows it.
        source.seek(max(source.size() - 8, 0))
        if not is_file and source.read() != b"\xff\xff\xff\xff\0\0\0\0":
            raise pa.ArrowInvalid("the stream's end mark is missing")
        source.seek(0)
        yield pa.ipc.open_file(source) if is_file else pa.ipc.open_stream(source)


def _arrow_batches(file: Any) -> Iterator[Any]:
    if hasattr(file, "num_record_batches"):
        return (file.get_batch(i) for i in range(file.num_record_batches))
    return iter(file)


def _batches(table: Table, columns: tuple[str, ...], start: int) -> Iterator[tuple[int, Any]]:
    """(number of the first row, record batch of at most a few rows) from somewhere at or before row `start`.

    SourceError for a column that is not there.
    """
    import pyarrow as pa

    with _damage_as_source_error(table.path), _open_reader(table.path, table.kind) as file:
        schema = file.schema_arrow if table.kind == "parquet" else file.schema
        for name in columns:
            if name in schema.names:
                continue
            top, _, field = name.partition(".")
            kind = schema.field(top).type if top in schema.names else None
            if kind is None or not pa.types.is_struct(kind) or kind.get_field_index(field) < 0:
                raise SourceError(table.path.name, f"has no column {name!r} (found: {', '.join(table.columns)})")
        kinds = [str(schema.field(name).type) for name in columns if name in schema.names]
        has_bytes = any("binary" in kind for kind in kinds) or any(name.endswith(".bytes") for name in columns)
        size = _ROWS_WITH_BYTES if has_bytes else _ROWS
        if table.kind == "parquet":
            yield from _parquet_batches(file, columns, size, start)
        else:
            yield from _slice_batches(_arrow_batches(file), columns, size, start)


def _parquet_batches(file: Any, columns: tuple[str, ...], size: int, start: int) -> Iterator[tuple[int, Any]]:
    first, group = 0, 0
    while group < file.num_row_groups and first + file.metadata.row_group(group).num_rows <= start:
        first += file.metadata.row_group(group).num_rows
        group += 1
    groups = list(range(group, file.num_row_groups))
    for batch in file.iter_batches(size, row_groups=groups, columns=list(columns), use_threads=False):
        yield first, batch
        first += batch.num_rows


def _slice_batches(
    batches: Iterator[Any], columns: tuple[str, ...], size: int, start: int
) -> Iterator[tuple[int, Any]]:
    import pyarrow as pa

    first = 0
    for batch in batches:
        end = first + batch.num_rows
        if end > start:
            chosen: dict[str, Any] = {}
            for name in columns:
                if name in batch.schema.names:
                    chosen[name] = batch.column(name)
                    continue
                # `image.path` becomes a struct with that one field, as parquet readers give.
                top, _, field = name.partition(".")
                column = batch.column(top)
                chosen[top] = pa.StructArray.from_arrays([column.field(field)], [field], mask=column.is_null())
            selected = pa.RecordBatch.from_pydict(chosen) if chosen else batch.select([])
            for offset in range(max(start - first, 0), batch.num_rows, size):
                yield first + offset, selected.slice(offset, size)
        first = end


def _to_dicts(table: Table, batch: Any) -> list[dict[str, Any]]:
    with _damage_as_source_error(table.path):
        rows: list[dict[str, Any]] = batch.to_pylist()
    return rows


# One open file per process and choice of columns -----------------------------------------------------------------


class _Cursor:
    """A position in an open table; it only moves forward."""

    def __init__(self, table: Table, columns: tuple[str, ...], start: int) -> None:
        self._table = table
        self._batches = _batches(table, columns, start)
        self._advance()

    def is_near(self, row: int) -> bool:
        """True when reading forward from here is faster than opening the file again."""
        return self._first <= row < self._first + int(self._batch.num_rows) + _FAR

    def seek(self, row: int) -> dict[str, Any]:
        while row >= self._first + self._batch.num_rows:
            self._advance()
        return _to_dicts(self._table, self._batch.slice(row - self._first, 1))[0]

    def _advance(self) -> None:
        found = next(self._batches, None)
        if found is None:
            raise SourceError(str(self._table.path), "the table became shorter while it was read")
        self._first, self._batch = found


_MAX_CURSORS = 4
_FAR = 256
_cursors: dict[tuple[Any, ...], _Cursor] = {}
atexit.register(_cursors.clear)  # while pyarrow, which closes their files, is still there


@contextmanager
def _damage_as_source_error(path: Path) -> Iterator[None]:
    """What pyarrow raises for a cut, damaged or mislabelled file, as one SourceError."""
    import pyarrow as pa

    try:
        with environment_problems(path):
            yield
    except FileNotFoundError as error:
        raise SourceError(str(path), "no such file") from error
    except (pa.ArrowException, OSError, UnicodeDecodeError, OverflowError) as error:  # of a date that Python lacks
        text = _describe_impostor(path) or " ".join(str(error).split())[:200]
        raise SourceError(str(path), f"the table is cut, damaged or no table ({text})", "Download it again") from error


def _describe_impostor(path: Path) -> str:
    """What is known to be saved under a table's name instead of it."""
    with path.open("rb") as file:
        head = file.read(64).lstrip().lower()
    if head.startswith((b"<!doctype", b"<html", b"<?xml")):
        return "it is a web page: a login, licence or error page"
    return (
        "it is a Git LFS pointer: fetch the file with git lfs pull" if head.startswith(b"version https://git") else ""
    )
