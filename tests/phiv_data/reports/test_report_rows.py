"""Which rows a report shows, and that nothing in the data keeps it from showing them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phiv_data.reports import rows
from phiv_data.reports.rows import sample_rows, thumbnail


@given(st.integers(0, 10_000), st.integers(1, 300))
def test_a_sample_is_spread_evenly_without_repeats(count: int, limit: int) -> None:
    lines = rows._spread(range(1, count + 1), limit)
    assert len(set(lines)) == len(lines) == min(count, limit)
    assert all(1 <= line <= count for line in lines)
    gaps = [b - a for a, b in zip(sorted(lines), sorted(lines)[1:], strict=False)]
    assert not gaps or max(gaps) - min(gaps) <= 1


def test_wanted_rows_come_first_then_the_splits_by_turns(folder: Path) -> None:
    found = sample_rows(folder, [("ucf101_val.jsonl", 7), ("ucf101_val.jsonl", 7), ("gone.jsonl", 1)], limit=5)
    assert [(row.split, row.line) for row in found] == [
        ("val", 7), ("train", 1), ("val", 1), ("train", 33), ("val", 17),
    ]  # fmt: skip


def test_fewer_rows_than_the_limit_are_all_there(folder: Path) -> None:
    found = sample_rows(folder, [], limit=1000)
    assert len({row.place for row in found}) == len(found) == 60


def test_the_image_of_a_row_is_the_file_named(folder: Path) -> None:
    (row,) = sample_rows(folder, [("ucf101_train.jsonl", 4)], limit=1)
    assert row.read_image(1) == (folder / "images/train/Archery/v_0003.1.png").read_bytes()


def test_rows_of_shards_hold_the_same_as_the_jsonl(folder: Path) -> None:
    name = "val/data-00000-of-00001.arrow"
    (shard,) = sample_rows(folder / "arrow", [(name, 5)], limit=1)
    (line,) = sample_rows(folder, [("ucf101_val.jsonl", 5)], limit=1)
    assert shard.conversation == line.conversation
    assert shard.read_image(0) == line.read_image(0)


@pytest.mark.parametrize("target", ["outside", "pipe", "folder", "none"])
def test_an_image_that_is_no_file_below_images_is_not_read(folder: Path, target: str) -> None:
    image = folder / "images/train/Archery/v_0003.1.png"
    image.unlink()
    if target == "outside":
        (folder / "secret").write_bytes(b"secret")
        image.symlink_to(folder / "secret")
    elif target == "pipe":
        os.mkfifo(image)
    elif target == "folder":
        image.mkdir()
    (row,) = sample_rows(folder, [("ucf101_train.jsonl", 4)], limit=1)
    assert row.read_image(1) is None
    assert row.read_image(0) is not None


def test_lines_that_hold_no_record_come_as_text(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'\xef\xbb\xbf{"id": 1}\n\n\xff\xfe no utf-8\nlast')
    found = sample_rows(tmp_path / "a.jsonl", [], limit=10)
    assert [(row.line, row.text) for row in sorted(found, key=lambda row: row.line)] == [
        (1, '{"id": 1}'), (3, "\\xff\\xfe no utf-8"), (4, "last"),
    ]  # fmt: skip


def test_a_broken_shard_or_manifest_leaves_the_others(folder: Path) -> None:
    (folder / "manifest.json").write_text("{")
    found = sample_rows(folder, [], limit=100)
    assert {row.split for row in found} == {"ucf101_train", "ucf101_val"}
    shard = folder / "arrow/val/data-00000-of-00001.arrow"
    shard.write_bytes(shard.read_bytes()[:-100])
    assert {row.split for row in sample_rows(folder / "arrow", [], limit=100)} == {"train"}


def test_broken_images_have_no_thumbnail(shared: Path) -> None:
    files = [file for file in sorted((shared / "samples/broken_media/images").rglob("*")) if file.is_file()]
    assert files
    for file in files:
        small = thumbnail(file.read_bytes(), 64)
        assert small is None or max(small[1:]) <= 64
    assert thumbnail(b"no image", 64) is None
