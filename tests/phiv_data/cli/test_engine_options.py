"""`--engine`: an engine from elsewhere does the same work; flags of another engine are refused in one line."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

IN_THREADS = """
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from phiv_data.engines import TaskOutcome

@dataclass(frozen=True)
class Threads:
    num_workers: int | None = None

    def map(self, function, shared, indices):
        with ThreadPoolExecutor(self.num_workers or 2) as pool:
            indices = list(indices)
            for i, value in zip(indices, pool.map(lambda i: function(shared, i), indices)):
                print("in a thread", i)
                yield TaskOutcome(i, value)
"""


@pytest.fixture(scope="module")
def plugins(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two engines as pip leaves them: one in threads, one that cannot be imported."""
    folder = tmp_path_factory.mktemp("plugins")
    for name, code in {"threads": IN_THREADS, "broken": "import no_such_module"}.items():
        (folder / f"{name}_engine.py").write_text(code)
        info = folder / f"{name}_engine-1.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}_engine\nVersion: 1\n")
        (info / "entry_points.txt").write_text(f"[phiv.engines]\n{name} = {name}_engine:Threads\n")
    return folder


def run(plugins: Path, program: str, *args: object) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).with_name(program)), *map(str, args)]
    env = os.environ | {"PYTHONPATH": str(plugins)}
    return subprocess.run(command, capture_output=True, text=True, env=env, timeout=120)


def tree(folder: Path) -> dict[str, str]:
    files = [p for p in folder.rglob("*") if p.is_file() and ".phiv" not in p.parts]
    return {p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def test_an_engine_that_was_installed_converts_and_validates_to_the_same_bytes(plugins: Path, tmp_path: Path) -> None:
    convert = ("ucf101", "--demo", "--max_per_class", "2")
    assert run(plugins, "phiv-convert", *convert, "--out_dir", tmp_path / "local").returncode == 0
    args = ("--out_dir", tmp_path / "threads", "--engine", "threads", "--num_workers", "3")
    done = run(plugins, "phiv-convert", *convert, *args)
    assert (done.returncode, done.stderr) == (0, "")
    assert "in a thread 0\n" in done.stdout
    assert tree(tmp_path / "threads") == tree(tmp_path / "local")
    reports = [run(plugins, "phiv-validate", tmp_path / "local", "--engine", name) for name in ("local", "threads")]
    assert [report.returncode for report in reports] == [0, 0]
    lines = [[one for one in report.stdout.splitlines() if "in a thread" not in one] for report in reports]
    assert lines[0] == lines[1]
    assert "in a thread 0\n" in reports[1].stdout


@pytest.mark.parametrize(
    ("args", "code", "line"),
    [
        (("--engine", "lokal"), 2, "--engine: 'lokal' is no engine. Did you mean 'local'?"),
        (("--engine", "x"), 2, "--engine: 'x' is no engine. There are: "),
        (("--engine", "broken"), 3, "--engine broken: broken (broken_engine:Threads): ModuleNotFoundError: No module"),
        (("--num_workers", "-1"), 2, "--num_workers: must be 0 or more (found -1)"),
    ],
)
def test_an_engine_that_cannot_be_is_one_line(
    plugins: Path, tmp_path: Path, args: tuple[str, ...], code: int, line: str
) -> None:
    done = run(plugins, "phiv-convert", "ucf101", "--demo", "--out_dir", tmp_path / "out", *args)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (code, "", 1), done.stderr
    assert done.stderr.startswith(f"phiv-convert: {line}")
    assert not (tmp_path / "out").exists()
