"""Parts cover the model, and adapters go where they are declared and nowhere else."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
import torch
from phi3v_samples import gradients, packed, toy, toy_model
from torch import nn

from phiv_train.families.phi3_vision.components import components


def of(names: Iterable[str], patterns: tuple[str, ...]) -> set[str]:
    """The names a part's patterns mean: themselves, or everything under a prefix ending in a dot."""
    return {n for n in names if any(n == p or (p.endswith(".") and n.startswith(p)) for p in patterns)}


@pytest.fixture
def model() -> Any:
    return toy_model("sdpa", torch.float32)


def test_every_parameter_is_in_exactly_one_part(model: Any) -> None:
    names = [name for name, _ in model.named_parameters()]
    owners = [part for name in names for part in components(model) if of([name], components(model)[part].parameters)]
    assert len(owners) == len(names)
    assert sorted(set(owners)) == ["embeddings", "head", "language", "projector", "vision"]


def test_unused_parameters_are_those_without_a_gradient(model: Any) -> None:
    model(**packed([toy(model, [(1, 1)], [4, 9], 1)])).loss.backward()
    names = {name for name, _ in model.named_parameters()}
    unused = set().union(*(of(names, part.unused) for part in components(model).values()))
    assert unused == names - gradients(model).keys()
    assert len(unused) == 18


def test_linear_names_are_linear_modules_of_their_part(model: Any) -> None:
    modules = dict(model.named_modules())
    declared = [name for part in components(model).values() for name in part.linear]
    assert len(set(declared)) == len(declared)
    for part in components(model).values():
        for name in part.linear:
            assert type(modules[name]) is nn.Linear
            assert of([f"{name}.weight"], part.parameters)
    left_out = {n for n, m in modules.items() if isinstance(m, nn.Linear)} - set(declared)
    assert all("encoder.layers.2." in name for name in left_out)


@pytest.mark.parametrize("part", ["vision", "projector", "language", "head"])
def test_lora_attaches_to_the_declared_part_only(model: Any, part: str) -> None:
    peft = pytest.importorskip("peft")
    batch = packed([toy(model, [(1, 1)], [4, 9], 1)])
    before = model(**batch).logits
    targets = list(components(model)[part].linear)
    wrapped = peft.get_peft_model(model, peft.LoraConfig(target_modules=targets, r=2))
    adapted = {n.removeprefix("base_model.model.") for n, m in wrapped.named_modules() if hasattr(m, "lora_A")}
    assert adapted == set(targets)
    trained = {n for n, p in wrapped.named_parameters() if p.requires_grad}
    assert trained
    assert all(".lora_" in name for name in trained)
    out = wrapped(**batch)
    torch.testing.assert_close(out.logits, before, rtol=0, atol=1e-6)
    out.loss.backward()
    got = {n for n, p in wrapped.named_parameters() if p.grad is not None and p.grad.abs().max() > 0}
    assert got == {n for n in trained if "lora_B" in n}  # A has no gradient while B is zero


def test_lora_with_checkpointing_trains_the_adapters_alone(model: Any) -> None:
    peft = pytest.importorskip("peft")
    targets = [name for part in components(model).values() for name in part.linear]
    wrapped = peft.get_peft_model(model, peft.LoraConfig(target_modules=targets, r=2, init_lora_weights="gaussian"))
    batch = packed([toy(model, [(1, 1)], [4, 9], 1), toy(model, [], [5], 2)])
    wrapped.train()
    wrapped(**batch).loss.backward()
    expected = gradients(wrapped)
    wrapped.activation_checkpointing_enable()
    wrapped(**batch).loss.backward()
    found = gradients(wrapped)
    assert found.keys() == expected.keys() == {n for n, p in wrapped.named_parameters() if ".lora_" in n}
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=0, atol=1e-7)
