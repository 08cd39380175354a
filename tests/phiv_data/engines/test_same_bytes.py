"""One conversion by every engine: the same sha256 of every file, the same report of phiv-validate."""

from __future__ import annotations

import csv
import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from scale_helpers import tree

from phiv_converters.table.options import TableOptions
from phiv_converters.ucf101.options import Ucf101Options
from phiv_data.convert.array import convert_share
from phiv_data.convert.base import ConverterOptions
from phiv_data.convert.engine import convert
from phiv_data.engines import ArrayEngine, Engine, LocalEngine, RayEngine
from phiv_data.validation import validate


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """500 questions on 40 images, in two files; one image is missing, one is none."""
    folder, rng = tmp_path_factory.mktemp("table"), random.Random(5)
    for number in range(40):
        Image.frombytes("RGB", (16, 12), rng.randbytes(576)).save(folder / f"{number}.png")
    (folder / "40.png").write_bytes(b"no image")
    rows = [(f"{i % 42}.png", f"Is it {i}?", rng.choice(["yes", "no"])) for i in range(500)]
    with (folder / "rows.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("image", "question", "answer"), *rows])
    return folder / "rows.csv"


@pytest.fixture(params=["ucf101", "table"])
def options(request: pytest.FixtureRequest) -> Callable[[], ConverterOptions]:
    """As every process makes them from its command line."""
    if request.param == "table":
        path = request.getfixturevalue("table")
        return lambda: TableOptions(path)
    shared = request.getfixturevalue("shared")
    return lambda: Ucf101Options(shared / "samples/ucf101/UCF101_subset")


def report_of(out: Path, engine: Engine | None = None) -> dict[str, Any]:
    report = validate(out, engine=engine).model_dump()
    return {key: value for key, value in report.items() if value != str(out)}


def convert_by_array(options: Callable[[], ConverterOptions], out: Path) -> None:
    """Three shares in random order, one of them twice, two at a time."""
    shares = ["1/3", "3/3", "2/3", "1/3"]
    random.Random(3).shuffle(shares)
    for pair in (shares[:2], shares[2:]):
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(lambda task: convert_share(options(), out, ArrayEngine(task, 0)), pair))
    convert(options(), out, engine=LocalEngine(1), finish=True)


def test_every_engine_gives_the_same_bytes_and_the_same_report(
    cluster: Any, options: Callable[[], ConverterOptions], tmp_path: Path
) -> None:
    straight = tmp_path / "straight"
    convert(options(), straight, engine=LocalEngine(0))
    wanted, report = tree(straight), report_of(straight)
    assert len(wanted) > 30
    engines: dict[str, Engine] = {f"local-{n}": LocalEngine(n) for n in (1, 2, 3)}
    engines["ray"] = RayEngine(cluster.address)
    for name, engine in engines.items():
        convert(options(), tmp_path / name, engine=engine)
        assert tree(tmp_path / name) == wanted, name
        assert report_of(tmp_path / name, engine) == report, name
    convert_by_array(options, tmp_path / "array")
    assert tree(tmp_path / "array") == wanted
