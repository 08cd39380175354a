"""A finished output that has lost something: no run says "nothing to do", and --update makes it whole."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from toy_converter import ToyOptions, draw_toy_source

from phiv_data import validate
from phiv_data.convert.engine import convert
from phiv_data.convert.staging import is_unfinished
from phiv_data.testing.helpers import hashes
from phiv_schemas import ShardError, UsageError

Damage = Callable[[Path], None]
IMAGE = "images/train/b.png"


def cut(name: str) -> Damage:
    def damage(out: Path) -> None:
        data = (out / name).read_bytes()
        (out / name).unlink()  # an image may be one file with that of another output
        (out / name).write_bytes(data[: len(data) // 2])

    return damage


def remove(name: str) -> Damage:
    return lambda out: (out / name).unlink()


def link_to_a_copy(name: str) -> Damage:
    def damage(out: Path) -> None:
        copy = shutil.copy(out / name, out.parent / "copy")
        (out / name).unlink()
        (out / name).symlink_to(copy)

    return damage


def remove_folder(name: str) -> Damage:
    return lambda out: shutil.rmtree(out / name)


KINDS = {
    "an image cut": (cut(IMAGE), f"{IMAGE} was cut or changed: "),
    "an image gone": (remove(IMAGE), f"{IMAGE} is missing"),
    "an image linked": (link_to_a_copy(IMAGE), f"{IMAGE} is a symbolic link"),
    "all images gone": (remove_folder("images"), f"{IMAGE} is missing"),
    "a shard cut": (cut("arrow/train/data-00000-of-00001.arrow"), "arrow/train/data-00000-of-00001.arrow was cut"),
    "a shard gone": (remove("arrow/train/data-00000-of-00001.arrow"), "-of-00001.arrow is missing"),
    "a loader file gone": (remove("arrow/train/state.json"), "arrow/train/state.json is missing"),
    "the rows cut": (cut("toy_train.jsonl"), "toy_train.jsonl was cut or changed: "),
    "the rows gone": (remove("toy_train.jsonl"), "toy_train.jsonl is missing"),
    "the hashes gone": (remove("images.sha256"), "images.sha256 is missing"),
    "the card cut": (cut("README.md"), "README.md was cut or changed: "),
}
all_kinds = pytest.mark.parametrize(("damage", "what"), KINDS.values(), ids=KINDS)


@pytest.fixture(name="toy")
def _toy(tmp_path: Path) -> ToyOptions:
    return ToyOptions(draw_toy_source(tmp_path / "toy", {"train": ["b", "c"], "val": ["x", "y_bad"]}))


@all_kinds
@pytest.mark.parametrize("fixed", [False, True])
def test_a_second_run_names_what_is_damaged(
    damage: Damage, what: str, fixed: bool, toy: ToyOptions, tmp_path: Path
) -> None:
    out, options = tmp_path / "out", ToyOptions(toy.source, fixed=fixed)
    convert(options, out, num_workers=0)
    damage(out)
    with pytest.raises(ShardError, match=re.escape(what)) as caught:
        convert(options, out, num_workers=0)
    assert caught.value.exit_code == 1
    assert "--update" in str(caught.value)
    assert "phiv-validate" in str(caught.value)
    assert not is_unfinished(out)


@all_kinds
@pytest.mark.parametrize("how", ["update", "overwrite"])
def test_update_and_overwrite_make_it_whole(
    damage: Damage, what: str, how: str, toy: ToyOptions, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    convert(toy, out, num_workers=0)
    before = hashes(out)
    damage(out)
    outcome = convert(toy, out, num_workers=0, **{how: True})  # type: ignore[arg-type]
    assert not outcome.found_finished
    assert any(what in warning for warning in outcome.warnings) == (how == "update")
    assert hashes(out) == before
    assert not (out / IMAGE).is_symlink()
    assert validate(out).ok
    assert convert(toy, out, num_workers=0, update=True).found_finished


def test_a_repair_converts_only_what_is_damaged(toy: ToyOptions, tmp_path: Path) -> None:
    convert(toy, tmp_path / "out", num_workers=0)
    (tmp_path / "out" / IMAGE).unlink()
    assert convert(toy, tmp_path / "out", num_workers=0, update=True).num_kept == 2  # of four: the other was rejected


def test_an_output_of_an_earlier_version_without_sizes_is_checked_for_what_is_missing(
    toy: ToyOptions, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    convert(toy, out, num_workers=0)
    (out / ".phiv/kept/image_sizes").unlink()
    assert convert(toy, out, num_workers=0).found_finished
    (out / IMAGE).unlink()
    with pytest.raises(ShardError, match="is missing"):
        convert(toy, out, num_workers=0)


def test_a_lost_manifest_is_called_that(toy: ToyOptions, tmp_path: Path) -> None:
    out = tmp_path / "out"
    convert(toy, out, num_workers=0)
    (out / "manifest.json").unlink()
    for overwrite in (False, True):
        with pytest.raises(UsageError, match=r"is an output of phiv whose manifest\.json is missing"):
            convert(toy, out, num_workers=0, overwrite=overwrite)


def test_images_may_lie_in_a_linked_folder(toy: ToyOptions, tmp_path: Path) -> None:
    out = tmp_path / "out"
    convert(toy, out, num_workers=0)
    (out / "images").rename(tmp_path / "elsewhere")
    (out / "images").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    assert convert(toy, out, num_workers=0).found_finished
