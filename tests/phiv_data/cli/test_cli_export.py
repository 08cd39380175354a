"""The command: losses once on stderr, the result on stdout, exit codes, nothing heavy for --help, flat memory."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from data_builders import encoded, sample, samples, write_dataset, write_manifest

from phiv_data.cli.export import main
from phiv_data.storage.jsonl import write_jsonl
from phiv_data.storage.sample import Sample
from phiv_data.storage.shards import shard_name, write_shard
from phiv_schemas import SplitInfo


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_dataset(tmp_path / "data", {"train": samples("train", 3), "val": samples("val", 2, 3)})


def run(monkeypatch: pytest.MonkeyPatch, *args: object) -> int:
    monkeypatch.setattr(sys, "argv", ["phiv-export", *map(str, args)])
    try:
        return main()
    except SystemExit as exit_:  # tyro's own usage errors
        return int(exit_.code or 0)


def test_losses_go_to_stderr_once_and_the_result_to_stdout(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "cauldron", data, tmp_path / "out") == 0
    streams = capsys.readouterr()
    assert streams.err == "phiv-export: cauldron cannot hold record ids: lost in 5 of 5 rows\n"
    assert streams.out.splitlines() == [
        f"{tmp_path / 'out'}: exported (cauldron)",
        "  train       3 rows        6 images",
        "  val         2 rows        4 images",
        "  3 files: README.md, data/train-00000-of-00001.parquet, data/val-00000-of-00001.parquet",
    ]


def test_a_second_run_says_the_same_losses_and_writes_nothing(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run(monkeypatch, "cauldron", data, tmp_path / "out")
    first = capsys.readouterr()
    assert run(monkeypatch, "cauldron", data, tmp_path / "out") == 0
    again = capsys.readouterr()
    assert again.err == first.err
    assert again.out.splitlines()[0] == f"{tmp_path / 'out'}: already exported, nothing to do (cauldron)"


@pytest.mark.parametrize("name", ["cauldron", "hub", "llava", "sharegpt", "swift", "trl", "webdataset"])
def test_every_format_takes_the_shared_flags(
    name: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, name, data, tmp_path / "out", "--split", "val", "--overwrite") == 0
    assert "  val         2 rows" in capsys.readouterr().out


def test_exit_codes(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "hub", data, data) == 2
    assert "already exists, and is not an export of phiv" in capsys.readouterr().err
    assert run(monkeypatch, "hub", data, tmp_path / "out", "--split", "dev") == 2
    assert run(monkeypatch, "hub", data, tmp_path / "out", "--date_published", "now") == 2
    assert run(monkeypatch, "parquet", data, tmp_path / "out") == 2
    assert run(monkeypatch, "hub", tmp_path / "nothing", tmp_path / "out") == 2
    (data / "manifest.json").unlink()
    assert run(monkeypatch, "hub", data, tmp_path / "out") == 1
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_written_is_exit_3(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("phiv_data.export.hub.write_parquet", full)
    assert run(monkeypatch, "hub", data, tmp_path / "out") == 3
    assert "disk full" in capsys.readouterr().err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["data"]


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; sys.argv = ['phiv-export', 'hub', '--help']\n"
        "from phiv_data.cli.export import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print([m for m in ('pyarrow', 'PIL', 'numpy', 'pydantic', 'tqdm', 'datasets') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    assert "DATA OUT" in done.stdout


def test_memory_is_flat_in_the_number_of_rows(tmp_path: Path) -> None:
    """480 MB of images in shards of 60 MB go through with 380 MB of memory, the libraries' own included."""
    data = _big_dataset(tmp_path / "data", rows=240, row_bytes=2**21)
    code = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_DATA, (380 * 2**20, 380 * 2**20))\n"
        "from phiv_data.cli.export import main; sys.exit(main())"
    )
    for name in ("cauldron", "webdataset"):
        command = [sys.executable, "-c", code, name, str(data), str(tmp_path / name)]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-500:]
        shutil.rmtree(tmp_path / name)


def _big_dataset(folder: Path, *, rows: int, row_bytes: int) -> Path:
    """A dataset of shards alone, made row by row."""
    noise = os.urandom(row_bytes)

    def row(index: int) -> Sample:
        one = sample("train", index, num_images=1)
        return Sample(one.conversation, (encoded(one.images[0].meta.path, index.to_bytes(4) + noise),))

    shards = [
        write_shard(
            folder / "arrow/train" / shard_name(i, rows // 30), map(row, range(i * 30, i * 30 + 30)), root=folder
        )
        for i in range(rows // 30)
    ]
    jsonl = write_jsonl(folder / "ucf101_train.jsonl", [])
    for name in ("rejects.jsonl", "images.sha256"):
        (folder / name).write_bytes(b"")
    write_manifest(folder, [SplitInfo(name="train", rows=rows, num_images=rows, jsonl=jsonl, shards=shards)])
    return folder
