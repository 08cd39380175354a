"""`--update` ends with what a fresh conversion of the new source gives, byte for byte, and makes only what changed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from list_converter import ListOptions, Row
from toy_converter import ToyOptions, draw_toy_source

from phiv_data.convert import Draft, Item, RejectInput
from phiv_data.convert.engine import NothingWritten, Outcome, convert
from phiv_data.testing.helpers import hashes
from phiv_schemas import Manifest, PhivError, UsageError

DRAFTED: list[str] = []


@dataclass(frozen=True)
class Counted(ToyOptions):
    """Remembers which inputs were drafted."""

    name: str = "counted"

    def draft(self, item: Item) -> Draft:
        DRAFTED.append(f"{item.split}/{item.key}")
        return super().draft(item)


def update(options: ToyOptions, out: Path, **how: object) -> Outcome:
    """An update in this process, and DRAFTED holds what it drafted."""
    DRAFTED.clear()
    return convert(options, out, num_workers=0, update=True, **how)  # type: ignore[arg-type]


def assert_as_fresh(options: ToyOptions, out: Path, tmp_path: Path, **how: object) -> None:
    convert(options, tmp_path / "fresh", num_workers=0, **how)  # type: ignore[arg-type]
    assert hashes(out) == hashes(tmp_path / "fresh")


@pytest.fixture(name="toy")
def _toy(tmp_path: Path) -> Path:
    return draw_toy_source(tmp_path / "toy", {"train": ["b", "c", "d"], "val": ["x", "y_unlabeled", "z_bad"]})


# What is kept -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Slow(Counted):
    """Rejects some while a file of no source is there, as a decoder does that is too slow or broken."""

    trouble: Path = Path("trouble")
    name: str = "slow"

    def options(self) -> dict[str, str]:
        return {}

    def drafts_depend_on(self) -> object:
        return ""

    def draft(self, item: Item) -> Draft:
        if self.trouble.exists() and item.key in ("c.png", "x.png"):
            DRAFTED.append(f"{item.split}/{item.key}")
            raise RejectInput(item.key, "timeout", "it takes too long")
        return super().draft(item)


def test_failed_inputs_are_tried_again_where_nothing_has_changed(toy: Path, tmp_path: Path) -> None:
    out, options = tmp_path / "out", Slow(toy, trouble=tmp_path / "trouble")
    options.trouble.touch()
    convert(options, out, num_workers=0)
    assert convert(options, out, num_workers=0, update=True).found_finished
    options.trouble.unlink()
    DRAFTED.clear()
    outcome = convert(options, out, num_workers=0, retry_failed=True)
    assert sorted(DRAFTED) == ["train/c.png", "val/x.png", "val/z_bad.png", "val/z_bad.png"]  # a reject is read twice
    assert (outcome.num_kept, outcome.manifest.accounting.rejected) == (3, {"bad": 1})
    assert_as_fresh(options, out, tmp_path)
    (out / "rejects.jsonl").read_bytes().index(b"z_bad")


def test_without_failed_inputs_nothing_is_tried_again(toy: Path, tmp_path: Path) -> None:
    (toy / "val/z_bad.png").unlink()
    convert(Counted(toy), tmp_path / "out", num_workers=0)
    assert convert(Counted(toy), tmp_path / "out", num_workers=0, retry_failed=True).found_finished


def test_only_new_changed_and_rejected_inputs_are_drafted(toy: Path, tmp_path: Path) -> None:
    out, options = tmp_path / "out", Counted(toy)
    convert(options, out, num_workers=0)
    draw_toy_source(toy, {"train": ["a"]})  # which gives every later row another id
    (toy / "train/c.png").unlink()
    shutil.copy(toy / "train/b.png", toy / "train/d.png")
    outcome = update(options, out)
    assert sorted(set(DRAFTED)) == ["train/a.png", "train/d.png", "val/z_bad.png"]
    assert (outcome.num_kept, outcome.found_finished, outcome.warnings) == (3, False, ())
    assert_as_fresh(options, out, tmp_path)


def test_ids_of_the_data_stay_and_those_made_by_number_move(tmp_path: Path) -> None:
    rows = Row(id="mine", images=(("a.png", 1),)), Row(text="Which?"), Row(answer=None)
    out = tmp_path / "out"

    class Kept(ListOptions):
        def drafts_depend_on(self) -> object:
            return ()

        def draft_depends_on(self, item: Item) -> object:
            return ()

    convert(Kept(rows), out, num_workers=0)
    new = Kept((Row(text="New?"), rows[1], rows[2], rows[0]))
    assert convert(new, out, num_workers=0, update=True).num_kept == 3
    convert(new, tmp_path / "fresh", num_workers=0)
    assert hashes(out) == hashes(tmp_path / "fresh")


def test_an_unchanged_source_is_nothing_to_do(toy: Path, tmp_path: Path) -> None:
    out, options = tmp_path / "out", Counted(toy)
    convert(options, out, num_workers=0)
    assert update(options, out).found_finished
    assert DRAFTED == []


def test_a_new_folder_is_converted_as_ever(toy: Path, tmp_path: Path) -> None:
    outcome = update(Counted(toy), tmp_path / "out")
    assert (outcome.num_kept, outcome.warnings) == (None, ())
    assert_as_fresh(Counted(toy), tmp_path / "out", tmp_path)


@pytest.mark.parametrize("before", [True, False])
def test_rows_are_kept_where_shards_or_unlabeled_rows_are_asked_for(toy: Path, tmp_path: Path, before: bool) -> None:
    out, options = tmp_path / "out", Counted(toy)
    convert(options, out, num_workers=0, arrow=before, include_unlabeled=before)
    outcome = update(options, out, arrow=not before, include_unlabeled=not before)
    assert set(DRAFTED) == {"val/z_bad.png"} | (set() if before else {"val/y_unlabeled.png"})
    assert outcome.num_kept == 6 - len(set(DRAFTED))
    assert_as_fresh(options, out, tmp_path, arrow=not before, include_unlabeled=not before)


def test_a_source_that_was_moved_with_its_times_is_kept(toy: Path, tmp_path: Path) -> None:
    convert(Counted(toy), tmp_path / "out", num_workers=0)
    moved = toy.rename(tmp_path / "moved")
    draw_toy_source(moved, {"train": ["e"]})
    assert update(Counted(moved), tmp_path / "out").num_kept == 5
    assert_as_fresh(Counted(moved), tmp_path / "out", tmp_path)


def test_an_update_of_an_update_keeps_too(toy: Path, tmp_path: Path) -> None:
    out, options = tmp_path / "out", Counted(toy)
    convert(options, out, num_workers=0)
    for name in ("a", "e"):
        draw_toy_source(toy, {"train": [name]})
        update(options, out)
        assert sorted(set(DRAFTED)) == [f"train/{name}.png", "val/z_bad.png"]
    assert_as_fresh(options, out, tmp_path)


def test_verify_keeps_touched_files_and_finds_changes_without_another_time(toy: Path, tmp_path: Path) -> None:
    out, options = tmp_path / "out", Counted(toy)
    convert(options, out, num_workers=0, verify=True)
    (toy / "train/b.png").touch()
    path = toy / "train/c.png"
    stat, data = path.stat(), path.read_bytes()
    path.write_bytes(data[:-20] + data[-20:][::-1])
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    update(options, out, verify=True)
    assert set(DRAFTED) == {"train/c.png", "val/z_bad.png"}
    assert_as_fresh(options, out, tmp_path)


# What is converted again ------------------------------------------------------------------------------------------


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize("damage", [flip, cut, Path.unlink])
@pytest.mark.parametrize("name", ["images/train/b.png", ".phiv/kept/000000.json", ".phiv/kept/digests"])
def test_what_was_damaged_since_is_made_from_the_source(
    toy: Path, tmp_path: Path, damage: Callable[[Path], None], name: str
) -> None:
    out, options = tmp_path / "out", Counted(toy)
    convert(options, out, num_workers=0)
    damage(out / name)
    draw_toy_source(toy, {"train": ["e"]})
    outcome = update(options, out)
    assert "train/b.png" in DRAFTED
    assert (outcome.num_kept is None) == name.endswith("digests")
    assert_as_fresh(options, out, tmp_path)


def test_an_image_damaged_while_it_is_staged_is_made_from_the_source(
    toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from phiv_data.convert import running

    out, options, assemble, damaged = tmp_path / "out", Counted(toy), running.assemble, []
    convert(options, out, num_workers=0)
    draw_toy_source(toy, {"train": ["e"]})

    def damaging(job: running.ConversionJob) -> object:
        if not damaged:
            damaged.append(flip(out / "images/train/b.png"))  # which the stage has a link to
        return assemble(job)

    monkeypatch.setattr(running, "assemble", damaging)
    update(options, out)
    monkeypatch.undo()
    assert_as_fresh(options, out, tmp_path)


@pytest.mark.parametrize(
    ("lost", "reason"),
    [(".phiv", "has no record of its inputs"), (".phiv/kept", "has no record"), (".phiv/source.json", "")],
)
def test_without_a_record_all_is_converted_again(toy: Path, tmp_path: Path, lost: str, reason: str) -> None:
    out, options = tmp_path / "out", Counted(toy)
    convert(options, out, num_workers=0)
    shutil.rmtree(out / lost) if (out / lost).is_dir() else (out / lost).unlink()
    draw_toy_source(toy, {"train": ["e"]})
    outcome = update(options, out)
    assert [reason in warning for warning in outcome.warnings] == [True] * bool(reason)
    assert_as_fresh(options, out, tmp_path)


def test_other_options_convert_all_again_and_are_named(toy: Path, tmp_path: Path) -> None:
    out, other = tmp_path / "out", Counted(toy, question="Else?")
    convert(Counted(toy), out, num_workers=0)
    outcome = update(other, out)
    assert outcome.warnings == ("the earlier output differs in question: every input is converted again",)
    assert outcome.num_kept is None
    assert_as_fresh(other, out, tmp_path)


def test_an_output_made_without_verify_cannot_be_compared_with_it(toy: Path, tmp_path: Path) -> None:
    convert(Counted(toy), tmp_path / "out", num_workers=0)
    outcome = update(Counted(toy), tmp_path / "out", verify=True)
    assert outcome.warnings == ("the earlier output was made without --verify: every input is converted again",)
    assert not outcome.found_finished


def test_another_dataset_is_not_replaced(toy: Path, tmp_path: Path) -> None:
    convert(Counted(toy), tmp_path / "out", num_workers=0)
    with pytest.raises(UsageError, match="holds a finished counted conversion that differs in"):
        convert(ToyOptions(toy), tmp_path / "out", num_workers=0, update=True)


def test_update_and_overwrite_exclude_each_other(toy: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--update: cannot be combined with --overwrite"):
        update(Counted(toy), tmp_path / "out", overwrite=True)


def test_an_update_without_rows_leaves_the_output_and_what_it_keeps(toy: Path, tmp_path: Path) -> None:
    out, options = tmp_path / "out", Counted(toy)
    convert(options, out, num_workers=0)
    before = hashes(out)
    aside = toy.rename(tmp_path / "aside")
    draw_toy_source(toy, {"train": ["a_bad"]})
    with pytest.raises(NothingWritten):
        update(options, out)
    assert hashes(out) == before
    shutil.rmtree(toy)
    draw_toy_source(aside.rename(toy), {"train": ["e"]})
    assert update(options, out).num_kept == 5


# Stopped ----------------------------------------------------------------------------------------------------------


class Stop(BaseException):
    """Takes the place of a kill: nothing of ours catches it."""


def test_stopped_at_any_rename_or_link_and_run_again_it_ends_as_a_fresh_conversion(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each rename and link of a whole update once, over a copy of the output to update."""
    toy = draw_toy_source(tmp_path / "toy", {"train": ["a", "b_bad", "c"], "val": ["d"]})
    convert(Counted(toy), tmp_path / "one", num_workers=0)
    draw_toy_source(toy, {"train": ["b"]})
    convert(Counted(toy), tmp_path / "two", num_workers=0)
    real = {name: getattr(of, name) for of, name in ((Path, "rename"), (Path, "replace"), (os, "link"))}
    left = [0]

    def stopping(name: str):  # type: ignore[no-untyped-def]
        def call(*args: Path) -> object:
            left[0] -= 1
            if left[0] == -1:
                raise Stop
            return real[name](*args)

        return call

    monkeypatch.setattr(Path, "rename", stopping("rename"))
    monkeypatch.setattr(Path, "replace", stopping("replace"))
    monkeypatch.setattr(os, "link", stopping("link"))
    for stop in range(100):
        out, left[0] = tmp_path / f"out{stop}", 10**6
        shutil.copytree(tmp_path / "one", out)
        left[0] = stop
        try:
            convert(Counted(toy), out, num_workers=0, update=True)
        except Stop:
            if (out / "manifest.json").exists():
                assert hashes(out) in (hashes(tmp_path / "one"), hashes(tmp_path / "two"))
            convert(Counted(toy), out, num_workers=0, update=True)
            assert hashes(out) == hashes(tmp_path / "two")
            assert sorted(path.name for path in (out / ".phiv").iterdir()) == ["kept", "source.json"]
        else:
            break
    assert 20 < stop < 99


# Any source, any change -------------------------------------------------------------------------------------------


ROWS = st.builds(
    Row,
    split=st.sampled_from(["train", "val"]),
    answer=st.sampled_from(["yes", "no", None, "reject"]),
    images=st.lists(st.sampled_from([("a.png", 1), ("b.png", 2), ("c/d.png", 3)]), max_size=3, unique=True).map(tuple),
    text=st.sampled_from(["Is it?", "What?"]),
)


class PlainList(ListOptions):
    """Keeps rows wherever they move to."""

    def drafts_depend_on(self) -> object:
        return ()

    def draft_depends_on(self, item: Item) -> object:
        return ()


def result(rows: list[Row], out: Path, **how: bool) -> Manifest | type[PhivError]:
    try:
        options = PlainList(tuple(rows), splits=("train", "val"))
        return convert(options, out, num_workers=0, **how).manifest  # type: ignore[arg-type]
    except PhivError as error:
        return type(error)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.lists(ROWS, min_size=1, max_size=40), min_size=2, max_size=4), st.booleans())
def test_any_rows_updated_to_any_others_are_as_fresh(
    tmp_path_factory: pytest.TempPathFactory, versions: list[list[Row]], arrow: bool
) -> None:
    tmp = tmp_path_factory.mktemp("any")
    for number, rows in enumerate(versions):
        found = result(rows, tmp / "out", update=True, arrow=arrow)
        assert found == result(rows, tmp / f"{number}", arrow=arrow)
        if isinstance(found, Manifest):
            assert hashes(tmp / "out") == hashes(tmp / f"{number}")
    shutil.rmtree(tmp)
