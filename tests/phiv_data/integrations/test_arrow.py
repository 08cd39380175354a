"""Batches of columns: what is said of a row is what a validation says of it in a file, in any form and cut."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from data_builders import conversations, encoded, image_bytes, samples
from hypothesis import given, settings
from hypothesis import strategies as st
from integration_rows import as_rows, line, mutated_lines, record

from phiv_data import result_schema, validate, validate_batch, validate_batches
from phiv_data.storage.jsonl import parse_line
from phiv_data.storage.sample import Sample
from phiv_data.storage.shards import schema, to_row
from phiv_schemas import Conversation, PhivError, UsageError

Rows = list[dict[str, Any]]
randoms = st.randoms(use_true_random=False)
LINES = [line("a"), "{", "", line("b", answers=["x"]), '{"id": "c"}', line("d", user="\x7f")]
IDS = ["a", None, None, "b", "c", "d"]
OK = [True, False, True, False, False, True]


def rows_of(result: Any) -> Rows:
    """The rows of a result in any form."""
    if isinstance(result, pd.DataFrame):
        result = pa.Table.from_pandas(result, schema=result_schema(), preserve_index=False)
    if isinstance(result, dict):
        result = pa.Table.from_pydict(result, schema=result_schema())
    rows: Rows = result.to_pylist()
    return rows


def of_lines(lines: list[Any]) -> Rows:
    return rows_of(validate_batch(pa.record_batch({"line": pa.array(lines, pa.binary())})))


# Invariants ---------------------------------------------------------------------------------------------------------


@settings(max_examples=100, deadline=None)
@given(randoms)
def test_of_a_line_is_said_what_a_validation_says_of_it_in_a_file(tmp_path_factory: Any, random: Random) -> None:
    # A mark of an encoding means something at the start of a file only.
    lines = [raw for raw in mutated_lines(random, 8) if not raw.startswith(b"\xef\xbb\xbf")]
    lines = [line("first").encode(), *lines, b" \t", b"", b"\r"]
    path = tmp_path_factory.mktemp("lines") / "x.jsonl"
    path.write_bytes(b"".join(raw + b"\n" for raw in lines))
    issues = validate(path, images=False).issues
    of_file = [as_rows([issue for issue in issues if issue.line == n]) for n in range(1, len(lines) + 1)]
    for number, raw in enumerate(lines):
        strict = parse_line(raw.rstrip(b"\r"), "x.jsonl")
        if parse_line(raw.rstrip(b"\r"), "x.jsonl", may_lack_names=True).conversation and not strict.conversation:
            # A file of one's own may lack ids and sources, which is counted (PV404); a record of a batch may not.
            assert {issue.json_path for issue in strict.issues} <= {"$.id", "$.source"}
            assert all(one["severity"] != "error" for one in of_file[number])
            of_file[number] = as_rows(strict.issues)
    rows = of_lines(lines)
    assert [row["issues"] for row in rows] == of_file
    assert [row["ok"] for row in rows] == [all(i["severity"] != "error" for i in row) for row in of_file]


@settings(max_examples=50, deadline=None)
@given(randoms)
def test_where_batches_are_cut_makes_no_difference(random: Random) -> None:
    batch = pa.record_batch({"line": mutated_lines(random, 12)})
    cuts = sorted([0, *(random.randint(0, 12) for _ in range(4)), 12])  # empty batches among them
    parts = [batch.slice(start, end - start) for start, end in pairwise(cuts)]
    whole = validate_batch(batch)
    assert [row for part in validate_batches(parts) for row in rows_of(part)] == rows_of(whole)
    assert rows_of(validate_batch(pa.Table.from_batches(parts))) == rows_of(whole)
    turned = list(range(12))
    random.shuffle(turned)
    assert rows_of(validate_batch(batch.take(turned))) == [rows_of(whole)[i] for i in turned]


@settings(max_examples=50, deadline=None)
@given(st.lists(conversations(), max_size=5), randoms)
def test_lines_columns_and_rows_of_shards_have_the_same_findings(records: list[Conversation], random: Random) -> None:
    wires = [damaged(record.to_wire(), random) for record in records]
    expected = of_lines([json.dumps(wire) for wire in wires])
    fields = [schema().field(name) for name in ("id", "source", "conversations", "system")]
    for columns in (
        pa.RecordBatch.from_pylist(wires, pa.schema(fields)),
        pa.Table.from_pylist([{**wire, "images": [], "media": []} for wire in wires], schema()),
        {field.name: [wire.get(field.name) for wire in wires] for field in fields},
        pa.RecordBatch.from_pylist(wires, pa.schema(fields)).to_pandas(),
    ):
        assert rows_of(validate_batch(columns)) == expected


def damaged(wire: dict[str, Any], random: Random) -> dict[str, Any]:
    """A record, perhaps with a value of the same type that the format or a rule minds."""
    turn = wire["conversations"][0]
    damages: list[Callable[[], object]] = [
        lambda: None,
        lambda: wire.update(id=" "),
        lambda: wire.update(source=""),
        lambda: wire.update(conversations=[]),
        lambda: turn.update(images=["../a.png", "a.png", "a.png"]),
        lambda: turn.update(assistant=" "),
        lambda: turn.update(answers=["not this"]),
        lambda: turn.update(image_offsets=[7, -1]),
        lambda: turn.update(user="<|user|>\x07 \u202e"),
    ]
    random.choice(damages)()
    return wire


@settings(max_examples=150, deadline=None)
@given(randoms)
def test_records_of_any_json_as_columns_of_python_values_have_the_findings_of_lines(random: Random) -> None:
    found = [(raw, whole_record(raw)) for raw in mutated_lines(random, 8)]
    raws, records = [raw for raw, one in found if one], [one for _, one in found if one]
    columns = {name: [one.get(name) for one in records] for name in ("id", "source", "conversations", "system")}
    assert rows_of(validate_batch(columns)) == of_lines(raws)
    frame = pd.DataFrame({name: pd.Series(values, dtype=object) for name, values in columns.items()})
    assert rows_of(validate_batch(frame)) == of_lines(raws)


def whole_record(raw: bytes) -> dict[str, Any] | None:
    """What a line holds, where it has the keys of a record and no others, each once, and no number that is none."""
    try:
        value = json.loads(raw, object_pairs_hook=once, parse_constant=int)
    except (ValueError, RecursionError):
        return None
    keys = {"id", "source", "conversations", "system"}
    plain = isinstance(value, dict) and keys >= value.keys() >= keys - {"system"}
    known = plain and "PV005" not in {issue["code"] for row in of_lines([raw]) for issue in row["issues"]}
    return value if known else None


def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) < len(pairs):
        raise ValueError("a key stands twice")
    return dict(pairs)


# Forms ---------------------------------------------------------------------------------------------------------------

ARROW = [
    *(pa.string(), pa.large_string(), pa.string_view(), pa.binary(), pa.large_binary(), pa.binary_view()),
    *(pa.dictionary(pa.int32(), pa.string()), pa.json_(pa.string())),
]


@pytest.mark.parametrize("kind", ARROW, ids=str)
def test_lines_in_every_arrow_type_of_text(kind: pa.DataType) -> None:
    plain = pa.array([*LINES, None])
    text = pa.ExtensionArray.from_storage(kind, plain) if isinstance(kind, pa.ExtensionType | pa.JsonType) else None
    column = text or (plain.dictionary_encode() if pa.types.is_dictionary(kind) else plain.cast(kind))
    for batch in (
        pa.record_batch({"line": column, "more": pa.nulls(7)}),
        pa.table({"any": pa.chunked_array([column[:3], column[3:3], column[3:]])}),
        pa.record_batch({"line": pa.concat_arrays([column, column])}).slice(7),
    ):
        result = validate_batch(batch)
        assert type(result) is type(batch)
        assert result.schema == result_schema()
        assert result["id"].to_pylist() == [*IDS, None]
        assert result["ok"].to_pylist() == [*OK, False]
        assert result["issues"].to_pylist()[-1][0]["message"] == "must be an object (found null)"


def test_more_rows_than_are_read_at_a_time() -> None:
    lines = [line(str(n)) if n % 7 else "{" for n in range(2345)]
    result = validate_batch(pa.table({"line": lines}))
    assert result["id"].to_pylist() == [str(n) if n % 7 else None for n in range(2345)]
    assert result["ok"].to_pylist() == [bool(n % 7) for n in range(2345)]


def test_a_frame_keeps_its_index_and_a_dict_stays_a_dict() -> None:
    index = pd.MultiIndex.from_tuples([("x", 1)] * 3 + [("y", 2)] * 3, names=["id", "ok"])  # repeated, with our names
    mixed: list[Any] = [LINES[0], LINES[1].encode(), *LINES[2:]]
    frame = validate_batch(pd.DataFrame({"line": mixed, 3: [object()] * 6}, index=index))
    assert frame.index.equals(index)
    assert frame["ok"].tolist() == OK
    assert validate_batch(pd.DataFrame({"line": [LINES[0], float("nan"), None]}))["ok"].tolist() == [True, False, False]
    result = validate_batch({"line": LINES})
    assert (result["id"], result["ok"], list(result)) == (IDS, OK, ["id", "ok", "issues"])
    assert validate_batch({"line": np.array(LINES)}) == validate_batch({"line": np.array(LINES, object)}) == result


def test_arrays_of_numpy_are_lists_and_its_numbers_are_numbers() -> None:
    turn = {"images": np.array(["a.png"]), "user": np.str_("q"), "assistant": "b", "image_offsets": np.array([1])}
    turns = np.array([turn, {**turn, "image_offsets": np.array([0.5])}], dtype=object)
    columns = {"id": np.array(["a"]), "source": np.array(["s"]), "conversations": [turns]}
    (issue,) = validate_batch(columns)["issues"][0]
    path, message = "$.conversations[1].image_offsets[0]", "must be a whole number (found 0.5)"
    assert (issue["json_path"], issue["message"]) == (path, message)


@pytest.mark.parametrize(
    "nothing",
    [
        pa.record_batch({"line": pa.array([], pa.string())}),
        pa.table({"line": pa.chunked_array([], pa.string())}),
        pa.table({name: pa.nulls(0) for name in ("id", "source", "conversations")}),
        schema().empty_table(),
        pd.DataFrame({"line": []}),
        {"line": []},
    ],
    ids=lambda batch: f"{type(batch).__name__}-{len(list(batch))}",
)
def test_no_rows_give_no_rows_with_the_same_columns(nothing: Any) -> None:
    result = validate_batch(nothing)
    assert rows_of(result) == []
    assert type(result) is type(nothing)
    assert list(result.schema.names if hasattr(result, "schema") else result) == ["id", "ok", "issues"]
    assert not hasattr(result, "schema") or result.schema == result_schema()


def test_nulls_anywhere_in_columns_are_reported() -> None:
    wires = [dict.fromkeys(record()), {**record(), "conversations": [None, record()["conversations"][0]]}]
    wires += [record(images=None), record(images=[None]), record(user=None), record("b", assistant=None)]
    batch = pa.RecordBatch.from_pylist(wires, pa.schema([schema().field(n) for n in record()]))
    rows = rows_of(validate_batch(batch))
    assert [[issue["json_path"] for issue in row["issues"]] for row in rows] == [
        ["$.id", "$.source", "$.conversations"],
        ["$.conversations[0]"],
        ["$.conversations[0].images"],
        ["$.conversations[0].images[0]"],
        ["$.conversations[0].user"],
        [],
    ]


def test_a_field_that_only_rows_beside_have_is_not_reported_of_a_row_without_it() -> None:
    batch = pa.RecordBatch.from_pylist([record("a"), record("b", label=3), record("c", answers=["b"])])
    rows = rows_of(validate_batch(batch))
    assert [[issue["json_path"] for issue in row["issues"]] for row in rows] == [[], ["$.conversations[0].label"], []]


def test_values_of_mixed_types_that_datasets_keeps_as_json_are_read(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    records = [record("a"), {**record("b"), "id": 3}, record("c", user=3), record("d", label=3)]
    records += [{**record("e"), "conversations": "none"}, {**record("f"), "source": None}]
    expected = of_lines([json.dumps(one) for one in records])
    for n, one in enumerate(records):  # the good record makes a column of two types of each
        path = tmp_path / f"{n}.jsonl"
        path.write_text("".join(json.dumps(each) + "\n" for each in (records[0], one)))
        data = datasets.load_dataset("json", data_files=str(path), split="train", cache_dir=str(tmp_path))
        assert rows_of(validate_batch(data.with_format("arrow")[:])) == [expected[0], expected[n]]
        assert rows_of(validate_batch(data[:])) == [expected[0], expected[n]]


def test_a_byte_order_mark_is_a_warning_for_any_line_may_be_the_first_of_its_file() -> None:
    marked, bare, broken = of_lines([b"\xef\xbb\xbf" + line().encode(), b"\xef\xbb\xbf\n", b"\xef\xbb\xbf{"])
    assert (marked["id"], marked["ok"], [i["code"] for i in marked["issues"]]) == ("a", True, ["PV006"])
    assert (bare["ok"], bare["issues"]) == (True, [])
    assert (broken["ok"], [i["code"] for i in broken["issues"]]) == (False, ["PV006", "PV001"])


def test_text_that_arrow_cannot_hold_is_shown_escaped() -> None:
    result = validate_batch({"line": [line(user="\ud800"), line("\ud800")]})
    rows = rows_of(result)
    assert [row["id"] for row in rows] == ["a", "\\ud800"]
    assert all(row["issues"][0]["code"] == "PV005" for row in rows)
    not_utf8 = pa.Array.from_buffers(pa.string(), 1, pa.array([b"\xff{}"]).buffers())
    (row,) = rows_of(validate_batch(pa.record_batch({"line": not_utf8})))
    assert row["issues"][0]["message"] == "byte 0xff at byte 1 of the line is not UTF-8"


# Images ------------------------------------------------------------------------------------------------------------


def shard_rows() -> pa.Table:
    """A good row, one whose image is cut, one whose size is a lie, one that holds another image than its turns."""
    good, cut, lie, other = samples("val", 4)
    first, second = lie.images
    lie = Sample(lie.conversation, (encoded(first.meta.path, first.data, width=99), second))
    rows = [to_row(good), to_row(cut), to_row(lie), to_row(other)]
    cut_data = image_bytes(10)[:60]
    fake = encoded(cut.images[0].meta.path, cut_data)
    rows[1]["images"][0]["bytes"], rows[1]["media"][0] = cut_data, dict(fake.meta)
    rows[3]["images"].reverse()
    return pa.Table.from_pylist(rows, schema())


def test_images_are_looked_at_when_asked() -> None:
    table = shard_rows()
    assert validate_batch(table)["ok"].to_pylist() == [True] * 4
    views = table.set_column(4, "images", table["images"].cast(with_large_bytes()))
    for batch in (table, table.slice(0).combine_chunks().to_batches()[0], views):
        rows = rows_of(validate_batch(batch, deep=True))
        assert [[(i["code"], i["json_path"]) for i in row["issues"]] for row in rows] == [
            [],
            [("PV102", "$.images[0]")],
            [("PV105", "$.images[0]")],
            [("PV305", None)],
        ]
        assert [row["id"] for row in rows] == table["id"].to_pylist()
    assert validate_batch(table, deep=True, ignore=["PV105"])["ok"].to_pylist() == [True, False, True, False]


def with_large_bytes() -> pa.DataType:
    return pa.large_list(pa.struct({"bytes": pa.large_binary(), "path": pa.large_string()}))


def test_what_is_said_of_images_is_what_a_validation_says_of_the_shard(tmp_path: Path) -> None:
    table = shard_rows()
    path = tmp_path / "data-00000-of-00001.arrow"
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, schema()) as writer:
        writer.write_table(table)
    of_shard = [(i.line, i.code, i.json_path, i.message) for i in validate(path).issues if i.code < "PV200" or i.line]
    rows = rows_of(validate_batch(table, deep=True))
    of_batch = [(n, i["code"], i["json_path"], i["message"]) for n, row in enumerate(rows, 1) for i in row["issues"]]
    assert of_batch == [one for one in of_shard if one[1] in {"PV102", "PV105", "PV305"}]


# What is no batch -----------------------------------------------------------------------------------------------------


def wrong() -> Iterator[tuple[str, Any, dict[str, Any], str]]:
    lines = pa.record_batch({"line": LINES})
    yield "rows", LINES, {}, r"batch: must be a pyarrow RecordBatch or Table, .* or a dict of lists \(found list\)"
    yield "columns", {"a": ["x"], "b": ["y"]}, {}, r"has neither lines nor records \(found columns: a, b\)\. Pass jsonl"
    yield "numbers", pa.table({"line": [1, 2]}), {}, r"has neither lines nor records \(found columns: line\)"
    yield "nested", pa.table({"line": [["a"]]}), {}, r"has neither lines nor records \(found columns: line\)"
    yield "objects", {"line": [{"a": 1}]}, {}, r"has neither lines nor records \(found columns: line\)"
    yield "nothing", pa.table({}), {}, r"has neither lines nor records \(found columns: none\)"
    yield "lengths", {"id": ["a"], "source": [], "conversations": []}, {}, r"different lengths \(id, source, conversat"
    twice = pa.record_batch([pa.array(["{"]), pa.array(["{"])], ["line", "line"])
    yield "twice", twice, {}, r"has two columns of one name \(found line, line\)\. Keep one"
    yield "frame", twice.to_pandas(), {}, r"has two columns of one name \(found line, line\)\. Keep one"
    yield "rule", lines, {"ignore": ["PV999"]}, r"ignore: no such rule 'PV999'\. docs/rules\.md lists them"
    yield "deep", lines, {"deep": True}, r"deep: needs the Arrow columns images and media of phiv's shards"
    columns = {name: [value] for name, value in record().items()}
    yield "deep-dict", {**columns, "images": [[]], "media": [[]]}, {"deep": True}, r"deep: needs the Arrow columns"
    other = pa.table({**columns, "images": [1], "media": [2]})
    yield "deep-other", other, {"deep": True}, r"deep: images and media are not those of phiv's shards \(Unsupported"
    not_utf8 = pa.Array.from_buffers(pa.string(), 1, pa.array([b"\xff{}"]).buffers())
    yield "utf8", pa.table({**columns, "id": not_utf8}), {}, r"a column of text is not UTF-8 \(.*Pass lines, as binary"


@pytest.mark.parametrize(("batch", "how", "match"), [one[1:] for one in wrong()], ids=[one[0] for one in wrong()])
def test_what_is_no_batch_is_said_in_one_line(batch: Any, how: dict[str, Any], match: str) -> None:
    with pytest.raises(UsageError, match=match) as caught:
        validate_batch(batch, **how)
    assert isinstance(caught.value, PhivError)
    assert "\n" not in str(caught.value)


def test_ignored_findings_do_not_count_but_what_cannot_be_read_does() -> None:
    lines = [line(assistant=" "), "{"]
    result = validate_batch({"line": lines}, ignore=["PV211", "PV001"])
    assert result["ok"] == [True, False]
    assert rows_of(result)[0]["issues"] == []


def test_it_can_be_pickled_with_options_and_run_in_threads() -> None:
    check = pickle.loads(pickle.dumps(partial(validate_batch, ignore=["PV211"])))
    batches = [pa.record_batch({"line": LINES}) for _ in range(8)]
    with ThreadPoolExecutor(4) as pool:
        assert {str(result.to_pylist()) for result in pool.map(check, batches)} == {str(check(batches[0]).to_pylist())}


def test_pandas_and_numpy_are_not_needed() -> None:
    code = (
        "import sys; sys.modules['pandas'] = sys.modules['numpy'] = None; from phiv_data import validate_batch;"
        "import pyarrow; assert validate_batch(pyarrow.record_batch({'line': ['{']}))['ok'].to_pylist() == [False]"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[3])
    assert done.returncode == 0, done.stderr
