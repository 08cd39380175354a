"""Training presets: the hyperparameter tables of Microsoft's recipe by name, `phiv-train --recipe docvqa-lora`.

    >>> PRESETS["docvqa-lora"].settings["lora_rank"], PRESETS["docvqa-lora"].score
    (32, 82.46)

Rows, numbers and scores are those of `vision_finetuning/README.md` in microsoft/PhiCookBook. Scores are what that page
reports for its own trainer (DocVQA and hateful memes with Phi-3-vision, NLVR2 with Phi-3.5-vision), not measured here.
`demo-full` is ours, for the toy model.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import groupby
from textwrap import wrap
from typing import Any

from phiv_schemas.errors import UsageError

_WHOSE_SCORES = (
    "Scores are those that Microsoft's page reports for its own trainer, not measured by phiv; for UCF-101 it has none."
    " Those with * were reached by Phi-3-vision, the model before: phiv trains Phi-3.5-vision with the same settings."
)
RECIPE_WARMUP = 50
"""Steps of warm-up that Microsoft's recipe always takes."""


@dataclass(frozen=True, slots=True)
class Preset:
    """Settings of TrainConfig, and the score that the recipe's page reports for them (None: it gives none)."""

    name: str
    settings: Mapping[str, Any]
    metric: str
    score: float | None = None
    model: str = "Phi-3-vision"


# dataset, method, precision: learning rate, epochs, score. LoRA rank and alpha are per dataset.
_ROWS = """
nlvr2         full    bf16  1e-5  3  89.40
nlvr2         frozen  bf16  2e-5  2  89.20
docvqa        full    bf16  5e-6  2  83.65
docvqa        full    fp16  5e-6  2  82.60
docvqa        frozen  bf16  1e-4  2  79.19
docvqa        frozen  fp16  1e-4  2  78.74
docvqa        lora    bf16  2e-4  2  82.46
docvqa        lora    fp16  2e-4  2  82.34
docvqa        qlora   bf16  2e-4  2  81.85
docvqa        qlora   fp16  2e-4  2  81.85
hateful_memes full    bf16  5e-5  2  86.4
hateful_memes full    fp16  5e-5  2  85.4
hateful_memes frozen  bf16  1e-4  3  79.4
hateful_memes frozen  fp16  1e-4  3  78.6
hateful_memes lora    bf16  2e-4  2  86.6
hateful_memes lora    fp16  2e-4  2  85.2
hateful_memes qlora   bf16  2e-4  2  84.0
hateful_memes qlora   fp16  2e-4  2  83.8
"""
_METHODS: dict[str, dict[str, Any]] = {
    "full": {},
    "frozen": {"freeze_vision_model": True},
    "lora": {"use_lora": True},
    "qlora": {"use_lora": True, "use_qlora": True},
}
# The page's commands: bf16 with flash attention; flash attention does not work in float16.
_PRECISIONS: dict[str, dict[str, Any]] = {"bf16": {"bf16": True, "use_flash_attention": True}, "fp16": {}}
_ADAPTERS: dict[str, dict[str, Any]] = {  # alpha 16 and 256
    "docvqa": {"lora_rank": 32, "lora_alpha_ratio": 0.5},
    "hateful_memes": {"lora_rank": 128, "lora_alpha_ratio": 2.0},
}
# The tables' batch is 64, and the trainers' default of 16 crops held for all but UCF-101.
_DATASETS: dict[str, dict[str, Any]] = {
    "nlvr2": {"num_crops": 16},
    "docvqa": {"num_crops": 16, "full_train": True, "metric": "anls"},
    "hateful_memes": {"num_crops": 16},
}


def preset_settings(name: str) -> dict[str, Any]:
    """The settings of the preset `name`. UsageError for an unknown one."""
    if (preset := PRESETS.get(name)) is None:
        close = get_close_matches(name, PRESETS, n=1)
        hint = f"Did you mean {close[0]}? " if close else ""
        raise UsageError("--recipe", f"no preset {name!r}", f"{hint}phiv-train --list_recipes shows them")
    return dict(preset.settings)


def table(width: int = 100) -> str:
    """All presets by dataset, in `width` columns: the reported score of each, and its settings; those that all presets
    of a dataset have stand in the heading."""
    lines = []
    for dataset, group in groupby(PRESETS.values(), lambda preset: preset.name.partition("-")[0]):
        presets = list(group)
        first, *others = (set(preset.settings.items()) for preset in presets)
        shared = {key for key, _ in first.intersection(*others)} if others else set()
        common = {key: value for key, value in presets[0].settings.items() if key in shared}
        lines += _wrap_flags(f"{dataset} {_flags(common)}", width, "    ")
        for preset in presets:
            mark = "*" if preset.model == "Phi-3-vision" else " "
            score = "" if preset.score is None else f"{preset.score:.2f}{mark} {preset.metric}"
            own = {key: value for key, value in preset.settings.items() if key not in shared}
            lines += _wrap_flags(f"  {preset.name:25} {score:16}  {_flags(own)}", width, " " * 46)
        lines.append("")
    return "\n".join([*lines, *_wrap_flags(_WHOSE_SCORES, width, "")])


def _wrap_flags(text: str, width: int, indent: str) -> list[str]:
    """`text` in lines that part no flag from its value."""
    lines = wrap(re.sub(r"(--\w+) (?=[^-\s])", r"\1\0", text), width, subsequent_indent=indent, break_on_hyphens=False)
    return [line.replace("\0", " ") for line in lines]


def _flags(settings: Mapping[str, Any]) -> str:
    flags = []
    for key, value in settings.items():
        if isinstance(value, bool):
            flags.append(f"--{key}" if value else f"--no_{key}")
        else:
            flags.append(f"--{key} {value:g}" if isinstance(value, float) else f"--{key} {value}")
    return " ".join(flags)


def warmup_warning(num_steps: int, warmup: int) -> str | None:
    """The warning for a run that ends within the fixed warm-up of Microsoft's recipe, else None."""
    if num_steps >= RECIPE_WARMUP or warmup >= RECIPE_WARMUP:
        return None
    return (
        f"{num_steps} steps are fewer than the {RECIPE_WARMUP} warm-up steps of Microsoft's recipe, which would have"
        f" ended at {num_steps / RECIPE_WARMUP:.0%} of the learning rate; warming up for {warmup}"
        " (--warmup_steps to choose)"
    )


def _table_row(row: str) -> Preset:
    dataset, method, precision, rate, epochs, score = row.split()
    settings = {"batch_size": 64, "learning_rate": float(rate), "num_train_epochs": int(epochs)}
    settings |= _METHODS[method] | _PRECISIONS[precision] | _DATASETS[dataset]
    settings |= _ADAPTERS[dataset] if method.endswith("lora") else {}
    return Preset(
        name=f"{dataset}-{method}" + ("-fp16" if precision == "fp16" else ""),
        settings=settings,
        metric=str(settings.get("metric", "accuracy")).upper() if dataset == "docvqa" else "accuracy",
        score=float(score),
        model="Phi-3.5-vision" if dataset == "nlvr2" else "Phi-3-vision",
    )


# The page gives no UCF-101 numbers: these are the trainer's own defaults, and its video command is bf16 + flash.
_UCF101: dict[str, Any] = {"batch_size": 16, "learning_rate": 4e-5, "num_crops": 4}
# The toy model on the set of `phiv-convert ucf101 --demo`: two to three minutes on a CPU. Its rows have nearly one
# length, so packing would gain nothing.
DEMO = Preset(
    "demo-full",
    {
        "model_name_or_path": "tiny",
        "packing": False,
        "batch_size": 8,
        "batch_size_per_gpu": 8,
        "num_train_epochs": 15,
        "learning_rate": 1e-3,
        "gradient_checkpointing": False,
        "num_workers": 1,
        "eval_batch_size": 24,
        "max_new_tokens": 16,
    },
    "accuracy",
    model="tiny",
)
PRESETS: Mapping[str, Preset] = {
    preset.name: preset
    for preset in [
        DEMO,
        *(
            Preset(f"ucf101-{method}", _UCF101 | flags | _PRECISIONS["bf16"], "accuracy", None, "Phi-3.5-vision")
            for method, flags in _METHODS.items()
        ),
        *(_table_row(row) for row in _ROWS.strip().splitlines()),
    ]
}
