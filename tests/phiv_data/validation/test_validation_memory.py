"""Memory of a validation does not grow with the data: `benchmarks/validation_memory.py`, at sizes far apart."""

from __future__ import annotations

import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

BENCHMARK = Path(__file__).parents[3] / "benchmarks" / "validation_memory.py"
MORE = 40  # MiB: what is kept of 10,000 rows and more, such as the first 1,000 findings of each rule


@pytest.fixture(scope="module")
def measure() -> Callable[[str, int], dict[str, Any]]:
    function: Callable[[str, int], dict[str, Any]] = runpy.run_path(str(BENCHMARK))["measure"]
    return function


@pytest.mark.parametrize(
    ("kind", "many"),
    [
        ("good", 200_000),
        ("bad", 60_000),
        *(pytest.param(kind, 1_000_000, marks=pytest.mark.soak) for kind in ("good", "bad")),
    ],
)
def test_lines(measure: Callable[[str, int], dict[str, Any]], kind: str, many: int) -> None:
    few = measure(kind, 10_000)
    more = measure(kind, many)
    assert more["MiB"] - few["MiB"] < MORE
    assert {code: count * many / 10_000 for code, count in few["counts"].items()} == more["counts"]


@pytest.mark.soak
@pytest.mark.parametrize("kind", ["shards", "leaks"])
def test_images(measure: Callable[[str, int], dict[str, Any]], kind: str) -> None:
    """From where the images that are remembered are at their limit; 220 bytes each where splits are compared."""
    few, more = measure(kind, 50_000), measure(kind, 500_000)
    assert more["MiB"] - few["MiB"] < MORE + (450_000 * 220 / 2**20 if kind == "leaks" else 0)
