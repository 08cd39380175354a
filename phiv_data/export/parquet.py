"""Write Parquet files for the hub and `datasets`: small row groups, page index, page checksums, content-defined chunks.

What the settings are for: a row group is one Arrow batch (at most 100 rows or 64 MiB), so that the hub's viewer and a
streaming reader fetch little at a time; the page index finds a row without reading its group; page checksums turn a
flipped byte into an error (readers must ask: `page_checksum_verification=True`); content-defined chunks let the hub's
storage share what two versions of a file have in common. Images are stored plain: they are compressed already.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from phiv_data.export.base import file_info
from phiv_data.utils.atomic import atomic_write

if TYPE_CHECKING:
    import pyarrow as pa

    from phiv_schemas import FileInfo

CHUNKING = {"min_chunk_size": 256 * 1024, "max_chunk_size": 1024 * 1024, "norm_level": 0}
"""Bytes; the sizes `datasets` uses."""

MAX_ROWS, MAX_BYTES = 100, 32 * 2**20
"""Limits of a row group of `row_groups`; a larger row is one alone. Four times its bytes are in memory meanwhile."""


def write_parquet(path: Path, schema: pa.Schema, batches: Iterable[pa.RecordBatch], root: Path) -> FileInfo:
    """Write one file, whole or not at all, a row group per batch; its path is given relative to `root`."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    def leaves(path: str, kind: pa.DataType) -> Iterator[str]:
        """The columns below one as Parquet names them: `images.list.element.bytes`."""
        if pa.types.is_list(kind):
            yield from leaves(f"{path}.list.element", kind.value_type)
        elif pa.types.is_struct(kind):
            for field in kind:
                yield from leaves(f"{path}.{field.name}", field.type)
        else:
            yield path

    columns = [leaf for field in schema for leaf in leaves(field.name, field.type)]
    encoded = [column for column in columns if column.endswith(".bytes")]
    others = [column for column in columns if column not in encoded]
    settings: dict[str, Any] = {
        "compression": dict.fromkeys(encoded, "none") | dict.fromkeys(others, "zstd"),
        "use_dictionary": others,
        "write_statistics": others,
        "write_page_index": True,
        "write_page_checksum": True,
        "use_content_defined_chunking": CHUNKING,
    }
    with (
        atomic_write(path, durable=False) as out,
        pq.ParquetWriter(pa.PythonFile(out, mode="w"), schema, **settings) as writer,
    ):
        for batch in batches:
            if batch.num_rows:
                writer.write_batch(batch, row_group_size=batch.num_rows)
    return file_info(path, root, out)


def parquet_name(split: str, index: int, count: int) -> str:
    """`data/train-00000-of-00004.parquet`, the naming of the hub."""
    return f"data/{split}-{index:05d}-of-{count:05d}.parquet"


def table_schema(features: Mapping[str, Any]) -> pa.Schema:
    """The Arrow schema of columns as `datasets` describes them, with the metadata that makes images images for it."""
    import pyarrow as pa

    def arrow_type(feature: Mapping[str, Any]) -> pa.DataType:
        if feature.get("_type") == "List":
            return pa.list_(arrow_type(feature["feature"]))
        if feature.get("_type") == "Image":
            return pa.struct([("bytes", pa.binary()), ("path", pa.string())])
        if feature.get("_type") == "Value":
            return pa.type_for_alias(feature["dtype"])
        return pa.struct([(name, arrow_type(inner)) for name, inner in feature.items()])

    columns = [(name, arrow_type(feature)) for name, feature in features.items()]
    return pa.schema(columns, metadata={"huggingface": json.dumps({"info": {"features": dict(features)}})})


def row_groups(rows: Iterable[dict[str, Any]], schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    """Rows whose `images` are dicts of `bytes` and `path`, as batches within MAX_ROWS and MAX_BYTES."""
    import pyarrow as pa

    batch: list[dict[str, Any]] = []
    size = 0
    for row in rows:
        more = sum(len(image["bytes"]) for image in row["images"])
        if batch and (len(batch) == MAX_ROWS or size + more > MAX_BYTES):
            yield pa.RecordBatch.from_pylist(batch, schema=schema)
            batch, size = [], 0
        batch.append(row)
        size += more
    if batch:
        yield pa.RecordBatch.from_pylist(batch, schema=schema)
