"""Attacks that need real processes: workers that die, system calls that fail, limits of the system.

workers: faults in one worker process of a command (killed at an operation, or an error there), or the command killed
while its workers run.
calls: faults at the n-th system call, by strace, also those of libraries in C; skipped where there is no strace.
limits: ulimit -v, -f and -n at several values, a full /dev/full as stdout, a small tmpfs (as root) as the disk.
"""

from __future__ import annotations

import json
import resource
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from random import Random

from attacks.faults import choose
from attacks.injection import FAILS, Fault
from attacks.running import Done, fault_env, run_process
from attacks.trials import HELD, Bench, Prepared, Trial

CALLS = ("openat", "write", "pwrite64", "read", "pread64", "rename", "mkdir", "unlink", "fsync", "newfstatat", "mmap")
CALL_ERRORS = ("ENOSPC", "EIO", "EACCES", "ENOMEM", "EMFILE")
CALL_SCENES = ("convert-jsonl", "convert-ucf101", "convert-zip", "export-hub", "fix", "validate", "validate-source")
WORKER_SCENES = ("convert-jsonl", "convert-ucf101", "convert-zip", "validate", "validate-source")
LIMITED_SCENES = ("convert-jsonl", "convert-ucf101", "export-hub", "fix", "undo", "validate", "validate-llava")


def workers(bench: Bench, scenes: list[str], per_scene: int, seed: int) -> Iterator[Trial]:
    """Faults in one worker of two."""
    for name in (name for name in scenes if name in WORKER_SCENES):
        prepared, random = bench.prepared(name), Random(f"{seed} workers {name}")
        numbers = choose(prepared.operations, random, per_scene, lambda operation: operation != "stat")
        for number in numbers:
            where = random.choice(("workers", "workers", "command"))
            action = "kill" if where == "command" else random.choice(("kill", "kill", "tear", *FAILS))
            yield Trial("workers", f"{name} {number} {action} {where}", _in_processes(prepared, number, action, where))


def calls(bench: Bench, scenes: list[str], per_scene: int, seed: int) -> Iterator[Trial]:
    """Faults at system calls of the command that name a path of the scene, or of all its calls."""
    if not shutil.which("strace"):
        return
    for name in (name for name in scenes if name in CALL_SCENES):
        random = Random(f"{seed} calls {name}")
        for _ in range(per_scene):
            call = random.choice(CALLS)
            error = random.choice(("kill", "kill", *CALL_ERRORS))
            at = random.randrange(1, {"fsync": 12, "rename": 12, "mkdir": 30, "unlink": 10}.get(call, 60))
            path = random.choice(_paths(bench.prepared(name)))
            yield Trial(
                "calls", f"{name} {call} {at} {error} {path}", _traced(bench.prepared(name), call, at, error, path)
            )


def limits(bench: Bench, scenes: list[str], per_scene: int, seed: int) -> Iterator[Trial]:
    """Limits of the system."""
    del seed  # the values are fixed
    for name in (name for name in scenes if name in LIMITED_SCENES):
        prepared = bench.prepared(name)
        for number in _spread(per_scene, (150, 200, 250, 300, 350, 400, 450, 500, 600, 800, 1200)):
            limit = (resource.RLIMIT_AS, number << 20)
            yield Trial("limits", f"{name} {number} MiB of memory", _limited(prepared, limit))
            if name in WORKER_SCENES:
                with_workers = replace(prepared, scene=replace(prepared.scene, argv=_two_workers(prepared)))
                yield Trial("limits", f"{name} {number} MiB of memory, workers", _limited(with_workers, limit))
        for number in _spread(per_scene, (100, 300, 1000, 2000, 5000)):
            yield Trial("limits", f"{name} {number} bytes a file", _limited(prepared, (resource.RLIMIT_FSIZE, number)))
        for number in _spread(per_scene, (8, 10, 12, 16, 24)):
            yield Trial("limits", f"{name} {number} open files", _limited(prepared, (resource.RLIMIT_NOFILE, number)))
        yield Trial("limits", f"{name} stdout full", _full_stdout(prepared))
        for number in _spread(per_scene, (4, 16, 32, 48, 64, 96)):
            yield Trial("limits", f"{name} {number} KiB of disk", _small_disk(prepared, number))


def _spread(count: int, values: tuple[int, ...]) -> tuple[int, ...]:
    return values if count >= len(values) else values[:: max(1, len(values) // max(1, count // 4))]


def _two_workers(prepared: Prepared) -> tuple[str, ...]:
    argv = list(prepared.scene.argv)
    argv[argv.index("--num_workers") + 1] = "2"
    return tuple(argv)


def _in_processes(prepared: Prepared, at: int, action: str, where: str) -> Callable[[Path], str | None]:
    def run(folder: Path) -> str | None:
        work = prepared.copy(folder)
        fault = Fault(str(work), at, action, unflushed=str(folder / "unflushed"), once=str(folder / "struck"))
        done = run_process(_two_workers(prepared), work, env=fault_env(json.dumps(asdict(fault)), where=where))
        return judge(prepared, work, done, may_die=where == "command")

    return run


def judge(prepared: Prepared, work: Path, done: Done, *, may_die: bool = False) -> str | None:
    """None where it ended as the straight run, or with one line and exit 3, and resumes. `may_die`: or was killed."""
    if done.hung:
        return done.short()
    if prepared.ends_as_straight(work, done) is HELD:
        return HELD
    is_killed = may_die and done.code in (-9, 137)
    problem = None if is_killed else prepared.one_line(done)
    if problem and done.code in (0, 1, 2) and not done.has_traceback:
        problem = f"a verdict: {prepared.ends_as_straight(work, done)}"
    return problem or prepared.half_published(work) or prepared.resumes(work, "afterwards")


def _paths(prepared: Prepared) -> list[str]:
    """Paths that strace may watch: those of the straight run, but for temporary ones; empty for all."""
    names = {operation.partition(" ")[2] for operation in prepared.operations}
    return ["", *sorted(name for name in names if ".phiv-tmp-" not in name)]


def _traced(prepared: Prepared, call: str, at: int, error: str, path: str) -> Callable[[Path], str | None]:
    def run(folder: Path) -> str | None:
        work = prepared.copy(folder)
        fault = "signal=KILL" if error == "kill" else f"error={error}"
        prefix = [
            "strace",
            "-f",
            "-qq",
            "-o",
            "/dev/null",
            "-e",
            f"trace={call}",
            "-e",
            f"inject={call}:{fault}:when={at}",
        ]
        prefix += ["-P", str(work / path)] if path else []
        done = run_process(prepared.scene.argv, work, prefix=prefix)
        if not path and _died_at_start(done):
            return HELD
        return judge(prepared, work, done, may_die=error == "kill")

    return run


def _died_at_start(done: Done) -> bool:
    """Python, or the import of a library, failed before phiv could say anything."""
    text = done.stderr.decode("utf-8", "replace")
    return "cli/common.py" not in text and any(
        word in text for word in ("importlib", "Fatal Python error", "error while loading", "cannot open shared object")
    )


def _limited(prepared: Prepared, limit: tuple[int, int]) -> Callable[[Path], str | None]:
    def run(folder: Path) -> str | None:
        work = prepared.copy(folder)
        done = run_process(prepared.scene.argv, work, before=lambda: resource.setrlimit(limit[0], (limit[1], limit[1])))
        if _died_at_start(done):
            return HELD
        if b"OpenBLAS error" in done.stderr or b"std::bad_alloc" in done.stderr:  # a library has ended the process
            return prepared.half_published(work) or prepared.resumes(work, "afterwards")
        return judge(prepared, work, done)

    return run


def _full_stdout(prepared: Prepared) -> Callable[[Path], str | None]:
    def run(folder: Path) -> str | None:
        work = prepared.copy(folder)
        done = run_process(prepared.scene.argv, work, stdout=Path("/dev/full"))
        if done.code == prepared.done.code and not prepared.done.stdout:
            return HELD
        return prepared.one_line(done) or prepared.half_published(work) or prepared.resumes(work, "afterwards")

    return run


def _small_disk(prepared: Prepared, kib: int) -> Callable[[Path], str | None]:
    """The outputs on a tmpfs of this size: the scene's folder is on it, with that much room left."""

    def run(folder: Path) -> str | None:
        source = prepared.copy(folder)
        used = sum(4096 + (path.stat().st_size + 4095) // 4096 * 4096 for path in source.rglob("*"))
        disk = folder / "disk"
        disk.mkdir()
        options = f"size={used + kib * 1024}"
        mount = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(disk)]
        if subprocess.run(mount, capture_output=True, check=False).returncode:
            return HELD  # not root: the injected ENOSPC has to do
        try:
            work = Path(shutil.copytree(source, disk / "work", symlinks=True))
            done = run_process(prepared.scene.argv, work)
            if prepared.ends_as_straight(work, done) is HELD:
                return HELD
            problem = prepared.one_line(done) or prepared.half_published(work)
            subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
            return problem or prepared.resumes(work, "with room again")
        finally:
            subprocess.run(["umount", str(disk)], check=False)

    return run
