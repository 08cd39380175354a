"""Training on a dataset in an object store is training on the local one, bit for bit, stopped and resumed too."""

from __future__ import annotations

import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from training import call, equal, final, flags, losses, run, settings

from phiv_data.stores.address import Address, spell_place
from phiv_data.stores.opening import open_store
from phiv_train.cli import inspect as cli_inspect


@pytest.fixture
def remote(demo: Path, bucket: str) -> Path:
    """The demo set at an address, as a command line passes it on."""
    store = open_store(Address.parse(f"{bucket}/demo"))
    files = [path for path in demo.rglob("*") if path.is_file() and path.is_relative_to(demo / "arrow")]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda path: store.put(path.relative_to(demo).as_posix(), path), files))
    store.put("manifest.json", demo / "manifest.json")
    return Path(f"{bucket}/demo")


def test_steps_equal_those_on_the_local_set(demo: Path, remote: Path, tmp_path: Path) -> None:
    ours = run(remote, tmp_path / "ours", max_steps=3, num_workers=1)
    theirs = run(demo, tmp_path / "theirs", max_steps=3, num_workers=0)
    assert losses(tmp_path / "ours") == losses(tmp_path / "theirs")
    assert equal(ours, theirs)


def test_a_run_resumes_from_a_store(demo: Path, remote: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    straight = run(demo, tmp_path / "straight", max_steps=4, save_steps=2)
    shutil.copytree(tmp_path / "straight", tmp_path / "resumed")
    for name in ("final", "checkpoint-4"):
        shutil.rmtree(tmp_path / "resumed" / name)
    assert call(monkeypatch, *flags(settings(remote, tmp_path / "resumed", max_steps=4, save_steps=2))) == 0
    assert losses(tmp_path / "resumed") == losses(tmp_path / "straight")
    assert equal(final(tmp_path / "resumed"), straight)


def test_a_split_that_is_not_there_names_the_address(
    remote: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, *flags(settings(remote, tmp_path, train_split="trian"))) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"phiv-train: {spell_place(remote)}: the split 'trian' of --train_split is not there")


def test_a_row_is_shown_as_the_local_one(
    demo: Path, remote: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = []
    for place in (demo, remote):
        monkeypatch.setattr(sys, "argv", ["phiv-inspect", str(place), "1", "--family", "tiny"])
        assert cli_inspect.main() == 0
        shown.append(capsys.readouterr().out)
    assert shown[0] == shown[1].replace(spell_place(remote), str(demo))
