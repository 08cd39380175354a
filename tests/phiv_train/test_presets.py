"""Presets: every row of the recipe's tables is there, and valid as settings."""

from __future__ import annotations

from pathlib import Path

import pytest

from phiv_schemas.errors import UsageError
from phiv_train.config import TrainConfig
from phiv_train.presets import PRESETS, preset_settings, table, warmup_warning


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_a_valid_configuration(name: str) -> None:
    config = TrainConfig(data_dir=Path(), **preset_settings(name))
    assert config.strategy == name.removesuffix("-fp16").split("-")[1]
    assert (config.compute_dtype(on_gpu=True) == "float16") == name.endswith(("-fp16", "demo-full"))


def test_every_row_of_the_page_is_there_with_its_score() -> None:
    scores = {name: preset.score for name, preset in PRESETS.items() if preset.score is not None}
    assert len(scores) == 18
    assert scores["nlvr2-full"] == 89.40
    assert scores["docvqa-qlora"] == 81.85
    assert scores["hateful_memes-frozen-fp16"] == 78.6
    assert {f"ucf101-{method}" for method in ("full", "frozen", "lora", "qlora")} <= set(PRESETS)


def test_adapters_have_the_alpha_of_the_page() -> None:
    alphas = {n: TrainConfig(data_dir=Path(), **preset_settings(n)).alpha for n in PRESETS if n.endswith("lora")}
    assert (alphas["docvqa-lora"], alphas["hateful_memes-qlora"], alphas["ucf101-lora"]) == (16, 256, 128)


def test_the_table_shows_every_preset_and_whose_scores_they_are() -> None:
    text = table()
    assert all(name in text for name in PRESETS)
    assert "not measured by phiv" in text
    lines = text.splitlines()
    assert max(map(len, lines)) <= 100
    scores = {words[0]: words[1] for line in lines if len(words := line.split()) > 1 and words[0] in PRESETS}
    assert {name for name, score in scores.items() if score.endswith("*")} == {
        name for name, preset in PRESETS.items() if preset.model == "Phi-3-vision"
    }
    assert scores["nlvr2-full"] == "89.40"
    assert scores["docvqa-lora"] == "82.46*"


def test_the_table_parts_no_flag_from_its_value() -> None:
    words = [line.split() for line in table().splitlines() if "--" in line]
    settings = {
        (key, f"{value:g}") for p in PRESETS.values() for key, value in p.settings.items() if type(value) is float
    }
    assert all(
        [f"--{key}", value] in [line[i : i + 2] for line in words for i in range(len(line))] for key, value in settings
    )
    assert all(f"--{key}" in table() or f"--no_{key}" in table() for p in PRESETS.values() for key in p.settings)


def test_an_unknown_preset_names_the_likely_one() -> None:
    with pytest.raises(UsageError, match=r"--recipe: no preset 'docvqa-lroa'\. Did you mean docvqa-lora\?"):
        preset_settings("docvqa-lroa")


def test_warmup_is_relative_and_the_fixed_one_is_warned_of() -> None:
    config = TrainConfig(data_dir=Path())
    assert [config.num_warmup_steps(steps) for steps in (5, 18, 200, 5000)] == [0, 1, 20, 50]
    assert "36% of the learning rate" in (warmup_warning(18, 1) or "")
    assert warmup_warning(5000, 50) is None
    assert TrainConfig(data_dir=Path(), warmup_steps=7).num_warmup_steps(5000) == 7
