"""What is trained: full, frozen parts, LoRA or QLoRA, by the parts a family declares, in fully-qualified names.

    parts = family.components(model)                                # before adapters change the names
    apply_strategy(model, family, parts, config)               # requires_grad set, adapters put in
    optimizer = AdamW(parameter_groups(model, parts, config), ...)
    print(trainable_table(model, parts, config))

Names that match nothing are an error: an adapter that silently wraps no layer, or the vision tower of another model,
is the commonest way to train something else than was asked.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from phiv_data.utils.extras import install_hint
from phiv_schemas.errors import EnvironmentProblem, UsageError
from phiv_train.checkpoints.weights import ADAPTER
from phiv_train.config import IMAGE_PARTS, TrainConfig
from phiv_train.families.base import Component, Family

# What freezing the recipe's `vision_embed_tokens` froze: it holds the projector, and the text embedding is its child.
RECIPE_FREEZES = ("vision", "projector", "embeddings")
Parts = Mapping[str, Component]


@dataclass(frozen=True, slots=True)
class PartSize:
    """Numbers of parameters of one part, and its peak learning rate (0 when nothing of it is trained)."""

    name: str
    total: int
    trainable: int
    learning_rate: float


def apply_strategy(model: nn.Module, family: Family, parts: Parts, config: TrainConfig) -> None:
    """Freeze, or add adapters to, `model` as `config` says. UsageError for unknown parts and for nothing to train.

    Where the vision tower or the projector is trained, batches without images run a blank one, so that all processes
    do the same work.
    """
    frozen = frozen_parts(parts, config)
    _check_names("--part_learning_rates", config.part_learning_rates, parts)
    owner = part_of_parameter(model, parts)
    unused = {name for part in parts.values() for name in match_names(owner, part.unused)}
    for name, parameter in model.named_parameters():
        trained = not config.lora and owner[name] not in frozen and name not in unused
        parameter.requires_grad_(trained and parameter.is_floating_point())
    if config.lora:
        _add_lora(model, lora_targets(parts, config), config)
    if not any(p.requires_grad for p in model.parameters()):
        raise UsageError("--freeze", f"nothing is left to train (frozen: {', '.join(sorted(frozen))})")
    owner = part_of_parameter(model, parts)  # with the adapters' names
    trained_now = {owner[name] for name, parameter in model.named_parameters() if parameter.requires_grad}
    if idle := [name for name in config.part_learning_rates if name not in trained_now]:
        raise UsageError("--part_learning_rates", f"nothing of part {idle[0]!r} is trained", "Leave it out")
    family.run_vision_on_text(model, bool(trained_now.intersection(IMAGE_PARTS)))


def frozen_parts(parts: Parts, config: TrainConfig) -> set[str]:
    """Names of the parts that are not trained."""
    _check_names("--freeze", config.freeze, parts)
    recipe = {name for name in RECIPE_FREEZES if name in parts} if config.freeze_vision_model else set()
    return recipe | set(config.freeze)


def lora_targets(parts: Parts, config: TrainConfig) -> list[str]:
    """Fully-qualified names of the linear modules that get adapters. UsageError when there are none."""
    _check_names("--lora_parts", config.lora_parts, parts)
    frozen = frozen_parts(parts, config)
    chosen = config.lora_parts or tuple(parts)
    if both := frozen.intersection(config.lora_parts):
        raise UsageError("--lora_parts", f"{', '.join(sorted(both))} is frozen as well", "Name it once")
    for name in config.lora_parts:
        if not parts[name].linear:
            raise UsageError("--lora_parts", f"part {name!r} has no linear modules to adapt")
    targets = [module for name in chosen if name not in frozen for module in parts[name].linear]
    if not targets:
        raise UsageError("--use_lora", f"no module to adapt is left (frozen: {', '.join(sorted(frozen))})")
    return targets


def part_of_parameter(model: nn.Module, parts: Parts) -> dict[str, str]:
    """Parameter name -> part. UsageError when a parameter is in no part or in two, or a pattern matches nothing."""
    return owners([name for name, _ in model.named_parameters()], parts)


def owners(names: Collection[str], parts: Parts) -> dict[str, str]:
    """As `part_of_parameter`, for names; adapters belong to the part of the module they wrap."""
    owner: dict[str, str] = {}
    for part_name, part in parts.items():
        for name in match_names(names, part.parameters):
            if name in owner:
                raise UsageError("family", f"{name!r} is in two parts ({owner[name]}, {part_name})")
            owner[name] = part_name
    if missing := [name for name in names if name not in owner]:
        raise UsageError("family", f"{len(missing)} parameters are in no part ({missing[0]!r}, ...)")
    return owner


def match_names(names: Iterable[str], patterns: Iterable[str]) -> list[str]:
    """The names that are, or lie below, one of the patterns. UsageError for a pattern that matches nothing."""
    plain = [(name, plain_name(name)) for name in names]
    found: list[str] = []
    for pattern in patterns:
        hits = [
            name for name, bare in plain if (bare.startswith(pattern) if pattern.endswith(".") else bare == pattern)
        ]
        if not hits:
            raise UsageError("family", f"{pattern!r} matches no parameter of the model")
        found += hits
    return found


def plain_name(name: str) -> str:
    """The base model's name of a parameter, whatever adapters were put around it.

    >>> plain_name("lm_head.base_layer.weight"), plain_name("lm_head.lora_A.default.weight")
    ('lm_head.weight', 'lm_head.weight')
    """
    return re.sub(r"\.(base_layer|lora_[AB]\.[^.]+)\.", ".", name)


def parameter_groups(model: nn.Module, parts: Parts, config: TrainConfig) -> list[dict[str, Any]]:
    """Optimizer groups of the trainable parameters: a learning rate per part, no decay for biases and norms."""
    owner = part_of_parameter(model, parts)
    groups: dict[tuple[float, float], list[Tensor]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            decay = config.wd if parameter.ndim > 1 else 0.0  # biases and norms are vectors
            groups.setdefault((rate_of(owner[name], config), decay), []).append(parameter)
    return [{"params": p, "lr": lr, "weight_decay": decay} for (lr, decay), p in groups.items()]


def rate_of(part: str, config: TrainConfig) -> float:
    """Peak learning rate of a part."""
    return config.part_learning_rates.get(part, config.learning_rate)


def part_sizes(model: nn.Module, parts: Parts, config: TrainConfig) -> list[PartSize]:
    """Parameters per part, adapters counted with the part they are in."""
    owner = part_of_parameter(model, parts)
    sizes = {name: [0, 0] for name in parts}
    for name, parameter in model.named_parameters():
        # A 4-bit parameter holds two numbers in a byte; its shape is in its state.
        state = getattr(parameter, "quant_state", None)
        shape = getattr(state, "shape", None) if state is not None else None
        count = math.prod(shape) if shape is not None else parameter.numel()
        sizes[owner[name]][0] += count
        sizes[owner[name]][1] += count if parameter.requires_grad else 0
    return [
        PartSize(n, total, trained, rate_of(n, config) if trained else 0.0) for n, (total, trained) in sizes.items()
    ]


def trainable_table(sizes: list[PartSize]) -> str:
    """The parts as an aligned table with a total."""
    total, trained = sum(size.total for size in sizes), sum(size.trainable for size in sizes)
    lines = [f"{'part':12} {'parameters':>15} {'trainable':>15} {'learning rate':>14}"]
    lines += [
        f"{size.name:12} {size.total:15,} {size.trainable:15,} {size.learning_rate or '-':>14}"
        for size in [*sizes, PartSize("all", total, trained, 0.0)]
    ]
    return "\n".join(lines) + f"  {trained / max(total, 1):.2%}"


class GradientAudit:
    """Sees that in the first optimizer step every trainable tensor gets a gradient, however parameters are sharded.

    A tensor without one is not trained: it is unused, cut off by no_grad, or behind a checkpoint that dropped it.
    """

    def __init__(self, model: nn.Module) -> None:
        self.wanted = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.seen: set[str] = set()
        # Hooks, because ZeRO takes gradients away as they come.
        self._hooks = [
            parameter.register_post_accumulate_grad_hook(self._note(name))  # type: ignore[no-untyped-call]  # torch's
            for name, parameter in self.wanted.items()
        ]

    def finish(self) -> None:
        """Call before the first optimizer step. UsageError naming the tensors without a gradient."""
        for hook in self._hooks:
            hook.remove()
        seen = self.seen | {name for name, parameter in self.wanted.items() if parameter.grad is not None}
        if missing := sorted(self.wanted.keys() - seen):
            more = f", and {len(missing) - 4} more" if len(missing) > 4 else ""
            what = (
                f"{len(missing)} trainable tensors got no gradient in the first step ({', '.join(missing[:4])}{more})"
            )
            raise UsageError("training", what, "Freeze their part, or train on data that uses it")

    def _note(self, name: str) -> Callable[[Tensor], None]:
        return lambda _: self.seen.add(name)


def _add_lora(model: nn.Module, targets: list[str], config: TrainConfig) -> None:
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise EnvironmentProblem("--use_lora", "the peft package is missing", install_hint("train")) from error
    modules, base = dict(model.named_modules()), config.model_name_or_path
    if absent := [target for target in targets if target not in modules]:
        raise UsageError("family", f"{absent[0]!r} is no module of the model ({len(absent)} such names)")
    lora = LoraConfig(
        r=config.lora_rank,
        lora_alpha=config.alpha,
        lora_dropout=config.lora_dropout,
        # A list matches suffixes as well, so that a family's `lm_head` could also wrap another `x.lm_head`.
        target_modules="|".join(re.escape(target) for target in targets),
        init_lora_weights="gaussian",
        base_model_name_or_path=base if not Path(base).is_dir() else str(Path(base).absolute()),
    )
    # In place, as transformers' add_adapter does, which asks for a newer peft than its own pins resolve to.
    with torch.random.fork_rng(devices=[]):  # the same adapters on every rank, whatever the generator gave before
        torch.manual_seed(config.seed)
        inject_adapter_in_model(lora, model, ADAPTER)
    for parameter in model.parameters():
        if parameter.requires_grad and parameter.dtype in (torch.bfloat16, torch.float16):
            parameter.data = parameter.data.float()  # updates smaller than half precision resolves would be lost
    model.peft_config, model._hf_peft_config_loaded = {ADAPTER: lora}, True  # type: ignore[assignment]  # as add_adapter
    wrapped = {name.split(".lora_")[0] for name, p in model.named_parameters() if p.requires_grad}
    assert wrapped == set(targets), f"adapters on {wrapped ^ set(targets)}"


def _check_names(where: str, names: Iterable[str], parts: Parts) -> None:
    if unknown := [name for name in names if name not in parts]:
        raise UsageError(where, f"no part {unknown[0]!r}", f"This model's parts are {', '.join(parts)}")
