"""What is prepared before weights are loaded: rows, sizes of steps, packages that must be there."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mixed_data import Exchange, Mixed
from training import run, settings

from phiv_data.convert.engine import convert
from phiv_schemas.errors import EnvironmentProblem
from phiv_train.batching.plan import make_plan
from phiv_train.config import TrainConfig
from phiv_train.training.prepare import check_precision, plan_spec, prepare


@pytest.mark.parametrize(
    ("lengths", "changes", "world", "expected"),
    [
        ([100] * 64, {}, 1, (16, 100)),  # equal rows: as the recipe, one per forward pass
        ([100] * 64, {"batch_size_per_gpu": 4}, 2, (4, 409)),
        ([100] * 64, {"max_length": 150}, 1, (16, 103)),  # too short for two
        ([100] * 64, {"batch_size": 8}, 4, (8, 103)),
        ([10, 20, 30, 100] * 16, {}, 1, (7, 100)),  # mixed: several rows per pass
        ([10, 20, 30, 100] * 16, {"packing": False, "batch_size_per_gpu": 2}, 2, (8, None)),
    ],
)
def test_a_step_takes_batch_size_rows(
    lengths: list[int], changes: dict[str, Any], world: int, expected: tuple[int, int | None]
) -> None:
    config = TrainConfig(data_dir=Path(), **changes)
    tokens = np.array(lengths * 10)
    spec = plan_spec(config, tokens, world)
    assert spec.packs_per_step == expected[0]
    assert expected[1] is None or abs((spec.max_tokens or 0) - expected[1]) <= 12
    rows = make_plan(tokens, np.zeros_like(tokens), spec).summary().rows_per_step
    assert abs(rows - config.batch_size) <= 0.1 * config.batch_size


@pytest.mark.parametrize(("packing", "packs"), [(True, 10), (False, 10)])
def test_a_step_takes_no_more_than_all_rows(packing: bool, packs: int) -> None:
    config = TrainConfig(data_dir=Path(), packing=packing, batch_size=100_000)
    assert plan_spec(config, np.full(10, 100), 1).packs_per_step == packs


def test_full_train_takes_all_rows(demo: Path, tmp_path: Path) -> None:
    few = prepare(settings(demo, tmp_path, max_train_rows=5))
    every = prepare(settings(demo, tmp_path, max_train_rows=5, full_train=True))
    assert (len(few.selection.rows), len(every.selection.rows)) == (5, 24)


def test_max_steps_goes_over_the_data_again_or_ends_within_it(demo: Path, tmp_path: Path) -> None:
    for max_steps, epochs in ((3, 1), (4, 1), (5, 2), (9, 3)):
        schedule = prepare(settings(demo, tmp_path, max_steps=max_steps)).schedule
        assert (schedule.num_steps, len(schedule.plans)) == (max_steps, epochs)
    orders = [plan.order.tolist() for plan in schedule.plans]
    assert orders[0] != orders[1]
    assert sorted(orders[1]) == sorted(orders[2]) == list(range(24))


def test_rows_to_train_on_are_of_every_class(demo: Path, tmp_path: Path) -> None:
    chosen = prepare(settings(demo, tmp_path, max_train_rows=6))
    answers = {chosen.dataset.conversation(int(row)).turns[0].assistant for row in chosen.selection.rows}
    assert len(answers) >= 4  # of six classes, four rows each and in order


@pytest.mark.parametrize(
    ("package", "changes", "line"),
    [
        ("bitsandbytes", {"use_qlora": True}, "--use_qlora: the bitsandbytes package is missing. Run: "),
        ("peft", {"use_lora": True}, "--use_lora: the peft package is missing"),
        ("flash_attn", {"use_flash_attention": True}, "--use_flash_attention: the flash-attn package is missing"),
    ],
)
def test_a_missing_package_is_one_line(
    monkeypatch: pytest.MonkeyPatch, package: str, changes: dict[str, Any], line: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)  # as if it were not installed
    with pytest.raises(EnvironmentProblem) as caught:
        check_precision(TrainConfig(data_dir=Path(), **changes), on_gpu=False)
    assert line in str(caught.value)


def test_a_row_without_answers_is_named(tmp_path: Path) -> None:
    rows = tuple(((Exchange(assistant=answer),), None) for answer in ("yes", None))
    convert(Mixed(rows=rows), tmp_path / "data", num_workers=1, include_unlabeled=True)
    with pytest.raises(Exception, match="1 of 2 rows of 'train' cannot be trained on: 1 without an answer"):
        run(tmp_path / "data", tmp_path / "out")
