"""Tables written by pyarrow and by `datasets` itself, as the hub has them, read back with pyarrow alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, Value, disable_progress_bars
from hypothesis import given
from hypothesis import strategies as st

from phiv_data.media.reject import RejectInput
from phiv_data.sources.hf_layout import standard_split
from phiv_data.sources.hf_tables import Table, class_names, find_tables, image_cell, iter_rows, missing_shards, read_row
from phiv_schemas import SourceError, UsageError

disable_progress_bars()
ROWS = 100


def rows_table(count: int = ROWS) -> pa.Table:
    """Every kind of column the hub's image datasets have."""
    names = [f"name {i % 3}" for i in range(count)]
    images = [{"bytes": b"image %d" % i, "path": f"{i}.png"} for i in range(count)]
    return pa.table(
        {
            "id": pa.array(range(count), pa.int64()),
            "name": pa.array(names).dictionary_encode(),
            "text": pa.array([None if i == 5 else f"text {i}" for i in range(count)], pa.large_string()),
            "image": pa.array(images, pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
            "plain": pa.array([b"plain %d" % i for i in range(count)], pa.large_binary()),
            "images": pa.array([images[i : i + 2] for i in range(count)]),
            "answers": pa.array([["a", f"b{i}"] for i in range(count)]),
        }
    )


def write(path: Path, table: pa.Table, row_group_size: int = 7) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, row_group_size=row_group_size)
    return path


def write_arrow(path: Path, table: pa.Table, *, stream: bool = True, compression: str | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    options = pa.ipc.IpcWriteOptions(compression=compression)
    new = pa.ipc.new_stream if stream else pa.ipc.new_file
    with new(str(path), table.schema, options=options) as writer:
        writer.write_table(table, max_chunksize=13)
    return path


def only(root: Path) -> Table:
    (table,) = find_tables(root)
    return table


@pytest.fixture(scope="module", params=["parquet", "stream", "file", "compressed"])
def table(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Table:
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "parquet":
        return only(write(folder / "train-00000-of-00001.parquet", rows_table()))
    compression = "zstd" if request.param == "compressed" else None
    path = folder / "train-00000-of-00001.arrow"
    return only(write_arrow(path, rows_table(), stream=request.param != "file", compression=compression))


# Rows -------------------------------------------------------------------------------------------------------------


def test_rows_come_back_as_they_were_written(table: Table) -> None:
    assert table.num_rows == ROWS
    assert table.columns == tuple(rows_table().schema.names)
    assert list(iter_rows(table, table.columns)) == rows_table().to_pylist()


def test_only_the_columns_asked_for_are_read(table: Table) -> None:
    assert list(iter_rows(table, ("answers", "id")))[3] == {"id": 3, "answers": ["a", "b3"]}
    assert read_row(table, 8, ("text",)) == {"text": "text 8"}


def test_one_field_of_a_struct_is_read_without_the_others(table: Table) -> None:
    assert read_row(table, 50, ("id", "image.path")) == {"id": 50, "image": {"path": "50.png"}}


@given(st.lists(st.integers(0, ROWS - 1), max_size=12))
def test_rows_are_the_same_in_any_order(table: Table, order: list[int]) -> None:
    expected = rows_table().to_pylist()
    for row in order:
        assert read_row(table, row) == expected[row]


def test_rows_in_order_open_the_file_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = only(write(tmp_path / "train.parquet", rows_table()))
    opened: list[object] = []
    real = pq.ParquetFile
    monkeypatch.setattr(pq, "ParquetFile", lambda *args, **options: opened.append(args) or real(*args, **options))
    for row in range(0, ROWS, 2):
        read_row(table, row, ("id", "image"))
    assert len(opened) == 1
    read_row(table, 0, ("id", "image"))
    assert len(opened) == 2


def test_a_row_past_the_end_is_the_callers_mistake(table: Table) -> None:
    for row in (-1, ROWS):
        with pytest.raises(IndexError):
            read_row(table, row)


def test_a_replaced_file_is_read_again(tmp_path: Path) -> None:
    table = only(write(tmp_path / "train.parquet", pa.table({"id": [1, 2]})))
    assert read_row(table, 0) == {"id": 1}
    write(tmp_path / "new.parquet", pa.table({"id": [3, 4]})).replace(table.path)
    os.utime(table.path, ns=(1, 1))
    assert read_row(table, 0) == {"id": 3}


@pytest.mark.parametrize("column", ["label", "image.width", "id.path", "image.path.x"])
def test_a_missing_column_is_named_with_those_there_are(table: Table, column: str) -> None:
    with pytest.raises(SourceError, match=rf"has no column '{column}' \(found: id, name, text, image"):
        list(iter_rows(table, (column,)))


def test_null_structs_stay_null_when_a_field_is_read(tmp_path: Path) -> None:
    column = pa.array([None, {"bytes": b"x", "path": "p"}], pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
    path = write_arrow(tmp_path / "train.arrow", pa.table({"image": column}))
    assert [row["image"] for row in iter_rows(only(path), ("image.path",))] == [None, {"path": "p"}]


@pytest.mark.parametrize(("row_group_size", "rows_per_page"), [(20, 1024), (200, 4)])
def test_memory_is_that_of_a_page_not_of_the_file(tmp_path: Path, row_group_size: int, rows_per_page: int) -> None:
    """200 MB of images; pyarrow's own defaults take 280 MB more to read them."""
    blob = os.urandom(1 << 20)
    schema = pa.schema([("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())]))])
    cells = [{"bytes": blob[i:] + blob[:i], "path": None} for i in range(200)]
    path = tmp_path / "train.parquet"
    options = {"row_group_size": row_group_size, "write_batch_size": rows_per_page, "use_dictionary": False}
    pq.write_table(pa.table({"image": cells}, schema), path, **options)
    script = f"""
        from pathlib import Path
        from phiv_data.sources.hf_tables import find_tables, iter_rows, read_row
        def peak():
            return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) >> 10
        (table,) = find_tables(Path({str(path)!r}))
        before = peak()
        total = sum(len(row["image"]["bytes"]) for row in iter_rows(table, ("image",)))
        for i in range(0, 200, 3):
            read_row(table, i)
        print(total >> 20, peak() - before)
    """
    out = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=True)
    total, grown = map(int, out.stdout.split())
    assert total == 200
    assert grown < 150


# Finding ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "split", "config"),
    [
        ("data/validation-00000-of-00006.parquet", "validation", None),
        ("data/train-00001-of-00002-9a8b7c6d5e4f3a2b.parquet", "train", None),
        ("DocVQA/test-00000-of-00001.parquet", "test", "DocVQA"),
        ("DocVQA/balanced_dev-00000-of-00001.parquet", "balanced_dev", "DocVQA"),
        ("train/0000.parquet", "train", None),
        ("nlvr2/partial-train/0003.parquet", "train", "nlvr2"),
        ("validation.parquet", "validation", None),
        ("test_12.parquet", "test", None),
        ("docvqa.parquet", "train", None),
        ("extra-00000-of-00001.parquet", "extra", None),
        ("snapshots/" + "a" * 40 + "/cfg/train-00000-of-00001.parquet", "train", "cfg"),
        ("default/0.0.0/abc/docvqa_1200-test-00000-of-00002.arrow", "test", "default/0.0.0/abc"),
        ("default/0.0.0/abc/docvqa_1200-test.arrow", "test", "default/0.0.0/abc"),
    ],
)
def test_split_and_config_are_recognised_by_names(tmp_path: Path, path: str, split: str, config: str | None) -> None:
    table = pa.table({"id": [1]})
    (write if path.endswith("parquet") else write_arrow)(tmp_path / path, table)
    found = only(tmp_path)
    assert (found.split, found.config, found.num_rows) == (split, config, 1)
    assert only(tmp_path / path).split == (split if not path.startswith(("train/", "nlvr2/")) else "train")


def test_a_folder_passed_itself_names_the_split(tmp_path: Path) -> None:
    write(tmp_path / "test/0000.parquet", pa.table({"id": [1]}))
    assert only(tmp_path / "test").split == "test"


def test_tables_are_sorted_and_other_files_left_out(tmp_path: Path) -> None:
    table = pa.table({"id": [1]})
    for name in ("train-00001-of-00003", "train-00000-of-00003", "b/train-00000-of-00001", "a/test-00000-of-00001"):
        write(tmp_path / f"{name}.parquet", table)
    write_arrow(tmp_path / "cache-0123456789abcdef.arrow", table)
    (tmp_path / ".cache").mkdir()
    (tmp_path / ".cache/x.parquet").write_bytes(b"no table")
    (tmp_path / "README.md").write_text("words")
    tables = find_tables(tmp_path)
    assert [t.path.relative_to(tmp_path).as_posix().partition(".")[0] for t in tables] == [
        "train-00000-of-00003",
        "train-00001-of-00003",
        "a/test-00000-of-00001",
        "b/train-00000-of-00001",
    ]
    assert missing_shards(table.path for table in tables) == ("train-00002-of-00003.parquet",)


def test_nothing_is_found_where_nothing_is(tmp_path: Path) -> None:
    (tmp_path / "rows.json").write_text("[]")
    assert find_tables(tmp_path) == find_tables(tmp_path / "rows.json") == find_tables(tmp_path / "absent") == ()


def test_two_revisions_in_the_hubs_cache_are_not_read_twice(tmp_path: Path) -> None:
    for revision in ("a" * 40, "b" * 40):
        write(tmp_path / f"snapshots/{revision}/train.parquet", pa.table({"id": [1]}))
    with pytest.raises(UsageError, match=r"holds 2 revisions \(aaaa.*Pass one of snapshots"):
        find_tables(tmp_path)


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("validation", "val"),
        ("dev", "val"),
        ("balanced_dev", "val"),
        ("test_unseen", "test"),
        ("testing", "test"),
        ("train", "train"),
        ("extra", "extra"),
        ("train_test", "train_test"),
        ("evaluate", "evaluate"),
    ],
)
def test_standard_split_names(name: str, split: str) -> None:
    assert standard_split(name) == split


# Saved by `datasets` ----------------------------------------------------------------------------------------------


def saved(folder: Path) -> Path:
    features = Features({"image": Image(), "label": ClassLabel(names=["no", "yes"]), "text": Value("string")})
    data: dict[str, Any] = {"image": [], "label": [0, 1, 1], "text": ["a", "b", "c"]}
    data["image"] = [{"bytes": b"x%d" % i, "path": f"{i}.png"} for i in range(3)]
    train = Dataset.from_dict(data, features)
    DatasetDict({"train": train, "validation": train.select([2, 0])}).save_to_disk(
        str(folder), num_shards={"train": 2, "validation": 1}
    )
    return folder


def test_a_saved_dataset_dict_is_read_without_datasets(tmp_path: Path) -> None:
    tables = find_tables(saved(tmp_path / "saved"))
    assert [(t.split, t.config, t.num_rows, t.kind) for t in tables] == [
        ("train", None, 2, "arrow"),
        ("train", None, 1, "arrow"),
        ("validation", None, 2, "arrow"),
    ]
    assert [row["text"] for row in iter_rows(tables[2], ("text",))] == ["c", "a"]
    assert read_row(tables[0], 1)["image"] == {"bytes": b"x1", "path": "1.png"}
    assert class_names(tables[0]) == {"label": ("no", "yes")}


def test_one_split_of_a_saved_dict_can_be_passed_alone(tmp_path: Path) -> None:
    table = only(saved(tmp_path / "saved") / "validation")
    assert (table.split, table.num_rows) == ("validation", 2)


def test_labels_of_parquet_files_have_names_too(tmp_path: Path) -> None:
    for table in find_tables(saved(tmp_path / "saved"))[:1]:
        rows = Dataset.from_file(str(table.path))
        rows.to_parquet(str(tmp_path / "pushed/train-00000-of-00001.parquet"))
    assert class_names(only(tmp_path / "pushed")) == {"label": ("no", "yes")}
    assert class_names(only(write(tmp_path / "bare/train.parquet", pa.table({"label": [1]})))) == {}


def test_a_lost_file_of_a_saved_dataset_is_named(tmp_path: Path) -> None:
    folder = saved(tmp_path / "saved")
    (folder / "train/data-00001-of-00002.arrow").unlink()
    with pytest.raises(SourceError, match=r"state\.json names 'data-00001-of-00002\.arrow', which is not there"):
        find_tables(folder)
    (folder / "train/state.json").unlink()
    with pytest.raises(SourceError, match=r"names the split 'train', which has no state\.json"):
        find_tables(folder)


def test_a_dataset_saved_with_an_index_list_is_refused(tmp_path: Path) -> None:
    """Old versions of `datasets` saved select() as indices beside the whole table."""
    folder = saved(tmp_path / "saved")
    state = json.loads((folder / "train/state.json").read_text()) | {"_indices_data_files": [{"filename": "i.arrow"}]}
    (folder / "train/state.json").write_text(json.dumps(state))
    with pytest.raises(SourceError, match=r"list of indices\. Save it again after dataset\.flatten_indices\(\)"):
        find_tables(folder)


def test_the_cache_of_datasets_is_read(tmp_path: Path) -> None:
    from datasets import load_dataset

    write(tmp_path / "in/data/validation-00000-of-00001.parquet", rows_table())
    load_dataset(str(tmp_path / "in"), cache_dir=str(tmp_path / "cache"))
    table = only(tmp_path / "cache")
    assert (table.kind, table.split, table.num_rows, table.config) == ("arrow", "validation", ROWS, "default")


# Damage -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("keep", [0, 3, 500, 0.5, 0.999])
@pytest.mark.parametrize("stream", [True, False])
def test_cut_files_are_one_line(tmp_path: Path, keep: float, stream: bool) -> None:
    for path in (write(tmp_path / "train.parquet", rows_table()), write_arrow(tmp_path / "train.arrow", rows_table())):
        data = path.read_bytes()
        path.write_bytes(data[: int(keep if keep > 1 or keep == 0 else keep * len(data))])
        with pytest.raises(SourceError, match=rf"{path.name}: the table is cut, damaged or no table \(") as error:
            find_tables(path)
        assert "\n" not in str(error.value)


def test_a_stream_cut_between_two_batches_is_seen(tmp_path: Path) -> None:
    """pyarrow reads such a file as a shorter table, without an error."""
    path = write_arrow(tmp_path / "train.arrow", rows_table())
    with pa.ipc.open_stream(pa.memory_map(str(path))) as reader:
        first = reader.read_next_batch()
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, first.schema) as writer:
        writer.write_batch(first)
    whole = sink.getvalue().to_pybytes()
    path.write_bytes(whole[:-8])
    assert pa.ipc.open_stream(pa.memory_map(str(path))).read_all().num_rows == 13
    with pytest.raises(SourceError, match="end mark is missing"):
        find_tables(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"<!DOCTYPE html><html><body>Please log in</body></html>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00", "a Git LFS pointer"),
    ],
)
def test_a_web_page_under_a_tables_name_is_reported(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "train.parquet").write_bytes(content)
    with pytest.raises(SourceError, match=message):
        find_tables(tmp_path)


def test_a_flipped_byte_in_the_data_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "train.parquet"
    pq.write_table(rows_table(), path, write_page_checksum=True, compression="none", use_dictionary=False)
    data = bytearray(path.read_bytes())
    data[data.index(b"image 42")] ^= 1
    path.write_bytes(data)
    with pytest.raises(SourceError, match="the table is cut, damaged or no table"):
        list(iter_rows(only(path), ("image",)))


# Cells ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        ({"bytes": b"x", "path": "a.png"}, (b"x", "a.png")),
        ({"bytes": b"x", "path": None}, (b"x", None)),
        ({"bytes": b"x"}, (b"x", None)),
        (b"x", (b"x", None)),
    ],
)
def test_images_of_cells(cell: Any, expected: tuple[bytes, str | None]) -> None:
    assert image_cell(cell, "t:1") == expected


@pytest.mark.parametrize(
    ("cell", "code", "reason"),
    [
        (None, "missing-image", "holds no image"),
        ({"bytes": None, "path": None}, "missing-image", "holds no image"),
        ({"bytes": None, "path": "img/1.png"}, "missing-image", "names the file 'img/1.png' and holds no image"),
        ("img/1.png", "missing-image", "names the file 'img/1.png' and holds no image"),
        (7, "bad-row", "neither bytes nor a struct of them"),
        ({"bytes": "text", "path": None}, "bad-row", "neither bytes"),
        ({"bytes": b"x", "path": 3}, "bad-row", "neither bytes"),
    ],
)
def test_cells_without_a_image_say_what_is_there(cell: Any, code: str, reason: str) -> None:
    with pytest.raises(RejectInput, match=reason) as reject:
        image_cell(cell, "t:1")
    assert reject.value.code == code
    assert str(reject.value).startswith("t:1: ")
