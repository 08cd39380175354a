"""What is trained: by declared parts, in full names, or one line that says why not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from phiv_schemas.errors import UsageError
from phiv_train.config import TrainConfig
from phiv_train.families.base import Component, get_family
from phiv_train.families.tiny import build_tiny
from phiv_train.training.trainable import (
    GradientAudit,
    apply_strategy,
    lora_targets,
    match_names,
    owners,
    parameter_groups,
    part_sizes,
    plain_name,
    trainable_table,
)

FAMILY = get_family("tiny")


def config(**settings: Any) -> TrainConfig:
    return TrainConfig(data_dir=Path(), **settings)


def prepared(**settings: Any) -> tuple[Any, Any, TrainConfig]:
    model, _ = build_tiny()
    parts, chosen = FAMILY.components(model), config(**settings)
    apply_strategy(model, FAMILY, parts, chosen)
    return model, parts, chosen


def trained_parts(model: Any, parts: Any, chosen: TrainConfig) -> set[str]:
    return {size.name for size in part_sizes(model, parts, chosen) if size.trainable}


@pytest.mark.parametrize(
    ("settings", "trained"),
    [
        ({}, {"vision", "projector", "embeddings", "language", "head"}),
        ({"freeze_vision_model": True}, {"language", "head"}),
        ({"freeze": ("vision",)}, {"projector", "embeddings", "language", "head"}),
        ({"use_lora": True}, {"vision", "projector", "language", "head"}),
        ({"use_lora": True, "freeze_vision_model": True}, {"language", "head"}),
        ({"use_lora": True, "lora_parts": ("language",)}, {"language"}),
    ],
)
def test_strategies_train_the_parts_they_say(settings: dict[str, Any], trained: set[str]) -> None:
    model, parts, chosen = prepared(**settings)
    assert trained_parts(model, parts, chosen) == trained
    if chosen.lora:
        assert all(".lora_" in name for name, p in model.named_parameters() if p.requires_grad)


def test_what_no_forward_uses_is_never_trained() -> None:
    model, parts, _ = prepared()
    names = [name for name, p in model.named_parameters() if p.requires_grad]
    assert not [name for name in names if name.startswith(parts["vision"].unused)]
    assert match_names([name for name, _ in model.named_parameters()], parts["vision"].unused)


def test_the_real_models_adapters_have_the_recipes_size(shared: Path) -> None:
    """130,895,872 parameters at rank 64, 102,912,000 with vision frozen: computed from the recipe's targets."""
    from phiv_train.families.phi3_vision.checkpoint import read_config
    from phiv_train.families.phi3_vision.modeling import Phi3VForConditionalGeneration

    for settings, expected in (({}, 130_895_872), ({"freeze_vision_model": True}, 102_912_000)):
        with torch.device("meta"):
            model = Phi3VForConditionalGeneration(read_config(shared / "phi-3.5-vision"))
            parts, chosen = FAMILY.components(model), config(use_lora=True, **settings)
            apply_strategy(model, FAMILY, parts, chosen)
        assert sum(size.trainable for size in part_sizes(model, parts, chosen)) == expected


def test_lora_starts_as_the_base_model() -> None:
    plain, _ = build_tiny()
    model, _, _ = prepared(use_lora=True, lora_rank=4)
    ids = torch.arange(1, 20)[None]
    assert torch.equal(model(ids).logits, plain(ids).logits)


def test_lora_initialises_as_the_recipe_did() -> None:
    model, _, _ = prepared(use_lora=True, lora_rank=16)
    a = model.lm_head.lora_A["default"].weight
    assert abs(float(a.std()) - 1 / 16) < 0.01  # gaussian: N(0, 1/r)
    assert not model.lm_head.lora_B["default"].weight.any()
    assert model.lm_head.scaling["default"] == 2.0


def test_groups_have_a_rate_per_part_and_no_decay_for_vectors() -> None:
    model, parts, chosen = prepared(part_learning_rates={"vision": 1e-6}, learning_rate=1e-3, wd=0.1)
    groups = parameter_groups(model, parts, chosen)
    assert {(g["lr"], g["weight_decay"]) for g in groups} == {(1e-6, 0.1), (1e-6, 0.0), (1e-3, 0.1), (1e-3, 0.0)}
    in_groups = [id(p) for g in groups for p in g["params"]]
    trainable = {id(p): p for p in model.parameters() if p.requires_grad}
    assert len(in_groups) == len(set(in_groups))
    assert set(in_groups) == set(trainable)
    assert all((p.ndim > 1) == (g["weight_decay"] > 0) for g in groups for p in g["params"])


def test_the_table_adds_up() -> None:
    model, parts, chosen = prepared(use_lora=True, lora_rank=4, freeze=("vision",))
    sizes = part_sizes(model, parts, chosen)
    assert sum(size.total for size in sizes) == sum(p.numel() for p in model.parameters())
    assert sum(size.trainable for size in sizes) == sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert f"{sum(size.trainable for size in sizes):,}" in trainable_table(sizes)


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"freeze": ("visoin",)}, "--freeze: no part 'visoin'. This model's parts are vision, projector"),
        ({"part_learning_rates": {"eyes": 1.0}}, "--part_learning_rates: no part 'eyes'"),
        ({"use_lora": True, "lora_parts": ("embeddings",)}, "part 'embeddings' has no linear modules to adapt"),
        (
            {"use_lora": True, "lora_parts": ("vision",), "freeze": ("vision",)},
            "--lora_parts: vision is frozen as well",
        ),
        (
            {"freeze": ("vision", "projector", "embeddings", "language", "head")},
            "--freeze: nothing is left to train",
        ),
        (
            {"use_lora": True, "freeze": ("vision", "projector", "language", "head")},
            "--use_lora: no module to adapt is left",
        ),
    ],
)
def test_a_choice_that_trains_nothing_is_one_line(settings: dict[str, Any], line: str) -> None:
    with pytest.raises(UsageError) as caught:
        prepared(**settings)
    assert line in str(caught.value)


def test_names_that_match_nothing_are_an_error() -> None:
    with pytest.raises(UsageError, match=r"'model\.vison\.' matches no parameter"):
        owners(["model.vision.weight"], {"vision": Component(("model.vison.",))})
    with pytest.raises(UsageError, match="1 parameters are in no part"):
        owners(["a.weight", "b.weight"], {"a": Component(("a.",))})
    with pytest.raises(UsageError, match="is in two parts"):
        owners(["a.weight"], {"a": Component(("a.",)), "b": Component(("a.weight",))})


def test_targets_are_full_names_of_modules() -> None:
    model, _ = build_tiny()
    parts = FAMILY.components(model)
    targets = lora_targets(parts, config(use_lora=True))
    modules = dict(model.named_modules())
    assert all(isinstance(modules[name], torch.nn.Linear) for name in targets)
    assert len(targets) == len(set(targets))


def test_adapters_are_counted_with_the_part_they_are_in() -> None:
    assert plain_name("a.qkv_proj.lora_B.default.weight") == "a.qkv_proj.weight"
    assert plain_name("a.qkv_proj.base_layer.weight") == "a.qkv_proj.weight"


def test_the_audit_names_what_got_no_gradient() -> None:
    model = torch.nn.ModuleDict({"used": torch.nn.Linear(2, 1), "idle": torch.nn.Linear(2, 1)})
    audit = GradientAudit(model)
    model["used"](torch.ones(1, 2)).sum().backward()
    model["used"].zero_grad(set_to_none=True)  # as ZeRO does: the audit must have seen it before
    with pytest.raises(UsageError) as caught:
        audit.finish()
    assert "2 trainable tensors got no gradient in the first step (idle.bias, idle.weight)" in str(caught.value)


def test_images_run_on_every_rank_only_where_they_are_trained() -> None:
    assert prepared()[0].model.run_vision_on_text
    assert not prepared(freeze_vision_model=True)[0].model.run_vision_on_text
