"""Adapters and checkpoints of other programs, and ours in them (older versions: benchmarks/adapter_interchange.py)."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from training import run

from phiv_schemas.errors import UsageError
from phiv_train.checkpoints.base_stamp import stamp_base
from phiv_train.checkpoints.load import load_model
from phiv_train.checkpoints.resolve import find_source
from phiv_train.checkpoints.weights import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from phiv_train.cli import eval as cli_eval
from phiv_train.families.base import get_family
from phiv_train.families.hub import model_folder

TINY = get_family("tiny")
LORA: dict[str, Any] = {"max_steps": 2, "save_steps": 1, "use_lora": True, "lora_rank": 4}
# Of peft 0.11.1's LoraConfig: it refuses any other.
KEYS_OF_PEFT_0_11 = set(
    """alpha_pattern auto_mapping base_model_name_or_path bias fan_in_fan_out inference_mode init_lora_weights
    layer_replication layers_pattern layers_to_transform loftq_config lora_alpha lora_dropout megatron_config
    megatron_core modules_to_save peft_type r rank_pattern revision target_modules task_type use_dora
    use_rslora""".split()  # noqa: SIM905 (a line each would be a screen)
)
RECIPE_TARGETS = [
    "qkv_proj",
    "o_proj",
    "down_proj",
    "gate_up_proj",
    "lm_head",
    "q_proj",
    "k_proj",
    "v_proj",
    "out_proj",
]
RECIPE_TARGETS += ["fc1", "fc2", "img_projection.0", "img_projection.2"]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint to train adapters on."""
    folder = tmp_path_factory.mktemp("base")
    TINY.save(*TINY.load("tiny"), folder)
    return folder


@pytest.fixture(scope="module")
def adapter_run(demo: Path, base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of an adapter on it."""
    folder = tmp_path_factory.mktemp("adapter")
    run(demo, folder, **LORA, model_name_or_path=str(base))
    return folder


# -- ours in others ----------------------------------------------------------------------------------------------------
def test_an_adapter_says_what_every_peft_knows(adapter_run: Path) -> None:
    written = json.loads((adapter_run / "final" / ADAPTER_CONFIG).read_text())
    assert set(written) <= KEYS_OF_PEFT_0_11
    assert (written["peft_type"], written["r"], written["lora_alpha"]) == ("LORA", 4, 8)


def test_an_adapter_folder_says_what_ends_an_answer(adapter_run: Path) -> None:
    written = json.loads((adapter_run / "final/generation_config.json").read_text())
    _, processor = load_model(find_source("tiny"))
    assert written["eos_token_id"] == list(processor.stop_ids)


def test_peft_merges_an_adapter(adapter_run: Path, base: Path, tmp_path: Path) -> None:
    from peft import PeftModel

    loaded, processor = load_model(find_source(str(adapter_run / "final")))
    with pytest.raises(UsageError, match="phiv-merge ADAPTER --out FOLDER"):
        TINY.save(loaded, processor, tmp_path)
    plain, _ = TINY.load(str(base))
    merged = PeftModel.from_pretrained(plain, str(adapter_run / "final")).merge_and_unload()
    TINY.save(merged, processor, tmp_path)
    again, _ = TINY.load(str(tmp_path))
    ids = torch.tensor([[1, *range(300, 320)]])
    with torch.no_grad():
        assert torch.allclose(again(ids).logits, loaded(ids).logits, atol=1e-5)


# -- others in ours ----------------------------------------------------------------------------------------------------
def recipe_adapter(base: Path, folder: Path) -> dict[str, torch.Tensor]:
    """An adapter as the recipe saves one: targets by suffix, none on CLIP's last layer, the base's head beside them."""
    from peft import LoraConfig, get_peft_model

    model, _ = TINY.load(str(base))
    clip: Any = model.model.vision_embed_tokens.img_processor.vision_model
    del clip.encoder.layers[-1]
    config = LoraConfig(r=4, lora_alpha=8, target_modules=RECIPE_TARGETS, init_lora_weights="gaussian")
    wrapped = get_peft_model(model, config)
    torch.manual_seed(3)
    for name, parameter in wrapped.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    wrapped.save_pretrained(str(folder), save_embedding_layers=True)
    written = json.loads((folder / ADAPTER_CONFIG).read_text())
    written |= {"base_model_name_or_path": str(base), "a_key_of_tomorrow": None}
    (folder / ADAPTER_CONFIG).write_text(json.dumps(written))
    return load_file(folder / ADAPTER_WEIGHTS)


@pytest.mark.filterwarnings("ignore:Unexpected keyword arguments", "ignore:Could not find a config file")
def test_the_recipes_own_adapter_loads(base: Path, tmp_path: Path) -> None:
    tensors = recipe_adapter(base, tmp_path)
    loaded = load_model(find_source(str(tmp_path)))[0].state_dict()
    for name, tensor in tensors.items():
        ours = name.removeprefix("base_model.model.").replace(".lora_A.", ".lora_A.default.")
        assert torch.equal(loaded[ours.replace(".lora_B.", ".lora_B.default.")], tensor)
    assert sum(".lora_" in name for name in loaded) == sum(".lora_" in name for name in tensors) == 46


def idle(name: str) -> bool:
    return "encoder.layers.2." in name or "post_layernorm" in name


def test_a_checkpoint_without_the_layers_that_never_run_loads(base: Path, tmp_path: Path) -> None:
    shutil.copytree(base, tmp_path / "merged")
    file = tmp_path / "merged/model.safetensors"
    tensors = load_file(file)
    save_file({name: t for name, t in tensors.items() if not idle(name)}, file, {"format": "pt"})
    loaded = TINY.load(str(tmp_path / "merged"))[0].state_dict()
    assert sum(map(idle, tensors)) == 18
    assert all(torch.equal(loaded[name], t * (not idle(name))) for name, t in tensors.items())
    save_file({n: t for n, t in tensors.items() if "encoder.layers.2.mlp" not in n}, file, {"format": "pt"})
    with pytest.raises(UsageError, match="4 tensors missing"):  # damaged, not deleted on purpose
        TINY.load(str(tmp_path / "merged"))


def test_an_adapter_of_another_kind_is_refused(adapter_run: Path, tmp_path: Path) -> None:
    shutil.copytree(adapter_run / "final", tmp_path / "adapter")
    written = json.loads((tmp_path / "adapter" / ADAPTER_CONFIG).read_text())
    (tmp_path / "adapter" / ADAPTER_CONFIG).write_text(json.dumps({**written, "target_modules": ["no_such"]}))
    with pytest.raises(UsageError, match=r"adapter_config\.json: cannot be read \(.*no_such"):
        load_model(find_source(str(tmp_path / "adapter")))
    (tmp_path / "adapter" / ADAPTER_CONFIG).write_text("[" * 100_000)
    with pytest.raises(UsageError, match=r"adapter_config\.json: is not a JSON object \(it is nested too deeply\)"):
        find_source(str(tmp_path / "adapter"))


# -- the base ----------------------------------------------------------------------------------------------------------
def change_one_tensor(base: Path, folder: Path, name: str) -> Path:
    """A copy of a checkpoint in which a number of one tensor differs."""
    shutil.copytree(base, folder)
    tensors = load_file(folder / "model.safetensors")
    tensors[name].flatten()[-1] += 1
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return folder


def test_the_stamp_of_a_base_is_of_its_weights_not_of_its_files(base: Path, tmp_path: Path) -> None:
    stamp = stamp_base(str(base))
    model, _ = TINY.load(str(base))
    model.save_pretrained(tmp_path / "sharded", max_shard_size="200KB")
    assert len(list((tmp_path / "sharded").glob("model-*.safetensors"))) > 2
    assert stamp_base(str(tmp_path / "sharded")) == stamp
    shutil.copytree(base, tmp_path / "pickled")
    torch.save(load_file(base / "model.safetensors"), tmp_path / "pickled/pytorch_model.bin")
    (tmp_path / "pickled/model.safetensors").unlink()
    assert stamp_base(str(tmp_path / "pickled")) == stamp
    for name in ("lm_head.weight", "model.norm.weight"):
        assert stamp_base(str(change_one_tensor(base, tmp_path / name, name))) != stamp
    assert stamp_base("tiny") != stamp_base("tiny:7")


def test_an_adapter_on_a_base_that_changed_is_not_resumed_and_scored_with_a_line(
    demo: Path, adapter_run: Path, base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    changed = change_one_tensor(base, tmp_path / "changed", "model.norm.weight")
    shutil.copytree(adapter_run, tmp_path / "run")
    for file in (tmp_path / "run").rglob("*.json"):
        file.write_text(file.read_text().replace(str(base), str(changed)))
    checkpoint = tmp_path / "run/checkpoint-1"
    words = ["--model_name_or_path", str(tmp_path / "run/final"), "--data_dir", str(demo), "--limit", "1"]
    monkeypatch.setattr(sys, "argv", ["phiv-eval", *words, "--max_new_tokens", "1", "--device", "cpu"])
    assert cli_eval.main() == 0
    assert f"was trained on other weights than {changed} has" in capsys.readouterr().err
    shutil.rmtree(tmp_path / "run")
    shutil.copytree(adapter_run / "checkpoint-1", checkpoint)
    tensors = base / "model.safetensors"
    before = tensors.read_bytes()
    try:
        shutil.copyfile(changed / "model.safetensors", tensors)
        with pytest.raises(UsageError, match=r"checkpoint-1: was trained on other weights than '.*' has now"):
            run(demo, tmp_path / "run", **LORA, model_name_or_path=str(base))
    finally:
        tensors.write_bytes(before)


# -- names and numbers that are no model -------------------------------------------------------------------------------
def test_the_folder_of_a_run_stands_for_its_final_model(adapter_run: Path, tmp_path: Path) -> None:
    final = find_source(str(adapter_run / "final"))
    assert final.adapter == adapter_run / "final"
    assert find_source(str(adapter_run)) == final
    assert find_source("tiny", adapter=adapter_run).adapter == final.adapter
    saved = TINY.load_processor(str(adapter_run / "final")).spec_hash  # as phiv-validate --tokenizer does
    assert TINY.load_processor(str(adapter_run)).spec_hash == saved
    with pytest.raises(UsageError, match="its name is empty"):
        find_source("")
    for seconds, name in enumerate(("final", "checkpoint-9", "checkpoint-10"), start=1):  # final/ of an earlier run
        (tmp_path / name).mkdir()
        (tmp_path / name / "phiv_checkpoint.json").touch()
        os.utime(tmp_path / name / "phiv_checkpoint.json", (seconds, seconds))
    with pytest.raises(UsageError, match=r"has not finished\. Its newest checkpoint is .*checkpoint-10"):
        find_source(str(tmp_path))
    os.utime(tmp_path / "final/phiv_checkpoint.json", (9, 9))
    (tmp_path / "checkpoint-10/eval_val.json").touch()  # an evaluation of it, later
    assert model_folder(tmp_path) == tmp_path / "final"


def test_weights_that_are_no_numbers_are_refused(demo: Path, adapter_run: Path, base: Path, tmp_path: Path) -> None:
    """As a base of an evaluation or a training, as an adapter, and in a checkpoint to resume from."""
    broken = tmp_path / "base"
    shutil.copytree(base, broken)
    tensors = load_file(broken / "model.safetensors")
    tensors["model.norm.weight"][3] = float("nan")
    tensors["lm_head.weight"][0, 0] = float("inf")
    save_file(tensors, broken / "model.safetensors", {"format": "pt"})
    with pytest.raises(UsageError, match=r"base: 2 of 76 tensors hold NaN or infinity \(first '"):
        load_model(find_source(str(broken)))
    with pytest.raises(UsageError, match="hold NaN"):
        run(demo, tmp_path / "out", max_steps=1, model_name_or_path=str(broken))
    shutil.copytree(adapter_run / "final", tmp_path / "adapter")
    tensors = load_file(tmp_path / "adapter" / ADAPTER_WEIGHTS)
    next(iter(tensors.values())).fill_(float("nan"))
    save_file(tensors, tmp_path / "adapter" / ADAPTER_WEIGHTS)
    with pytest.raises(UsageError, match=r"adapter: 1 of 46 tensors hold NaN"):
        load_model(find_source(str(tmp_path / "adapter")))
