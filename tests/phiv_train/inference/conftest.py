"""A model that knows plain colours by heart, and short runs with adapters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from eval_data import ask, make_dataset, mixed_rows, train_tiny
from training import STRATEGIES, run

from phiv_data.storage.dataset import ConversationDataset
from phiv_train.families.base import get_family


@pytest.fixture(scope="package")
def colours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Dialogues about colours; the test split has rows with and without answers."""
    unlabeled = ((*ask("Red", "Blue")[:2], None), ((), "Is this True?", None))
    rows = mixed_rows("train") + mixed_rows("val") + [("test", unlabeled)]
    rows += [("test", (ask("Green", answer="Greenish"), ((), "Is this True?", None)))]
    rows += [("test", (ask(colour),)) for colour in ("Red", "Green", "Blue") * 50]
    return make_dataset(tmp_path_factory.mktemp("colours") / "data", rows)


@pytest.fixture(scope="package")
def knows_colours(colours: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint of a model that learned the train split."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("model") / "checkpoint"
    get_family("tiny").save(*train_tiny(ConversationDataset(colours, "train")), folder)
    return folder


@pytest.fixture(scope="package")
def adapter_runs(demo: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Finished runs with an adapter on a full and on a 4-bit base, and one without any."""
    short: dict[str, Any] = {"max_steps": 3, "learning_rate": 3e-2}
    folders = {}
    for name in ("lora", "qlora", "full"):
        folders[name] = tmp_path_factory.mktemp(name) / "run"
        run(demo, folders[name], **STRATEGIES[name], **short)
    return folders
