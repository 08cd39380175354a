"""`phiv-train` from the command line: strategies, what is saved, dry run, bad input in one line, no dead setting."""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from training import distance, final, flags, losses, run, settings

from phiv_data.storage.dataset import ConversationDataset
from phiv_schemas.errors import EnvironmentProblem, UsageError
from phiv_train.checkpoints.resolve import find_source, load_model
from phiv_train.cli import config as config_cli
from phiv_train.cli import train as cli_train
from phiv_train.config import FREE_ON_RESUME, TrainConfig
from phiv_train.training import run as run_module
from phiv_train.training import setup

bitsandbytes = pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is None, reason="needs bitsandbytes")
STRATEGIES: dict[str, dict[str, Any]] = {
    "full": {},
    "frozen": {"freeze_vision_model": True},
    "lora": {"use_lora": True, "lora_rank": 4},
    "qlora": {"use_qlora": True, "lora_rank": 4},
}


def call(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["phiv-train", *words])
    return cli_train.main()


# -- strategies --------------------------------------------------------------------------------------------------------
@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The models of the runs of a test, as they were saved."""
    models: list[Any] = []
    save = run_module._save_final
    monkeypatch.setattr(run_module, "_save_final", lambda p, t: (models.append(t._plain_model), save(p, t))[1])
    return models


@pytest.mark.parametrize("name", [n if n != "qlora" else pytest.param(n, marks=bitsandbytes) for n in STRATEGIES])
def test_a_strategy_runs_and_its_final_folder_alone_gives_the_same_logits(
    demo: Path, tmp_path: Path, trained: list[Any], name: str
) -> None:
    run(demo, tmp_path, max_steps=2, **STRATEGIES[name])
    source = find_source(str(tmp_path / "final"))
    loaded, processor = load_model(source, quantization="4bit" if name == "qlora" else None)
    sample = ConversationDataset(demo, "val")[0]
    from phiv_train.families.base import get_family

    family = get_family("tiny")
    encoded = family.encode(sample.conversation, [image.open() for image in sample.images], processor)
    batch = family.collate([encoded], processor)
    with torch.no_grad():
        assert torch.equal(loaded(**batch).logits, trained[0].eval()(**batch).logits)
    assert (source.adapter is not None) == name.endswith("lora")
    moved = distance_from_start(tmp_path) if name in ("full", "frozen") else {"lora"}
    assert ("model.embed_tokens.weight" in moved) == (name == "full")


def distance_from_start(folder: Path) -> set[str]:
    """Names of the tensors that training changed."""
    from phiv_train.families.base import get_family

    model, _ = get_family("tiny").load("tiny")
    before, after = model.state_dict(), final(folder)
    return {name for name in after if not torch.equal(before[name], after[name])}


@bitsandbytes
def test_qlora_has_a_base_in_4_bit_in_the_language_part_only(demo: Path, tmp_path: Path, trained: list[Any]) -> None:
    run(demo, tmp_path, max_steps=1, **STRATEGIES["qlora"])
    modules = dict(trained[0].named_modules())
    packed = {name.removesuffix(".base_layer") for name, m in modules.items() if type(m).__name__ == "Linear4bit"}
    assert packed == {name for name in packed if name.startswith("model.layers.")}
    assert len(packed) == 8
    weight = modules["model.layers.0.mlp.down_proj.base_layer"].weight
    assert weight.dtype == torch.uint8
    assert all(p.dtype == torch.float32 for p in trained[0].parameters() if p.requires_grad)


def test_bfloat16_on_a_cpu_keeps_trained_weights_in_float32(demo: Path, tmp_path: Path, trained: list[Any]) -> None:
    run(demo, tmp_path / "full", max_steps=2, bf16=True)
    run(demo, tmp_path / "lora", max_steps=2, bf16=True, use_lora=True, lora_rank=4)
    full, lora = trained
    assert {p.dtype for p in full.parameters()} == {torch.float32}
    assert {p.dtype for p in lora.parameters() if p.requires_grad} == {torch.float32}
    assert {p.dtype for p in lora.parameters() if not p.requires_grad} == {torch.bfloat16}
    assert distance(final(tmp_path / "full"), run(demo, tmp_path / "exact", max_steps=2)) < 0.05


# -- the command -------------------------------------------------------------------------------------------------------
def test_one_command_trains_evaluates_and_logs(
    demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = flags(settings(demo, tmp_path, max_steps=2, eval=True, max_new_tokens=4, max_eval_rows=3, tqdm=True))
    assert call(monkeypatch, *words) == 0
    out, err = capsys.readouterr()
    assert [line.split(":")[0] for line in out.splitlines()] == ["eval_before.json", "eval_after.json"]
    assert "2 steps of 6 packs" in err
    assert "step/s" in err or "s/step" in err
    report = json.loads((tmp_path / "eval_after.json").read_text())
    assert len(report["generated_texts_unique"]) == len(report["answers_unique"]) == 3
    assert "accuracy" in report
    assert sorted(losses(tmp_path)) == [1, 2]
    before = (tmp_path / "eval_before.json").stat().st_mtime_ns
    assert call(monkeypatch, *words) == 0
    assert (tmp_path / "eval_before.json").stat().st_mtime_ns == before


def test_list_recipes(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(monkeypatch, "--list_recipes") == 0
    assert "docvqa-lora" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["full", "lora"])
def test_a_dry_run_plans_as_the_run_would_and_writes_nothing(
    demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    monkeypatch.setattr(run_module, "_load", lambda _: pytest.fail("weights were loaded"))
    config = settings(demo, tmp_path / "out", dry_run=True, max_steps=2, **STRATEGIES[name])
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


# -- bad input ---------------------------------------------------------------------------------------------------------
def broken(demo: Path, tmp_path: Path, change: str) -> Path:
    """A copy of the set with something wrong."""
    folder = tmp_path / "data"
    shutil.copytree(demo, folder)
    shard = next((folder / "arrow/train").glob("*.arrow"))
    if change == "unfinished":
        (folder / "manifest.json").unlink()
    elif change == "cut":
        shard.write_bytes(shard.read_bytes()[:-100])
    elif change == "flipped":
        data = bytearray(shard.read_bytes())
        data[len(data) // 2] ^= 255
        shard.write_bytes(bytes(data))
    return folder


@pytest.mark.parametrize(
    ("change", "words", "line", "code"),
    [
        ("unfinished", "", "has no manifest.json: not a converted dataset, or unfinished", 1),
        ("cut", "", "was cut or changed", 1),
        ("flipped", "--verify sha256", "was changed: its sha256 is not the manifest's", 1),
        ("", "--train_split trian", "no split 'trian' (found: train, val, test)", 1),
        ("", "--max_length 60", "over max_length 60", 1),
        ("", "--model_name_or_path nowhere/at/all", "no such folder, and not a hub id", 2),
        ("", "--family tinny", "--family: no family 'tinny'", 2),
        ("", "--batch_size 5 --no_packing --batch_size_per_gpu 2", "--batch_size: 5 rows do not divide", 2),
        ("", "--freeze visoin", "--freeze: no part 'visoin'", 2),
        ("", "--precision float16 --device cpu", "--precision: float16 needs a GPU", 2),
        ("", "--bf16 --use_flash_attention --device cpu", "--use_flash_attention: ", 3),
        ("", "--precision float16 --use_flash_attention", "float16 does not work with use_flash_attention", 2),
        ("", "--lora_rank 0", "lora_rank: input should be greater than or equal to 1", 2),
        ("", "--resume nowhere", "nowhere: no such checkpoint", 2),
        ("", "--distributed fsdp2", "--distributed fsdp2: needs several processes", 2),
    ],
)
def test_bad_input_is_one_line(
    demo: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    *,
    change: str,
    words: str,
    line: str,
    code: int,
) -> None:
    config = settings(broken(demo, tmp_path, change) if change else demo, tmp_path / "out")
    assert call(monkeypatch, *flags(config), *words.split()) == code
    err = capsys.readouterr().err
    problem = [text for text in err.splitlines() if text.startswith("phiv-train: ")]
    assert line in problem[-1], err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("package", "changes", "line"),
    [
        ("bitsandbytes", {"use_qlora": True}, "--use_qlora: the bitsandbytes package is missing. Install phiv[gpu]"),
        ("peft", {"use_lora": True}, "--use_lora: the peft package is missing"),
        ("flash_attn", {"use_flash_attention": True}, "--use_flash_attention: the flash-attn package is missing"),
    ],
)
def test_a_missing_package_is_one_line(
    monkeypatch: pytest.MonkeyPatch, package: str, changes: dict[str, Any], line: str
) -> None:
    monkeypatch.setattr(setup, "_installed", lambda name: name != package)
    with pytest.raises(EnvironmentProblem) as caught:
        setup.check_precision(TrainConfig(data_dir=Path(), **changes), on_gpu=False)
    assert line in str(caught.value)


def test_a_row_without_answers_is_named(tmp_path: Path) -> None:
    from mixed_data import Exchange, Mixed

    from phiv_data.convert.engine import convert

    rows = tuple(((Exchange(assistant=answer),), None) for answer in ("yes", None))
    convert(Mixed(rows=rows), tmp_path / "data", num_workers=1, include_unlabeled=True)
    with pytest.raises(Exception, match="1 of 2 rows of 'train' cannot be trained on: 1 without an answer"):
        run(tmp_path / "data", tmp_path / "out")


def test_an_adapter_is_no_base(demo: Path, tmp_path: Path) -> None:
    run(demo, tmp_path, max_steps=1, **STRATEGIES["lora"])
    with pytest.raises(UsageError, match=r"is an adapter, not a model\. Pass its base, 'tiny'"):
        run(demo, tmp_path / "again", model_name_or_path=str(tmp_path / "final"))


# -- no dead setting ---------------------------------------------------------------------------------------------------
def test_every_setting_is_read_by_a_run(demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reads of every field are counted while the command runs; saving and comparing the whole does not count."""
    read: set[str] = set()

    class Watched(TrainConfig):
        def __getattribute__(self, name: str) -> Any:
            read.add(name)
            return super().__getattribute__(name)

    def watched(words: Any) -> TrainConfig:
        values = parse(words).__dict__
        return Watched.model_construct(**values)

    parse = config_cli.parse
    monkeypatch.setattr(config_cli, "parse", watched)
    lora = settings(demo, tmp_path / "a", max_steps=1, eval=True, max_new_tokens=2, max_eval_rows=1, tqdm=True)
    for changes in (STRATEGIES["lora"], {"packing": False}, {"dry_run": True}):
        changed = lora.model_copy(update={**changes, "output_dir": tmp_path / str(len(changes))})
        assert cli_train._main([*flags(changed), "--resume", "never"]) == 0
    assert set(TrainConfig.model_fields) - read == set()


EFFECTS: dict[str, Any] = {
    "model_name_or_path": "tiny:1",
    "train_split": "val",
    "max_train_rows": 7,
    "batch_size": 3,
    "packing": False,
    "max_length": 300,
    "packs_per_step": 2,
    "max_image_tokens": 26,
    "num_crops": 4,
    "num_train_epochs": 2,
    "max_steps": 1,
    "seed": 1,
    "learning_rate": 1e-3,
    "part_learning_rates": {"vision": 1e-4},
    "wd": 0.5,
    "adam_beta1": 0.5,
    "adam_beta2": 0.5,
    "adam_epsilon": 1e-2,
    "max_grad_norm": 0.01,
    "lr_scheduler": "constant",
    "warmup_steps": 2,
    "use_lora": True,
    "freeze_vision_model": True,
    "freeze": ("vision",),
    "bf16": True,
    "precision": "bfloat16",
}
LORA_EFFECTS: dict[str, Any] = {
    "lora_rank": 2,
    "lora_alpha_ratio": 4.0,
    "lora_alpha": 3,
    "lora_dropout": 0.5,
    "lora_parts": ("head",),
}
# What these do is shown by tests of their own: family and use_qlora above, on_too_long and on_bad in test_lengths and
# test_data, flash attention needs a GPU, full_train below.
_BASE: dict[str, Any] = {"max_train_rows": 12, "max_length": 200}  # two rows in a pack
ELSEWHERE = {"family", "use_qlora", "on_too_long", "on_bad", "use_flash_attention", "full_train"}


@pytest.fixture(scope="module")
def plain(demo: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folders = {"full": tmp_path_factory.mktemp("full"), "lora": tmp_path_factory.mktemp("lora")}
    for name, folder in folders.items():
        run(demo, folder, **STRATEGIES[name], **_BASE)
    return folders


@pytest.mark.parametrize("name", [*EFFECTS, *LORA_EFFECTS])
def test_a_setting_of_the_law_changes_what_comes_out(
    demo: Path, tmp_path: Path, plain: dict[str, Path], name: str
) -> None:
    kind = "lora" if name in LORA_EFFECTS else "full"
    value = (EFFECTS | LORA_EFFECTS)[name]
    changed = run(demo, tmp_path, **STRATEGIES[kind] | _BASE | {name: value})
    before = final(plain[kind])
    same_names = changed.keys() == before.keys()
    assert not same_names or any(
        a.shape != b.shape or not torch.equal(a, b) for a, b in ((changed[n], before[n]) for n in before)
    )


def test_every_setting_of_the_law_has_such_a_test() -> None:
    law = set(TrainConfig.model_fields) - FREE_ON_RESUME
    assert law == set(EFFECTS) | set(LORA_EFFECTS) | ELSEWHERE


def test_full_train_takes_all_rows(demo: Path, tmp_path: Path) -> None:
    few = setup.prepare(settings(demo, tmp_path, max_train_rows=5))
    every = setup.prepare(settings(demo, tmp_path, max_train_rows=5, full_train=True))
    assert (len(few.fitted.rows), len(every.fitted.rows)) == (5, 24)


# -- sizes of steps ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("lengths", "changes", "world", "expected"),
    [
        ([100] * 64, {}, 1, (16, 100)),  # equal rows: as the recipe, one per forward pass
        ([100] * 64, {"batch_size_per_gpu": 4}, 2, (4, 409)),
        ([100] * 64, {"max_length": 150}, 1, (16, 103)),  # no room for two
        ([100] * 64, {"batch_size": 8}, 4, (8, 103)),
        ([10, 20, 30, 100] * 16, {}, 1, (7, 100)),  # mixed: several rows per pass
        ([10, 20, 30, 100] * 16, {"packing": False, "batch_size_per_gpu": 2}, 2, (8, None)),
    ],
)
def test_a_step_takes_batch_size_rows(
    lengths: list[int], changes: dict[str, Any], world: int, expected: tuple[int, int | None]
) -> None:
    import numpy as np

    from phiv_train.batching.plan import make_plan

    config = TrainConfig(data_dir=Path(), **changes)
    tokens = np.array(lengths * 10)
    spec = setup.plan_spec(config, tokens, world)
    assert spec.packs_per_step == expected[0]
    assert expected[1] is None or abs((spec.max_tokens or 0) - expected[1]) <= 12
    rows = make_plan(tokens, np.zeros_like(tokens), spec).summary().rows_per_step
    assert abs(rows - config.batch_size) <= 0.1 * config.batch_size


def test_an_output_folder_that_cannot_be_is_one_line(
    demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    words = f"--data_dir {demo} --model_name_or_path tiny --output_dir {tmp_path / 'file'}"
    assert call(monkeypatch, *words.split()) == 2
    assert capsys.readouterr().err.startswith("phiv-train: --output_dir: ")
    assert call(monkeypatch, *words.split(), "--batch_size", "0") == 2
    assert capsys.readouterr().err == "phiv-train: batch_size: input should be greater than or equal to 1 (found 0)\n"


@pytest.mark.parametrize(
    ("flags", "code", "line"),
    [
        ("--report_to nosuch", 2, "phiv-train: --report_to: transformers knows no tracker 'nosuch'. It knows "),
        ("--report_to clearml", 3, "phiv-train: --report_to: the package of clearml is missing. pip install clearml"),
        (
            "--use_lora --lora_parts language --part_learning_rates vision 1e-3",
            2,
            "phiv-train: --part_learning_rates: nothing of part 'vision' is trained. Leave it out",
        ),
    ],
)
def test_what_cannot_train_is_one_line(
    demo: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    flags: str,
    code: int,
    line: str,
) -> None:
    words = f"--data_dir {demo} --model_name_or_path tiny --output_dir {tmp_path / 'out'} --no_eval --no-tqdm"
    assert call(monkeypatch, *words.split(), "--max_steps", "30", "--warmup_steps", "0", *flags.split()) == code
    assert any(found.startswith(line) for found in capsys.readouterr().err.splitlines())
    assert not (tmp_path / "out/final").exists()


@pytest.mark.parametrize("logging_steps", ["1", "100"])
def test_a_loss_that_is_no_number_ends_the_run_before_it_is_saved(
    demo: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    logging_steps: str,
) -> None:
    from phiv_train.families.tiny import FAMILY, build_tiny

    model, processor = build_tiny()
    model.lm_head.weight.data[0, 0] = float("nan")
    FAMILY.save(model, processor, tmp_path / "model")
    words = f"--data_dir {demo} --model_name_or_path {tmp_path / 'model'} --output_dir {tmp_path / 'out'} --no_eval"
    assert call(monkeypatch, *words.split(), "--max_steps", "2", "--logging_steps", logging_steps) == 2
    assert "phiv-train: training: the loss is not a finite number at step " in capsys.readouterr().err
    assert not [*(tmp_path / "out").glob("checkpoint-*"), *(tmp_path / "out").glob("final")]


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
    assert call(monkeypatch, *words.split()) == 1  # said, and nothing skipped, unless asked for
    assert call(monkeypatch, *words.split(), "--on_bad", "skip", "--resume", "never") == 0
    assert "has no answer to learn from: all of its rows are bad" in capfd.readouterr().err
    bad = [json.loads(line)["id"] for line in (tmp_path / "out/bad_rows.jsonl").read_text().splitlines()]
    assert row.id in bad


def test_an_adapter_on_a_base_of_a_relative_path_works_from_anywhere(
    demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from phiv_train.cli import eval as cli_eval
    from phiv_train.families.tiny import FAMILY, build_tiny

    FAMILY.save(*build_tiny(), tmp_path / "base")
    monkeypatch.chdir(tmp_path)
    words = f"--data_dir {demo} --model_name_or_path base --output_dir out --use_lora --max_steps 1 --no_eval"
    assert call(monkeypatch, *words.split()) == 0
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    words = f"--model_name_or_path {tmp_path / 'out/final'} --data_dir {demo} --limit 1 --max_new_tokens 2"
    monkeypatch.setattr(sys, "argv", ["phiv-eval", *words.split()])
    assert cli_eval.main() == 0, capsys.readouterr().err


def test_adapter_settings_without_adapters_are_said(
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
    from phiv_converters.own_jsonl.options import JsonlOptions
    from phiv_data.convert.engine import convert

    convert(JsonlOptions(tmp_path / "train.jsonl"), tmp_path / "data", num_workers=0, include_unlabeled=True)
    words = (
        f"--data_dir {tmp_path / 'data'} --model_name_or_path tiny --output_dir {tmp_path / 'out'} --no_eval --wd 0.5"
    )
    assert call(monkeypatch, *words.split(), "--max_steps", "2", "--batch_size", "4", "--on_bad", "skip") == 0
    assert "no row has an image: vision, projector are frozen" in capsys.readouterr().err
    bad = [json.loads(line) for line in (tmp_path / "out/bad_rows.jsonl").read_text().splitlines()]
    assert [row["id"] for row in bad] == [f"u{i}" for i in range(8)]


@pytest.mark.parametrize(("packing", "packs"), [(True, 10), (False, 10)])
def test_a_step_takes_no_more_than_all_rows(packing: bool, packs: int) -> None:
    import numpy as np

    config = TrainConfig(data_dir=Path(), packing=packing, batch_size=100_000)
    assert setup.plan_spec(config, np.full(10, 100), 1).packs_per_step == packs


@pytest.mark.soak
def test_the_demo_is_learnt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the README promises, on the set phiv-convert ucf101 --demo makes."""
    from phiv_converters.ucf101.options import Ucf101Options
    from phiv_data.convert.engine import convert

    convert(Ucf101Options(demo=True), tmp_path / "demo", num_workers=1)
    words = f"--recipe demo-full --data_dir {tmp_path / 'demo'} --output_dir {tmp_path / 'out'}"
    assert call(monkeypatch, *words.split()) == 0
    scores = [json.loads((tmp_path / f"out/eval_{w}.json").read_text())["accuracy"] for w in ("before", "after")]
    assert scores[0] <= 0.3
    assert scores[1] >= 0.9
