"""Broken data sets beside the exact reports they give, and their nearest neighbors that are fine: tests/corpus.

After a wanted change, run this file with PHIV_WRITE_CORPUS=1 (with -k for single folders) and read the diff.
"""

from __future__ import annotations

import json
import os
import runpy
import shlex
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from phiv_data.cli.validate import main
from phiv_schemas import RULES

CORPUS = Path(__file__).parents[2] / "corpus"
FOLDERS = sorted(path for path in CORPUS.iterdir() if path.is_dir())
WRITE = bool(os.environ.get("PHIV_WRITE_CORPUS"))


@pytest.mark.parametrize("code", sorted(RULES))
def test_every_rule_has_a_folder(code: str) -> None:
    assert [folder for folder in FOLDERS if folder.name.startswith(f"{code}-{RULES[code].name}")]


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_every_folder_is_named_for_a_rule_and_holds_both_data_sets(folder: Path) -> None:
    rule = RULES[folder.name[:5]]
    assert folder.name.startswith(f"{rule.code}-{rule.name}")
    known = {"broken", "broken.json", "clean", "clean.json", "source", "flags.txt", "make.py", "draw.py", "__pycache__"}
    assert {path.name for path in folder.iterdir()} <= known
    assert (folder / "make.py").exists() or {"broken", "clean"} <= {path.name for path in folder.iterdir()}


@pytest.mark.parametrize("kind", ["broken", "clean"])
@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_the_report_is_exactly_the_one_beside_the_data(
    folder: Path, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(made(folder, tmp_path))
    flags = folder / "flags.txt"
    more = shlex.split(flags.read_text(encoding="utf-8")) if flags.exists() else []
    command = ["phiv-validate", target(kind), "--format", "json", "--num_workers", "0", *more]
    monkeypatch.setattr(sys, "argv", command)
    exit_code = main()
    streams = capsys.readouterr()
    assert exit_code in (0, 1), f"{shlex.join(command)}: {streams.err}"
    found: dict[str, Any] = json.loads(streams.out)
    assert (folder.name[:5] in found["counts"]) == (kind == "broken"), found["counts"]
    expected = folder / f"{kind}.json"
    if WRITE:
        expected.write_text(streams.out, encoding="utf-8", newline="\n")
    assert found == json.loads(expected.read_text(encoding="utf-8"))
    assert streams.out == expected.read_text(encoding="utf-8")


def made(folder: Path, tmp_path: Path) -> Path:
    """Where the data is: in place, or in a copy that the folder's `make(copy)` has added to."""
    if not (folder / "make.py").exists():
        return folder
    copy = Path(shutil.copytree(folder, tmp_path / folder.name, symlinks=True))
    runpy.run_path(str(folder / "make.py"))["make"](copy)
    return copy


def target(kind: str) -> str:
    """What is validated: the one file of a folder (images/ do not count), or else the folder."""
    there = [path for path in Path(kind).iterdir() if path.name != "images"]
    return there[0].as_posix() if len(there) == 1 and not there[0].is_dir() else kind
