"""Which family a model's name stands for: by its config.json, never by guess."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from phiv_schemas.errors import EnvironmentProblem, UsageError
from phiv_train.checkpoints.resolve import family_of, find_source

COMMIT = "0" * 40


def cached(cache: Path, repo: str, config: dict[str, str]) -> None:
    """A hub repository as the hub's client keeps it after a download: its config.json alone."""
    folder = cache / f"models--{repo.replace('/', '--')}"
    (folder / "snapshots" / COMMIT).mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text(COMMIT)
    (folder / "snapshots" / COMMIT / "config.json").write_text(json.dumps(config))


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path


def test_published_models_and_a_familys_own_need_no_network(cache: Path) -> None:
    assert family_of("microsoft/Phi-3.5-vision-instruct") == "phi3_vision"
    assert family_of("tiny:7") == "tiny"
    assert find_source().base == "microsoft/Phi-3.5-vision-instruct"
    assert find_source(family="tiny").base == "tiny"


def test_a_hub_id_is_the_family_its_config_says(cache: Path) -> None:
    cached(cache, "someone/phi-finetuned", {"model_type": "phi3_v"})
    assert family_of("someone/phi-finetuned") == "phi3_vision"


def test_a_hub_id_of_no_installed_family_is_refused(cache: Path) -> None:
    cached(cache, "Qwen/Qwen2.5-VL-3B-Instruct", {"model_type": "qwen2_5_vl"})
    with pytest.raises(
        UsageError, match=r"model_type 'qwen2_5_vl' belongs to no installed family\. Pass --family \(phi"
    ):
        find_source("Qwen/Qwen2.5-VL-3B-Instruct")


def test_a_hub_id_that_cannot_be_read_asks_for_the_family(cache: Path) -> None:
    with pytest.raises(EnvironmentProblem, match=r"does not give its config\.json .*or pass --family"):
        find_source("nobody/nothing")
    assert find_source("nobody/nothing", family="phi3_vision").family == "phi3_vision"


def test_a_name_that_is_neither_folder_nor_hub_id_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="no such folder, and not a hub id"):
        find_source("no_such_folder")
