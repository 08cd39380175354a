"""The command: the result on stdout, what was found on stderr, exit codes, nothing heavy for --help."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from phiv_converters.ucf101.options import Ucf101Options
from phiv_data import validate
from phiv_data.cli.split import main
from phiv_data.convert.engine import convert


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("split") / "data"
    convert(Ucf101Options(demo=True, num_frames=2), folder, num_workers=0)
    return folder


def run(monkeypatch: pytest.MonkeyPatch, *args: object) -> int:
    monkeypatch.setattr(sys, "argv", ["phiv-split", *map(str, args)])
    try:
        return main()
    except SystemExit as exit_:  # tyro's own usage errors
        return int(exit_.code or 0)


def test_whole_source_videos_are_split_and_the_result_is_strictly_clean(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ("--out_dir", tmp_path / "out", "--test_fraction", "0.1", "--num_workers", 0)
    assert run(monkeypatch, data, *flags) == 0
    streams = capsys.readouterr()
    assert streams.err.splitlines() == [
        "phiv-split: all rows are split again: 480 of train, 48 of val, 48 of test",
        "phiv-split: 432 rows stay with an earlier row that is of the same declared group (PV243)",
    ]
    assert streams.out.splitlines() == [
        f"{tmp_path / 'out'}: split",
        "  train     460 rows      920 images",
        "  val        60 rows      120 images",
        "  test       56 rows      112 images",
    ]
    assert validate(tmp_path / "out").totals == {"error": {}, "warning": {}}
    assert run(monkeypatch, data, *flags) == 0
    assert capsys.readouterr().out.startswith(f"{tmp_path / 'out'}: already split, nothing to do\n")


def test_exit_codes(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, data) == 2
    assert run(monkeypatch, data, "--out_dir", tmp_path / "out", "--val_fraction", 2) == 2
    assert run(monkeypatch, data, "--out_dir", tmp_path / "out", "--val_fraction", "1e-320") == 2
    assert run(monkeypatch, data, "--out_dir", tmp_path / "out", "--num_workers", "-1") == 2
    assert run(monkeypatch, tmp_path / "gone", "--out_dir", tmp_path / "out") == 2
    assert "phiv-split: --val_fraction: must be at least 0 and less than 1 (found 2)" in capsys.readouterr().err
    (tmp_path / "file").write_text("")
    assert run(monkeypatch, data, "--out_dir", tmp_path / "file" / "out") == 2
    assert not (tmp_path / "out").exists()


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys; sys.argv = ['phiv-split', '--help']\n"
        "from phiv_data.cli.split import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print(sorted({'pyarrow', 'numpy', 'PIL', 'pydantic', 'av', 'torch'} & sys.modules.keys()))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
