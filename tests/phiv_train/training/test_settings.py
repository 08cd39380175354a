"""No dead setting: each is read by a run, and each one that binds a resume changes the result."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from training import STRATEGIES, final, run, settings

from phiv_train.config import FREE_ON_RESUME, TrainConfig
from phiv_train.training.dry_run import report
from phiv_train.training.run import train


def test_every_setting_is_read_by_a_run(demo: Path, tmp_path: Path) -> None:
    """Reads of every field are counted in runs and a dry run; saving and comparing the whole does not count."""
    read: set[str] = set()

    class Watched(TrainConfig):
        def __getattribute__(self, name: str) -> Any:
            read.add(name)
            return super().__getattribute__(name)

    def watched(name: str, **changes: Any) -> TrainConfig:
        evaluated = {"max_steps": 1, "eval": True, "max_new_tokens": 2, "max_eval_rows": 1, "tqdm": True}
        config = settings(demo, tmp_path / name, resume="never", **evaluated | changes)
        return Watched.model_construct(**config.__dict__)

    train(watched("lora", **STRATEGIES["lora"]))
    train(watched("padded", packing=False))
    report(watched("dry", dry_run=True, max_steps=None))
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
    "image_option": ("num_crops=4",),
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
# Tested elsewhere: family and use_qlora in test_strategies, on_too_long and on_bad in test_lengths and test_loader,
# full_train in test_prepare; flash attention needs a GPU.
_BASE: dict[str, Any] = {"max_train_rows": 12, "max_length": 200}  # two rows in a pack
ELSEWHERE = {"family", "use_qlora", "on_too_long", "on_bad", "use_flash_attention", "full_train"}


@pytest.fixture(scope="module")
def plain(demo: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folders = {"full": tmp_path_factory.mktemp("full"), "lora": tmp_path_factory.mktemp("lora")}
    for name, folder in folders.items():
        run(demo, folder, **STRATEGIES[name], **_BASE)
    return folders


@pytest.mark.parametrize("name", [*EFFECTS, *LORA_EFFECTS])
def test_a_binding_setting_changes_the_result(demo: Path, tmp_path: Path, plain: dict[str, Path], name: str) -> None:
    kind = "lora" if name in LORA_EFFECTS else "full"
    value = (EFFECTS | LORA_EFFECTS)[name]
    changed = run(demo, tmp_path, **STRATEGIES[kind] | _BASE | {name: value})
    before = final(plain[kind])
    same_names = changed.keys() == before.keys()
    assert not same_names or any(
        a.shape != b.shape or not torch.equal(a, b) for a, b in ((changed[n], before[n]) for n in before)
    )


def test_every_binding_setting_has_such_a_test() -> None:
    assert set(TrainConfig.model_fields) - FREE_ON_RESUME == set(EFFECTS) | set(LORA_EFFECTS) | ELSEWHERE
