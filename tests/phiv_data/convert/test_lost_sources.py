"""A source, a disk or a memory that fails for a moment is no verdict on an input: exit 3, then the same command."""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from toy_converter import ToyOptions, draw_toy_source

from phiv_converters.own_jsonl.options import JsonlOptions
from phiv_data.convert import Draft, Item, RejectInput, engine, running
from phiv_data.convert.engine import NothingWritten, convert
from phiv_schemas import EnvironmentProblem, UsageError

NAMES = {"train": ["a", "b", "c"], "val": ["d"]}


@dataclass(frozen=True)
class Disturbed(ToyOptions):
    """Calls `disturb` before it reads an input; what it raises is turned into a reject, as many converters do."""

    disturb: Callable[[Item], None] = field(default=lambda item: None, repr=False)

    def draft(self, item: Item) -> Draft:
        try:
            self.disturb(item)
            return super().draft(item)
        except (OSError, MemoryError, ImportError) as error:
            raise RejectInput(item.key, "unreadable", str(error)) from error


@pytest.fixture(name="source")
def _source(tmp_path: Path) -> Path:
    return draw_toy_source(tmp_path / "raw", NAMES)


def assert_nothing_lost(source: Path, out: Path) -> None:
    """Nothing was published, and the same command gives all rows."""
    assert not (out / "manifest.json").exists()
    assert convert(ToyOptions(source), out, num_workers=0).manifest.accounting.written == 4


def test_a_source_that_goes_away_stops_the_run(source: Path, tmp_path: Path) -> None:
    away = source.with_name("away")

    def disturb(item: Item) -> None:
        if item.key == "b.png" and source.exists():
            source.rename(away)

    with pytest.raises(EnvironmentProblem, match=r"raw: was there when the source was listed.* Put it back, then run"):
        convert(Disturbed(source, disturb=disturb), tmp_path / "out", num_workers=0)
    away.rename(source)
    assert_nothing_lost(source, tmp_path / "out")


def test_a_file_that_goes_away_stops_the_run(source: Path, tmp_path: Path) -> None:
    aside = tmp_path / "aside.png"

    def disturb(item: Item) -> None:
        if item.key == "b.png" and not aside.exists():
            item.path.rename(aside)

    with pytest.raises(EnvironmentProblem, match=r"b\.png: was there when the source was listed"):
        convert(Disturbed(source, disturb=disturb), tmp_path / "out", num_workers=0)
    aside.rename(source / "train/b.png")
    assert_nothing_lost(source, tmp_path / "out")


def test_an_empty_folder_in_the_source_s_place_is_no_source(source: Path, tmp_path: Path) -> None:
    """What an unmounted disk leaves."""
    away = source.with_name("away")

    def disturb(item: Item) -> None:
        if not away.exists():
            source.rename(away)
            source.mkdir()

    with pytest.raises(EnvironmentProblem, match="is away or another one now"):
        convert(Disturbed(source, disturb=disturb), tmp_path / "out", num_workers=0)


def test_a_file_that_is_back_at_once_is_read_again(source: Path, tmp_path: Path) -> None:
    tries: list[str] = []

    def disturb(item: Item) -> None:
        tries.append(item.key)
        if tries == ["a.png"]:
            raise FileNotFoundError(errno.ENOENT, "away for a moment", "a.png")

    accounting = convert(Disturbed(source, disturb=disturb), tmp_path / "out", num_workers=0).manifest.accounting
    assert (accounting.written, accounting.rejected, tries[:2]) == (4, {}, ["a.png", "a.png"])


FAILURES = [
    OSError(errno.EIO, "Input/output error"),
    OSError(errno.ESTALE, "Stale file handle"),
    OSError(errno.ETIMEDOUT, "Timed out"),
    PermissionError(errno.EACCES, "Permission denied"),
    OSError(errno.EMFILE, "Too many open files"),
    OSError(errno.ENOMEM, "Cannot allocate memory"),
    MemoryError(),
    ImportError("libx.so: failed to map segment from shared object"),
]


@pytest.mark.parametrize("failure", FAILURES, ids=repr)
def test_a_failure_of_the_machine_is_no_reject(source: Path, tmp_path: Path, failure: Exception) -> None:
    def disturb(item: Item) -> None:
        if item.key == "b.png":
            raise failure

    with pytest.raises(EnvironmentProblem) as caught:
        convert(Disturbed(source, disturb=disturb), tmp_path / "out", num_workers=0)
    assert caught.value.where == "b.png"
    assert_nothing_lost(source, tmp_path / "out")


def test_a_failing_source_replaces_no_finished_output(source: Path, tmp_path: Path) -> None:
    def fail(item: Item) -> None:
        raise OSError(errno.EIO, "Input/output error")

    out = tmp_path / "out"
    before = convert(ToyOptions(source), out, num_workers=0).manifest
    with pytest.raises(EnvironmentProblem):
        convert(Disturbed(source, disturb=fail), out, num_workers=0, overwrite=True)
    assert convert(ToyOptions(source), out, num_workers=0).manifest == before


def test_content_that_changes_meanwhile_is_judged_as_content(source: Path, tmp_path: Path) -> None:
    def cut(item: Item) -> None:
        if item.key == "b.png":
            item.path.write_bytes(b"cut")
            raise FileNotFoundError(errno.ENOENT, "an index inside the file points nowhere")

    accounting = convert(Disturbed(source, disturb=cut), tmp_path / "out", num_workers=0).manifest.accounting
    assert (accounting.written, accounting.rejected) == (3, {"unreadable": 1})


def test_a_worker_that_is_killed_alone_gives_no_verdict(tmp_path: Path) -> None:
    source = draw_toy_source(tmp_path / "raw", {"train": ["a", "b_full", "c"]})
    with pytest.raises(EnvironmentProblem, match=r"one was killed \(signal 9\).*Free memory or use fewer workers"):
        convert(ToyOptions(source), tmp_path / "out", num_workers=2)
    assert not (tmp_path / "out" / "manifest.json").exists()


# Nothing written --------------------------------------------------------------------------------------------------


def test_no_row_is_no_output(tmp_path: Path) -> None:
    source, out = draw_toy_source(tmp_path / "raw", {"train": ["a_bad", "b_bad"]}), tmp_path / "out"
    with pytest.raises(
        NothingWritten, match=r"no input gives a row, so nothing is written \(2 bad of 2 inputs\)"
    ) as no:
        convert(ToyOptions(source), out, num_workers=0)
    assert [(reject.input, reject.code) for reject in no.value.rejects] == [("a_bad.png", "bad"), ("b_bad.png", "bad")]
    assert not out.exists()


def test_no_row_leaves_a_finished_output_alone(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    before = convert(ToyOptions(source), out, num_workers=0).manifest
    bad = draw_toy_source(tmp_path / "bad", {"train": ["a_bad"]})
    with pytest.raises(NothingWritten):
        convert(ToyOptions(bad), out, num_workers=0, overwrite=True)
    assert convert(ToyOptions(source), out, num_workers=0).manifest == before


def test_rows_without_answers_alone_say_how_to_keep_them(tmp_path: Path) -> None:
    source = draw_toy_source(tmp_path / "raw", {"test": ["a_unlabeled"]})
    with pytest.raises(NothingWritten, match="--include_unlabeled keeps rows without an answer"):
        convert(ToyOptions(source), tmp_path / "out", num_workers=0)
    convert(ToyOptions(source), tmp_path / "out", num_workers=0, include_unlabeled=True)


# A disk that does not keep what is written -------------------------------------------------------------------------


class Stop(BaseException):
    """Takes the place of a kill: nothing of ours catches it."""


def stopped_at(name: str, source: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A conversion that is stopped as it begins to call `name` of the engine."""

    def stop(*args: object) -> None:
        raise Stop

    with monkeypatch.context() as patch:
        patch.setattr(engine if hasattr(engine, name) else running, name, stop)
        with pytest.raises(Stop):
            convert(ToyOptions(source), out, num_workers=0)


def zero(path: Path) -> None:
    """As many zeros, which a power cut leaves on some file systems."""
    path.write_bytes(bytes(path.stat().st_size))


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def contents(out: Path) -> dict[str, bytes]:
    files = (path for path in out.rglob("*") if path.is_file() and ".phiv" not in path.parts)
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in files}


STAGED = {
    "assemble": ("stage/images/train/b.png", "parts/000000.json"),
    "write_manifest": (
        "stage/arrow/train/data-00000-of-00001.arrow",
        "shards/train-00000.json",
        "stage/toy_train.jsonl",
    ),
    "publish": (
        *("stage/images/train/b.png", "stage/toy_train.jsonl", "stage/rejects.jsonl", "stage/images.sha256"),
        *("stage/arrow/train/data-00000-of-00001.arrow", "stage/arrow/train/state.json", "stage/manifest.json"),
    ),
}


@pytest.mark.parametrize("damage", [zero, flip])
@pytest.mark.parametrize(("stop", "path"), [(stop, path) for stop, paths in STAGED.items() for path in paths])
def test_what_the_disk_lost_is_made_again(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: str, path: str, damage: Callable[[Path], None]
) -> None:
    draw_toy_source(source, {"train": ["z_bad"]})
    convert(ToyOptions(source), tmp_path / "straight", num_workers=0)
    out = tmp_path / "out"
    stopped_at(stop, source, out, monkeypatch)
    damage(out / ".phiv" / path)
    convert(ToyOptions(source), out, num_workers=0)
    assert contents(out) == contents(tmp_path / "straight")


@pytest.mark.parametrize("moves", range(1, 7))
def test_damage_in_a_half_published_output_is_made_again(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moves: int
) -> None:
    """Stopped after some of its files are in place, over an older output."""
    convert(ToyOptions(source), tmp_path / "straight", num_workers=0)
    out, rename, left = tmp_path / "out", Path.rename, [moves * 2]
    convert(ToyOptions(source, question="Old?"), out, num_workers=0)

    def stopping(path: Path, target: Path) -> Path:
        left[0] -= out in target.parents or out in path.parents
        if left[0] < 0:
            raise Stop
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", stopping)
    with pytest.raises(Stop):
        convert(ToyOptions(source), out, num_workers=0, overwrite=True)
    monkeypatch.setattr(Path, "rename", rename)
    for folder in (out, out / ".phiv/stage"):
        if (folder / "images/val/d.png").exists() and not (folder / "manifest.json").exists():
            flip(folder / "images/val/d.png")
    staged = out / ".phiv/stage/images/val/d.png"
    if staged.exists():
        zero(staged)
    convert(ToyOptions(source), out, num_workers=0, overwrite=True)
    assert contents(out) == contents(tmp_path / "straight")


@pytest.mark.parametrize("arrow", [True, False])
@pytest.mark.parametrize("damage", [zero, flip, Path.unlink])
def test_an_image_that_changes_after_it_was_written_is_made_again(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: Callable[[Path], None], arrow: bool
) -> None:
    out, assemble, damaged = tmp_path / "out", running.assemble, []

    def damaging(job: running.ConversionJob) -> object:
        if not damaged:
            damaged.append(damage(out / ".phiv/stage/images/train/b.png"))
        return assemble(job)

    monkeypatch.setattr(running, "assemble", damaging)
    convert(ToyOptions(source), out, num_workers=0, arrow=arrow)
    assert damaged
    convert(ToyOptions(source), tmp_path / "straight", num_workers=0, arrow=arrow)
    assert contents(out) == contents(tmp_path / "straight")


@pytest.mark.parametrize("arrow", [True, False])
def test_a_disk_that_keeps_nothing_is_one_line(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arrow: bool
) -> None:
    out, assemble = tmp_path / "out", running.assemble

    def damaging(job: running.ConversionJob) -> object:
        zero(out / ".phiv/stage/images/train/b.png")
        return assemble(job)

    monkeypatch.setattr(running, "assemble", damaging)
    with pytest.raises(EnvironmentProblem, match=r"does not keep what is written: train/b\.png has changed"):
        convert(ToyOptions(source), out, num_workers=0, arrow=arrow)


def test_images_put_in_place_after_a_run_are_noticed(tmp_path: Path) -> None:

    lines = [
        f'{{"conversations":[{{"images":["{name}.png"],"user":"What?","assistant":"{name}"}}]}}\n' for name in "abc"
    ]
    (tmp_path / "mine.jsonl").write_text("".join(lines))
    draw_toy_source(tmp_path, {"images": ["a"]})
    out = tmp_path / "out"
    options = JsonlOptions(tmp_path / "mine.jsonl")
    assert convert(options, out, num_workers=0).manifest.accounting.rejected == {"missing-image": 2}
    assert convert(options, out, num_workers=0).found_finished
    draw_toy_source(tmp_path, {"images": ["b"]})
    with pytest.raises(UsageError, match="differs in its inputs"):
        convert(options, out, num_workers=0)
