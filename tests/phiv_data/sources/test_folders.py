"""Outputs of phiv are no part of the source around them; links are followed, each folder once."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from phiv_data.convert.engine import convert
from phiv_data.sources.folders import entries, find_files, is_output, output_finder, walk
from phiv_data.utils.plugins import CONVERTERS, load_plugins
from phiv_schemas import EnvironmentProblem


def write(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    return root


@pytest.mark.parametrize("made", [(".phiv/lock",), ("manifest.json", "images.sha256")], ids=["unfinished", "copied"])
def test_the_folder_of_a_conversion_is_an_output(tmp_path: Path, made: tuple[str, ...]) -> None:
    assert is_output(write(tmp_path, *made))


def test_a_folder_with_a_manifest_of_another_tool_is_no_output(tmp_path: Path) -> None:
    assert not is_output(write(tmp_path, "manifest.json"))


def test_a_walk_leaves_out_outputs_and_hidden_entries(tmp_path: Path) -> None:
    write(tmp_path, "a/1.jpg", "a/out/.phiv/lock", "a/out/images/1.jpg", "a/.cache/2.jpg", "b.txt")
    found = {folder.name: [file.name for file in files] for folder, files in walk(tmp_path)}
    assert found == {tmp_path.name: ["b.txt"], "a": ["1.jpg"]}
    assert [entry.name for entry in entries(tmp_path / "a")] == ["1.jpg"]


def test_the_root_of_a_walk_may_be_an_output_itself(tmp_path: Path) -> None:
    write(tmp_path, "manifest.json", "images.sha256", "images/1.jpg")
    assert [folder.name for folder, _ in walk(tmp_path)] == [tmp_path.name, "images"]


def test_links_are_followed_out_of_the_source_and_never_in_a_circle(tmp_path: Path) -> None:
    source = write(tmp_path / "in", "a/1.jpg")
    write(tmp_path / "elsewhere", "2.jpg")
    (source / "linked").symlink_to(tmp_path / "elsewhere")
    (source / "a/up").symlink_to(source)
    (source / "again").symlink_to(source / "a")
    names = [file.name for _, files in walk(source) for file in files]
    assert names == ["1.jpg", "2.jpg"]


def test_a_file_in_an_output_is_recognised_but_not_what_a_conversion_has_unpacked(tmp_path: Path) -> None:
    write(
        tmp_path, "out/.phiv/source/unpacked-1/a.jpg", "out/images/train/a.jpg", "out/.phiv/stage/images/a.jpg", "a.jpg"
    )
    is_in_output = output_finder(tmp_path)
    inside = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.jpg") if is_in_output(path)}
    assert inside == {"out/images/train/a.jpg", "out/.phiv/stage/images/a.jpg"}
    assert not any(output_finder(tmp_path / "out")(path) for path in (tmp_path / "out/images").rglob("*.jpg"))


def test_files_are_found_by_a_pattern_for_each_level(tmp_path: Path) -> None:
    for name in (
        "b.jsonl",
        "a.jsonl",
        ".c.jsonl",
        "d.json",
        "x/1.arrow",
        "w/2.arrow",
        "w/y/3.arrow",
        "f.arrow/4.arrow",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "l.jsonl").symlink_to("nothing")

    def found(pattern: str) -> list[str]:
        return [path.relative_to(tmp_path).as_posix() for path in find_files(tmp_path, pattern)]

    assert found("*.jsonl") == ["a.jsonl", "b.jsonl", "l.jsonl"]
    assert found("*/*.arrow") == ["f.arrow/4.arrow", "w/2.arrow", "x/1.arrow"]
    assert found("*.arrow") == found("no/*.arrow") == []


@pytest.mark.parametrize("name", sorted(load_plugins(CONVERTERS).loaded))
def test_a_source_whose_folder_cannot_be_listed_is_no_empty_one(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scandir, listdir = os.scandir, os.listdir
    source = tmp_path / "source"
    (source / "data").mkdir(parents=True)

    def fails(folder: Any) -> None:
        if folder in (source, str(source)):
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(folder))

    monkeypatch.setattr(os, "scandir", lambda folder=".": fails(folder) or scandir(folder))
    monkeypatch.setattr(os, "listdir", lambda folder=".": fails(folder) or listdir(folder))
    options: Any = load_plugins(CONVERTERS).loaded[name]
    with pytest.raises(EnvironmentProblem, match="the disk fails to read or write"):
        convert(options(source=source), tmp_path / "out", num_workers=0)
