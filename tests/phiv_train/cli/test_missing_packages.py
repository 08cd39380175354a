"""Without the packages it needs, every training program says in one line how to install them; exit code 3."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from eval_data import ask, make_dataset

# Hides the package from imports, as in an environment without the extra.
WITHOUT = """
import importlib.abc, sys
class Hidden(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.partition(".")[0] == {package!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Hidden())
from phiv_train.cli.{name} import main
sys.exit(main())
"""
ARGS = {
    "train": ["--recipe", "demo-full", "--data_dir", "data", "--output_dir", "o"],
    "eval": ["--model_name_or_path", "tiny", "--data_dir", "data", "--split", "val"],
    "inspect": ["data", "0", "--split", "val", "--model_name_or_path", "tiny"],
}


@pytest.mark.parametrize(("name", "package"), [("train", "torch"), ("eval", "torch"), ("inspect", "tokenizers")])
def test_a_missing_package_is_one_line_and_code_3(name: str, package: str, tmp_path: Path) -> None:
    make_dataset(tmp_path / "data", [("train", (ask("Red"),)), ("val", (ask("Blue"),))])
    command = [sys.executable, "-c", WITHOUT.format(name=name, package=package), *ARGS[name]]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 3, done.stderr
    assert done.stderr.startswith(f"phiv-{name}: ")
    assert package in done.stderr
    assert done.stderr.endswith('[train]"\n')
    assert done.stderr.count("\n") == 1
    assert not done.stdout


# Logs what bitsandbytes logs at its import on a CPU with AVX512-BF16.
NOISY = """
import importlib.abc, logging, sys
class Noise(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name in ("bitsandbytes", "accelerate"):
            logging.getLogger(name + ".backends.cpu").warning("please install kernels")
sys.meta_path.insert(0, Noise())
from phiv_train.cli.train import main
sys.exit(main())
"""


def test_libraries_log_nothing_while_they_are_imported(tmp_path: Path) -> None:
    words = ["--data_dir", "nowhere", "--model_name_or_path", "tiny", "--output_dir", str(tmp_path / "out")]
    done = subprocess.run([sys.executable, "-c", NOISY, *words], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("phiv-train: nowhere: ")
