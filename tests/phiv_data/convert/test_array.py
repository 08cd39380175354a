"""Array jobs: shares in any order, twice, together or killed leave no trace in the bytes."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from scale_helpers import COMMAND_ENV, command, run, tree
from toy_converter import ToyOptions, draw_toy_source

from phiv_data.convert.array import convert_share
from phiv_data.convert.array_status import find_status
from phiv_data.convert.engine import convert
from phiv_data.engines import ArrayEngine
from phiv_data.engines.array import find_slurm_share, parse_share
from phiv_data.utils.file_lock import FileLock
from phiv_schemas import PhivError, ShardError, UsageError

SHARES = 4


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Enough for seven tasks, with rejects and rows without an answer."""
    names = {"train": [f"t{i:04d}" for i in range(1250)], "val": ["v0", "v1_bad", "v2_unlabeled"], "test": ["x0"]}
    return draw_toy_source(tmp_path_factory.mktemp("toy"), names)


@pytest.fixture(scope="module")
def straight(source: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    out = tmp_path_factory.mktemp("straight") / "out"
    convert(ToyOptions(source), out, num_workers=0)
    return tree(out)


def share(source: Path, out: Path, task: str, question: str = "What is it?") -> None:
    convert_share(ToyOptions(source, question=question), out, ArrayEngine(task, num_workers=0))


def test_shares_in_any_order_some_twice_give_the_same_bytes(
    source: Path, straight: dict[str, str], tmp_path: Path
) -> None:
    order = [*range(1, SHARES + 1), 0, 2]  # from 0 or from 1: 0/4 and 4/4 are one share
    random.Random(7).shuffle(order)
    for number in order:
        share(source, tmp_path / "out", f"{number}/{SHARES}")
    assert not (tmp_path / "out/manifest.json").exists()
    outcome = convert(ToyOptions(source), tmp_path / "out", num_workers=0, finish=True)
    assert not outcome.found_finished
    assert tree(tmp_path / "out") == straight
    assert convert(ToyOptions(source), tmp_path / "out", num_workers=0, finish=True).found_finished
    share(source, tmp_path / "out", "1/4")  # a straggler
    assert tree(tmp_path / "out") == straight


def test_finish_refuses_with_the_list_of_what_is_missing(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(UsageError, match=r"holds nothing to finish\. Run the tasks of the array first"):
        convert(ToyOptions(source), out, finish=True)
    for number in (0, 2):
        share(source, out, f"{number}/{SHARES}")
    line = r"3 of 7 tasks are missing \(1,3,5\)\. Run the array's tasks --array=1,3 again, then --finish"
    with pytest.raises(ShardError, match=line):
        convert(ToyOptions(source), out, num_workers=0, finish=True)
    share(source, out, "1/4")  # the plan is there still
    status = find_status(out)
    assert (status.tasks, status.done, status.missing, status.array) == (7, 6, (3,), "3")


def test_the_status_counts_tasks_rows_and_bytes_and_names_what_failed(source: Path, tmp_path: Path) -> None:
    out, broken = tmp_path / "out", tmp_path / "broken"
    with pytest.raises(UsageError, match="holds no array job and no finished conversion"):
        find_status(out)
    share(source, out, "1/2")
    status = find_status(out)
    assert (status.name, status.tasks, status.done, status.inputs) == ("toy", 7, 3, 1254)
    assert (status.inputs_done, status.rows, status.rejects) == (515, 513, 1)  # and one without an answer
    images = [path for path in (out / ".phiv/stage/images").rglob("*") if path.is_file()]
    assert status.bytes == sum(path.stat().st_size for path in images)
    assert status.eta_s is not None
    draw_toy_source(broken, {"train": ["a", "b_full"]})
    with pytest.raises(PhivError, match="as happens when memory is full, at input 1"):
        convert_share(ToyOptions(broken), tmp_path / "full", ArrayEngine("1/1", num_workers=1))
    assert find_status(tmp_path / "full").missing == (0,)  # killed from outside, it says nothing
    moved = ToyOptions(draw_toy_source(tmp_path / "away", {"train": ["a"]}))
    share(moved.source, tmp_path / "gone", "1/1")
    (tmp_path / "gone/.phiv/parts/000000.json").unlink()
    (tmp_path / "gone/.phiv/items/0000").rename(tmp_path / "items")
    with pytest.raises(FileNotFoundError):
        share(moved.source, tmp_path / "gone", "1/1")
    assert list(find_status(tmp_path / "gone").failed) == [0]
    (tmp_path / "items").rename(tmp_path / "gone/.phiv/items/0000")
    share(moved.source, tmp_path / "gone", "1/1")
    assert find_status(tmp_path / "gone").failed == {}


def test_an_array_with_another_command_is_refused(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    share(source, out, "0/2")
    with pytest.raises(UsageError, match=r"holds an array job that differs in question\. Repeat its command"):
        share(source, out, "1/2", question="Else?")
    with pytest.raises(UsageError, match="differs in include_unlabeled"):
        convert_share(ToyOptions(source), out, ArrayEngine("1/2"), include_unlabeled=True)
    share(source, out, "1/2")
    with pytest.raises(UsageError, match="holds the work of another command, or of a source that has changed since"):
        convert(ToyOptions(source, question="Else?"), out, num_workers=0, finish=True)
    convert(ToyOptions(source), out, num_workers=0, finish=True)
    with pytest.raises(UsageError, match="holds a finished toy conversion that differs in question"):
        share(source, out, "0/2", question="Else?")


def test_a_source_that_changed_meanwhile_is_not_finished(tmp_path: Path) -> None:
    source = draw_toy_source(tmp_path / "in", {"train": ["a", "b"]})
    share(source, tmp_path / "out", "1/1")
    draw_toy_source(source, {"train": ["c"]})
    with pytest.raises(UsageError, match="of a source that has changed since"):
        convert(ToyOptions(source), tmp_path / "out", num_workers=0, finish=True)
    assert not (tmp_path / "out/manifest.json").exists()
    assert convert(ToyOptions(source), tmp_path / "out", num_workers=0).manifest.accounting.written == 3


def test_one_machine_takes_over_what_an_array_has_begun(source: Path, straight: dict[str, str], tmp_path: Path) -> None:
    share(source, tmp_path / "out", "1/3")
    convert(ToyOptions(source), tmp_path / "out", num_workers=0)
    assert tree(tmp_path / "out") == straight


def test_a_plan_of_another_user_is_not_loaded(source: Path, tmp_path: Path) -> None:
    """It is a pickle, which may hold code."""
    share(source, tmp_path / "out", "1/3")
    if os.geteuid() != 0:
        pytest.skip("needs the right to give a file away")
    os.chown(tmp_path / "out/.phiv/shared_plan", 65534, 65534)
    with pytest.raises(UsageError, match="is of another user, and may hold code"):
        share(source, tmp_path / "out", "2/3")


# Several at once --------------------------------------------------------------------------------------------------


@pytest.fixture
def slurm() -> dict[str, str]:
    return COMMAND_ENV | {"SLURM_ARRAY_TASK_COUNT": "2", "SLURM_ARRAY_TASK_MIN": "1", "SLURM_ARRAY_TASK_MAX": "2"}


def test_commands_that_run_together_and_twice_give_the_same_bytes(
    source: Path, straight: dict[str, str], tmp_path: Path, slurm: dict[str, str]
) -> None:
    """Four processes: two shares, each twice, at the same time; who finishes waits for them."""
    out = tmp_path / "out"
    args = command(source, out, "--engine", "array", "--num_workers", "1")
    tasks = [subprocess.Popen(args, env=slurm | {"SLURM_ARRAY_TASK_ID": n}, text=True) for n in ("1", "2", "1", "2")]
    assert [task.wait(timeout=240) for task in tasks] == [0, 0, 0, 0]
    status = json.loads(run(command(source, out, "--status", "--format", "json")).stdout)
    assert (status["done"], status["missing"], status["is_finished"]) == (7, [], False)
    finishing = [subprocess.Popen(command(source, out, "--finish"), env=COMMAND_ENV) for _ in range(2)]
    assert [one.wait(timeout=240) for one in finishing] == [1, 1]  # some inputs are rejected
    assert tree(out) == straight
    assert "finished, 1252 rows, 1 rejects (toy)" in run(command(source, out, "--status")).stdout


def test_tasks_that_begin_at_the_same_moment_share_one_plan(tmp_path: Path) -> None:
    """In one process, where nothing delays them: one makes the plan, the others wait or find it."""
    source = draw_toy_source(tmp_path / "in", {"train": ["a", "b"], "val": ["c"]})
    for trial in range(10):
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda i: share(source, tmp_path / f"out{trial}", f"{i}/8"), range(8)))  # noqa: B023
        assert find_status(tmp_path / f"out{trial}").missing == ()


def test_tasks_that_fail_to_plan_together_are_all_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with ThreadPoolExecutor(8) as pool:
        tasks = [pool.submit(share, tmp_path / "empty", tmp_path / "out", f"{i}/8") for i in range(8)]
    assert {str(task.exception()).partition(" (")[0] for task in tasks} == {"toy: no inputs found"}
    assert list((tmp_path / "out").glob("*")) == []


@pytest.mark.parametrize("trials", [2, pytest.param(20, marks=pytest.mark.soak)])
def test_tasks_that_are_killed_and_run_again_give_the_same_bytes(
    source: Path, straight: dict[str, str], tmp_path: Path, trials: int
) -> None:
    rng, out = random.Random(trials), tmp_path / "out"
    for _ in range(trials):
        tasks = [
            subprocess.Popen(
                command(source, out, "--engine", "array", "--task", f"{i}/2", "--num_workers", "1"),
                env=COMMAND_ENV,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
            for i in range(2)
        ]
        for task in tasks:
            time.sleep(rng.uniform(0.2, 3))
            os.killpg(task.pid, signal.SIGKILL)
            task.wait()
    for i in range(2):
        run(command(source, out, "--engine", "array", "--task", f"{i}/2"))
    assert run(command(source, out, "--finish")).returncode == 1
    assert tree(out) == straight


def test_what_does_not_go_with_an_array_is_one_line(source: Path, tmp_path: Path) -> None:
    for args, line in {
        ("--task", "1/2"): "--task: is no flag of --engine local. Leave it out, or pass --engine array",
        ("--engine", "array", "--task", "3/2"): "--task: '3/2' is no part of an array. Pass the number of the task",
        ("--engine", "array"): "--engine array: is given no --task, and no Slurm array runs here. Pass --task I/N",
        ("--engine", "array", "--task", "1/2", "--update"): "--engine array: does not go with --overwrite and --update",
        ("--finish", "--overwrite"): "--finish: does not go with --overwrite and --update",
        ("--format", "json"): "--format: is for --status. Leave it out",
    }.items():
        done = run(command(source, tmp_path / "out", *args))
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1), done.stderr
        assert done.stderr.startswith(f"phiv-convert: {line}")


# Locks ------------------------------------------------------------------------------------------------------------


def test_a_lock_is_held_by_several_or_by_one(tmp_path: Path) -> None:
    path = tmp_path / "folder/lock"
    with FileLock(path) as one, FileLock(path) as two, FileLock(path) as three:
        assert one.acquire(shared=True, wait=False)
        assert two.acquire(shared=True, wait=False)
        assert not three.acquire(shared=False, wait=False)
        one.release()
        assert two.acquire(shared=False, wait=False)
        assert not three.acquire(shared=True, wait=False)


def test_who_waits_for_a_lock_that_is_removed_takes_the_new_one(tmp_path: Path) -> None:
    path, taken = tmp_path / "lock", threading.Event()

    def wait_for_it() -> None:
        with FileLock(path) as second:
            second.acquire(shared=False, wait=True)
            with FileLock(path) as third:
                if not third.acquire(shared=False, wait=False):
                    taken.set()

    with FileLock(path) as first:
        first.acquire(shared=False, wait=True)
        waiting = threading.Thread(target=wait_for_it)
        waiting.start()
        time.sleep(0.2)
        path.unlink()
    waiting.join(30)
    assert taken.is_set()


# Which share ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("variables", "recorded", "share"),
    [
        ({"ID": "0", "COUNT": "256", "MIN": "0", "MAX": "255"}, None, (0, 256)),
        ({"ID": "256", "COUNT": "256", "MIN": "1", "MAX": "256"}, None, (0, 256)),
        ({"ID": "17", "COUNT": "256", "MIN": "1"}, None, (17, 256)),
        ({"ID": "17", "COUNT": "4", "MIN": "3", "MAX": "19"}, 256, (17, 256)),  # --array=3,17-19, submitted again
        ({"ID": "3", "COUNT": "4", "MIN": "0", "MAX": "3"}, 256, (3, 256)),
    ],
)
def test_the_variables_of_slurm_name_the_share(
    variables: dict[str, str], recorded: int | None, share: tuple[int, int]
) -> None:
    environ = {f"SLURM_ARRAY_TASK_{name}": value for name, value in variables.items()}
    assert find_slurm_share(environ, recorded) == share


def test_a_first_slurm_array_with_gaps_is_refused() -> None:
    values = {"ID": "3", "COUNT": "4", "MIN": "3", "MAX": "19"}
    environ = {f"SLURM_ARRAY_TASK_{name}": value for name, value in values.items()}
    with pytest.raises(UsageError, match="the numbers of the Slurm array have gaps"):
        find_slurm_share(environ)


@pytest.mark.parametrize("count", [1, 3, 256])
def test_shares_from_0_and_from_1_cover_every_task_once(count: int) -> None:
    for first in (0, 1):
        shares = [parse_share(f"{i}/{count}").of(range(1000)) for i in range(first, first + count)]
        assert sorted(task for share in shares for task in share) == list(range(1000))
