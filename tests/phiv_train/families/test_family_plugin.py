"""A third party's model family, built and installed for real: every command works with it, in processes of its own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from eval_data import make_dataset, mixed_rows

from phiv_train.testing import family_checks

PACKAGE = Path(__file__).resolve().parents[2] / "smolvlm_plugin"
NAME = "smolvlm_toy"


@pytest.fixture(name="site", scope="module")
def _site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds the installed package, as site-packages would. Nothing is downloaded."""
    folder = tmp_path_factory.mktemp("plugin")
    source = shutil.copytree(PACKAGE, folder / "source", ignore=shutil.ignore_patterns("tests", "__pycache__"))
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-build-isolation", "--no-deps"]
    run([*pip, "--target", str(folder / "site"), str(source)], folder)
    return folder / "site"


@pytest.fixture(name="data", scope="module")
def _data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("family") / "data", [*mixed_rows("train"), *mixed_rows("val")])


@pytest.fixture(name="final", scope="module")
def _final(site: Path, data: Path) -> Path:
    """The model after two steps; the option of its images is the family's own."""
    flags = ["--data_dir", str(data), "--model_name_or_path", NAME, "--output_dir", "run", "--max_steps", "2"]
    flags += ["--max_eval_rows", "2", "--max_new_tokens", "2", "--image_option", "longest_edge=56", "--batch_size", "4"]
    done = run(command("phiv_train.cli.train", *flags), data.parent, site)
    assert "eval_before.json: " in done.stdout
    assert "eval_after.json: " in done.stdout
    return data.parent / "run" / "final"


def command(module: str, *arguments: str) -> list[str]:
    return [sys.executable, "-c", f"from {module} import main; raise SystemExit(main())", *arguments]


def run(argv: list[str], cwd: Path, site: Path | None = None, *, code: int = 0) -> subprocess.CompletedProcess[str]:
    env = os.environ | {"COLUMNS": "200", "PIP_DISABLE_PIP_VERSION_CHECK": "1", "HF_HUB_OFFLINE": "1"}
    env |= {"PYTHONPATH": str(site)} if site else {}
    done = subprocess.run(argv, cwd=cwd, env=env, capture_output=True, text=True)
    assert done.returncode == code, done.stdout + done.stderr
    return done


def test_it_keeps_the_interface_by_its_own_tests(site: Path, tmp_path: Path) -> None:
    tests = shutil.copytree(PACKAGE / "tests", tmp_path / "tests")
    argv = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(tmp_path), str(tests)]
    assert f"{len(family_checks())} passed" in run(argv, tmp_path, site).stdout


def test_its_checkpoint_names_the_family_and_keeps_the_image_options(final: Path, site: Path, data: Path) -> None:
    assert json.loads((final / "config.json").read_text())["model_type"] == "smolvlm"
    flags = ["--data_dir", str(data), "--model_name_or_path", str(final), "--limit", "2", "--max_new_tokens", "2"]
    run(command("phiv_train.cli.eval", *flags), data.parent, site)
    used = json.loads((final / "eval_val.json").read_text())["settings"]
    assert (used["family"], used["longest_edge"]) == (NAME, 56)
    again = run(command("phiv_train.cli.eval", *flags, "--image_option", "longest_edge=112"), data.parent, site)
    assert "longest_edge is 112, the model was trained with 56" in again.stderr


def test_a_row_is_inspected_with_the_separators_of_its_images(final: Path, site: Path, data: Path) -> None:
    flags = [str(data), "1", "--model_name_or_path", str(final), "--format", "json"]
    row = json.loads(run(command("phiv_train.cli.inspect", *flags), data.parent, site).stdout)
    tokens = [image["tokens"] for image in row["images"]]
    assert tokens == [7, 7]  # separator, place, 4 of the tile, separator
    shown = [(span["start"], span["stop"] - span["start"]) for span in row["spans"] if span["image"] is not None]
    assert shown == [(image["start"], image["tokens"]) for image in row["images"]]
    wide = run(command("phiv_train.cli.inspect", *flags, "--image_option", "longest_edge=112"), data.parent, site)
    assert min(image["tokens"] for image in json.loads(wide.stdout)["images"]) > 7


def test_rows_are_measured_by_the_validator(site: Path, data: Path) -> None:
    flags = [str(data), "--family", NAME, "--max_tokens", "1", "--image_option", "longest_edge=56"]
    done = run(command("phiv_data.cli.validate", *flags), data.parent, site, code=1)
    assert "tokens (2 images: 14), over the budget of 1" in done.stdout
    wrong = [*flags[:-1], "num_crops=4"]
    done = run(command("phiv_data.cli.validate", *wrong), data.parent, site, code=2)
    assert "family smolvlm_toy has no such image option. It has longest_edge" in done.stderr


def test_a_dry_run_needs_no_weights(site: Path, data: Path) -> None:
    flags = ["--data_dir", str(data), "--model_name_or_path", NAME, "--dry_run", "--output_dir", "dry"]
    text = run(command("phiv_train.cli.train", *flags), data.parent, site).stdout
    assert "memory (estimate)" in text
    assert not (data.parent / "dry").exists()


def test_a_folder_of_a_family_that_is_not_installed_is_refused(final: Path, data: Path) -> None:
    flags = [str(data), "0", "--model_name_or_path", str(final)]
    done = run(command("phiv_train.cli.inspect", *flags), data.parent, None, code=2)
    assert "model_type 'smolvlm' belongs to no installed family. Pass --family (phi3_vision, tiny)" in done.stderr
