"""An image that is not where a row says is found nearby, and the finding says where."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest
from data_builders import image_bytes

from phiv_data.validation import validate
from phiv_schemas.errors import EnvironmentProblem


def missing(folder: Path, *paths: str) -> list[tuple[str, str]]:
    """Message and hint of each finding."""
    lines = []
    for i, path in enumerate(paths):
        turn = {"images": [path], "user": f"q{i}", "assistant": f"a{i}"}
        lines.append(json.dumps({"id": str(i), "source": "s", "conversations": [turn]}) + "\n")
    (folder / "val.jsonl").write_text("".join(lines), encoding="utf-8")
    return [(issue.message, issue.hint) for issue in validate(folder / "val.jsonl").issues]


def put(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(image_bytes(1))


@pytest.mark.parametrize(
    ("there", "named"),
    [
        *(("a.jpg", "A.JPG"), ("a.jpg", "a.png"), ("caf\u00e9.jpg", "cafe\u0301.jpg"), ("a b.jpg", "a%20b.jpg")),
        *(("a.jpg", "cat/a.jpg"), ("Cat/a.jpg", "cat/a.jpeg"), ("cat/a.jpg", "dog/a.jpg")),
    ],
)
def test_a_name_in_another_spelling_or_folder(tmp_path: Path, there: str, named: str) -> None:
    put(tmp_path / "images" / there)
    ((_, hint),) = missing(tmp_path, named)
    assert hint == f"Did you mean {there!r}?"


def test_nothing_is_said_of_what_is_nowhere(tmp_path: Path) -> None:
    put(tmp_path / "images" / "a.jpg")
    shown = {name: repr(name) for name in ("b/other.jpg", "x" * 394 + ".jpg")}
    shown["x" * 400 + ".jpg"] = "'" + "x" * 396 + "..."
    for name, quoted in shown.items():
        ((message, hint),) = missing(tmp_path, name)
        assert (message, hint) == (f"no such image {quoted} under images/", "")


@pytest.mark.parametrize("has_images", [True, False])
@pytest.mark.parametrize("root", ["photos", ".", "images/all"])
def test_the_folder_that_paths_start_from(tmp_path: Path, root: str, has_images: bool) -> None:
    put(tmp_path / root / "cat" / "a.jpg")
    if has_images:
        (tmp_path / "images").mkdir(exist_ok=True)
    (_, hint), *_ = missing(tmp_path, "cat/a.jpg")
    assert hint.startswith(f"Pass --images_root {tmp_path / root}:")
    assert validate(tmp_path / "val.jsonl", images_root=tmp_path / root).ok


def test_a_file_that_comes_later_is_seen(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    assert missing(tmp_path, "A.JPG")[0][1] == ""
    put(tmp_path / "images" / "a.jpg")
    assert missing(tmp_path, "A.JPG")[0][1] == "Did you mean 'a.jpg'?"


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.ENOMEM])
def test_a_disk_that_fails_is_no_finding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    put(tmp_path / "images" / "a.png")
    assert missing(tmp_path, "a.png") == []
    lstat = os.lstat

    def fail(path: Any, *args: Any, **how: Any) -> os.stat_result:
        if str(path).endswith("a.png"):
            raise OSError(number, os.strerror(number), str(path))
        return lstat(path, *args, **how)

    monkeypatch.setattr(os, "lstat", fail)
    with pytest.raises(EnvironmentProblem, match=r"a\.png"):
        missing(tmp_path, "a.png")
