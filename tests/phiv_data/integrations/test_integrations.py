"""The same function in `datasets`, Ray Data, Spark, Dask and Daft, and the helper in pytest.

The examples are those of docs/pipelines.md, run as they stand there.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest
from data_builders import samples
from integration_rows import GOOD, LINES, examples, write_place
from scale_helpers import only_ray

from phiv_data import result_schema, validate_batch
from phiv_data.testing import assert_valid

ROWS = validate_batch(pa.record_batch({"line": LINES})).to_pylist()


def test_the_rows_are_those_that_the_tests_of_integrations_expect() -> None:
    assert [row["id"] for row in ROWS] == ["a", None, "b", "c", "d", "b"]
    assert [(row["ok"], [issue["code"] for issue in row["issues"]]) for row in ROWS] == [
        (True, []),
        (False, ["PV001"]),
        (True, []),
        (False, ["PV002"]),
        (True, ["PV222"]),
        (True, []),
    ]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that the examples run in."""
    monkeypatch.chdir(tmp_path)
    return write_place(tmp_path)


def run(code: str) -> Any:
    """What a piece of code names. Ray's and Spark's processes were started in another folder, so paths are whole."""
    code = code.replace('"mine.jsonl"', repr(str(Path("mine.jsonl").resolve())))
    names: dict[str, Any] = {"__name__": "example"}
    exec(compile(code, "docs/pipelines.md", "exec"), names)
    return SimpleNamespace(**names)


# Python and Arrow ----------------------------------------------------------------------------------------------------


def test_a_python_loop(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (code,) = examples("A Python loop")
    assert run(code).kept == ["a", "b", "d"]
    verdict, *issues = capsys.readouterr().out.splitlines()
    assert verdict == "3 of 6 left out: {'PV001': 1, 'PV002': 1, 'PV201': 1, 'PV222': 1}"
    assert [issue.split(":")[1] for issue in issues] == ["2", "4", "5", "6"]


def test_arrow_batches(capsys: pytest.CaptureFixture[str]) -> None:
    (code,) = examples("Batches")
    names = run(code)
    assert (names.checked["ok"].to_pylist(), names.good.num_rows) == ([False], 0)
    assert "PV002 $.source required key is missing (found 'id')" in capsys.readouterr().out


# Integrations ------------------------------------------------------------------------------------------------------


def test_datasets(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", place / "cache")
    of_lines, of_shards = map(run, examples("datasets"))
    assert of_lines.checked.with_format(None).to_list() == ROWS
    assert of_lines.checked.features.arrow_schema.remove_metadata() == result_schema()
    assert of_lines.good.with_format(None)["text"][:] == GOOD
    assert assert_valid("out", strict=True).rows == 3, "nothing was written among the shards"
    assert of_shards.checked["ok"].to_pylist() == [True] * 3
    assert of_shards.checked["id"].to_pylist() == [row.id for row in samples("val", 3)]


def test_datasets_in_processes_streams_and_batches_of_two(place: Path) -> None:
    datasets = pytest.importorskip("datasets")
    lines = datasets.Dataset.from_dict({"line": LINES})
    how = {"batched": True, "batch_size": 2, "remove_columns": ["line"]}
    assert lines.with_format("arrow").map(validate_batch, **how, num_proc=2).with_format(None).to_list() == ROWS
    typed = {**how, "features": datasets.Features.from_arrow_schema(result_schema())}
    assert lines.map(validate_batch, **typed).to_list() == ROWS, "dicts of lists"
    assert lines.with_format("pandas").map(validate_batch, **typed).with_format(None).to_list() == ROWS
    rows = datasets.load_from_disk("out/arrow/val")
    typed |= {"remove_columns": rows.column_names, "keep_in_memory": True}
    assert rows.map(validate_batch, **typed)["ok"][:] == [True] * 3, "rows of shards, whose images stay as they are"
    stream = lines.to_iterable_dataset().with_format("arrow").map(validate_batch, **how)
    assert list(stream.with_format(None)) == ROWS


@pytest.fixture(scope="module")
def ray(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Ray on one core of this machine, ended in the end."""
    with only_ray(tmp_path_factory):
        yield from _ray()


def _ray() -> Iterator[Any]:
    ray = pytest.importorskip("ray")
    pytest.importorskip("ray.data")
    before = children()
    quiet = {"include_dashboard": False, "log_to_driver": False, "configure_logging": False}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        ray.init("local", num_cpus=1, object_store_memory=80 * 2**20, **quiet)
    ray.data.DataContext.get_current().enable_progress_bars = False
    try:
        yield ray
    finally:
        ray.shutdown()
    assert children() <= before, "no process is left"


def children() -> set[str]:
    """The processes that this one has started and that still run, where the system tells."""
    return {pid for file in Path("/proc/self/task").glob("*/children") for pid in file.read_text().split()}


def test_ray_data(ray: Any, place: Path) -> None:
    (code,) = examples("Ray Data")
    names = run(code)
    assert in_order(names.checked.take_all()) == in_order(ROWS)
    assert in_order(names.checked.schema().base_schema) == in_order(result_schema())
    assert sorted(row["text"] for row in names.good.take_all()) == sorted(GOOD)
    assert [row["id"] for row in names.twice.take_all()] == ["b"]


def in_order(rows: Any) -> list[Any]:
    return sorted(rows, key=str)


@pytest.mark.parametrize("form", ["pyarrow", "pandas", "numpy"])
def test_ray_data_in_every_form_of_batch(ray: Any, form: str) -> None:
    table = pa.table({"line": LINES})
    checked = ray.data.from_arrow(table).map_batches(validate_batch, batch_format=form, batch_size=4)
    rows = [{**row, "issues": list(row["issues"])} for row in checked.take_all()]
    assert in_order(rows) == in_order(ROWS)


def test_ray_data_of_phivs_shards(ray: Any, place: Path) -> None:
    from phiv_data.storage.shards import schema, to_row

    table = pa.Table.from_pylist([to_row(row) for row in samples("val", 3)], schema())
    for form in ("pyarrow", "pandas", "numpy"):
        checked = ray.data.from_arrow(table).map_batches(validate_batch, batch_format=form)
        assert [row["ok"] for row in checked.take_all()] == [True] * 3
    empty = ray.data.from_arrow(table.slice(0, 0)).map_batches(validate_batch, batch_format="pyarrow")
    assert empty.take_all() == []


@pytest.fixture
def spark(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Spark on one core of this machine, ended in the end."""
    sql = pytest.importorskip("pyspark.sql")
    if not shutil.which("java"):
        pytest.skip("Spark needs Java")
    monkeypatch.setenv("PYSPARK_PYTHON", sys.executable)
    local = {"spark.ui.enabled": "false", "spark.driver.host": "127.0.0.1", "spark.driver.bindAddress": "127.0.0.1"}
    session = sql.SparkSession.builder.master("local[1]").config(map=local).getOrCreate()
    session.sparkContext.setLogLevel("ERROR")
    gateway = session.sparkContext._gateway
    try:
        yield session
    finally:
        session.stop()
        gateway.shutdown()
        gateway.proc.stdin.close()  # which ends Java
        gateway.proc.wait(60)


@pytest.mark.filterwarnings("ignore::FutureWarning")  # of pandas 3
def test_spark(spark: Any, place: Path) -> None:
    (code,) = examples("Spark")
    names = run(code)
    assert [row.asDict(recursive=True) for row in names.checked.collect()] == ROWS
    assert [row.value for row in names.good.collect()] == GOOD


def test_dask(place: Path) -> None:
    dask = pytest.importorskip("dask")
    pytest.importorskip("dask.dataframe")
    (code,) = examples("Dask")
    with dask.config.set(scheduler="synchronous"):
        names = run(code)
        checked, good = names.checked.compute(), names.good.compute()
        guessed = names.lines.map_partitions(validate_batch).compute()
    assert pa.Table.from_pandas(checked, result_schema(), preserve_index=False).to_pylist() == ROWS
    assert guessed.equals(checked), "without meta Dask tries it on rows of its own"
    assert good["line"].tolist() == [f"{line}\n" for line in GOOD]


def test_daft(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DO_NOT_TRACK", "1")
    pytest.importorskip("daft")
    (code,) = examples("Daft")
    names = run(code)
    assert names.checked.select("checked").to_pydict()["checked"] == ROWS
    assert names.good.to_pydict()["line"] == [f"{line}\n".encode() for line in GOOD]


# pytest --------------------------------------------------------------------------------------------------------------


def run_pytest(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "no:xdist", "--rootdir", str(folder)]
    plain = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    return subprocess.run([*command, "test_data.py"], cwd=folder, env=plain, capture_output=True, text=True)


def test_a_test_of_data_passes_and_fails_with_the_findings(place: Path) -> None:
    (code,) = examples("pytest")
    (place / "test_data.py").write_text(code, encoding="utf-8")
    passed = run_pytest(place)
    assert (passed.returncode, "1 passed" in passed.stdout) == (0, True), passed.stdout
    (place / "out/images/val/Archery/v_0001.0.png").unlink()
    failed = run_pytest(place)
    assert (failed.returncode, "1 failed" in failed.stdout) == (1, True), failed.stdout
    said = [line.removeprefix("E").strip() for line in failed.stdout.splitlines() if line.startswith("E ")]
    assert said[0].startswith("AssertionError: out: 3 rows, ")
    assert "'val/Archery/v_0001.0.png' under images/ [PV101 missing-image]" in said[1]
    assert "test_data.py:5: AssertionError" in failed.stdout, "the line of the test, not of the helper"


def test_assert_valid_gives_the_report_and_fails_with_the_first_findings(place: Path) -> None:
    assert assert_valid("out").rows == 3
    assert assert_valid("out/ucf101_val.jsonl", images=False).images == 0
    (place / "bad.jsonl").write_text("{\n" * 30 + LINES[4] + "\n", encoding="utf-8")
    with pytest.raises(AssertionError) as failed:
        assert_valid(place / "bad.jsonl", images=False, max_shown=3)
    verdict, *issues, more = str(failed.value).splitlines()
    assert verdict.startswith(
        f"{place}/bad.jsonl: 31 rows, 0 images: 30 errors, 1 warning (30 PV001 invalid-json, 1 PV222 "
    )
    found = [line.split(": ")[0] for line in issues if line.startswith("bad.jsonl")]
    assert found == ["bad.jsonl:1", "bad.jsonl:2", "bad.jsonl:3"]
    assert more == "... and 27 more: phiv-validate lists them"


def test_assert_valid_minds_warnings_when_asked(place: Path) -> None:
    (place / "odd.jsonl").write_text(LINES[4] + "\n", encoding="utf-8")
    assert assert_valid("odd.jsonl", images=False).num_warnings == 1
    with pytest.raises(AssertionError, match=r"valid, 1 warning .*\nodd\.jsonl:1: .* \[warning PV222 [a-z-]+\]\n"):
        assert_valid("odd.jsonl", images=False, strict=True)
    assert assert_valid("odd.jsonl", images=False, strict=True, ignore=["PV222"]).ok
