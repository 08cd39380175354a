"""phiv-merge: the merged checkpoint is base plus adapter, loads without phiv's help, and is proved or not written."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from phiv_schemas.errors import UsageError
from phiv_train.checkpoints.load import load_model
from phiv_train.checkpoints.resolve import find_source
from phiv_train.cli import merge as cli_merge
from phiv_train.families.base import get_family
from phiv_train.inference import merge as merge_module
from phiv_train.inference.merge import MergeFailed, merge
from phiv_train.inference.probes import compare, probe

TINY = get_family("tiny")
pytest.importorskip("bitsandbytes", reason="needs bitsandbytes")


def adapted_weights(adapter: Path, base: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """`base` plus (alpha / r) B A, written out."""
    config = json.loads((adapter / "adapter_config.json").read_text())
    tensors = load_file(adapter / "adapter_model.safetensors")
    out = dict(base)
    for name, down in tensors.items():
        if name.endswith("lora_A.weight"):
            target = name.removeprefix("base_model.model.").replace(".lora_A", "")
            up = tensors[name.replace("lora_A", "lora_B")]
            out[target] = base[target] + config["lora_alpha"] / config["r"] * (up.double() @ down.double()).float()
    return out


def test_merged_weights_are_base_plus_adapter(adapter_runs: dict[str, Path], tmp_path: Path) -> None:
    merged = merge(find_source(str(adapter_runs["lora"])), tmp_path / "m", precision="float32")
    base = TINY.load("tiny")[0].state_dict()
    expected = adapted_weights(adapter_runs["lora"] / "final", base)
    changed = [name for name in base if not torch.equal(expected[name], base[name])]
    assert merged.adapted == len(changed) > 20
    written = load_file(tmp_path / "m/model.safetensors")
    assert written.keys() == base.keys()
    for name, tensor in written.items():
        torch.testing.assert_close(tensor, expected[name], rtol=0, atol=1e-6)
    assert merged.proof.logits < 1e-4 < merged.proof.largest
    assert merged.rounded.logits == 0
    assert merged.proof.same_answers == merged.proof.answers == 3


@pytest.mark.parametrize("precision", ["bfloat16", "float16", "float32"])
def test_the_checkpoint_is_whole_and_in_the_precision_asked_for(
    adapter_runs: dict[str, Path], tmp_path: Path, precision: str
) -> None:
    merge(find_source(str(adapter_runs["lora"])), tmp_path / "m", precision=precision)
    tensors = load_file(tmp_path / "m/model.safetensors")
    assert {tensor.dtype for tensor in tensors.values()} == {getattr(torch, precision)}
    config = json.loads((tmp_path / "m/config.json").read_text())
    assert (config["torch_dtype"], config["use_cache"], config["model_type"]) == (precision, True, "phi3_v")
    names = {path.name for path in (tmp_path / "m").iterdir()}
    assert names == {
        *("config.json", "generation_config.json", "model.safetensors"),
        *("preprocessor_config.json", "tokenizer.json", "tokenizer_config.json"),
    }
    assert "chat_template" in json.loads((tmp_path / "m/tokenizer_config.json").read_text())
    apart, processor = load_model(find_source(str(adapter_runs["lora"])))
    model, own = load_model(find_source(str(tmp_path / "m"), family="tiny"), dtype="float32")
    assert own.spec_hash == processor.spec_hash
    tolerance = {"bfloat16": 0.1, "float16": 0.02, "float32": 1e-4}[precision]
    assert compare(probe(apart, TINY, processor), probe(model, TINY, own)).logits < tolerance


def test_an_adapter_trained_in_4_bit_asks_onto_which_weights(adapter_runs: dict[str, Path], tmp_path: Path) -> None:
    source = find_source(str(adapter_runs["qlora"]))
    with pytest.raises(UsageError, match=r"trained on a base in 4 bit.*--onto 4bit .*--onto original"):
        merge(source, tmp_path / "m")
    assert not (tmp_path / "m").exists()
    logits = {}
    for onto in ("original", "4bit"):
        merged = merge(source, tmp_path / onto, precision="float32", onto=onto)
        assert merged.proof.logits < 1e-4
        model, processor = load_model(find_source(str(tmp_path / onto), family="tiny"))
        logits[onto] = probe(model, TINY, processor)
    trained, processor = load_model(source, quantization="4bit")
    seen = probe(trained, TINY, processor)
    assert compare(seen, logits["4bit"]).logits < 1e-4  # the weights that the adapter saw
    assert compare(seen, logits["original"]).logits > 1e-2


def test_a_merge_that_would_be_another_model_is_not_written(
    adapter_runs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add = merge_module._add_into_base

    def add_wrongly(model: Any) -> int:
        count = add(model)
        with torch.no_grad():
            model.lm_head.weight[:] *= 1.01
        return count

    monkeypatch.setattr(merge_module, "_add_into_base", add_wrongly)
    with pytest.raises(MergeFailed, match="it is another model: logits differ by"):
        merge(find_source(str(adapter_runs["lora"])), tmp_path / "m")
    assert list(tmp_path.iterdir()) == []


def test_what_another_tool_trained_whole_is_written_under_its_own_name(
    adapter_runs: dict[str, Path], tmp_path: Path
) -> None:
    adapter = tmp_path / "adapter"
    shutil.copytree(adapter_runs["lora"] / "final", adapter)
    config = json.loads((adapter / "adapter_config.json").read_text())
    targets = config["target_modules"].replace(r"|lm_head", "").replace(r"lm_head|", "")
    changed = config | {"modules_to_save": ["lm_head"], "target_modules": targets}
    (adapter / "adapter_config.json").write_text(json.dumps(changed))
    tensors = load_file(adapter / "adapter_model.safetensors")
    kept = {name: tensor for name, tensor in tensors.items() if "lm_head" not in name}
    head = torch.randn_like(TINY.load("tiny")[0].lm_head.weight)
    save_file({**kept, "base_model.model.lm_head.weight": head}, adapter / "adapter_model.safetensors")
    merge(find_source(str(adapter)), tmp_path / "m", precision="float32")
    written = load_file(tmp_path / "m/model.safetensors")
    assert torch.equal(written["lm_head.weight"], head)
    assert written.keys() == TINY.load("tiny")[0].state_dict().keys()


def test_weights_beyond_the_precision_are_not_written(adapter_runs: dict[str, Path], tmp_path: Path) -> None:
    adapter = tmp_path / "adapter"
    shutil.copytree(adapter_runs["lora"] / "final", adapter)
    tensors = load_file(adapter / "adapter_model.safetensors")
    name = next(name for name in tensors if "lm_head.lora_B" in name)
    save_file(tensors | {name: tensors[name] * 1e8}, adapter / "adapter_model.safetensors")
    with pytest.raises(MergeFailed, match=r"do not fit float16\. Pass --precision bfloat16"):
        merge(find_source(str(adapter)), tmp_path / "m", precision="float16")
    assert not (tmp_path / "m").exists()


def test_the_command_and_its_refusals(
    adapter_runs: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def call(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["phiv-merge", *map(str, words)])
        code = cli_merge.main()
        out, err = capsys.readouterr()
        return code, out, err

    code, out, _ = call(adapter_runs["lora"], "--out", tmp_path / "m")
    assert code == 0
    assert "merged into tiny (23 layers)" in out
    assert "3 of 3 greedy answers are equal" in out
    code, _, err = call(adapter_runs["lora"], "--out", tmp_path / "m")
    assert (code, "is not empty. Pass a new folder" in err) == (2, True)
    code, _, err = call(adapter_runs["full"], "--out", tmp_path / "other")
    assert (code, "is a whole model, there is no adapter to merge" in err) == (2, True)
    code, _, err = call(adapter_runs["lora"], "--onto", "4bit", "--out", tmp_path / "other")
    assert (code, "was trained on a base in 4 bit (--use_qlora), and this one was not" in err) == (2, True)
    (tmp_path / "file").touch()
    code, _, err = call(adapter_runs["lora"], "--out", tmp_path / "file")
    assert (code, "is a file. Pass a new folder" in err) == (2, True)
    code, _, err = call(tmp_path / "nowhere", "--out", tmp_path / "other")
    assert (code, "no such folder" in err) == (2, True)
    code, _, err = call(adapter_runs["lora"], "--base", "tiny:4", "--out", tmp_path / "other")
    assert (code, "was trained on other weights than tiny:4 has now" in err) == (2, True)
    assert not (tmp_path / "other").exists()
