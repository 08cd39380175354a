"""Runs a case: a folder with a bash script `cmd` and its input, and a sentence on what must be seen.

    run = run_case(folder, tmp_path)
    run.calls[0].code, run.calls[0].text        # of the first program of phiv that the script starts
    run.rows("o", "train")                      # the records that it wrote under $OUT

`cmd` runs in a copy of its folder, with phiv's programs first on PATH, $OUT an empty folder and $LIB the helpers.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from subprocess import PIPE
from typing import Any

PROGRAMS = ("phiv-convert", "phiv-validate", "phiv-export", "phiv-train", "phiv-eval", "phiv-inspect")

# Runs the program of the same name, shows what it prints, and notes the exit code and the text.
RECORDER = """#!{python}
import json, os, pathlib, subprocess, sys
name = pathlib.Path(sys.argv[0]).name
done = subprocess.run([os.path.join({bin!r}, name), *sys.argv[1:]], capture_output=True)
sys.stdout.buffer.write(done.stdout); sys.stderr.buffer.write(done.stderr)
call = dict(argv=[name, *sys.argv[1:]], code=done.returncode,
            stdout=done.stdout.decode("utf-8", "replace"), stderr=done.stderr.decode("utf-8", "replace"))
with open({log!r}, "a") as log:
    log.write(json.dumps(call) + "\\n")
sys.exit(done.returncode)
"""


@dataclass(frozen=True)
class Call:
    """One program that the script started."""

    argv: list[str]
    code: int
    stdout: str
    stderr: str

    @property
    def text(self) -> str:
        """All that it printed."""
        return self.stdout + self.stderr


@dataclass(frozen=True)
class CaseRun:
    """What a case's script did."""

    work: Path
    out: Path
    stdout: str
    stderr: str
    calls: list[Call]

    def rows(self, name: str, split: str | None = None) -> list[dict[str, Any]]:
        """The records of a dataset under $OUT, in the order of files and lines."""
        files = sorted((self.out / name).glob(f"*_{split or '*'}.jsonl"))
        return [json.loads(line) for file in files for line in file.read_text(encoding="utf-8").splitlines()]

    def rejects(self, name: str) -> list[dict[str, Any]]:
        """The rejected inputs of a dataset under $OUT."""
        path = self.out / name / "rejects.jsonl"
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def run_case(case: Path, folder: Path, *, record: bool = True, timeout_s: int = 240) -> CaseRun:
    """Run a case in `folder`. `record=False` for scripts that signal the process they start: a recorder would be it."""
    work, out, log = folder / "work", folder / "out", folder / "calls.jsonl"
    shutil.copytree(case, work)
    out.mkdir()
    programs = Path(sys.executable).parent
    path = [str(programs), os.environ["PATH"]]
    if record:
        recorders = folder / "bin"
        recorders.mkdir()
        for name in PROGRAMS:
            text = RECORDER.format(python=sys.executable, bin=str(programs), log=str(log))
            (recorders / name).write_text(text, encoding="utf-8")
            (recorders / name).chmod(0o755)
        path.insert(0, str(recorders))
    env = os.environ | {
        "PATH": os.pathsep.join(path),
        "OUT": str(out),
        "LIB": str(case.parent / "_lib"),
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
        "PYTHONIOENCODING": "utf-8",
    }
    command = ["bash", str(case / "cmd")]
    process = subprocess.Popen(command, cwd=work, env=env, stdout=PIPE, stderr=PIPE, start_new_session=True)
    try:
        stdout, stderr = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)  # its children too: a script may wait for ever for what never comes
        raise
    calls = [Call(**json.loads(line)) for line in log.read_text(encoding="utf-8").splitlines()] if log.exists() else []
    return CaseRun(work, out, stdout.decode("utf-8", "replace"), stderr.decode("utf-8", "replace"), calls)
