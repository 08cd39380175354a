"""Output paths that cannot be written to are one line before any work, and nothing is made by looking."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from phiv_data.utils.outputs import check_output_file, check_output_folder
from phiv_schemas.errors import EnvironmentProblem, UsageError


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("folder", r"--output: '.*folder' is a folder\. Name a file"),
        ("file/a.json", r"--output: '.*file' cannot be a folder \('.*file' is a file\)"),
        ("file/a/b.json", r"--output: '.*file/a' cannot be a folder \('.*file' is a file\)"),
        (f"{'n' * 300}.json", "the name is too long"),
        (f"{'n' * 300}/a.json", "the name is too long"),
    ],
)
def test_a_path_that_cannot_be_a_file_is_one_line(tmp_path: Path, name: str, line: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises((UsageError, EnvironmentProblem), match=line):
        check_output_file("--output", tmp_path / name)


def test_a_folder_that_takes_no_files_is_found_though_permissions_allow_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_only(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(Path, "touch", read_only)
    with pytest.raises(EnvironmentProblem, match="the disk is read-only"):
        check_output_folder("--output_dir", tmp_path / "new")


def test_good_paths_pass_and_nothing_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for path in (Path("a.json"), Path("new/deep/a.json"), tmp_path / "b.json"):
        check_output_file("--output", path)
    check_output_folder("--output_dir", Path("runs/a"))
    assert not list(tmp_path.iterdir())
