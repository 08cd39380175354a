"""The attacks themselves: that a fault strikes where it should, that harm is seen. And the trials: few of each kind."""

from __future__ import annotations

import json
import os
from pathlib import Path
from random import Random

import pytest

from attacks.damage import WAYS
from attacks.faults import choose
from attacks.injection import Fault
from attacks.kinds import KINDS, QUICK_PER_SCENE, list_trials
from attacks.running import Done, import_all, run_forked
from attacks.scenes import write_rows
from attacks.terminal import PAYLOADS, control_characters
from attacks.trials import Bench, Outcome, Trial, difference, report, run_trials, tree

SEED = int(os.environ.get("PHIV_ATTACK_SEED", "0"))


@pytest.fixture(scope="session")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    import_all()
    return Bench(tmp_path_factory.mktemp("attacks").resolve())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path.resolve()


def test_a_run_whose_operations_are_counted_writes_what_a_plain_one_does(bench: Bench, folder: Path) -> None:
    prepared = bench.prepared("convert-jsonl")
    work = prepared.copy(folder)
    assert run_forked(prepared.scene.argv, work) == prepared.done
    assert {"o": tree(work / "o")} == prepared.outputs
    kinds = {operation.partition(" ")[0] for operation in prepared.operations}
    assert kinds >= {"open", "create", "read", "write", "mkdir", "rename", "unlink", "list", "stat", "flush"}


def test_a_killed_run_has_done_what_comes_before_the_operation_and_nothing_else(bench: Bench, folder: Path) -> None:
    prepared = bench.prepared("convert-jsonl")
    at = 1 + next(k for k, what in enumerate(prepared.operations) if what == "rename o/manifest.json")
    work, log = prepared.copy(folder), folder / "log.json"
    done = run_forked(prepared.scene.argv, work, Fault(str(work), at, "kill", log=str(log)))
    assert done.code == -9
    assert json.loads(log.read_text())[-1] == "rename o/manifest.json"
    assert (work / "o" / "own_train.jsonl").is_file()
    assert not (work / "o" / "manifest.json").exists()
    assert prepared.half_published(work) is None
    (work / "o" / "manifest.json").write_text("{}")
    assert "half published" in (prepared.half_published(work) or "")


def test_a_torn_write_leaves_half_of_it_and_names_what_was_not_flushed(bench: Bench, folder: Path) -> None:
    prepared = bench.prepared("convert-jsonl")
    at = 1 + next(k for k, what in enumerate(prepared.operations) if what.startswith("write o/.phiv/stage/images"))
    work, unflushed = prepared.copy(folder), folder / "unflushed.json"
    assert run_forked(prepared.scene.argv, work, Fault(str(work), at, "tear", unflushed=str(unflushed))).code == -9
    (torn,) = (work / name for name in json.loads(unflushed.read_text()) if "/images/" in name)
    whole = (work / "src" / "images" / "0.png").read_bytes()
    assert torn.read_bytes() == whole[: len(whole) // 2]


def test_a_full_disk_is_an_error_for_writing_alone(bench: Bench, folder: Path) -> None:
    prepared = bench.prepared("validate")
    work = prepared.copy(folder)
    assert run_forked(prepared.scene.argv, work, Fault(str(work), 1, "ENOSPC", lasting=True)) == prepared.done
    done = run_forked(bench.prepared("convert-jsonl").scene.argv, work, Fault(str(work), 1, "EIO", lasting=True))
    assert done.code == 3


# What trials have found, and what would be hard to do to the disk otherwise.
ONCE_SILENT = [("undo-plain", "list fixed/images"), ("export-overwrite", "open e/.phiv-export.json")]


@pytest.mark.parametrize(("scene", "operation"), ONCE_SILENT)
def test_a_disk_that_fails_is_no_empty_folder_and_no_bad_file(
    scene: str, operation: str, bench: Bench, folder: Path
) -> None:
    prepared = bench.prepared(scene)
    work, at = prepared.copy(folder), 1 + prepared.operations.index(operation)
    done = run_forked(prepared.scene.argv, work, Fault(str(work), at, "EIO"))
    assert prepared.one_line(done) is None, done
    assert prepared.resumes(work) is None


@pytest.mark.parametrize(
    "scene", ["validate", "validate-plain", "export-hub", "fix", "undo", "undo-plain", "convert-jsonl"]
)
def test_an_input_moved_away_and_back_is_not_called_damaged(scene: str, bench: Bench, folder: Path) -> None:
    prepared = bench.prepared(scene)
    reads = [k for k, what in enumerate(prepared.operations, start=1) if what.startswith(f"read {prepared.input}/")]
    for at in (reads[0], reads[len(reads) // 2]):
        work = prepared.copy(folder / str(at))
        done = run_forked(prepared.scene.argv, work, Fault(str(work), at, "vanish", moved=prepared.input))
        assert prepared.one_line(done) is None, done
        assert prepared.half_published(work) is None
        Path(f"{work}-{prepared.input}").rename(work / prepared.input)
        assert prepared.resumes(work) is None


def test_places_are_chosen_from_every_form_of_operation_before_any_twice() -> None:
    operations = [f"read a/{number:09d}" for number in range(99)] + ["write b", "stat c", "read d"]
    assert choose(operations, Random(0), 2, lambda operation: operation == "read")[1] == 102
    assert choose(operations, Random(0), 9, lambda operation: operation == "write") == [100]


@pytest.mark.parametrize("how", WAYS)
def test_every_way_of_damage_changes_the_folder(how: str, folder: Path) -> None:
    write_rows(folder / "work" / "src")
    before = tree(folder / "work" / "src")
    WAYS[how](folder / "work" / "src" / "images" / "1.png", Random(0))
    path = folder / "work" / "src" / "images" / "1.png"
    assert tree(folder / "work" / "src") != before or (how == "link-to-same" and path.is_symlink())


@pytest.mark.parametrize("payload", [name for name in PAYLOADS if name not in ("tab", "long", "mark-up")])
def test_what_a_terminal_obeys_is_found_in_output_and_escaped_it_is_not(payload: str) -> None:
    text = os.fsencode(f"phiv-convert: {PAYLOADS[payload]}: rejected\n")
    assert control_characters(text)
    assert control_characters(f"phiv-convert: {PAYLOADS[payload]!a}: rejected\n".encode()) is None


def test_a_report_counts_and_says_how_to_repeat_what_failed() -> None:
    trials = [Trial("kills", f"scene {k}", lambda folder, k=k: f"lost a/{k}" if k else None) for k in range(3)]
    (outcome,) = run_trials(trials)
    assert (outcome.trials, outcome.held, len(outcome.failures)) == (3, 1, 2)
    text = report([outcome, Outcome("errors")], " --seed 7")
    assert "| kills | 3 | 1 | 2 |" in text
    assert "kills: 2 x lost a/1" in text
    assert "scripts/attack kills --only 'scene 1' --seed 7" in text


def test_a_traceback_is_shown_by_its_error_and_phivs_last_line() -> None:
    stderr = b'Traceback (most recent call last):\n  File "/x/phiv_data/a.py", line 3, in f\nKeyError: 1\n'
    assert Done(1, b"", stderr).short() == 'exit 1: traceback KeyError: 1, phiv_data/a.py", line 3, in f'


def test_trees_name_what_differs(folder: Path) -> None:
    (folder / "a").write_text("a")
    before = tree(folder)
    (folder / "a").write_text("b")
    (folder / "b").mkdir()
    assert difference(tree(folder), before) == "added 1: b/; other 1: a"


@pytest.mark.parametrize("kind", KINDS)
def test_phiv_holds_in_a_few_trials(kind: str, bench: Bench) -> None:
    outcomes = run_trials(list_trials(bench, kind, QUICK_PER_SCENE, SEED, quick=True))
    assert not any(outcome.failures for outcome in outcomes), report(outcomes, " --quick")


@pytest.mark.soak
@pytest.mark.parametrize("kind", KINDS)
def test_phiv_holds(kind: str, bench: Bench) -> None:
    """At most five minutes each; PHIV_ATTACK_SEED chooses other places."""
    outcomes = run_trials(list_trials(bench, kind, 60, SEED), seconds=300)
    assert not any(outcome.failures for outcome in outcomes), report(outcomes)
