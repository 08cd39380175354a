"""Arrow shards: one sample per row, images embedded, readable by phiv, by pyarrow and by `datasets`.

    <out>/arrow/train/data-00000-of-00004.arrow      an Arrow IPC *stream* (what `datasets` opens)
    <out>/arrow/train/{state,dataset_info}.json      what `datasets.load_from_disk` asks for
    <out>/arrow/dataset_dict.json

    >>> info = write_shard(folder / shard_name(0, 1), samples)
    >>> info.rows, info.size_bytes, info.sha256          # doctest: +SKIP

Same samples, same bytes. A stream cut at a batch edge opens short *without an error* (measured: 20 of 40
rows), so the rows, size and sha256 returned here belong in the manifest, and readers check them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from phiv_data.storage.sample import EncodedImage, Sample
from phiv_data.utils.atomic import atomic_write
from phiv_schemas import Conversation, EnvironmentProblem, ImageMeta, RecordError, ShardError, ShardInfo

if TYPE_CHECKING:
    import pyarrow as pa

MAX_SHARD_BYTES = 256 * 2**20
# `datasets` uses 100 rows for images; 64 MiB keeps a batch far below the 2 GiB that 32-bit offsets reach.
MAX_BATCH_ROWS = 100
MAX_BATCH_BYTES = 64 * 2**20
MAX_ROW_BYTES = 2**31 - 1

# The end of every Arrow stream: a continuation mark and a length of 0. A stream without it was cut.
_END = b"\xff\xff\xff\xff\x00\x00\x00\x00"

ShardRow = dict[str, Any]


def plan_shards(row_sizes_bytes: Sequence[int], max_shard_bytes: int = MAX_SHARD_BYTES) -> list[range]:
    """Cut rows 0..n into consecutive shards of at most `max_shard_bytes`, a larger row alone in its own.

    At least one shard, so that an empty split still opens: an empty input gives `[range(0, 0)]`.

    >>> plan_shards([3, 3, 3, 9, 1], max_shard_bytes=6)
    [range(0, 2), range(2, 3), range(3, 4), range(4, 5)]
    """
    starts, filled = [0], 0
    for row, size in enumerate(row_sizes_bytes):
        if row > starts[-1] and filled + size > max_shard_bytes:
            starts.append(row)
            filled = 0
        filled += size
    return [range(a, b) for a, b in pairwise([*starts, len(row_sizes_bytes)])]


def shard_name(index: int, count: int) -> str:
    """`data-00000-of-00004.arrow`, the naming of `datasets`."""
    return f"data-{index:05d}-of-{count:05d}.arrow"


def write_shard(path: Path, samples: Iterable[Sample], *, root: Path | None = None) -> ShardInfo:
    """Write one shard, whole or not at all; returns its rows, size and sha256.

    The returned `path` is relative to `root` (default: the shard's own folder). Samples are taken one batch
    at a time, so memory stays near `MAX_BATCH_BYTES`. RecordError when a sample's images are not those its
    turns name.
    """
    import pyarrow as pa

    rows, digest = 0, hashlib.sha256()
    with atomic_write(path) as out, pa.ipc.new_stream(pa.PythonFile(out, mode="w"), schema()) as writer:
        for some in _batches(samples):
            batch = pa.RecordBatch.from_pylist([to_row(s) for s in some], schema=schema())
            writer.write_batch(batch)
            update_rows_digest(digest, batch)
            rows += len(some)
    relative = path.relative_to(root or path.parent).as_posix()
    sums = {"sha256": out.sha256, "rows_sha256": digest.hexdigest()}
    return ShardInfo(path=relative, size_bytes=out.size_bytes, rows=rows, **sums)


def write_hf_files(split_folder: Path, split: str, shards: Sequence[ShardInfo], *, name: str = "") -> None:
    """Write `state.json` and `dataset_info.json`, so that `datasets.load_from_disk(split_folder)` works."""
    files = [Path(shard.path).name for shard in shards]
    digest = hashlib.sha256("".join(shard.sha256 for shard in shards).encode()).hexdigest()
    state: ShardRow = {
        "_data_files": [{"filename": file} for file in files],
        "_fingerprint": digest[:16],
        "_format_columns": None,
        "_format_kwargs": {},
        "_format_type": None,
        "_output_all_columns": False,
        "_split": split,
    }
    info = {"citation": "", "description": name, "features": hf_features(), "homepage": "", "license": ""}
    _write_json(split_folder / "state.json", state)
    _write_json(split_folder / "dataset_info.json", info)


def write_dataset_dict(arrow_folder: Path, splits: Sequence[str]) -> None:
    """Write `dataset_dict.json`, so that `datasets.load_from_disk(arrow_folder)` gives a DatasetDict."""
    _write_json(arrow_folder / "dataset_dict.json", {"splits": list(splits)})


def open_shard(path: Path, *, where: str = "") -> list[pa.RecordBatch]:
    """The record batches of a shard, memory-mapped: no image is read until it is asked for.

    ShardError when the file is missing, cut (also at a batch edge: the end mark is checked), not a shard of phiv,
    or so damaged that reading it could crash. A flipped bit inside an image is left to sha256 and to decoding.
    """
    import pyarrow as pa

    where = where or str(path)
    try:
        with pa.memory_map(str(path)) as mapped:
            size = mapped.size()
            if size < len(_END) or mapped.read_at(len(_END), size - len(_END)) != _END:
                raise ShardError(where, f"is cut off after {size} bytes (no end mark)", "Run the conversion again")
            reader = pa.ipc.open_stream(mapped)
            if not reader.schema.equals(schema()):
                columns = ", ".join(reader.schema.names)[:200] or "none"
                raise ShardError(where, f"is not a shard of phiv (found columns: {columns})", "Convert the data first")
            batches = list(reader)
        for batch in batches:
            batch.validate(full=True)  # offsets and UTF-8: a flipped byte there can end the process when read
    except FileNotFoundError:
        raise ShardError(where, "no such shard", "Run the conversion again") from None
    except PermissionError as error:
        raise EnvironmentProblem(where, "no permission", "Change the file's permissions") from error
    except (pa.ArrowException, OSError, SystemError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ShardError(where, f"is damaged ({reason})", "Run the conversion again") from error
    return batches


def update_rows_digest(digest: hashlib._Hash, batch: pa.RecordBatch) -> None:
    """Add a batch's values to `digest`, but for the images' bytes: they have a sha256 each, in `media`.

    Values, not buffers: how pyarrow lays them out may change with its version.
    """
    for name in _COLUMNS:
        column = batch.column(name)
        _update_digest(digest, column.flatten().field("path") if name == "images" else column)


def _update_digest(digest: hashlib._Hash, array: pa.Array) -> None:
    import numpy as np
    import pyarrow as pa

    digest.update(np.packbits(array.is_valid().to_numpy(zero_copy_only=False)).tobytes())
    if pa.types.is_list(array.type):
        digest.update(array.value_lengths().fill_null(0).to_numpy().astype("<i4").tobytes())
        _update_digest(digest, array.flatten())
    elif pa.types.is_struct(array.type):
        for child in array.flatten():
            _update_digest(digest, child)
    elif pa.types.is_string(array.type) and len(array):
        _, offsets, data = array.buffers()
        ends = np.frombuffer(offsets, "<i4", count=len(array) + 1, offset=4 * array.offset)
        digest.update(np.diff(ends).tobytes())
        digest.update(memoryview(data or b"")[ends[0] : ends[-1]])
    elif not pa.types.is_string(array.type):
        digest.update(array.fill_null(0).to_numpy(zero_copy_only=False).tobytes())


@cache
def schema() -> pa.Schema:
    """The schema of every shard; its `huggingface` metadata makes `images` a list of images."""
    import pyarrow as pa

    features = json.dumps({"info": {"features": hf_features()}})
    columns = [(name, _arrow_type(kind)) for name, kind in _COLUMNS.items()]
    return pa.schema(columns, metadata={"huggingface": features})


def hf_features() -> dict[str, Any]:
    """The columns as `datasets.Features.to_dict()` writes them."""
    return {name: _hf_feature(kind) for name, kind in _COLUMNS.items()}


def to_row(sample: Sample) -> ShardRow:
    """A sample as one row of `schema()`."""
    conversation = sample.conversation
    if tuple(image.meta.path for image in sample.images) != conversation.image_paths:
        raise RecordError(sample.id, "the images given are not those its turns name, in order")
    if (size := _images_bytes(sample)) > MAX_ROW_BYTES:
        raise RecordError(sample.id, f"its images hold {size} bytes, more than a row can (2 GiB)")
    return {
        **conversation.to_wire(),
        "images": [{"bytes": image.data, "path": image.meta.path} for image in sample.images],
        "media": [dict(image.meta) for image in sample.images],
    }


def to_conversation(row: ShardRow) -> Conversation:
    """The record of a row. pydantic's ValidationError when the row breaks the contract."""
    return Conversation(id=row["id"], source=row["source"], system=row["system"], conversations=row["conversations"])


def to_sample(row: ShardRow) -> Sample:
    """The inverse of `to_row`."""
    pairs = zip(row["images"], row["media"], strict=True)
    images = tuple(EncodedImage(ImageMeta(**media), image["bytes"]) for image, media in pairs)
    return Sample(to_conversation(row), images)


def _images_bytes(sample: Sample) -> int:
    return sum(len(image.data) for image in sample.images)


def _batches(samples: Iterable[Sample]) -> Iterator[list[Sample]]:
    """Consecutive groups within MAX_BATCH_ROWS and MAX_BATCH_BYTES, a larger sample alone."""
    batch: list[Sample] = []
    size = 0
    for sample in samples:
        if batch and (len(batch) == MAX_BATCH_ROWS or size + _images_bytes(sample) > MAX_BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(sample)
        size += _images_bytes(sample)
    if batch:
        yield batch


def _write_json(path: Path, value: Any) -> None:
    with atomic_write(path) as out:
        out.write((json.dumps(value, indent=2) + "\n").encode())


# Columns, from which both the Arrow schema and the `datasets` features are made: "string",
# [item] for a list, {name: kind} for a struct, "image" for an encoded image (struct<bytes, path>).
_COLUMNS: dict[str, Any] = {
    "id": "string",
    "source": "string",
    "system": "string",
    "conversations": [
        {
            "images": ["string"],
            "user": "string",
            "assistant": "string",
            "answers": ["string"],
            "image_offsets": ["int32"],
        }
    ],
    "images": ["image"],
    "media": [
        {
            "path": "string",
            "width": "int32",
            "height": "int32",
            "format": "string",
            "size_bytes": "int64",
            "sha256": "string",
            "source": "string",
            "source_sha256": "string",
            "frame_index": "int64",
            "timestamp": "float64",
            "decoder": "string",
        }
    ],
}


def _arrow_type(kind: Any) -> pa.DataType:
    import pyarrow as pa

    if kind == "image":
        return pa.struct([pa.field("bytes", pa.binary()), pa.field("path", pa.string())])
    if isinstance(kind, list):
        return pa.list_(_arrow_type(kind[0]))
    if isinstance(kind, dict):
        return pa.struct([pa.field(name, _arrow_type(inner)) for name, inner in kind.items()])
    scalar: pa.DataType = getattr(pa, kind)()
    return scalar


def _hf_feature(kind: Any) -> dict[str, Any]:
    if kind == "image":
        return {"_type": "Image"}
    if isinstance(kind, list):
        return {"feature": _hf_feature(kind[0]), "_type": "List"}
    if isinstance(kind, dict):
        return {name: _hf_feature(inner) for name, inner in kind.items()}
    return {"dtype": kind, "_type": "Value"}
