"""Nothing that lies in a checkpoint runs code, and what cannot be read is named."""

from __future__ import annotations

import importlib.util
import os
import shutil
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from training import run, settings

from phiv_schemas.errors import UsageError
from phiv_train.checkpoints.load import load_model
from phiv_train.checkpoints.pickles import allow_deepspeed_states, check_pickles, without_code
from phiv_train.checkpoints.resolve import find_source
from phiv_train.checkpoints.store import read_metadata, write_metadata
from phiv_train.families.base import get_family
from phiv_train.training.run import train

STEPS: dict[str, Any] = {"max_steps": 2, "save_steps": 1, "use_lora": True, "lora_rank": 4}
PICKLES = ["optimizer.pt", "scheduler.pt", "rng_state.pth"]


class Evil:
    """Makes a file where it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.mark}",)


@pytest.fixture(scope="module")
def first_step(demo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint after the first of two steps."""
    folder = tmp_path_factory.mktemp("run")
    run(demo, folder, **STEPS)
    return folder / "checkpoint-1"


@pytest.fixture
def checkpoint(first_step: Path, tmp_path: Path) -> Path:
    """A copy of it, to break."""
    shutil.copytree(first_step, tmp_path / "out/checkpoint-1")
    return tmp_path / "out/checkpoint-1"


def resume(demo: Path, checkpoint: Path) -> str:
    """What a run says that resumes from a checkpoint whose metadata fit its files."""
    config = settings(demo, checkpoint.parent, **STEPS, resume=str(checkpoint))
    write_metadata(checkpoint, config, read_metadata(checkpoint))
    with pytest.raises(UsageError) as caught:
        train(config)
    return str(caught.value)


@pytest.mark.parametrize("name", PICKLES)
def test_code_in_a_checkpoint_is_refused_by_the_name_of_its_file(
    demo: Path, checkpoint: Path, tmp_path: Path, name: str
) -> None:
    state = torch.load(checkpoint / name, weights_only=False)
    torch.save({**state, "note": Evil(tmp_path / "RAN")}, checkpoint / name)
    assert resume(demo, checkpoint).startswith(f"{checkpoint / name}: cannot be read (it could run code")
    assert not (tmp_path / "RAN").exists()


@pytest.mark.parametrize("name", [*PICKLES, "trainer_state.json"])
def test_a_part_that_holds_something_else_is_named(demo: Path, checkpoint: Path, name: str) -> None:
    if name == "trainer_state.json":
        (checkpoint / name).write_text('{"nobody": 1}')
    else:
        torch.save({"nobody": torch.ones(1)}, checkpoint / name)
    assert resume(demo, checkpoint).startswith(f"{checkpoint / name}: cannot be read (")


@pytest.mark.parametrize("content", [b"[" * 100_000, b"\xff", b"3"])
def test_settings_that_cannot_be_read_are_named(demo: Path, checkpoint: Path, content: bytes) -> None:
    config = settings(demo, checkpoint.parent, **STEPS, resume=str(checkpoint))
    (checkpoint / "phiv_config.json").write_bytes(content)
    metadata = read_metadata(checkpoint)
    write_metadata(checkpoint, config, metadata)
    (checkpoint / "phiv_config.json").write_bytes(content)
    with pytest.raises(UsageError, match=r"phiv_config\.json"):
        train(config)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_random_bytes_are_one_line(tmp_path: Path) -> None:
    """Also behind a beginning that torch takes for its own. A few happen to be a pickle of some value."""
    refused = 0
    file, random = tmp_path / "optimizer.pt", Random(5)
    torch.save({"step": torch.ones(3)}, file)
    whole = file.read_bytes()
    for trial in range(300):
        kept = whole[: random.randrange(len(whole))] if trial % 2 else b""
        file.write_bytes(kept + random.randbytes(random.randrange(60)))
        try:
            check_pickles(tmp_path, is_zero2=False)
        except UsageError as error:
            refused += str(error).startswith(f"{file}: cannot be read (")
    assert refused > 290


def test_a_caller_that_asks_for_code_gets_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As DeepSpeed does. The user's own setting for the opposite neither wins nor is lost."""
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    torch.save({"note": Evil(tmp_path / "RAN")}, tmp_path / "x.pt")
    with without_code(), pytest.raises(Exception, match="Weights only load failed"):
        torch.load(tmp_path / "x.pt", weights_only=False)
    assert not (tmp_path / "RAN").exists()
    assert os.environ["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"] == "1"
    assert "TORCH_FORCE_WEIGHTS_ONLY_LOAD" not in os.environ


@pytest.mark.skipif(importlib.util.find_spec("deepspeed") is None, reason="needs deepspeed")
def test_states_of_deepspeed_are_read_and_code_beside_them_is_not(tmp_path: Path) -> None:
    from deepspeed.runtime.checkpoint_engine.torch_checkpoint_engine import TorchCheckpointEngine
    from deepspeed.runtime.fp16.loss_scaler import LossScaler
    from deepspeed.runtime.zero.config import ZeroStageEnum
    from deepspeed.utils.tensor_fragment import fragment_address

    state = {"scale": LossScaler(2.0), "stage": ZeroStageEnum.gradients, "at": fragment_address(3, 7)}
    file = tmp_path / "global_step1/zero_pp_rank_0_mp_rank_00_optim_states.pt"
    file.parent.mkdir()
    torch.save(state, file)
    check_pickles(tmp_path, is_zero2=True)
    with without_code(), allow_deepspeed_states(True):
        loaded = TorchCheckpointEngine().load(str(file))
        assert (loaded["scale"].cur_scale, loaded["stage"], loaded["at"].numel) == (2.0, state["stage"], 3)
        torch.save(state | {"note": Evil(tmp_path / "RAN")}, file)
        with pytest.raises(Exception, match="Weights only load failed"):
            TorchCheckpointEngine().load(str(file))
    with pytest.raises(UsageError, match="it could run code"):
        check_pickles(tmp_path, is_zero2=True)
    assert not (tmp_path / "RAN").exists()


@pytest.mark.parametrize("evil", [False, True])
def test_pickled_weights_are_read_as_numbers(tmp_path: Path, evil: bool) -> None:
    family = get_family("tiny")
    model, processor = family.load("tiny")
    family.save(model, processor, tmp_path)
    (tmp_path / "model.safetensors").unlink()
    tensors: dict[str, Any] = dict(model.state_dict())
    torch.save(tensors | ({"note": Evil(tmp_path / "RAN")} if evil else {}), tmp_path / "pytorch_model.bin")
    source = find_source(str(tmp_path))
    if evil:
        with pytest.raises(UsageError, match=r"pytorch_model\.bin: does not hold tensors alone"):
            load_model(source)
        assert not (tmp_path / "RAN").exists()
        return
    loaded, _ = load_model(source)
    assert all(torch.equal(tensor, tensors[name]) for name, tensor in loaded.state_dict().items())


@pytest.mark.parametrize("evil", [False, True])
def test_a_pickled_adapter_is_read_as_numbers(first_step: Path, tmp_path: Path, evil: bool) -> None:
    from safetensors.torch import load_file

    shutil.copytree(first_step, tmp_path / "adapter")
    tensors: dict[str, Any] = load_file(tmp_path / "adapter/adapter_model.safetensors")
    (tmp_path / "adapter/adapter_model.safetensors").unlink()
    file = tmp_path / "adapter/adapter_model.bin"
    torch.save(tensors | ({"note": Evil(tmp_path / "RAN")} if evil else {}), file)
    source = find_source(str(tmp_path / "adapter"))
    if evil:
        with pytest.raises(UsageError, match=r"adapter_model\.bin: cannot be read \(it could run code"):
            load_model(source)
        assert not (tmp_path / "RAN").exists()
        return
    loaded, expected = load_model(source)[0].state_dict(), load_model(find_source(str(first_step)))[0].state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in loaded.items())
