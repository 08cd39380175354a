"""phiv-eval: checkpoints and adapters, the settings they were trained with, and one line for what is wrong."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from eval_data import ask, make_dataset, mixed_rows

from phiv_data.storage.dataset import ConversationDataset
from phiv_train.batching.lengths import spread_rows
from phiv_train.checkpoints.load import load_model
from phiv_train.checkpoints.resolve import find_source, load_processor
from phiv_train.checkpoints.weights import save_weights
from phiv_train.cli import eval as cli_eval
from phiv_train.config import TrainConfig
from phiv_train.evaluation.generate import evaluate
from phiv_train.families.base import get_family
from phiv_train.training.trainable import apply_strategy

FAMILY = get_family("tiny")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows = [*mixed_rows("val"), ("test", (ask("Red"),))]
    return make_dataset(tmp_path_factory.mktemp("eval") / "data", rows)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of seed 5, trained (so its files say) with two crops."""
    model, processor = FAMILY.load("tiny:5", image_options={"num_crops": 2})
    path = tmp_path_factory.mktemp("models") / "checkpoint"
    FAMILY.save(model, processor, path)
    return path


@pytest.fixture
def phiv_eval(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """`phiv_eval(*arguments)` -> (exit code, stdout, the lines of stderr that are phiv-eval's)."""

    def call(*arguments: object) -> tuple[int, str, list[str]]:
        monkeypatch.setattr(sys, "argv", ["phiv-eval", *map(str, arguments)])
        code = cli_eval.main()
        out, err = capsys.readouterr()
        return code, out, [line for line in err.splitlines() if line.startswith("phiv-eval")]

    return call


def expected_texts(model: Any, processor: Any, folder: Path, **options: Any) -> list[str]:
    result = evaluate(model, FAMILY, processor, ConversationDataset(folder, "val"), max_new_tokens=6, **options)
    return [p.text for p in result.predictions]


def test_a_checkpoint_is_evaluated_with_its_own_settings(phiv_eval: Any, folder: Path, checkpoint: Path) -> None:
    code, out, warnings = phiv_eval("--data_dir", folder, "--model_name_or_path", checkpoint, "--max_new_tokens", 6)
    assert (code, warnings) == (0, [])
    path = checkpoint / "eval_val.json"
    assert out.splitlines()[0] == "accuracy 0.0000"
    assert out.splitlines()[-1] == str(path)
    written = json.loads(path.read_text())
    model, processor = FAMILY.load(str(checkpoint))
    assert [t["generated_text"] for t in written["generated_texts_unique"]] == expected_texts(model, processor, folder)
    used = written["settings"]
    assert (used["family"], used["num_crops"], used["precision"]) == ("phi3_vision", 2, "float32")
    assert used["spec_hash"] == processor.spec_hash


def test_limit_split_turns_and_metrics_are_the_users(phiv_eval: Any, folder: Path, tmp_path: Path) -> None:
    flags = ["--metric", "anls", "accuracy_official", "--turns", "all", "--limit", 3, "--batch-size", 2]
    output = tmp_path / "new" / "scores.json"
    code, out, _ = phiv_eval(
        "--data_dir", folder, "--model_name_or_path", "tiny:5", "--max_new_tokens", 2, "--output", output, *flags
    )
    written = json.loads(output.read_text())
    assert code == 0
    chosen = spread_rows(11, 3).tolist()
    assert sorted({prediction["row"] for prediction in written["predictions"]}) == chosen
    rows = [row for split, row in mixed_rows("val") if split == "val"]
    assert written["counts"]["questions"] == sum(len(rows[row]) for row in chosen)
    assert written["metric"] == "anls"
    assert "accuracy_official" in written
    assert f"accuracy_official 0.0000\n{written['counts']['questions']} questions of 3 rows" in out


def test_another_number_of_crops_is_used_and_said(
    phiv_eval: Any, folder: Path, checkpoint: Path, tmp_path: Path
) -> None:
    model = ["--model_name_or_path", checkpoint, "--num_crops", 1, "--limit", 1, "--output", tmp_path / "e.json"]
    code, _, warnings = phiv_eval("--data_dir", folder, *model)
    assert (code, len(warnings)) == (0, 1)
    assert "num_crops is 1, the model was trained with 2" in warnings[0]
    assert json.loads((tmp_path / "e.json").read_text())["settings"]["num_crops"] == 1


def test_another_tokenizer_than_in_training_is_said(
    phiv_eval: Any, folder: Path, checkpoint: Path, tmp_path: Path
) -> None:
    metadata = checkpoint / "phiv_checkpoint.json"
    metadata.write_text('{"spec": "0123456789abcdef"}')
    try:
        code, _, warnings = phiv_eval(
            "--data_dir", folder, "--model_name_or_path", checkpoint, "--limit", 1, "--output", tmp_path / "e.json"
        )
    finally:
        metadata.unlink()
    assert (code, len(warnings)) == (0, 1)
    assert "trained with 0123456789ab" in warnings[0]


def test_an_adapter_folder_alone_is_enough(phiv_eval: Any, folder: Path, checkpoint: Path, tmp_path: Path) -> None:
    """It answers as the model in memory does, and not as its base."""
    config = TrainConfig(data_dir=folder, model_name_or_path=str(checkpoint), use_lora=True, lora_rank=4)
    model, processor = FAMILY.load(str(checkpoint), image_options={"num_crops": 1})
    apply_strategy(model, FAMILY, FAMILY.components(model), config)
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=0.5)
    save_weights(FAMILY, model, processor, tmp_path / "adapter")
    in_memory = expected_texts(model.eval(), processor, folder)
    base, base_processor = FAMILY.load(str(checkpoint), image_options={"num_crops": 1})
    assert in_memory != expected_texts(base, base_processor, folder)
    for flags in (
        ["--model_name_or_path", tmp_path / "adapter"],
        ["--adapter", tmp_path / "adapter"],
        ["--adapter", tmp_path / "adapter", "--model_name_or_path", checkpoint],
    ):
        code, _, warnings = phiv_eval("--data_dir", folder, "--max_new_tokens", 6, *flags)
        written = json.loads((tmp_path / "adapter" / "eval_val.json").read_text())
        assert (code, warnings) == (0, [])
        assert [t["generated_text"] for t in written["generated_texts_unique"]] == in_memory
        assert written["settings"]["num_crops"] == 1  # the adapter's, not the base's


@pytest.mark.parametrize(
    ("flags", "code", "line"),
    [
        ([], 2, "--model_name_or_path: is missing. Pass a checkpoint, or an adapter with --adapter"),
        (["--model_name_or_path", "tiny", "--split", "dev"], 2, "(found: train, val, test). Pass one (--split)"),
        (["--model_name_or_path", "tiny", "--limit", 0], 2, "--limit: must be at least 1 (found 0)"),
        (["--model_name_or_path", "tiny", "--family", "gpt"], 2, "--family: no family 'gpt'"),
        (["--adapter", "nowhere"], 2, "nowhere: is no adapter (no adapter_config.json)"),
        (["--model_name_or_path", "nowhere"], 2, "nowhere: no such folder, and not a hub id"),
        (["--model_name_or_path", "."], 2, "has no config.json with a model_type. Pass --family"),
    ],
)
def test_what_is_wrong_is_one_line(
    phiv_eval: Any, folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, flags: Any, code: int, line: str
) -> None:
    monkeypatch.chdir(tmp_path)
    found, out, warnings = phiv_eval("--data_dir", folder, *flags)
    assert (found, out, len(warnings)) == (code, "", 1)
    assert line in warnings[0]
    assert not list(tmp_path.iterdir())


def test_an_output_that_cannot_be_written_is_found_before_the_work(
    phiv_eval: Any, folder: Path, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("phiv_train.cli.answer.load_model", lambda *_, **__: pytest.fail("loaded the model"))
    code, _, warnings = phiv_eval("--data_dir", folder, "--model_name_or_path", "tiny", "--output", tmp_path)
    assert (code, warnings) == (2, [f"phiv-eval: --output: '{tmp_path}' is a folder. Name a file, in it or elsewhere"])
    (checkpoint / "eval_test.json").mkdir()  # where the scores go by default
    flags = ["--data_dir", folder, "--model_name_or_path", checkpoint, "--split", "test"]
    code, _, warnings = phiv_eval(*flags)
    assert (code, len(warnings)) == (2, 1)
    assert "eval_test.json' is a folder" in warnings[0]
    (checkpoint / "eval_test.json").rmdir()


def test_an_unconverted_folder_is_one_line(phiv_eval: Any, tmp_path: Path) -> None:
    code, _, warnings = phiv_eval("--data_dir", tmp_path, "--model_name_or_path", "tiny")
    assert (code, len(warnings)) == (1, 1)
    assert "has no manifest.json" in warnings[0]


def test_a_processor_needs_no_weights(checkpoint: Path, tmp_path: Path) -> None:
    for file in checkpoint.glob("*.json"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    source = find_source(str(tmp_path))
    assert load_processor(source).spec_hash == load_model(find_source(str(checkpoint)))[1].spec_hash
    assert load_processor(source, image_options={"num_crops": "1"}).num_crops == 1
