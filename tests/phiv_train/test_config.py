"""Settings: sources in order, old flags, saved and read back, one line for what is wrong."""

from __future__ import annotations

import re
import subprocess
import sys
import typing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phiv_schemas.errors import UsageError
from phiv_train.cli.config import parse
from phiv_train.cli.options import EvalOptions
from phiv_train.config import FREE_ON_RESUME, TrainConfig, binding_settings, read_config, validate_config, write_config
from phiv_train.spellings import _ROWS, find_setting

RECIPE_COMMAND = (
    "--data_dir d --model_name_or_path m --output_dir o --batch_size 64 --batch_size_per_gpu 2 --num_crops 16 "
    "--num_train_epochs 2 --learning_rate 2e-4 --wd 0.1 --no-tqdm --bf16 --use_flash_attention --use_lora --use_qlora "
    "--lora_rank 32 --lora_alpha_ratio 0.5 --lora_dropout 0.1 --freeze_vision_model --full_train"
)


def test_every_flag_of_the_recipe_has_its_old_spelling_and_meaning() -> None:
    config = parse(RECIPE_COMMAND.split())
    assert (config.data_dir, config.model_name_or_path, config.output_dir) == (Path("d"), "m", Path("o"))
    assert (config.batch_size, config.batch_size_per_gpu, config.num_crops, config.num_train_epochs) == (64, 2, 16, 2)
    assert (config.learning_rate, config.wd, config.lora_rank, config.alpha, config.lora_dropout) == (
        *(2e-4, 0.1, 32),
        *(16, 0.1),
    )
    assert not config.tqdm
    assert config.strategy == "qlora"
    assert config.freeze_vision_model
    assert config.full_train
    assert config.compute_dtype(on_gpu=True) == "bfloat16"
    assert config.attn_implementation == "flash_attention_2"


def test_the_recipes_defaults_stay() -> None:
    config = parse(["--data_dir", "d"])
    assert (config.batch_size, config.batch_size_per_gpu, config.num_train_epochs, config.learning_rate, config.wd) == (
        *(16, 1, 1),
        *(4e-5, 0.01),
    )
    assert (config.lora_rank, config.alpha, config.lora_dropout, config.adam_beta2, config.adam_epsilon) == (
        *(64, 128, 0.0),
        *(0.95, 1e-7),
    )
    assert config.compute_dtype(on_gpu=True) == "float16"
    assert config.compute_dtype(on_gpu=False) == "float32"


def test_flags_override_the_file_which_overrides_the_preset(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("learning_rate: 1e-5\nlora_rank: 8\ndata_dir: from_file\nfreeze: [vision]\nbf16: true\n")
    config = parse(["--recipe", "docvqa-lora", "--config", str(file), "--lora-rank", "4", "--no-bf16"])
    assert (config.learning_rate, config.lora_rank, config.data_dir, config.batch_size) == (
        *(1e-5, 4),
        *(Path("from_file"), 64),
    )
    assert config.freeze == ("vision",)
    assert not config.bf16
    assert parse(["--config", str(file), "--bf16"]).bf16


def test_names_may_be_written_with_commas_or_spaces() -> None:
    assert parse(["--data_dir", "d", "--freeze", "vision,projector"]).freeze == ("vision", "projector")
    assert parse(["--data_dir", "d", "--freeze", "vision", "projector"]).freeze == ("vision", "projector")
    rates = parse(["--data_dir", "d", "--part_learning_rates", "vision", "2e-6"]).part_learning_rates
    assert rates == {"vision": 2e-6}


def test_a_file_may_write_one_name_for_a_list_and_whole_numbers_as_floats(
    tmp_path: Path, recwarn: pytest.WarningsRecorder, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(
        "freeze: vision\nreport_to: none\nlora_parts:\nimage_option: a=1,2\nnum_train_epochs: 3.0\nwd: 1.0\n"
    )
    config = parse(["--config", str(file), "--data_dir", "d"])
    assert (config.freeze, config.report_to, config.lora_parts) == (("vision",), (), ())
    assert (config.image_option, config.num_train_epochs, config.wd) == (("a=1,2",), 3, 1.0)
    assert not recwarn.list
    assert capsys.readouterr() == ("", "")
    file.write_text("report_to: tensorboard,wandb\n")
    assert parse(["--config", str(file), "--data_dir", "d"]).report_to == ("tensorboard", "wandb")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("lr: 1e-4", "run.yaml: lr: no such setting. Use learning_rate X"),
        ("gradient-accumulation-steps: 4", "run.yaml: gradient_accumulation_steps: no such setting. Use batch_size N"),
        ("num_train_epochs: 2.5", "run.yaml: num_train_epochs: "),
        ("lora_rnk: 4", "run.yaml: lora_rnk: no such setting. Did you mean lora_rank?"),
        ("lora_rank: four", "run.yaml: lora_rank: input should be a valid integer (found 'four')"),
        ("num_crops: 17", "run.yaml: num_crops: input should be less than or equal to 16 (found 17)"),
        ("- a", "run.yaml: holds no settings (found a list). Write `key: value` lines"),
        ("a: [", "run.yaml: is not YAML"),
        ("max_steps: 1\nlearning_rate: 1\nmax-steps: 2", "run.yaml:1: has 'max_steps' twice. Keep one"),
        ("report_to: \udcff", "run.yaml: is not UTF-8"),
    ],
)
def test_a_wrong_file_is_one_line(tmp_path: Path, text: str, line: str) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(text, errors="surrogateescape")
    with pytest.raises(UsageError) as caught:
        parse(["--config", str(file), "--data_dir", "d"])
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        ("--lora_rank 0", "phiv-train: lora_rank: input should be greater than or equal to 1 (found 0)"),
        ("--precision float16 --use_flash_attention", "phiv-train: precision float16 does not work with"),
        ("--use_qlora --distributed zero2", "phiv-train: use_qlora does not work with distributed=zero2"),
        ("--config nowhere.yaml", "--config: no such file 'nowhere.yaml'"),
        ("--lr 1e-4", "--lr: is no flag of phiv-train. Use --learning_rate X"),
        ("--lr=1e-4", "--lr: is no flag of phiv-train. Use --learning_rate X"),
        ("--max-seq-length 2048", "--max-seq-length: is no flag of phiv-train. Use --max_length N"),
        ("--val_size 0.1", "Use phiv-convert --val_fraction X"),
        ("--revision main", "Use --model_name_or_path DIR, with the folder that `hf download"),
        ("--bf16 True", "--bf16: is a switch and takes no value (found 'True'). Pass --bf16 alone"),
        ("--bf16=1", "--bf16: is a switch and takes no value (found '1'). Pass --bf16 alone"),
        ("--eval False", "--eval: is a switch and takes no value (found 'False'). Leave it out, or pass --no_eval"),
        ("--no-eval true", "--no-eval: is a switch and takes no value (found 'true'). Pass --no-eval alone"),
        ("--num_train_epochs 2.5", "must be a whole number (found '2.5'). For a part of an epoch use --max_steps"),
        ("--max_steps few", "--max_steps: must be a whole number (found 'few')"),
        ("--learning_rate small", "--learning_rate: must be a number (found 'small')"),
    ],
)
def test_a_wrong_value_is_one_line(flags: str, line: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse(["--data_dir", "d", *flags.split()])
    assert line in str(caught.value)


def test_words_that_mean_the_same_are_taken() -> None:
    for flags in ("--num_train_epochs 2.0", "--num-train-epochs=2.0"):
        assert parse(["--data_dir", "d", *flags.split()]).num_train_epochs == 2
    config = parse(
        ["--data_dir", "d", "--report_to", "none", "--learning_rate", "1", "--max_steps", "None", "--freeze", "true"]
    )
    assert (config.report_to, config.learning_rate, config.max_steps, config.freeze) == ((), 1.0, None, ("true",))


@pytest.mark.parametrize("options", [TrainConfig, EvalOptions])
def test_every_hint_of_another_trainers_name_is_a_flag(options: type) -> None:
    """What is advised exists, and no flag of phiv's own is taken for another trainer's."""
    known = set(typing.get_type_hints(options))
    for setting, _, names in _ROWS:
        flags = re.findall(r"(?<!\S)--(?:no_)?(\w+)", setting)
        if setting.startswith("phiv-convert") or flags[0] in known:
            for name in names.split():
                assert (find_setting(name, known) is not None) != (name in known)
        assert flags[0] in {*TrainConfig.model_fields, *typing.get_type_hints(EvalOptions), "val_fraction"}


def test_an_unknown_flag_is_refused_with_the_likely_one(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parse(["--data_dir", "d", "--lora_rnk", "4"])
    assert caught.value.code == 2
    assert "--lora-rank" in capsys.readouterr().err


def test_settings_are_frozen_and_strict() -> None:
    config = TrainConfig(data_dir=Path())
    with pytest.raises(ValueError, match="frozen"):
        config.seed = 1  # type: ignore[misc]
    with pytest.raises(ValueError, match="valid integer"):
        TrainConfig(data_dir=Path(), seed="1")  # type: ignore[arg-type]


@given(
    lora_rank=st.integers(1, 512),
    learning_rate=st.floats(1e-9, 1.0),
    freeze=st.lists(st.sampled_from(["vision", "projector"])),
    max_steps=st.none() | st.integers(1, 10**6),
)
def test_what_is_saved_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, lora_rank: int, learning_rate: float, freeze: list[str], max_steps: int
) -> None:
    config = TrainConfig(
        data_dir=Path("d"),
        lora_rank=lora_rank,
        learning_rate=learning_rate,
        freeze=tuple(freeze),
        max_steps=max_steps,
        part_learning_rates={"vision": learning_rate / 3},
    )
    path = tmp_path_factory.mktemp("config") / "phiv_config.json"
    write_config(config, path)
    assert read_config(path) == config


def test_settings_that_change_the_weights_are_not_free_on_resume() -> None:
    base = TrainConfig(data_dir=Path("d"))
    assert binding_settings(base) == binding_settings(base.model_copy(update={"num_workers": 0, "logging_steps": 1}))
    for name in ("learning_rate", "seed", "lora_rank", "packing", "model_name_or_path", "batch_size"):
        assert name not in FREE_ON_RESUME
        assert binding_settings(base.model_copy(update={name: 3})) != binding_settings(base)


@pytest.mark.parametrize(
    "values",
    [
        {"learning_rate": float("inf")},
        {"wd": float("inf")},
        {"adam_epsilon": float("inf")},
        {"max_grad_norm": float("nan")},
        {"part_learning_rates": {"vision": float("nan")}},
        {"part_learning_rates": {"vision": -1.0}},
        {"seed": 10**20},
        {"seed": -1},
        {"use_lora": True, "lora_alpha_ratio": 0.001},
        {"use_lora": True, "lora_alpha_ratio": float("inf")},
    ],
)
def test_invalid_numbers_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        validate_config({"data_dir": "d", **values}, "here")


def test_every_setting_is_described() -> None:
    assert [name for name, info in TrainConfig.model_fields.items() if not info.description] == []


def test_help_imports_no_torch() -> None:
    code = "import sys; sys.argv = ['phiv-train', '--help']\nfrom phiv_train.cli.train import main\n"
    code += "try: main()\nexcept SystemExit: pass\nassert not {'torch', 'transformers', 'pyarrow'} & set(sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "--lora-rank" in done.stdout
