"""A trial: one attack on one command. `run_trials` runs them, `report` prints a table and how to repeat failures."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from attacks.injection import Fault
from attacks.running import Done, run_forked
from attacks.scenes import SCENES, Scene

HELD = None
NOTHING: dict[str, str] = {}


@dataclass(frozen=True)
class Trial:
    """`run` gets an empty folder and returns what is wrong, or None where phiv held. `name` repeats it."""

    kind: str
    name: str
    run: Callable[[Path], str | None] = field(repr=False)


@dataclass(frozen=True)
class Failure:
    """A trial that did not hold, and what was seen."""

    trial: Trial
    problem: str

    def repeat(self, flags: str) -> str:
        """The command that runs this trial again, after a run with these flags."""
        return f"scripts/attack {self.trial.kind} --only '{self.trial.name}'{flags}"


@dataclass
class Outcome:
    """Of the trials of a kind."""

    kind: str
    trials: int = 0
    seconds: float = 0.0
    failures: list[Failure] = field(default_factory=list)

    @property
    def held(self) -> int:
        """Trials in which phiv did what it promises."""
        return self.trials - len(self.failures)


@dataclass(frozen=True)
class Prepared:
    """A scene with its input, and what the command does when nothing is in its way."""

    scene: Scene
    template: Path
    done: Done
    outputs: dict[str, dict[str, str]]
    before: dict[str, dict[str, str]]
    operations: list[str]

    def copy(self, folder: Path) -> Path:
        """A new copy of the input, as the folder `work` of `folder`."""
        return Path(shutil.copytree(self.template, folder / "work", symlinks=True))

    @property
    def input(self) -> str:
        """The folder or file that the command reads."""
        return next(word for word in self.scene.argv if word in ("src", "fixed", "o"))

    def half_published(self, work: Path) -> str | None:
        """What a reader would take for the finished output, though it is not."""
        for name in self.scene.outputs:
            found, wanted = tree(work / name), self.outputs[name]
            if self.scene.by_file:
                found = {file: sha256 for file, sha256 in found.items() if not file.startswith(".phiv-tmp-")}
                if found.items() <= wanted.items():
                    continue
            is_unfinished = self.scene.argv[0] == "phiv-convert" and "manifest.json" not in found
            if not is_unfinished and found not in (NOTHING, wanted, self.before[name]):
                return f"half published: {difference(found, wanted)}"
        return HELD

    def is_complete(self, work: Path) -> bool:
        """True when all outputs are as the straight run makes them."""
        return all(tree(work / name) == self.outputs[name] for name in self.scene.outputs)

    def ends_as_straight(self, work: Path, done: Done) -> str | None:
        """None where the command ended as if nothing had happened; else what is different."""
        if done.code != self.done.code:
            return f"{done.short()} (straight: exit {self.done.code})"
        for name in self.scene.outputs:
            found = tree(work / name)
            if self.scene.by_file:  # a killed run leaves a temporary file
                found = {file: sha256 for file, sha256 in found.items() if not file.startswith(".phiv-tmp-")}
            if found != self.outputs[name]:
                return f"other output than the straight run: {difference(found, self.outputs[name])}"
            left = {path.name for path in (work / name / ".phiv").glob("*")} - {"source.json", "kept", "lock"}
            if left:
                return f"left in .phiv: {', '.join(sorted(left))}"
        if "o" not in self.scene.outputs and self.scene.argv[0] == "phiv-validate" and done.stdout != self.done.stdout:
            return f"another report: {done.stdout.decode('utf-8', 'replace')[-200:]!r}"
        return HELD

    def resumes(self, work: Path, hook: str = "resumed") -> str | None:
        """None where the same command, now undisturbed, ends as the straight run."""
        if self.scene.makes_new_folder and self.is_complete(work):
            return HELD  # its folder is there: a second call refuses it
        problem = self.ends_as_straight(work, run_forked(self.scene.argv, work))
        return f"{hook}: {problem}" if problem else HELD

    def one_line(self, done: Done, code: int = 3) -> str | None:
        """None for this exit code with one line beside those that the straight run prints."""
        lines = [line for line in done.lines if line not in self.done.lines]
        if done.code != code or done.has_traceback:
            return done.short()
        if len(lines) != 1 or not lines[0].startswith(f"{self.scene.argv[0]}: "):
            return f"exit {code} with {len(lines)} lines: {' | '.join(lines)[:300]}"
        return HELD


def tree(path: Path) -> dict[str, str]:
    """Every file and folder below (or the file itself) with its hash; phiv's work folder left out. Empty: not there."""
    if not path.is_dir():
        return {"": _sha256(path)} if path.is_file() else {}
    found = {}
    for folder, folders, files in os.walk(path):
        folders[:] = sorted(name for name in folders if name != ".phiv")
        here = Path(folder).relative_to(path)
        found |= {f"{here / name}/": "" for name in folders}
        found |= {str(here / name): _sha256(Path(folder, name)) for name in files}
    return found


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "no file"


def difference(found: dict[str, str], wanted: dict[str, str]) -> str:
    """The first paths that differ."""
    parts = {
        "missing": sorted(wanted.keys() - found.keys()),
        "added": sorted(found.keys() - wanted.keys()),
        "other": sorted(name for name in found.keys() & wanted.keys() if found[name] != wanted[name]),
    }
    return "; ".join(f"{what} {len(names)}: {', '.join(names[:3])}" for what, names in parts.items() if names)


class Bench:
    """The prepared scenes, below a temporary folder; each is made when it is first asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder, self._made = folder, dict[str, Prepared]()

    def prepared(self, name: str) -> Prepared:
        """The scene with its straight run."""
        if name not in self._made:
            self._made[name] = self._prepare(SCENES[name])
        return self._made[name]

    def _prepare(self, scene: Scene) -> Prepared:
        home = self.folder / scene.name
        (home / "template").mkdir(parents=True)
        scene.prepare(home / "template")
        work = Path(shutil.copytree(home / "template", home / "work", symlinks=True))
        before = {name: tree(work / name) for name in scene.outputs}
        log = home / "operations.json"
        done = run_forked(scene.argv, work, Fault(str(work), log=str(log)))
        assert done.code in (0, 1), f"{scene.name}: {done.short()}"
        outputs = {name: tree(work / name) for name in scene.outputs}
        prepared = Prepared(scene, home / "template", done, outputs, before, json.loads(log.read_text()))
        shutil.rmtree(work)
        return prepared


def run_trials(trials: Iterable[Trial], *, seconds: float | None = None) -> list[Outcome]:
    """Run each trial in a new folder, as long as there is time; the outcome by kind."""
    outcomes: dict[str, Outcome] = {}
    end = None if seconds is None else time.monotonic() + seconds
    for trial in trials:
        if end is not None and time.monotonic() > end:
            break
        outcome, start = outcomes.setdefault(trial.kind, Outcome(trial.kind)), time.monotonic()
        with work_folder() as folder:
            problem = trial.run(folder)
        outcome.trials += 1
        outcome.seconds += time.monotonic() - start
        if problem is not None:
            outcome.failures.append(Failure(trial, problem))
            sys.stderr.write(f"{trial.kind} {trial.name}: {problem}\n")
    return list(outcomes.values())


@contextmanager
def work_folder() -> Iterator[Path]:
    """A new folder, in memory where the system has room there: nothing of it need survive."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(prefix="phiv-attack-", dir=memory if memory.is_dir() else None) as name:
        yield Path(os.path.realpath(name))


def report(outcomes: list[Outcome], flags: str = "") -> str:
    """A row per kind, then the failures, those of the same kind and problem together."""
    lines = ["| kind | trials | held | failed | seconds |", "|---|---|---|---|---|"]
    for outcome in outcomes:
        counts = f"{outcome.trials} | {outcome.held} | {len(outcome.failures)} | {outcome.seconds:.0f}"
        lines.append(f"| {outcome.kind} | {counts} |")
    for outcome in outcomes:
        groups: dict[str, list[Failure]] = {}
        for failure in outcome.failures:
            groups.setdefault(_shape(failure.problem), []).append(failure)
        for failures in sorted(groups.values(), key=len, reverse=True):
            lines += ["", f"{outcome.kind}: {len(failures)} x {failures[0].problem}"]
            lines += [f"    {failure.repeat(flags)}" for failure in failures[:3]]
    return "\n".join(lines) + "\n"


def _shape(problem: str) -> str:
    """The problem without what differs from trial to trial: operation, names, numbers. Of a traceback the place."""
    if match := re.search(r"traceback (\w+).*(phiv_\S+, line \d+)", problem):
        return " ".join(match.groups())
    problem = re.sub(r"^at '.*?': ", "", problem)
    return re.sub(r"\S*[./\d]\S*", "#", problem)[:60]
