"""`phiv-train` from the command line: training, evaluation, logs, dry run."""

from __future__ import annotations

import json
import os
import pty
import shutil
import subprocess
import sys
import termios
from contextlib import suppress
from pathlib import Path

import pytest
from eval_data import ask, make_dataset
from training import STRATEGIES, call, environment, flags, losses, settings

from phiv_converters.own_jsonl.options import JsonlOptions
from phiv_converters.ucf101.options import Ucf101Options
from phiv_data.convert.engine import convert
from phiv_data.storage.dataset import ConversationDataset
from phiv_train.cli import eval as cli_eval
from phiv_train.config import TrainConfig
from phiv_train.families.tiny import FAMILY, build_tiny
from phiv_train.presets import PRESETS, preset_settings
from phiv_train.training.dry_run import report


def test_one_command_trains_evaluates_and_logs(
    demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    mini = make_dataset(tmp_path / "mini", [("val", (ask(colour),)) for colour in ("Red", "Blue", "Red", "Green")])
    changes = {"max_steps": 2, "eval": True, "max_new_tokens": 4, "max_eval_rows": 3, "tqdm": True}
    words = flags(settings(demo, tmp_path, eval_data_dir=mini, **changes))
    assert call(monkeypatch, *words) == 0
    out, err = capsys.readouterr()
    assert [line.split(":")[0] for line in out.splitlines()] == ["eval_before.json", "eval_after.json"]
    assert "2 steps of 6 packs" in err
    steps = [line for line in err.splitlines() if line.startswith("phiv-train: step ")]
    assert [line.partition(": loss ")[0] for line in steps] == ["phiv-train: step 1 of 2", "phiv-train: step 2 of 2"]
    assert "tokens/s, 0 min left" in steps[-1]
    assert (
        err.splitlines()[-1]
        == f"phiv-train: 2 steps done. Ask it: phiv-predict --model {tmp_path} IMAGE --question TEXT"
    )
    report = json.loads((tmp_path / "eval_after.json").read_text())
    assert len(report["generated_texts_unique"]) == len(report["answers_unique"]) == 3
    assert "accuracy" in report
    assert {answer["answer"] for answer in report["answers_unique"]} == {"Red", "Blue", "Green"}
    assert report["settings"]["data_dir"] == str(mini)  # not the set that it trains on
    assert sorted(losses(tmp_path)) == [1, 2]
    before = (tmp_path / "eval_before.json").stat().st_mtime_ns
    assert call(monkeypatch, *words) == 0
    assert (tmp_path / "eval_before.json").stat().st_mtime_ns == before


def test_a_terminal_has_a_bar_in_place_of_lines(demo: Path, tmp_path: Path) -> None:
    master, terminal = pty.openpty()
    termios.tcsetwinsize(terminal, (24, 100))
    words = flags(settings(demo, tmp_path, max_steps=2, tqdm=True))
    command = [sys.executable, "-m", "phiv_train.cli.train", *words]
    with subprocess.Popen(command, env=environment(), stdout=subprocess.DEVNULL, stderr=terminal) as process:
        os.close(terminal)
        shown = b""
        with suppress(OSError):  # Linux ends the reading of a terminal without writers so
            while part := os.read(master, 1 << 16):
                shown += part
    os.close(master)
    assert process.returncode == 0, shown
    assert b"train: 100%" in shown
    assert b"step 1 of 2" not in shown


def test_list_recipes_shows_the_presets(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(monkeypatch, "--list_recipes") == 0
    assert "docvqa-lora" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["full", "lora"])
def test_a_dry_run_plans_as_the_run_would_and_writes_nothing(
    demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    FAMILY.save(*build_tiny(), tmp_path / "model")
    (tmp_path / "model/model.safetensors").unlink()  # so that loading weights would fail
    config = settings(demo, tmp_path / "out", dry_run=True, max_steps=2, **STRATEGIES[name])
    config = config.model_copy(update={"model_name_or_path": str(tmp_path / "model")})
    assert call(monkeypatch, *flags(config)) == 0
    out = capsys.readouterr().out
    for line in ("24 rows", "2 (4 per epoch)", "worst batch", "part ", "memory (estimate)", f"* {name}"):
        assert line in out, out
    assert not (tmp_path / "out").exists()


def test_a_dry_run_of_the_real_model_needs_its_json_files_only(
    demo: Path, shared: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = str(shared / "phi-3.5-vision")
    words = f"--data_dir {demo} --model_name_or_path {model} --dry_run --use_lora --bf16 --device cpu"
    assert call(monkeypatch, *words.split()) == 0
    out = capsys.readouterr().out
    assert "130,895,872" in out
    rows = [line[2:].split() for line in out.split("memory (estimate)")[1].splitlines()[1:]]
    totals = {row[0]: float(row[-2]) for row in rows}
    assert totals["qlora"] < totals["lora"] < totals["frozen"] < totals["full"]
    assert totals["full"] > 16 * 4.1  # weights, gradients and two averages in float32


def test_every_preset_is_planned_on_a_machine_without_a_gpu(demo: Path, tmp_path: Path) -> None:
    for name in PRESETS:
        settings_of = preset_settings(name) | {"model_name_or_path": "tiny", "num_crops": 1, "dry_run": True}
        text = report(TrainConfig(data_dir=demo, output_dir=tmp_path / "out", **settings_of))
        assert "worst batch" in text
        assert ("not here     --use_flash_attention: " in text) == bool(settings_of.get("use_flash_attention"))
    assert not (tmp_path / "out").exists()


def test_without_the_models_files_the_rest_is_planned(
    demo: Path, shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("huggingface_hub.snapshot_download", offline)
    words = f"--recipe docvqa-qlora --data_dir {demo} --output_dir {tmp_path / 'out'} --dry_run"
    assert call(monkeypatch, *words.split()) == 0
    offline_out = capsys.readouterr().out
    assert f"{demo} train: 24 rows" in offline_out
    assert "steps        about 2," in offline_out
    assert "not planned  lengths, packs and activations: microsoft/Phi-3.5-vision-instruct: " in offline_out
    assert call(monkeypatch, *words.split(), "--model_name_or_path", str(shared / "phi-3.5-vision")) == 0
    table = capsys.readouterr().out.split("part ")[1].split("\nmemory")[0]
    assert table in offline_out  # of the published config.json


def test_a_model_that_nothing_is_known_of_is_not_planned(
    demo: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("huggingface_hub.snapshot_download", offline)
    words = f"--data_dir {demo} --model_name_or_path some/model --family phi3_vision --dry_run"
    assert call(monkeypatch, *words.split()) == 3
    assert capsys.readouterr().err.startswith("phiv-train: some/model: no such folder, and the hub does not give it")


def offline(*_: object, **__: object) -> str:
    raise OSError("no network")


def test_a_step_of_bad_rows_does_not_end_a_run_that_skips_them(
    demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(demo, tmp_path / "demo")
    data = ConversationDataset(tmp_path / "demo", "train")
    row = data[0]
    (shard,) = (tmp_path / "demo").glob("arrow/train/*.arrow")
    content = shard.read_bytes()
    for pil_image in {image.data for image in row.images}:
        content = content.replace(pil_image, bytes(len(pil_image)))
    shard.write_bytes(content)
    words = f"--data_dir {tmp_path / 'demo'} --model_name_or_path tiny --output_dir {tmp_path / 'out'} --no_eval"
    words += " --batch_size 1 --num_train_epochs 1 --learning_rate 1e-3"
    assert call(monkeypatch, *words.split()) == 1  # reported; nothing is skipped unless asked for
    assert call(monkeypatch, *words.split(), "--on_bad", "skip", "--resume", "never") == 0
    assert "has no answer to learn from: all of its rows are bad" in capfd.readouterr().err
    bad = [json.loads(line)["id"] for line in (tmp_path / "out/bad_rows.jsonl").read_text().splitlines()]
    assert row.id in bad


def test_an_adapter_on_a_base_of_a_relative_path_works_from_anywhere(
    demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    FAMILY.save(*build_tiny(), tmp_path / "base")
    monkeypatch.chdir(tmp_path)
    words = f"--data_dir {demo} --model_name_or_path base --output_dir out --use_lora --max_steps 1 --no_eval"
    assert call(monkeypatch, *words.split()) == 0
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    words = f"--model_name_or_path {tmp_path / 'out/final'} --data_dir {demo} --limit 1 --max_new_tokens 2"
    monkeypatch.setattr(sys, "argv", ["phiv-eval", *words.split()])
    assert cli_eval.main() == 0, capsys.readouterr().err


def test_adapter_settings_without_adapters_are_reported(
    demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = f"--data_dir {demo} --model_name_or_path tiny --output_dir {tmp_path / 'out'} --no_eval --max_steps 1"
    assert call(monkeypatch, *words.split(), "--lora_rank", "8") == 0
    assert "--lora_rank does nothing without --use_lora or --use_qlora" in capsys.readouterr().err


def test_without_images_no_image_part_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    turns = '"conversations": [{"images": [], "user": "Which?", "assistant": "yes"}]'
    rows = "".join(f'{{"id": "r{i}", "source": "t", {turns}}}\n' for i in range(8))
    (tmp_path / "train.jsonl").write_text(rows + rows.replace('"yes"', "null").replace('"r', '"u'))
    convert(JsonlOptions(tmp_path / "train.jsonl"), tmp_path / "data", num_workers=0, include_unlabeled=True)
    words = (
        f"--data_dir {tmp_path / 'data'} --model_name_or_path tiny --output_dir {tmp_path / 'out'} --no_eval --wd 0.5"
    )
    assert call(monkeypatch, *words.split(), "--max_steps", "2", "--batch_size", "4", "--on_bad", "skip") == 0
    assert "no row has an image: vision, projector are frozen" in capsys.readouterr().err
    bad = [json.loads(line) for line in (tmp_path / "out/bad_rows.jsonl").read_text().splitlines()]
    assert [row["id"] for row in bad] == [f"u{i}" for i in range(8)]


@pytest.mark.soak
def test_the_demo_is_learned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the README promises, on the set phiv-convert ucf101 --demo makes."""
    convert(Ucf101Options(demo=True), tmp_path / "demo", num_workers=1)
    words = f"--recipe demo-full --data_dir {tmp_path / 'demo'} --output_dir {tmp_path / 'out'}"
    assert call(monkeypatch, *words.split()) == 0
    scores = [json.loads((tmp_path / f"out/eval_{w}.json").read_text())["accuracy"] for w in ("before", "after")]
    assert scores[0] <= 0.3
    assert scores[1] >= 0.9
