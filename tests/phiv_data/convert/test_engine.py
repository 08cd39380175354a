"""Properties of the engine: nothing is lost, and neither workers nor interruptions leave a trace in the bytes."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from toy_converter import ToyOptions, draw_toy_source

from phiv_data.convert import engine, running
from phiv_data.convert import staging as workspace
from phiv_data.convert.engine import convert
from phiv_data.storage.sample import Draft
from phiv_data.storage.shards import to_sample
from phiv_schemas import Conversation, EnvironmentProblem, Manifest, Reject, ShardError, SourceError, UsageError

NAMES = {
    "train": [f"t{i:03d}" for i in range(34)],
    "val": ["v0", "v1_bad", "v2_unlabeled", "v3_same", "v4_same"],
    "test": [f"x{i}" for i in range(3)],
}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_toy_source(tmp_path_factory.mktemp("toy"), NAMES)


@pytest.fixture(scope="module")
def finished(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("out") / "straight"
    convert(ToyOptions(source), out, num_workers=0)
    return out


def tree(folder: Path) -> dict[str, str]:
    """Every file below `folder` with its sha256; not what is kept of the source's files, which holds their times."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "source.json")
    files = [path for path in files if path.parent != folder / ".phiv/kept"]
    return {p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def rows(out: Path, split: str) -> list[Conversation]:
    return [Conversation.model_validate_json(line) for line in (out / f"toy_{split}.jsonl").read_bytes().splitlines()]


def samples_of_shards(out: Path, split: str) -> Iterator[object]:
    import pyarrow as pa

    for shard in sorted((out / "arrow" / split).glob("*.arrow")):
        yield from (to_sample(row) for row in pa.ipc.open_stream(shard.read_bytes()).read_all().to_pylist())


# What comes out ---------------------------------------------------------------------------------------------------


def test_ids_count_inputs_over_train_val_test_and_keep_their_place_after_a_reject(finished: Path) -> None:
    assert [r.id for r in rows(finished, "train")] == [f"train-{i:010d}" for i in range(34)]
    assert [r.id for r in rows(finished, "val")] == [f"val-{i:010d}" for i in (34, 37, 38)]
    assert [r.id for r in rows(finished, "test")] == [f"test-{i:010d}" for i in (39, 40, 41)]


def test_what_the_converter_yields_the_files_and_the_shards_hold_byte_for_byte(finished: Path, source: Path) -> None:
    options = ToyOptions(source)
    drafts: dict[str, Draft] = {}
    for item in options.inputs():
        if "bad" not in item.key:
            draft = options.draft(item)
            drafts[draft.images[0].meta.path] = draft
    for split in options.splits:
        shard_samples = list(samples_of_shards(finished, split))
        assert [s.conversation for s in shard_samples] == rows(finished, split)  # type: ignore[attr-defined]
        for sample in shard_samples:
            draft = drafts[sample.conversation.image_paths[0]]  # type: ignore[attr-defined]
            assert sample.conversation.turns == draft.turns  # type: ignore[attr-defined]
            assert sample.images == draft.images  # type: ignore[attr-defined]
            assert (finished / "images" / draft.images[0].meta.path).read_bytes() == draft.images[0].data


def test_every_input_is_accounted_for(finished: Path) -> None:
    manifest = Manifest.model_validate_json((finished / "manifest.json").read_bytes())
    a = manifest.accounting
    assert (a.inputs, a.written, a.rejected, a.unlabeled) == (42, 40, {"bad": 1}, 1)
    assert manifest.identical_inputs == [["val/v3_same.png", "val/v4_same.png"]]
    reject = Reject.model_validate_json((finished / "rejects.jsonl").read_bytes())
    assert (reject.id, reject.input, reject.code) == ("val-0000000035", "v1_bad.png", "bad")


def test_the_manifest_names_every_file_with_its_true_hash(finished: Path) -> None:
    manifest = Manifest.model_validate_json((finished / "manifest.json").read_bytes())
    files = tree(finished)
    listed = [manifest.rejects, manifest.image_hashes]
    listed += [f for split in manifest.splits for f in (split.jsonl, *split.shards)]
    assert all(files[info.path] == info.sha256 for info in listed)
    hashes = dict(reversed(line.split("  ")) for line in (finished / "images.sha256").read_text().splitlines())
    assert hashes == {path: sha for path, sha in files.items() if path.startswith("images/")}
    assert sorted(path.name for path in (finished / ".phiv").iterdir()) == ["kept", "source.json"]


def test_unlabeled_rows_are_written_when_asked_for(source: Path, tmp_path: Path) -> None:
    outcome = convert(ToyOptions(source), tmp_path / "out", num_workers=0, include_unlabeled=True)
    assert outcome.manifest.accounting.unlabeled == 0
    assert [r.is_labeled for r in rows(tmp_path / "out", "val")] == [True, False, True, True]


# Workers, order, interruptions ------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [2, 3])
def test_workers_and_listing_order_leave_no_trace(finished: Path, source: Path, tmp_path: Path, workers: int) -> None:
    convert(ToyOptions(source, shuffle=workers), tmp_path / "out", num_workers=workers)
    assert tree(tmp_path / "out") == tree(finished)


class Stop(BaseException):
    """Takes the place of a kill: nothing of ours catches it."""


def test_stopped_at_any_rename_and_started_again_equals_never_stopped(
    finished: Path, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every file appears by a rename; attempt k stops before its k-th, in the state the attempts before left."""
    real = {name: getattr(Path, name) for name in ("rename", "replace")}
    left = [0]

    def stopping(name: str):  # type: ignore[no-untyped-def]
        def call(self: Path, target: Path) -> Path:
            left[0] -= 1
            if left[0] < 0:
                raise Stop
            return real[name](self, target)

        return call

    for name in real:
        monkeypatch.setattr(Path, name, stopping(name))
    stops = 0
    while True:
        left[0] = stops
        try:
            convert(ToyOptions(source), tmp_path / "out", num_workers=0)
            break
        except Stop:
            stops += 1
            if (tmp_path / "out" / "manifest.json").exists():
                assert tree_without_work(tmp_path / "out") == tree(finished)
    assert stops > 10
    assert tree_without_work(tmp_path / "out") == tree(finished)


def test_stopped_once_at_any_rename_and_started_again_equals_never_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each rename of a whole run once, from an empty folder."""
    source = draw_toy_source(tmp_path / "in", {"train": ["a", "b_bad"], "val": ["c"], "test": ["d"]})
    convert(ToyOptions(source), tmp_path / "straight", num_workers=0)
    names, left = ("rename", "replace"), [0]
    real = {name: getattr(Path, name) for name in names}

    def stopping(name: str):  # type: ignore[no-untyped-def]
        def call(self: Path, target: Path) -> Path:
            left[0] -= 1
            if left[0] == -1:
                raise Stop
            return real[name](self, target)

        return call

    for name in names:
        monkeypatch.setattr(Path, name, stopping(name))
    for stop in range(100):
        out, left[0] = tmp_path / f"out{stop}", stop
        try:
            convert(ToyOptions(source), out, num_workers=0)
            break
        except Stop:
            convert(ToyOptions(source), out, num_workers=0)
            assert tree(out) == tree(tmp_path / "straight")
    assert 20 < stop < 99


def tree_without_work(out: Path) -> dict[str, str]:
    return {path: sha for path, sha in tree(out).items() if not path.startswith(".phiv/")}


SCRIPT = """
import sys
from pathlib import Path
from toy_converter import ToyOptions
from phiv_data.convert.engine import convert
if __name__ == "__main__":
    convert(ToyOptions(Path(sys.argv[1])), Path(sys.argv[2]), num_workers=2, overwrite="--overwrite" in sys.argv)
"""


def start(tmp_path: Path, source: Path, out: Path, *flags: str) -> subprocess.Popen[bytes]:
    script = tmp_path / "run.py"
    script.write_text(SCRIPT)
    env = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    return subprocess.Popen([sys.executable, str(script), str(source), str(out), *flags], env=env)


def test_killed_processes_are_continued_to_the_same_bytes(finished: Path, source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for delay in (0.6, 0.9, 1.2):
        process = start(tmp_path, source, out)
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert start(tmp_path, source, out).wait() == 0
    assert tree(out) == tree(finished)


def test_a_killed_overwrite_leaves_the_old_dataset_or_the_new_one(
    finished: Path, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    convert(ToyOptions(source, question="Old?"), out, num_workers=0)
    old = tree(out)

    def stop(*args: object) -> None:
        raise Stop

    monkeypatch.setattr(engine, "publish", stop)
    with pytest.raises(Stop):
        convert(ToyOptions(source), out, num_workers=0, overwrite=True)
    assert tree_without_work(out) == old
    monkeypatch.undo()
    convert(ToyOptions(source), out, num_workers=0, overwrite=True)
    assert tree(out) == tree(finished)


def test_an_input_that_kills_its_process_becomes_a_reject(tmp_path: Path) -> None:
    source = draw_toy_source(tmp_path / "in", {"train": ["a", "b_crash", "c"], "val": ["d"], "test": []})
    manifest = convert(ToyOptions(source), tmp_path / "out", num_workers=2).manifest
    assert (manifest.accounting.written, manifest.accounting.rejected) == (3, {"crashed": 1})
    assert "b_crash.png" in (tmp_path / "out" / "rejects.jsonl").read_text()


def test_workers_end_when_their_parent_is_killed(source: Path, tmp_path: Path) -> None:
    process = start(tmp_path, source, tmp_path / "out")
    children: list[int] = []
    deadline = time.monotonic() + 20
    while len(children) < 3 and process.poll() is None and time.monotonic() < deadline:
        children = [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]
    process.send_signal(signal.SIGKILL)
    process.wait()
    while any(_alive(pid) for pid in children) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(_alive(pid) for pid in children)


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split(") ")[1][0] != "Z"
    except FileNotFoundError:
        return False


def test_one_worker_and_one_task_survive_an_input_that_kills(tmp_path: Path) -> None:
    source = draw_toy_source(tmp_path / "in", {"train": ["a", "b_crash", "c"]})
    manifest = convert(ToyOptions(source), tmp_path / "out", num_workers=1).manifest
    assert (manifest.accounting.written, manifest.accounting.rejected) == (2, {"crashed": 1})


def test_workers_that_cannot_start_are_one_error_not_a_loop(source: Path, tmp_path: Path) -> None:
    script = tmp_path / "no_guard.py"
    script.write_text(SCRIPT.replace('if __name__ == "__main__":', "if True:"))
    env = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    command = [sys.executable, str(script), str(source), str(tmp_path / "out")]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60)
    assert "EnvironmentProblem: worker processes: they do not start. Call phiv under" in done.stderr


def test_a_damaged_manifest_is_replaced_by_overwrite(finished: Path, source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    convert(ToyOptions(source), out, num_workers=0)
    (out / "manifest.json").write_text("garbage")
    with pytest.raises(ShardError, match="--overwrite"):
        convert(ToyOptions(source), out, num_workers=0)
    convert(ToyOptions(source), out, num_workers=0, overwrite=True)
    assert tree(out) == tree(finished)


def test_files_put_beside_an_unfinished_conversion_are_not_lost(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"

    def stop(*args: object) -> None:
        raise Stop

    monkeypatch.setattr(running, "assemble", stop)
    with pytest.raises(Stop):
        convert(ToyOptions(source), out, num_workers=0)
    monkeypatch.undo()
    (out / "README.md").write_text("mine")
    with pytest.raises(UsageError, match=r"\(found 'README.md'\)"):
        convert(ToyOptions(source), out, num_workers=0)
    assert (out / "README.md").read_text() == "mine"


def test_a_folder_with_a_manifest_of_its_own_is_refused(source: Path, tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(UsageError, match="holds no phiv output"):
        convert(ToyOptions(source), tmp_path, num_workers=0, overwrite=True)
    assert (tmp_path / "manifest.json").read_text() == "{}"


# Runs over an existing output -------------------------------------------------------------------------------------


def test_a_rerun_over_a_finished_output_does_nothing(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    convert(ToyOptions(source), out, num_workers=0)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.name != ".phiv"}  # it held the lock
    assert convert(ToyOptions(source), out, num_workers=0).found_finished
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.name != ".phiv"} == before


def test_a_fixed_source_is_not_even_opened_again(source: Path, tmp_path: Path) -> None:
    convert(ToyOptions(source, fixed=True), tmp_path / "out", num_workers=0)
    assert convert(ToyOptions(tmp_path / "gone", fixed=True), tmp_path / "out").found_finished


def test_other_options_or_inputs_are_refused_and_named(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    convert(ToyOptions(source), out, num_workers=0)
    with pytest.raises(UsageError, match=r"finished toy conversion that differs in question\. Pass --overwrite"):
        convert(ToyOptions(source, question="Else?"), out)
    with pytest.raises(UsageError, match="differs in arrow"):
        convert(ToyOptions(source), out, arrow=False)
    other = draw_toy_source(tmp_path / "other", {"train": ["a"]})
    with pytest.raises(UsageError, match="differs in its inputs"):
        convert(ToyOptions(other), out)


def test_an_unfinished_conversion_of_other_options_is_not_mixed_in(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"

    def stop(*args: object) -> None:
        raise Stop

    monkeypatch.setattr(running, "assemble", stop)
    with pytest.raises(Stop):
        convert(ToyOptions(source, question="Old?"), out, num_workers=0)
    monkeypatch.undo()
    with pytest.raises(UsageError, match=r"unfinished conversion that differs in question\."):
        convert(ToyOptions(source), out, num_workers=0)
    convert(ToyOptions(source), out, num_workers=0, overwrite=True)
    assert rows(out, "train")[0].turns[0].user == "What is it?"


def test_work_whose_plan_is_gone_is_of_nobody(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A clean-up that was cut may leave it."""
    out = tmp_path / "out"

    def stop(*args: object) -> None:
        raise Stop

    monkeypatch.setattr(running, "assemble", stop)
    with pytest.raises(Stop):
        convert(ToyOptions(source, question="Old?"), out, num_workers=0)
    monkeypatch.undo()
    (out / ".phiv/plan.json").unlink()
    convert(ToyOptions(source), out, num_workers=0)
    assert rows(out, "train")[0].turns[0].user == "What is it?"


def test_overwrite_removes_what_the_new_output_does_not_have(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    convert(ToyOptions(source), out, num_workers=0)
    convert(ToyOptions(source), out, num_workers=0, arrow=False, overwrite=True)
    assert not (out / "arrow").exists()
    assert json.loads((out / "manifest.json").read_bytes())["splits"][0]["shards"] == []


def test_two_conversions_into_one_folder_exclude_each_other(source: Path, tmp_path: Path) -> None:
    with workspace.locked(tmp_path / "out"), pytest.raises(UsageError, match="another conversion is writing here"):
        convert(ToyOptions(source), tmp_path / "out")


# Folders that will not do -----------------------------------------------------------------------------------------


def test_a_folder_with_other_files_is_left_alone(source: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(UsageError, match=r"is not empty and holds no phiv output \(found 'thesis.tex'\)"):
        convert(ToyOptions(source), tmp_path, overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["thesis.tex"]


def test_a_file_as_out_dir_is_refused(source: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="cannot be a folder"):
        convert(ToyOptions(source), tmp_path / "file")


def test_no_inputs_is_an_error_that_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceError, match="no inputs found"):
        convert(ToyOptions(tmp_path / "empty"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode:
        pytest.skip("needs the right to mount a small disk")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_is_one_line_and_the_run_goes_on_elsewhere(source: Path, small_disk: Path) -> None:
    with pytest.raises(EnvironmentProblem, match="disk full"):
        convert(ToyOptions(source), small_disk / "out", num_workers=0)
    assert not list((small_disk / "out").glob("*.jsonl"))
