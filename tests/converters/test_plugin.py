"""A third party's package, built and installed for real: phiv finds its converter, and the kit runs from outside."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from phiv_data import ConversationDataset, validate
from phiv_data.testing import conformance_checks

PACKAGE = Path(__file__).resolve().parents[1] / "plugin_package"
CONVERT = "from phiv_data.cli.convert import main; raise SystemExit(main())"


@pytest.fixture(name="installed", scope="module")
def _installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds the installed package, as site-packages would. Nothing is downloaded."""
    folder = tmp_path_factory.mktemp("plugin")
    source = shutil.copytree(PACKAGE, folder / "source", ignore=shutil.ignore_patterns("tests", "__pycache__"))
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-build-isolation", "--no-deps"]
    run([*pip, "--target", str(folder / "site"), str(source)], folder)
    return folder / "site"


@pytest.fixture(name="source", scope="module")
def _source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from PIL import Image

    source = tmp_path_factory.mktemp("pets")
    for i, name in enumerate(("train/cat/a", "train/dog/b", "val/cat/c", "val/dog/d")):
        (source / name).parent.mkdir(parents=True)
        Image.new("RGB", (32 + i, 24), (50 * i, 80, 120)).save(source / f"{name}.jpg")
    return source


def run(command: list[str], cwd: Path, site: Path | None = None, *, code: int = 0) -> subprocess.CompletedProcess[str]:
    env = os.environ | {"COLUMNS": "200", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    env |= {"PYTHONPATH": str(site)} if site else {}
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True)
    assert done.returncode == code, done.stdout + done.stderr
    return done


def test_an_installed_package_adds_a_command(installed: Path, source: Path, tmp_path: Path) -> None:
    flags = ["pets", "--source", str(source), "--question", "Which pet?", "--out_dir", "out", "--num_workers", "2"]
    done = run([sys.executable, "-c", CONVERT, *flags], tmp_path, installed)
    assert "4 inputs = 4 written" in done.stdout
    assert validate(tmp_path / "out").ok
    turns = [sample.conversation.turns[0] for sample in ConversationDataset(tmp_path / "out", "val")]
    assert [(turn.user, turn.assistant) for turn in turns] == [("Which pet?", "cat"), ("Which pet?", "dog")]
    again = run([sys.executable, "-c", CONVERT, *flags], tmp_path, installed)
    assert "already converted" in again.stdout


def test_its_fields_are_flags_with_their_help(installed: Path, tmp_path: Path) -> None:
    text = run([sys.executable, "-c", CONVERT, "pets", "--help"], tmp_path, installed).stdout
    assert "Images of cats and dogs to questions." in text
    assert "What is asked of every image." in text


def test_without_it_there_is_no_such_command(source: Path, tmp_path: Path) -> None:
    done = run(
        [sys.executable, "-c", CONVERT, "pets", "--source", str(source), "--out_dir", "out"], tmp_path, None, code=2
    )
    assert "pets" in done.stderr


def test_a_broken_package_is_reported_and_disturbs_no_other(installed: Path, source: Path, tmp_path: Path) -> None:
    site = shutil.copytree(installed, tmp_path / "site")
    (site / "broken-1.0.dist-info").mkdir()
    (site / "broken-1.0.dist-info/METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1.0\n")
    (site / "broken-1.0.dist-info/entry_points.txt").write_text("[phiv.converters]\nbroken = no_such_module:Options\n")
    done = run([sys.executable, "-c", CONVERT, "pets", "--source", str(source), "--out_dir", "out"], tmp_path, site)
    assert "phiv-convert: plugin left out: broken (no_such_module:Options): ModuleNotFoundError" in done.stderr
    assert "4 written" in done.stdout


def test_its_own_tests_run_the_kit_from_outside(installed: Path, tmp_path: Path) -> None:
    tests = shutil.copytree(PACKAGE / "tests", tmp_path / "tests")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(tmp_path), str(tests)]
    assert f"{len(conformance_checks())} passed" in run(command, tmp_path, installed).stdout


def test_the_kit_fails_its_tests_when_the_package_is_wrong(installed: Path, tmp_path: Path) -> None:
    site, tests = shutil.copytree(installed, tmp_path / "site"), shutil.copytree(PACKAGE / "tests", tmp_path / "tests")
    code = (site / "phiv_pets.py").read_text()
    (site / "phiv_pets.py").write_text(
        code.replace("content=path", 'content=b"", payload=path').replace("item.path", "item.payload")
    )
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "content or plan", str(tests)]
    done = run(command, tmp_path, site, code=1)
    assert "a second run misses a change in 'train/cat/a.jpg'. Put what an input is into" in done.stdout
    assert "1 failed" in done.stdout


def test_an_edited_prompt_in_its_code_is_noticed(installed: Path, source: Path, tmp_path: Path) -> None:
    site = shutil.copytree(installed, tmp_path / "site")
    command = [sys.executable, "-c", CONVERT, "pets", "--source", str(source), "--out_dir", "out"]
    run(command, tmp_path, site)
    code = (site / "phiv_pets.py").read_text()
    (site / "phiv_pets.py").write_text(code.replace("user=self.question", 'user=f"{self.question} Answer in a word."'))
    done = run(command, tmp_path, site, code=2)
    assert (
        "holds a finished pets conversion that differs in the version of its converter. Pass --overwrite" in done.stderr
    )
    run([*command, "--overwrite"], tmp_path, site)
    turns = [sample.conversation.turns[0] for sample in ConversationDataset(tmp_path / "out", "val")]
    assert [turn.user for turn in turns] == ["Cat or dog? Answer in a word."] * 2
