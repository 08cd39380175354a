"""What splits share on purpose is declared by a dataset, also a third party's: in its manifest, or by its converter."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import ClassVar

import pytest
from toy_converter import ToyOptions, draw_toy_source

from phiv_data.convert.engine import convert
from phiv_data.storage.dataset import read_manifest
from phiv_data.validation import validate
from phiv_data.validation.core.sharing import SharingTable
from phiv_schemas import Sharing

SCENES = Sharing(group="scene", group_pattern=r"/(s\d+)_\w+\.png$")


class Scenes(ToyOptions):
    """A dataset of two views of every scene."""

    sharing: ClassVar[Sharing] = SCENES


class Stamps(ToyOptions):
    """A dataset whose splits have the same images on purpose."""

    sharing: ClassVar[Sharing] = Sharing(shares=("images",))


def converted(options: type[ToyOptions], tmp_path: Path, names: dict[str, list[str]]) -> Path:
    source = draw_toy_source(tmp_path / "source", names)
    convert(options(source), tmp_path / "out", num_workers=0)
    return tmp_path / "out"


def test_groups_declared_by_a_dataset_are_found_in_two_splits(tmp_path: Path) -> None:
    out = converted(Scenes, tmp_path, {"train": ["s1_left", "s2_left"], "val": ["s1_right", "s3_right"]})
    manifest = read_manifest(out)
    assert manifest.sharing == SCENES
    (issue,) = [one for one in validate(out).issues if one.code == "PV243"]
    assert str(issue) == (
        "toy_val.jsonl:1: $.conversations[0].images[0]: 'val/s1_right.png' is of the same scene as toy_train.jsonl:1, "
        "which is in train"
    )


def test_images_that_a_dataset_shares_on_purpose_are_no_leak(tmp_path: Path) -> None:
    names = {"train": ["a_same"], "val": ["b_same"]}
    assert validate(converted(ToyOptions, tmp_path / "plain", names)).counts()["PV240"] == 1
    counts = validate(converted(Stamps, tmp_path / "stamps", names)).counts()
    assert not {"PV240", "PV241", "PV243"} & counts.keys()
    assert counts["PV242"] == 1, "but the same question about the same image is one"


def test_a_manifest_without_sharing_is_what_it_was_before_there_was_any(tmp_path: Path) -> None:
    out = converted(ToyOptions, tmp_path, {"train": ["a"]})
    assert "sharing" not in json.loads((out / "manifest.json").read_text())
    assert read_manifest(out).sharing is None


PLUGIN = """
from phiv_schemas import Sharing

class Scenes:
    sharing = Sharing(group="scene", group_pattern=r"^(s\\d+)_")
"""
ENTRY_POINTS = "[phiv.converters]\nscenes = scenes_plugin:Scenes\nbroken = no_such_module:Broken\nodd = json:dumps\n"


def test_rows_without_a_manifest_are_those_of_the_installed_converter_of_their_source(tmp_path: Path) -> None:
    """Of three plugins one declares groups, one does not load, one declares nothing."""
    (tmp_path / "plugins/scenes-1.0.dist-info").mkdir(parents=True)
    (tmp_path / "plugins/scenes_plugin.py").write_text(PLUGIN)
    (tmp_path / "plugins/scenes-1.0.dist-info/METADATA").write_text(
        "Metadata-Version: 2.1\nName: scenes\nVersion: 1.0\n"
    )
    (tmp_path / "plugins/scenes-1.0.dist-info/entry_points.txt").write_text(ENTRY_POINTS)
    draw_toy_source(tmp_path / "data/images", {".": ["s1_left", "s1_right"]})
    sources = ("scenes", "scenes-synthetic", "broken", "odd", "unknown")
    for split, view in (("train", "left"), ("val", "right")):
        turn = {"images": [f"s1_{view}.png"], "user": view, "assistant": "yes"}
        rows = [{"id": f"{split}-{source}", "source": source, "conversations": [turn]} for source in sources]
        (tmp_path / f"data/{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    code = (
        "from phiv_data.validation import validate\n"
        "if __name__ == '__main__':\n"
        "    found = [one for one in validate('data', num_workers=0).issues if one.code == 'PV243']\n"
        "    print([(one.file, one.line) for one in found])"
    )
    paths = os.pathsep.join([str(tmp_path / "plugins"), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "[('val.jsonl', 1)]", "one group, and only rows of the two sources that name it"


@pytest.mark.parametrize(
    ("source", "path", "group"),
    [
        ("ucf101", "val/Archery/v_Archery_g21_c04.0.jpg", "archery_g21"),
        ("ucf101-synthetic", "V_archery_G21_c04.0.jpg", "archery_g21"),
        ("docvqa", "val/ffbf0023_4.png", "ffbf0023"),
        ("nlvr2", "dev/dev-995-1-img0.png", "dev-995"),
        ("ucf101", "photo.jpg", ""),
        ("hateful_memes", "img/01235.png", ""),
        ("no such dataset", "val/ffbf0023_4.png", ""),
    ],
)
def test_the_built_in_converters_declare_their_groups(source: str, path: str, group: str) -> None:
    assert SharingTable().of(source).group_of(path) == group


def test_what_is_declared_in_a_manifest_holds_for_every_source() -> None:
    table = SharingTable(SCENES)
    assert table.of("ucf101") == table.of("anything")
    assert table.of("ucf101").group_of("val/s7_left.png") == "s7"
    assert pickle.loads(pickle.dumps(table)).of("x").group_of("val/s7_left.png") == "s7"


def test_shared_images_are_similar_ones_too() -> None:
    shared = [SharingTable(Sharing(shares=shares)).of("x") for shares in ((), ("similar",), ("images",))]
    assert [(one.shares_images, one.shares_similar) for one in shared] == [(False, False), (False, True), (True, True)]


def test_any_number_of_sources_can_be_checked_for() -> None:
    table = SharingTable()
    assert {table.of(f"source {i}").group for i in range(20_000)} == {b""}
