"""Val and test that are made of train: whole groups, by a hash of each alone, and no split empty."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from dataclasses import fields
from importlib.metadata import entry_points
from math import isnan
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from docvqa_sources import question, release
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from phiv_converters.annotations.options import CocoOptions
from phiv_converters.cauldron.options import CauldronOptions
from phiv_converters.docvqa.options import DocvqaOptions
from phiv_converters.flags import SplitFlags
from phiv_converters.folder.options import FolderOptions
from phiv_converters.own_jsonl.options import JsonlOptions
from phiv_converters.table.options import TableOptions
from phiv_converters.val_split import RowGroups, Shares, val_limit
from phiv_data.utils.groups import JoinedGroups, group_position
from phiv_schemas import UsageError

POSITIONS = st.lists(st.floats(0, 1, exclude_max=True), min_size=2, max_size=20, unique=True)


def test_a_position_depends_on_the_name_alone() -> None:
    assert group_position("ffjw0228") == 0.4711077997945381
    assert group_position("\udcff") != group_position("\udcfe")  # names on disk need not be UTF-8
    shares = [group_position(str(i)) < 0.05 for i in range(10_000)]
    assert 400 < sum(shares) < 600


@given(POSITIONS, st.floats(0, 1, exclude_min=True, exclude_max=True))
def test_neither_split_is_empty_and_the_fraction_is_kept_where_it_can_be(positions: list[float], share: float) -> None:
    limit = val_limit(positions, share)
    val = [position for position in positions if position < limit]
    assert 0 < len(val) < len(positions)
    wanted = [position for position in positions if position < share]
    if 0 < len(wanted) < len(positions):
        assert val == wanted


def test_one_group_stays_in_train_and_zero_makes_no_val() -> None:
    assert val_limit([0.01, 0.01], 0.5) == 0
    assert val_limit([], 0.5) == 0
    assert val_limit([0.01, 0.9], 0) == 0


@given(st.lists(st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=3), max_size=8), st.randoms())
def test_rows_are_in_one_group_exactly_where_a_chain_of_shared_things_joins_them(rows, random) -> None:  # type: ignore[no-untyped-def]
    groups, shuffled = JoinedGroups[str](), JoinedGroups[str]()
    for row in rows:
        groups.join(row)
    for row in random.sample(rows, len(rows)):
        shuffled.join(row)
    sets = [set(row) for row in rows]
    for _ in rows:  # the closure, by hand
        sets = [set().union(*(other for other in sets if one & other)) for one in sets]
    for row, found in zip(rows, sets, strict=True):
        assert groups.name(row[0]) == shuffled.name(row[-1]) == min(found)


@given(st.lists(st.lists(st.sampled_from("abcdefgh"), max_size=3), max_size=8), st.integers(0, 2))
def test_the_position_of_a_row_is_that_of_its_groups_name(rows: list[list[str]], seed: int) -> None:
    shares, groups, joined = Shares(0.5, seed=seed), JoinedGroups[str](), RowGroups(Shares(0.5, seed=seed))
    for row in rows:
        groups.join(row) if row else None
        joined.add(row)
    for row, position in zip(rows, joined.positions(), strict=True):
        assert position == shares.position(groups.name(row[0])) if row else isnan(position)


# Val and test -----------------------------------------------------------------------------------------------------

FRACTIONS = st.floats(0, 0.5, exclude_max=True)


@given(st.lists(st.floats(0, 1, exclude_max=True), max_size=20), FRACTIONS, FRACTIONS)
def test_test_is_what_follows_val_and_takes_nothing_from_it(positions: list[float], val: float, test: float) -> None:
    both, alone = Shares(val, test).limits(positions), Shares(val).limits(positions)
    found = [both.split_of(position) for position in positions]
    assert [split == "val" for split in found] == [alone.split_of(position) == "val" for position in positions]
    assert set(found) <= {"train", *Shares(val, test).splits_made()}
    groups = {position for position, split in zip(positions, found, strict=True) if split != "val"}
    assert not positions or "train" in found
    assert ("test" in found) == (test > 0 and len(groups) > 1)
    assert [both.split_of(position) for position in sorted(positions)] == sorted(
        found, key=["val", "test", "train"].index
    )


def test_another_seed_gives_other_positions_and_seed_0_those_of_the_name() -> None:
    assert Shares(0.1).position("a") == group_position("a")
    assert len({Shares(0.1, seed=seed).position("a") for seed in range(5)}) == 5


@pytest.mark.parametrize("flags", [{"test_fraction": 1.0}, {"test_fraction": -0.1}, {"test_fraction": 0.96}])
def test_fractions_that_leave_no_train_are_refused(flags: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=r"test_fraction.*must be 0 or more and below 1"):
        TableOptions(Path("x"), **flags)


def png(number: int) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (20, 10), (number * 5 % 256, number // 4, 7)).save(out, "PNG")
    return out.getvalue()


def folder(root: Path) -> SplitFlags:
    for number in range(60):
        (root / "ab"[number % 2]).mkdir(parents=True, exist_ok=True)
        (root / "ab"[number % 2] / f"{number}.png").write_bytes(png(number))
    return FolderOptions(root)


def table(root: Path) -> SplitFlags:
    folder(root / "i")
    with (root / "t.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "question", "answer"])
        writer.writerows([f"i/{'ab'[n % 2]}/{n}.png", f"q{n}", "x"] for n in range(60))
    return TableOptions(root / "t.csv")


def coco(root: Path) -> SplitFlags:
    folder(root / "i")
    images = [{"id": n, "file_name": f"{'ab'[n % 2]}/{n}.png"} for n in range(60)]
    captions = [{"image_id": n, "caption": f"caption {n}"} for n in range(60)]
    (root / "captions.json").write_text(json.dumps({"images": images, "annotations": captions}))
    return CocoOptions(root / "captions.json", images=root / "i")


def jsonl(root: Path) -> SplitFlags:
    folder(root / "images")
    rows = [
        {"conversations": [{"images": [f"{'ab'[n % 2]}/{n}.png"], "user": "?", "assistant": "x"}]} for n in range(60)
    ]
    (root / "my.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return JsonlOptions(root / "my.jsonl", val_fraction=0.05)


def cauldron(root: Path) -> SplitFlags:
    root.mkdir()
    texts = [{"user": "?", "assistant": "x"}]
    rows = [{"images": [{"bytes": png(n), "path": None}], "texts": texts} for n in range(60)]
    pq.write_table(pa.Table.from_pylist(rows), root / "train.parquet")
    return CauldronOptions(root, val_fraction=0.05)


def docvqa(root: Path) -> SplitFlags:
    return DocvqaOptions(release(root, {"train": [question(n, f"doc{n:04d}_1.png", "x") for n in range(60)]}))


def sides(options: SplitFlags, work: Path, **changed: Any) -> dict[str, str]:
    """The split of each input."""
    values = {field.name: getattr(options, field.name) for field in fields(options)} | changed
    converter = type(options)(**values).open(work)
    found = converter.inputs()
    listed = {item.key: item.split for item in (found.items if hasattr(found, "items") else found)}
    assert not converter.splits or set(listed.values()) <= set(converter.splits)
    return listed


@pytest.mark.parametrize("make", [folder, table, coco, jsonl, cauldron, docvqa])
def test_every_converter_that_makes_val_makes_test(make: Callable[[Path], SplitFlags], tmp_path: Path) -> None:
    options = make(tmp_path / "in")
    before, after = sides(options, tmp_path / "w"), sides(options, tmp_path / "w2", test_fraction=0.2)
    assert set(before.values()) == {"train", "val"}
    assert {key for key in after if after[key] == "val"} == {key for key in before if before[key] == "val"}
    assert 2 <= list(after.values()).count("test") <= 25
    assert sides(options, tmp_path / "w3", seed=1) != before
    assert set(sides(options, tmp_path / "w4", val_fraction=0, test_fraction=0.2).values()) == {"train", "test"}


def test_a_source_with_val_or_test_is_not_split_again(tmp_path: Path) -> None:
    for own, found in (("val", "val"), ("test", "test")):
        for label in ("train/a", "train/b", f"{own}/a", f"{own}/b"):
            path = tmp_path / own / label / "1.png"
            path.parent.mkdir(parents=True)
            path.write_bytes(png(1))
        with pytest.raises(UsageError, match=rf"--test_fraction: makes test where .* \(found {found}\)"):
            sides(FolderOptions(tmp_path / own), tmp_path / "w", test_fraction=0.2)


def test_every_converter_with_val_fraction_has_the_shared_flags() -> None:
    for point in entry_points(group="phiv.converters"):
        names = {field.name for field in fields(point.load())} if point.value.startswith("phiv_converters.") else set()
        assert "val_fraction" not in names or {"test_fraction", "seed"} <= names, point.name
