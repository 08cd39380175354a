"""`scripts/attack-training [--only TEXT] [--seconds N]`: phiv-train is stopped at any moment, and killed at any.

A trial of `signals`: every process of a run (encoding workers, torchrun, both ranks) gets a signal, as from a terminal
or a cluster, in a step, a save, or an evaluation. It must end with 130, with no traceback, and leave one whole
checkpoint (none where nothing was trained yet). A trial of `kills`: SIGKILL somewhere; the same command must
then leave the `final/` of a straight run, byte for byte.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from subprocess import DEVNULL, Popen

from attacks.trials import HELD, Trial, difference, report, run_trials, tree
from phiv_train.checkpoints.store import verify_files

LIMIT_S = 240
SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1")
MOMENTS = ("eval_before", "step", "save", "eval_after")
FLAGS = "--model_name_or_path tiny --batch_size 16 --learning_rate 1e-3 --device cpu".split()  # noqa: SIM905
LONG = ["--num_train_epochs", "200", "--save_steps", "1000", "--logging_steps", "1", "--no_eval"]
MOMENT_FLAGS = {
    "step": LONG,
    "save": [*LONG, "--save_steps", "1"],
    "eval_before": ["--max_steps", "2", "--max_new_tokens", "400", "--eval_batch_size", "1"],
    "eval_after": ["--max_steps", "2", "--max_new_tokens", "400", "--eval_batch_size", "1"],
}


@dataclass(frozen=True)
class Training:
    """A run that was started, in a session of its own."""

    process: Popen[bytes]
    folder: Path

    @property
    def out(self) -> Path:
        """Its output folder."""
        return self.folder / "run"

    @property
    def stderr(self) -> str:
        """What all of its processes have printed."""
        return (self.folder / "err").read_text(errors="replace")

    def is_in(self, moment: str) -> bool:
        """True while this moment seems to be now."""
        if moment == "step":
            return (self.out / "metrics.jsonl").exists()
        if moment == "save":
            return (self.out / ".phiv-tmp-checkpoint").exists()
        started = (self.out / "final").exists() if moment == "eval_after" else True
        return started and f"{moment}:" in self.stderr

    def wait_for(self, moment: str) -> bool:
        """True once it is there; False where the run ended before."""
        end = time.monotonic() + LIMIT_S
        while not self.is_in(moment):
            if self.process.poll() is not None or time.monotonic() > end:
                return False
            time.sleep(0.002)
        return True

    def signal_all(self, number: int) -> None:
        """To every process of the run, as the cluster's scancel does it; a terminal signals some of them."""
        for pid in [self.process.pid, *descendants(self.process.pid)]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def stop(self) -> None:
        """Nothing of it is left; ranks outlive a torchrun that was killed."""
        if self.process.poll() is None:
            self.signal_all(signal.SIGKILL)
            self.process.wait()
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):
                if str(self.folder).encode() in path.read_bytes():
                    os.kill(int(path.parent.name), signal.SIGKILL)


def start(folder: Path, data: Path, flags: list[str], processes: int) -> Training:
    """Start a run."""
    command = [sys.executable, "-m", "phiv_train.cli.train"]
    if processes > 1:
        launch = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
        command = [sys.executable, *launch, str(Path(__file__).with_name("rank.py")), str(folder)]
    command += ["--data_dir", str(data), "--output_dir", str(folder / "run"), *FLAGS, *flags]
    env = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    with (folder / "err").open("wb") as err:
        return Training(Popen(command, env=env, stdin=DEVNULL, stdout=err, stderr=err, start_new_session=True), folder)


def descendants(pid: int) -> list[int]:
    """All processes below this one."""
    try:
        children = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []
    return children + [below for child in children for below in descendants(child)]


def signal_trials(data: Path) -> Iterator[Trial]:
    """Each signal, number of workers, number of processes and moment."""
    for processes, workers, sent, moment in product((1, 2), (0, 2, 4), SIGNALS, MOMENTS):
        name = f"{processes} process{'es' * (processes > 1)}, {workers} workers, {sent}, {moment}"
        yield Trial(f"{sent} {moment}", name, partial(stopped, data, processes, workers, sent, moment))


def stopped(data: Path, processes: int, workers: int, sent: str, moment: str, folder: Path) -> str | None:
    """Signal a run at this moment; what is wrong with its end."""
    run = start(folder, data, [*MOMENT_FLAGS[moment], "--num_workers", str(workers)], processes)
    try:
        if not run.wait_for(moment):
            return f"ended before the signal: {run.stderr[-300:]}"
        time.sleep({"step": random.random() / 3, "save": 0.0}.get(moment, random.random() / 10))
        run.signal_all(getattr(signal, sent))
        run.process.wait(timeout=LIMIT_S)
        codes = [run.process.returncode]
        if processes > 1:
            codes = [_code(folder / f"rank{rank}") for rank in range(processes)]
        if codes != [130] * processes:
            return f"exit codes {codes}: {run.stderr[-400:]}"
        if run.stderr.count("Traceback") > run.stderr.count("SignalException: Process"):  # torchrun's own
            return f"a traceback: {run.stderr.partition('Traceback')[2][:900]} ... {run.stderr[-300:]}"
        return _wrong_checkpoint(run.out, moment)
    finally:
        run.stop()


def _code(path: Path) -> int | None:
    """The exit code that a rank wrote, which it does last; it may outlive torchrun by a little."""
    end = time.monotonic() + 60
    while not path.exists() and time.monotonic() < end:
        time.sleep(0.05)
    return int(path.read_text() or -1) if path.exists() else None


def _wrong_checkpoint(out: Path, moment: str) -> str | None:
    names = sorted(path.name for path in out.iterdir())
    checkpoints = [name for name in names if name.startswith("checkpoint-")]
    if not checkpoints and moment != "eval_before":
        return f"no checkpoint: {names}"
    for name in checkpoints:
        verify_files(out / name)
    if left := [name for name in names if name.startswith(".phiv-tmp")]:
        return f"half-written: {left}"
    if "eval_after.json" in names:
        return "evaluated to the end"
    return HELD


def kill_trials(data: Path, straight: Path, count: int) -> Iterator[Trial]:
    """SIGKILL after a random time, which grows over the trials to reach every part of a run."""
    for number in range(count):
        yield Trial("SIGKILL", f"kill {number}", partial(killed, data, straight, number / count))


SHORT = ["--max_steps", "12", "--save_steps", "2", "--max_new_tokens", "40", "--num_workers", "2"]


def killed(data: Path, straight: Path, share: float, folder: Path) -> str | None:
    """Kill a run when it has done a share of its work, run the same command: what differs in `final/`."""
    run = start(folder, data, SHORT, 1)
    try:
        wanted = ("eval_before", "step", "save", "eval_after")[int(4 * share)]
        run.wait_for(wanted)
        time.sleep(random.random() * 0.4)
        run.signal_all(signal.SIGKILL)
        run.process.wait()
        run = start(folder, data, SHORT, 1)
        if run.process.wait(timeout=LIMIT_S):
            return f"exit code {run.process.returncode}: {run.stderr[-400:]}"
        found, same = tree(run.out / "final"), tree(straight / "final")
        # The settings hold the output folder, and the metadata their hash.
        found, same = ({k: v for k, v in t.items() if not k.startswith("phiv_")} for t in (found, same))
        return HELD if found == same else f"another final/: {difference(found, same)}"
    finally:
        run.stop()


def main() -> int:
    """Exit code 1 where a trial failed."""
    parser = argparse.ArgumentParser(prog="scripts/attack-training", description=__doc__.partition("\n")[0])
    parser.add_argument("--only", default="", help="the trials whose name contains this")
    parser.add_argument("--seconds", type=float, help="stop after this time; the order is random")
    parser.add_argument("--kills", type=int, default=12, help="trials of SIGKILL (12)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="phiv-attack-") as name:
        folder = Path(name).resolve()
        data = make_data(folder)
        trials = [trial for trial in signal_trials(data) if options.only in trial.name]
        (folder / "straight").mkdir()
        if options.kills:
            start(folder / "straight", data, SHORT, 1).process.wait()
            trials += kill_trials(data, folder / "straight/run", options.kills)
        random.shuffle(trials)
        outcomes = run_trials(trials, seconds=options.seconds)
    sys.stdout.write(report(outcomes))
    return int(any(outcome.failures for outcome in outcomes))


def make_data(folder: Path) -> Path:
    """The synthetic clips, converted."""
    from phiv_converters.synthetic.clips import make_synthetic_ucf101
    from phiv_converters.ucf101.options import Ucf101Options
    from phiv_data.convert.engine import convert

    source = make_synthetic_ucf101(folder, train=8, val=4, test=1, size=(64, 48))
    convert(Ucf101Options(source=source, num_frames=2), folder / "data", num_workers=0)
    shutil.rmtree(source)
    return folder / "data"


if __name__ == "__main__":
    sys.exit(main())
