"""Checkpoints that are complete or reported as damaged, and a `final/` at the end of every finished run."""

from __future__ import annotations

import os
import shlex
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from training import environment, equal, final, flags, run, settings, torchrun

from phiv_schemas.errors import EnvironmentProblem, UsageError
from phiv_train.checkpoints.store import (
    checkpoint_bytes,
    clean_output_dir,
    find_checkpoint,
    prune,
    publish,
    read_metadata,
    write_metadata,
)
from phiv_train.checkpoints.weights import read_weights
from phiv_train.config import TrainConfig
from phiv_train.training import run as run_module
from phiv_train.training import trainer as trainer_module
from phiv_train.training.run import train

FULL: dict[str, Any] = {"max_steps": 3, "save_steps": 1, "save_total_limit": 9}
LORA: dict[str, Any] = FULL | {"use_lora": True, "lora_rank": 4, "lora_dropout": 0.3}
KINDS = {"full": FULL, "lora": LORA}


@pytest.fixture(scope="module")
def finished(demo: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Finished runs of three steps, with a checkpoint of each."""
    folders = {name: tmp_path_factory.mktemp(name) for name in KINDS}
    for name, folder in folders.items():
        run(demo, folder, **KINDS[name])
    return folders


@pytest.fixture
def copy(finished: dict[str, Path], tmp_path: Path) -> Path:
    """The finished LoRA run, to break; without its final folder."""
    shutil.copytree(finished["lora"], tmp_path / "out")
    shutil.rmtree(tmp_path / "out/final")
    return tmp_path / "out"


def found_folder(config: TrainConfig) -> Path | None:
    found = find_checkpoint(config)
    return found and found.folder


# -- final/ ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("left", ["nothing", "another run's", "one without metadata", "one that was cut"])
def test_a_finished_run_gets_the_final_folder_it_lacks(
    demo: Path, tmp_path: Path, finished: dict[str, Path], name: str, left: str
) -> None:
    out, expected = tmp_path / "out", finished[name]
    shutil.copytree(expected, out)
    if left == "nothing":
        shutil.rmtree(out / "final")
    elif left == "another run's":
        shutil.rmtree(out / "final")
        run(demo, tmp_path / "other", **KINDS[name] | {"max_steps": 2})
        shutil.copytree(tmp_path / "other/final", out / "final")
    elif left == "one without metadata":
        (out / "final/phiv_checkpoint.json").unlink()
    else:
        os.truncate(next((out / "final").glob("*model*.safetensors")), 1000)
    run(demo, out, **KINDS[name])
    assert listing(out / "final") == listing(expected / "final")
    assert equal(final(out), final(expected))
    assert not list(out.glob(".phiv-tmp-*"))


def test_a_final_folder_that_is_there_is_not_rewritten(demo: Path, finished: dict[str, Path]) -> None:
    metadata = finished["lora"] / "final/phiv_checkpoint.json"
    before = metadata.stat()
    run(demo, finished["lora"], **LORA)
    assert (metadata.stat().st_ino, metadata.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


@pytest.mark.soak
@pytest.mark.parametrize("kind", ["ddp", "fsdp2"])
def test_several_processes_write_the_final_folder_they_lack(demo: Path, tmp_path: Path, kind: str) -> None:
    words = ["-m", "phiv_train.cli.train", *flags(settings(demo, tmp_path, distributed=kind, **FULL))]
    assert torchrun(2, *words).returncode == 0
    expected = final(tmp_path)
    shutil.rmtree(tmp_path / "final")
    done = torchrun(2, *words)
    assert done.returncode == 0, done.stderr[-3000:]
    assert equal(final(tmp_path), expected)


# -- damage ------------------------------------------------------------------------------------------------------------
ALL_FILES = ["adapter_model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json"]
ALL_FILES += ["phiv_config.json", "tokenizer.json"]
HINT = "Use an older checkpoint (--resume DIR) or start over with --resume never"


def damage(path: Path, how: str) -> str:
    """Damage a file; what is reported of it."""
    size = path.stat().st_size
    if how == "missing":
        path.unlink()
        return "is missing"
    if how == "cut":
        os.truncate(path, 20)
        return f"was cut or changed (20 bytes, {size} expected)"
    data = bytearray(path.read_bytes())
    data[size // 2] ^= 1
    path.write_bytes(data)
    return "was changed (its sha256 is not the one it was saved with)"


@pytest.mark.parametrize("how", ["missing", "cut", "flipped"])
@pytest.mark.parametrize("name", ALL_FILES)
def test_a_damaged_checkpoint_that_is_named_is_one_line_before_training(
    demo: Path, copy: Path, monkeypatch: pytest.MonkeyPatch, name: str, how: str
) -> None:
    monkeypatch.setattr(run_module, "load_model", lambda *_, **__: pytest.fail("weights were loaded"))
    path = copy / "checkpoint-2" / name
    what = damage(path, how)
    with pytest.raises(UsageError) as caught:
        run(demo, copy, **LORA, resume=str(path.parent))
    assert str(caught.value) == f"{path}: {what}. {HINT}"


@pytest.mark.parametrize("name", ["optimizer.pt", "trainer_state.json", "phiv_config.json", "phiv_checkpoint.json"])
def test_auto_resumes_from_the_newest_undamaged_checkpoint_and_reports_it(
    demo: Path, copy: Path, finished: dict[str, Path], capsys: pytest.CaptureFixture[str], name: str
) -> None:
    what = damage(copy / "checkpoint-3" / name, "cut")
    assert equal(run(demo, copy, **LORA), final(finished["lora"]))
    err = capsys.readouterr().err
    assert err.count("damaged checkpoint skipped") == 1
    reported = what if name != "phiv_checkpoint.json" else "cannot be read"
    assert f"phiv-train: damaged checkpoint skipped: {copy}/checkpoint-3/{name}: {reported}" in err
    assert f"resuming from {copy}/checkpoint-2" in err
    assert found_folder(settings(demo, copy)) == copy / "checkpoint-3"  # rewritten


def test_auto_does_not_start_over_where_every_checkpoint_is_damaged(demo: Path, copy: Path) -> None:
    for folder in copy.glob("checkpoint-*"):
        damage(folder / "optimizer.pt", "missing")
    with pytest.raises(UsageError) as caught:
        run(demo, copy, **LORA)
    assert str(caught.value) == f"{copy}/checkpoint-3/optimizer.pt: is missing. {HINT}"
    run(demo, copy, **LORA, resume="never")
    assert found_folder(settings(demo, copy)) == copy / "checkpoint-3"


def test_files_in_folders_are_listed_and_others_may_be_added(demo: Path, copy: Path) -> None:
    """As DeepSpeed's per-rank files are; and phiv-eval writes into checkpoints."""
    folder = copy / "checkpoint-3"
    deep = folder / "global_step3/bf16_zero_pp_rank_1_mp_rank_00_optim_states.pt"
    deep.parent.mkdir()
    torch.save({"step": 3}, deep)
    config = settings(demo, copy, **LORA)
    write_metadata(folder, config, read_metadata(folder))
    listed = read_metadata(folder).files["global_step3/bf16_zero_pp_rank_1_mp_rank_00_optim_states.pt"]
    assert listed.size_bytes == deep.stat().st_size
    (folder / "eval_val.json").write_text("{}")
    assert found_folder(config) == folder
    deep.unlink()
    assert found_folder(config) == copy / "checkpoint-2"


def test_metadata_without_files_is_not_trusted(copy: Path) -> None:
    (copy / "checkpoint-3/phiv_checkpoint.json").write_text(
        '{"step": 3, "plan": "a", "spec": "b", "sharding": "whole", "packs_per_step": 6, "batch_size_per_gpu": 1}'
    )
    with pytest.raises(UsageError, match=r"phiv_checkpoint.json: cannot be read \(.*files.*\)\. Use an older"):
        read_metadata(copy / "checkpoint-3")


def test_a_damaged_checkpoint_does_not_count_as_kept(copy: Path) -> None:
    damage(copy / "checkpoint-3/optimizer.pt", "missing")
    prune(copy, 1)
    assert sorted(p.name for p in copy.glob("checkpoint-*")) == ["checkpoint-2", "checkpoint-3"]
    damage(copy / "checkpoint-2/optimizer.pt", "missing")
    prune(copy, 1)
    assert len(list(copy.glob("checkpoint-*"))) == 2


def test_damaged_checkpoints_older_than_the_kept_ones_are_removed(copy: Path) -> None:
    damage(copy / "checkpoint-1/optimizer.pt", "missing")
    prune(copy, 2)
    assert sorted(p.name for p in copy.glob("checkpoint-*")) == ["checkpoint-2", "checkpoint-3"]


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "optimizer.pt"])
def test_large_unreadable_files_are_one_line_too(demo: Path, copy: Path, name: str) -> None:
    """They are too large to hash, so what is wrong with them shows when they are read."""
    folder = copy / "checkpoint-2"
    size = (folder / name).stat().st_size
    (folder / name).write_bytes(b"\x93" * size)
    config = settings(demo, copy, **LORA, resume=str(folder))
    write_metadata(folder, config, read_metadata(folder))
    with pytest.raises(UsageError) as caught:
        train(config)
    assert str(caught.value).startswith(f"{folder / name}: cannot be read (")
    assert str(caught.value).endswith("). Copy it again, or use another checkpoint")
    assert "weights_only" not in str(caught.value)


def test_weights_that_were_cut_are_one_line(tmp_path: Path, finished: dict[str, Path]) -> None:
    shutil.copytree(finished["full"] / "final", tmp_path / "model")
    os.truncate(tmp_path / "model/model.safetensors", 1000)
    with pytest.raises(UsageError, match=r"model\.safetensors: cannot be read \("):
        read_weights(tmp_path / "model")


# -- removal -----------------------------------------------------------------------------------------------------------
def fill_output_dir(folder: Path) -> None:
    """What an earlier run, a killed one and the user may have left."""
    for name in ("checkpoint-1/phiv_checkpoint.json", "checkpoint-2/model.safetensors", "final/model.safetensors"):
        (folder / name).parent.mkdir(parents=True)
        (folder / name).write_bytes(b"{}")
    (folder / "runs/Nov30").mkdir(parents=True)
    (folder / ".phiv-tmp-checkpoint/checkpoint-3").mkdir(parents=True)
    files = ["runs/Nov30/events.out.tfevents.1", "metrics.jsonl", "bad_rows.jsonl", "eval_before.json"]
    files += [
        "eval_after.json",
        "eval_after.confusion.png",
        "lengths-0123.npy",
        "eval_val.json",
        ".phiv-tmp-a1",
        "notes",
    ]
    for name in files:
        (folder / name).write_bytes(b"{}")


def test_starting_over_removes_all_that_earlier_runs_wrote(tmp_path: Path) -> None:
    fill_output_dir(tmp_path)
    clean_output_dir(tmp_path, everything=True)
    kept = ["eval_val.json", "final", "final/model.safetensors", "lengths-0123.npy", "notes"]
    assert listing(tmp_path) == kept


def test_resuming_removes_temporary_files_only(tmp_path: Path) -> None:
    fill_output_dir(tmp_path)
    before = listing(tmp_path)
    clean_output_dir(tmp_path, everything=False)
    assert listing(tmp_path) == [name for name in before if not name.startswith(".phiv-tmp-")]


def test_resume_never_leaves_no_log_of_the_earlier_run(demo: Path, tmp_path: Path) -> None:
    changes: dict[str, Any] = {"report_to": ("tensorboard",), "eval": True, "max_eval_rows": 1, "max_new_tokens": 2}
    run(demo, tmp_path, max_steps=2, **changes)
    old = {path.name for path in tmp_path.rglob("events.out.tfevents.*")}
    run(demo, tmp_path, max_steps=1, resume="never", report_to=("tensorboard",))
    new = {path.name for path in tmp_path.rglob("events.out.tfevents.*")}
    assert old
    assert new
    assert not old & new
    assert not list(tmp_path.glob("eval_*"))


def test_a_published_folder_replaces_the_old_one_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed while the old folder is removed: the new one is in its place, the old one has a temporary name."""
    for name, content in (("final", b"old"), (".phiv-tmp-final", b"new")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_bytes(content)
    removed: list[Path] = []

    def killed(path: Path, **_: Any) -> None:
        if path.exists():
            removed.append(path)
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            publish(tmp_path / ".phiv-tmp-final", tmp_path, "final")
    assert (tmp_path / "final/model.safetensors").read_bytes() == b"new"
    assert [path.name.startswith(".phiv-tmp-") for path in removed] == [True]
    clean_output_dir(tmp_path, everything=False)
    assert listing(tmp_path) == ["final", "final/model.safetensors"]


# -- disk --------------------------------------------------------------------------------------------------------------
FILLS = """
mount -t tmpfs -o size={size} none {out} || exit 77
{python} -c "
import sys
from phiv_train.cli import train as cli_train
from phiv_train.training import run
run.check_free_space = lambda *_: None
sys.argv[0] = 'phiv-train'
sys.exit(cli_train.main())
" {flags}
code=$?
cd {out} && find . -name 'checkpoint-*' -o -name '.phiv-tmp-*'
exit $code
"""


@pytest.mark.parametrize("size", [pytest.param("4000k", marks=pytest.mark.soak), "5000k"])
def test_a_disk_that_fills_in_a_save_is_one_line_and_leaves_nothing(demo: Path, tmp_path: Path, size: str) -> None:
    """The second save meets a disk that is really full: while its weights, or its optimizer's state are written."""
    words = shlex.join(flags(settings(demo, tmp_path, **FULL)))
    script = FILLS.format(size=size, out=tmp_path, python=sys.executable, flags=words)
    try:
        command = ["unshare", "--mount", "--map-root-user", "sh", "-c", script]
        done = subprocess.run(command, capture_output=True, text=True, env=environment(), check=False)
    except FileNotFoundError:
        pytest.skip("needs unshare")
    if done.returncode == 77 or done.stderr.startswith("unshare:"):
        pytest.skip("needs mount namespaces")
    assert done.returncode == 3, done.stderr
    assert done.stderr.splitlines()[-1].startswith("phiv-train: ")
    assert "disk full. Free some space" in done.stderr.splitlines()[-1]
    assert done.stdout == "./checkpoint-1\n"


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt(), RuntimeError("bug")])
def test_a_save_that_fails_leaves_nothing(
    demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    def fail(*_: Any) -> None:
        raise error

    monkeypatch.setattr(trainer_module, "write_metadata", fail)
    with pytest.raises((EnvironmentProblem, type(error))) as caught:
        run(demo, tmp_path, **FULL)
    assert isinstance(caught.value, EnvironmentProblem) == isinstance(error, OSError)
    assert not list(tmp_path.glob("checkpoint-*"))
    assert not list(tmp_path.glob(".phiv-tmp-*"))


def test_a_final_folder_that_cannot_be_written_leaves_nothing(
    demo: Path, copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(run_module, "write_metadata", fail)
    with pytest.raises(EnvironmentProblem, match="disk full"):
        run(demo, copy, **LORA)
    assert not list(copy.glob(".phiv-tmp-*"))


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_saved_files_have_the_mode_the_umask_says(
    demo: Path, tmp_path: Path, finished: dict[str, Path], name: str, mask: int
) -> None:
    previous = os.umask(mask)
    try:
        shutil.copytree(finished[name] / "checkpoint-3", tmp_path / "checkpoint-3")
        run(demo, tmp_path, **KINDS[name])
    finally:
        os.umask(previous)
    modes = {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "final").rglob("*") if path.is_file()}
    assert modes == {0o666 & ~mask}


@pytest.mark.parametrize("name", KINDS)
def test_the_space_asked_for_is_what_a_run_takes(
    demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Checkpoints and final/ at their peak: just before something is renamed to its place."""
    peaks, asked = [], []
    heavy = ("*.safetensors", "optimizer.pt")
    for module in (trainer_module, run_module):
        publish = module.publish

        def measured(*args: Any, publish: Any = publish) -> Any:
            peaks.append(sum(p.stat().st_size for pattern in heavy for p in tmp_path.rglob(pattern)))
            return publish(*args)

        monkeypatch.setattr(module, "publish", measured)
    monkeypatch.setattr(run_module, "check_free_space", lambda _, needed: asked.append(needed))
    run(demo, tmp_path, **KINDS[name] | {"save_total_limit": 1, "lora_rank": 64})
    assert max(peaks) <= asked[0] * 1.1  # file headers
    assert max(peaks) >= asked[0] * 0.9


def listing(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_checkpoint_bytes_are_those_of_a_checkpoint(finished: dict[str, Path]) -> None:
    total = sum(tensor.numel() for tensor in final(finished["full"]).values())
    files = ("checkpoint-3/model.safetensors", "checkpoint-3/optimizer.pt")
    size = sum((finished["full"] / file).stat().st_size for file in files)
    assert size == pytest.approx(checkpoint_bytes(total, total, adapter=False), rel=0.1)
    assert torch.load(finished["full"] / "checkpoint-3/optimizer.pt", weights_only=True)
