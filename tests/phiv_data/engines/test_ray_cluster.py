"""The Ray engine: what is lost is given away again, what fails of the data is raised, the bytes stay the same."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from scale_helpers import COMMAND_ENV, command, run, tree
from toy_converter import ToyOptions, draw_toy_source

from phiv_data.convert.engine import convert
from phiv_data.engines.base import CRASHED, Killed, MemoryProblem
from phiv_data.engines.ray_cluster import RayEngine
from phiv_data.engines.watchdog import process_tree
from phiv_schemas import EnvironmentProblem, SourceError, UsageError

pytest.importorskip("ray")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    names = {"train": [f"t{i:04d}" for i in range(700)], "val": ["v0", "v1_bad", "v2_unlabeled"], "test": ["x0"]}
    return draw_toy_source(tmp_path_factory.mktemp("toy"), names)


@pytest.fixture(scope="module")
def straight(source: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    out = tmp_path_factory.mktemp("straight") / "out"
    convert(ToyOptions(source), out, num_workers=0)
    return tree(out)


def test_a_conversion_on_a_cluster_gives_the_same_bytes(
    cluster: Any, source: Path, straight: dict[str, str], tmp_path: Path
) -> None:
    convert(ToyOptions(source), tmp_path / "out", engine=RayEngine(cluster.address))
    assert tree(tmp_path / "out") == straight


def _behave(folder: Path, task: int) -> int:
    """What task i does: 1 crashes, 2 is lost once with its Ray worker, 3 is the machine's problem once."""
    seen = folder / str(task)
    if task == 1:
        os.kill(os.getpid(), signal.SIGSEGV)
    if task in (2, 3) and not seen.exists():
        seen.touch()
        if task == 3:
            raise EnvironmentProblem("disk", "is full", "Free some space")
        os.kill(os.getppid(), signal.SIGKILL)
        time.sleep(60)
    return task * 10


def test_what_is_lost_is_done_again_and_what_crashes_is_found(cluster: Any, tmp_path: Path) -> None:
    found = dict(RayEngine(cluster.address).map(_behave, tmp_path, range(5)))
    assert found == {0: 0, 1: Killed(CRASHED), 2: 20, 3: 30, 4: 40}


def _fail(error: Exception, task: int) -> int:
    raise error


@pytest.mark.parametrize(
    ("error", "raised", "line"),
    [
        (SourceError("x", "is no source"), SourceError, "^x: is no source$"),
        (ValueError("a bug"), ValueError, "^a bug$"),
        (EnvironmentProblem("disk", "full"), EnvironmentProblem, "^task 0: failed 2 times, at last by disk: full"),
        (MemoryProblem("w", "killed"), MemoryProblem, r"^task 0: was killed for memory, with twice .* \(w: killed\)"),
    ],
)
def test_what_fails_is_raised_once_the_retries_are_used_up(
    cluster: Any, error: Exception, raised: type[Exception], line: str
) -> None:
    with pytest.raises(raised, match=line):
        list(RayEngine(cluster.address, task_retries=1).map(_fail, error, [0]))


def _sleep_then_say(seconds: float, task: int) -> int:
    time.sleep(seconds)
    return task


def test_a_task_that_takes_too_long_is_named_at_last(cluster: Any) -> None:
    engine = RayEngine(cluster.address, task_timeout="1s", task_retries=0)
    with pytest.raises(EnvironmentProblem, match=r"^task 7: failed 1 times, at last by WorkerCrashedError"):
        list(engine.map(_sleep_then_say, 60.0, [7]))
    patient = RayEngine(cluster.address, task_timeout="2m", task_retries=0)
    assert dict(patient.map(_sleep_then_say, 0.0, [7])) == {7: 7}


@pytest.mark.soak
def test_a_node_that_goes_away_half_way_costs_no_result(
    cluster: Any, source: Path, straight: dict[str, str], tmp_path: Path
) -> None:
    second, out = cluster.add_node(num_cpus=2, object_store_memory=10**8), tmp_path / "out"

    def remove_node() -> None:
        while len(list((out / ".phiv/parts").glob("*.json"))) < 2:
            time.sleep(0.02)
        cluster.remove_node(second, allow_graceful=False)

    removal = threading.Thread(target=remove_node)
    removal.start()
    convert(ToyOptions(source), out, engine=RayEngine(cluster.address))
    removal.join(60)
    assert tree(out) == straight


def test_a_task_that_no_machine_can_do_waits_for_one_and_says_so(
    cluster: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    found: list[Any] = []
    engine = RayEngine(cluster.address, task_cpus=50)
    waiting = threading.Thread(target=lambda: found.extend(engine.map(_sleep_then_say, 0.0, [7])))
    waiting.start()
    said, deadline = "", time.monotonic() + 60
    while "no machine of the cluster has 50 processors: waiting for one" not in said:
        assert time.monotonic() < deadline
        time.sleep(0.1)
        said += capfd.readouterr().err
    node = cluster.add_node(num_cpus=50, object_store_memory=10**8)
    waiting.join(90)
    cluster.remove_node(node)
    assert found == [(7, 7)]


def processes_of(cluster: Any) -> list[int]:
    """The workers of all nodes, and the processes that do their work. Not Ray's agents: a node ends with its own."""
    raylets = [node.all_processes["raylet"][0].process.pid for node in cluster.list_all_nodes()]
    found = [pid for raylet in raylets for pid in process_tree(raylet)[1:]]
    return [pid for pid in found if re.search("ray::|spawn_main", command_line(pid))]


def command_line(pid: int) -> str:
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    return ""


@pytest.mark.soak  # what it kills other tests would need
@pytest.mark.parametrize("trials", [16])
def test_killed_at_random_and_run_again_the_bytes_are_the_same(
    cluster: Any, source: Path, straight: dict[str, str], tmp_path: Path, trials: int
) -> None:
    """The command, or some processes that work for it; then it is run again, or gets over it."""
    rng, out = random.Random(trials), tmp_path / "out"
    args = command(source, out, "--engine", "ray", "--ray_address", cluster.address)
    for trial in range(trials):
        program = subprocess.Popen(args, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=COMMAND_ENV)
        time.sleep(rng.uniform(2, 8))
        for pid in rng.sample(found := processes_of(cluster), min(2, len(found))) if trial % 2 else ():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if trial % 2 == 0:
            program.kill()
        assert program.wait(timeout=240) in (-signal.SIGKILL, 1)
    done = run(args)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stderr  # the reject
    assert tree(out) == straight


@pytest.mark.soak
def test_a_stop_signal_ends_the_command_as_without_ray(cluster: Any, source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    args = command(source, out, "--engine", "ray", "--ray_address", cluster.address)
    program = subprocess.Popen(args, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=COMMAND_ENV)
    while not list((out / ".phiv").glob("parts/*.json")):
        assert program.poll() is None
        time.sleep(0.02)
    program.send_signal(signal.SIGTERM)
    _, stderr = program.communicate(timeout=120)
    assert (program.returncode, stderr) == (130, "phiv-convert: interrupted. Run the same command to continue\n")
    assert not (out / "manifest.json").exists()


def test_a_cluster_that_is_not_there_and_flags_that_are_none_are_one_line(tmp_path: Path, source: Path) -> None:
    for args, code, line in (
        (("--ray_address", "127.0.0.1:1"), 3, "--ray_address 127.0.0.1:1: no Ray cluster answers ("),
        (("--task_memory", "2 GIGS"), 2, "--task_memory: '2 GIGS' is no size above 0. Pass one such as 2GiB"),
        (("--task_timeout", "0"), 2, "--task_timeout: '0' is no time above 0. Pass one such as 90s, 30m or 2h"),
        (("--in_flight", "0"), 2, "--in_flight: must be 1 or more (found 0)"),
        (("--num_workers", "2"), 2, "--num_workers: is no flag of --engine ray. Leave it out, or pass --engine array"),
    ):
        done = run(command(source, tmp_path / "out", "--engine", "ray", *args))
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (code, "", 1), done.stderr
        assert done.stderr.startswith(f"phiv-convert: {line}")


def test_without_ray_the_extra_is_named(source: Path, tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['ray'] = None\n"
        "from phiv_data.engines import RayEngine\n"
        "list(RayEngine().map(print, None, [1]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "EnvironmentProblem: ray: is not installed (phiv[ray])" in done.stderr


def test_an_engine_checks_its_numbers_when_it_is_made() -> None:
    with pytest.raises(UsageError, match=r"--task_retries: must be 0 or more \(found -1\)"):
        RayEngine(task_retries=-1)
