"""Runs a command of phiv in a folder and says how it ended: in a fork of this process, or in a process of its own.

    done = run_forked(["phiv-convert", "jsonl", "--source", "src", "--out_dir", "o"], folder, Fault(...))
    done = run_process([...], folder, env={"PHIV_FAULT": ...}, limit=lambda: resource.setrlimit(...))

A fork has everything imported already: a trial takes 0.1 s in place of 1 s.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import re
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from attacks.injection import Fault, install

PROGRAMS = {
    "phiv-convert": "phiv_data.cli.convert",
    "phiv-validate": "phiv_data.cli.validate",
    "phiv-export": "phiv_data.cli.export",
}
LIMIT_S = 120
HOME = Path(__file__).parent
QUIET = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1", "PYTHONIOENCODING": "utf-8"}


@dataclass(frozen=True)
class Done:
    """How a command ended. `code` is negative for a signal, as in subprocess; `hung`: it was stopped after 120 s."""

    code: int
    stdout: bytes
    stderr: bytes
    hung: bool = False

    @property
    def lines(self) -> list[str]:
        """What stderr says."""
        return [line for line in self.stderr.decode("utf-8", "replace").splitlines() if line.strip()]

    @property
    def has_traceback(self) -> bool:
        """True where an exception reached the user."""
        return any(line.startswith("Traceback ") for line in self.lines)

    def short(self) -> str:
        """The exit code and the end of stderr, on one line; of a traceback the error and phiv's last line."""
        text = " | ".join(self.lines[-2:])[:300]
        if self.has_traceback:
            ours = [line.strip() for line in self.lines if "/phiv_" in line and line.strip().startswith("File ")]
            place = ours[-1].rpartition("/phiv_")[2] if ours else "outside"
            errors = [line for line in self.lines if re.match(r"[A-Za-z_][\w.]*(: |$)", line)]
            text = f"traceback {(errors or self.lines)[-1][:120]}, phiv_{place}"
        return f"exit {self.code}{', hung' if self.hung else ''}: {text}"


def import_all() -> None:
    """Import what the commands import late, so that a fork need not."""
    from importlib.metadata import entry_points

    import PIL.Image

    PIL.Image.init()
    names = [*PROGRAMS.values(), "phiv_data.convert.engine", "phiv_data.export.engine", "phiv_data.repair"]
    names += [
        "phiv_data.validation",
        "phiv_data.reports",
        "phiv_data.repair.summary",
        "loky",
        "tqdm",
        "pyarrow.parquet",
    ]
    names += [point.value.partition(":")[0] for point in entry_points(group="phiv.converters")]
    names += [name.replace(".options", ".convert") for name in names if name.endswith(".options")]
    for name in names:
        try:
            importlib.import_module(name)
        except ImportError:  # only slower
            continue


def run_forked(argv: Sequence[str], folder: Path, fault: Fault | None = None) -> Done:
    """Run the command in a fork of this process, in `folder`, with a fault."""
    out, err = folder.parent / "stdout", folder.parent / "stderr"
    child = os.fork()
    if not child:
        _be_command(argv, folder, fault, out, err)
    code, hung = wait_for(child)
    return Done(code, out.read_bytes(), err.read_bytes(), hung)


def run_process(
    argv: Sequence[str],
    folder: Path,
    *,
    env: Mapping[str, str] | None = None,
    before: Callable[[], None] | None = None,
    prefix: Sequence[str] = (),
    stdout: Path | None = None,
) -> Done:
    """Run the command in a process of its own. `before` runs in it first; `prefix` is a program that starts it."""
    command = [*prefix, sys.executable, str(Path(sys.executable).parent / argv[0]), *argv[1:]]
    with (stdout or Path(os.devnull)).open("wb") as full:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=os.environ | QUIET | (env or {}),
            stdin=subprocess.DEVNULL,
            stdout=full if stdout else subprocess.PIPE,
            stderr=subprocess.PIPE,
            preexec_fn=before,
            start_new_session=True,
        )
        try:
            out, err = process.communicate(timeout=LIMIT_S)
            return Done(process.returncode, out or b"", err)
        except subprocess.TimeoutExpired:
            return Done(-signal.SIGKILL, b"", b"", hung=True)
        finally:
            _end_group(process.pid)
            process.wait()


def fault_env(fault_json: str, *, where: str) -> dict[str, str]:
    """The environment in which `where` ("command" or "workers") of a command gets the fault."""
    path = [str(HOME / "in_workers"), str(HOME.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {"PHIV_FAULT": fault_json, "PHIV_FAULT_IN": where, "PYTHONPATH": os.pathsep.join(path)}


def _be_command(argv: Sequence[str], folder: Path, fault: Fault | None, out: Path, err: Path) -> None:
    """What the fork does; it never returns."""
    code = 70
    try:
        os.chdir(folder)
        for number, path in ((1, out), (2, err)):
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        for number, name, errors in ((1, "stdout", "strict"), (2, "stderr", "backslashreplace")):  # as Python has them
            setattr(sys, name, io.TextIOWrapper(os.fdopen(number, "wb", closefd=False), "utf-8", errors))
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a run in the background has it ignored
        sys.argv = list(argv)
        os.environ.update(QUIET)
        injector = install(fault) if fault else None
        code = importlib.import_module(PROGRAMS[argv[0]]).main() or 0
        if injector:
            injector.report()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:  # as the interpreter does
        code = 1
        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            if not stream.closed:
                stream.flush()
        os._exit(code)


def wait_for(child: int) -> tuple[int, bool]:
    """The exit code of a fork, and whether it had to be stopped."""
    end, pause = time.monotonic() + LIMIT_S, 0.001
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status), False
        time.sleep(pause)
        pause = min(pause * 1.5, 0.02)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return -signal.SIGKILL, True


def _end_group(group: int) -> None:
    """End what a killed command has left running: its workers."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)
