"""Full, frozen, LoRA and QLoRA runs: what is trained, in which precision, and what the final folder holds."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch
from training import STRATEGIES, distance, final, run, settings

from phiv_data.storage.dataset import ConversationDataset
from phiv_schemas.errors import UsageError
from phiv_train.checkpoints.load import load_model
from phiv_train.checkpoints.resolve import find_source
from phiv_train.families.base import get_family
from phiv_train.training.run import train

bitsandbytes = pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is None, reason="needs bitsandbytes")


@pytest.mark.parametrize("name", [n if n != "qlora" else pytest.param(n, marks=bitsandbytes) for n in STRATEGIES])
def test_a_strategy_runs_and_its_final_folder_alone_gives_the_same_logits(
    demo: Path, tmp_path: Path, name: str
) -> None:
    model = train(settings(demo, tmp_path, max_steps=2, **STRATEGIES[name])).model
    source = find_source(str(tmp_path / "final"))
    loaded, processor = load_model(source, quantization="4bit" if name == "qlora" else None)
    sample = ConversationDataset(demo, "val")[0]
    family = get_family("tiny")
    encoded = family.encode(sample.conversation, [image.open() for image in sample.images], processor)
    batch = family.collate([encoded], processor)
    with torch.no_grad():
        assert torch.equal(loaded(**batch).logits, model.eval()(**batch).logits)
    assert (source.adapter is not None) == name.endswith("lora")
    moved = changed_tensors(tmp_path) if name in ("full", "frozen") else {"lora"}
    assert ("model.embed_tokens.weight" in moved) == (name == "full")


def changed_tensors(folder: Path) -> set[str]:
    """Names of the tensors that training changed."""
    model, _ = get_family("tiny").load("tiny")
    before, after = model.state_dict(), final(folder)
    return {name for name in after if not torch.equal(before[name], after[name])}


@bitsandbytes
def test_qlora_has_a_base_in_4_bit_in_the_language_part_only(demo: Path, tmp_path: Path) -> None:
    model = train(settings(demo, tmp_path, max_steps=1, **STRATEGIES["qlora"])).model
    modules = dict(model.named_modules())
    packed = {name.removesuffix(".base_layer") for name, m in modules.items() if type(m).__name__ == "Linear4bit"}
    assert packed == {name for name in packed if name.startswith("model.layers.")}
    assert len(packed) == 8
    weight = modules["model.layers.0.mlp.down_proj.base_layer"].weight
    assert weight.dtype == torch.uint8
    assert all(p.dtype == torch.float32 for p in model.parameters() if p.requires_grad)


def test_bfloat16_on_a_cpu_keeps_trained_weights_in_float32(demo: Path, tmp_path: Path) -> None:
    full = train(settings(demo, tmp_path / "full", max_steps=2, bf16=True)).model
    lora = train(settings(demo, tmp_path / "lora", max_steps=2, bf16=True, **STRATEGIES["lora"])).model
    assert {p.dtype for p in full.parameters()} == {torch.float32}
    assert {p.dtype for p in lora.parameters() if p.requires_grad} == {torch.float32}
    assert {p.dtype for p in lora.parameters() if not p.requires_grad} == {torch.bfloat16}
    assert distance(final(tmp_path / "full"), run(demo, tmp_path / "exact", max_steps=2)) < 0.05


def test_an_adapter_is_no_base(demo: Path, tmp_path: Path) -> None:
    run(demo, tmp_path, max_steps=1, **STRATEGIES["lora"])
    with pytest.raises(UsageError, match=r"is an adapter, not a model: .*\. Pass its base, 'tiny'"):
        run(demo, tmp_path / "again", model_name_or_path=str(tmp_path / "final"))
