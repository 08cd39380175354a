"""Commands killed at a file operation, or given an error of the system there, then run again undisturbed.

kills: SIGKILL before the n-th operation, or half of a write done; after half of the kills, what was not yet flushed
to the disk is lost too, as a power cut may do: cut, zeroed or empty. What is published must be whole, and the same
command must end with the bytes of a straight run.

interrupts: SIGINT or SIGTERM there, also twice. One line and exit 130, then as above.

errors: ENOSPC, EDQUOT, EIO, EACCES, EMFILE, ENOMEM and MemoryError, once or from there on. Either the command ends as
the straight run does, or with one line and exit 3, having said nothing about its input; then as above. `vanish`: the
input is moved away there, as a network disk goes away, and is back for the second run.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

from attacks.injection import FAILS, Fault
from attacks.running import run_forked
from attacks.trials import HELD, Bench, Prepared, Trial

KILLS = ("kill", "kill and power cut", "tear", "tear and power cut")


def kills(bench: Bench, scenes: list[str], per_scene: int, seed: int) -> Iterator[Trial]:
    """Kills, spread over the operations of each scene."""
    for name in scenes:
        prepared, random = bench.prepared(name), Random(f"{seed} {name}")
        for at in choose(prepared.operations, random, per_scene, lambda operation: operation not in ("stat", "read")):
            is_write = prepared.operations[at - 1].startswith("write ")
            how = random.choice(KILLS if is_write else KILLS[:2])
            yield Trial("kills", f"{name} {at} {how}", _killed(prepared, at, how))


def interrupts(bench: Bench, scenes: list[str], per_scene: int, seed: int) -> Iterator[Trial]:
    """Ctrl-C and SIGTERM, spread over the operations of each scene."""
    for name in scenes:
        prepared, random = bench.prepared(name), Random(f"{seed} interrupts {name}")
        for at in choose(prepared.operations, random, per_scene, lambda operation: True):
            signal, again = random.choice(("SIGINT", "SIGTERM")), random.choice((0, 0, 1, 5))
            how = f"{signal} and {again} later" if again else signal
            yield Trial("interrupts", f"{name} {at} {how}", _interrupted(prepared, at, signal, again))


def errors(bench: Bench, scenes: list[str], per_scene: int, seed: int) -> Iterator[Trial]:
    """Errors, spread over the operations of each scene that they can hit."""
    for name in scenes:
        prepared, random = bench.prepared(name), Random(f"{seed} {name}")
        share = max(1, per_scene // (len(FAILS) + 1))
        for error in FAILS:
            for at in choose(prepared.operations, random, share, FAILS[error].__contains__):
                lasting = random.random() < 0.5
                how = f"{error} {'from here on' if lasting else 'once'}"
                yield Trial("errors", f"{name} {at} {how}", _failing(prepared, at, error, lasting))
        # An input that is away before the first look at it is one that is not there: exit 2, and rightly.
        looks = (at for at, what in enumerate(prepared.operations) if re.search(rf" {prepared.input}(/|$)", what))
        first = next(looks, 0) + 1
        for at in choose(prepared.operations[first:], random, share, lambda operation: True):
            yield Trial("errors", f"{name} {first + at} vanish", _failing(prepared, first + at, "vanish"))


def choose(operations: list[str], random: Random, count: int, can_hit: Callable[[str], bool]) -> list[int]:
    """Numbers of operations (from 1): of each form of operation and path in turn, so that rare ones are among them."""
    groups: dict[str, list[int]] = {}
    for at, operation in enumerate(operations, start=1):
        if can_hit(operation.partition(" ")[0]):
            groups.setdefault(re.sub(r"[0-9a-f]{8,}|\d+", "#", operation), []).append(at)
    for numbers in groups.values():
        random.shuffle(numbers)
    order = list(groups.values())
    random.shuffle(order)
    chosen: list[int] = []
    while order and len(chosen) < count:
        chosen += [numbers.pop() for numbers in order if numbers]
        order = [numbers for numbers in order if numbers]
    return sorted(chosen[:count])


def _killed(prepared: Prepared, at: int, how: str) -> Callable[[Path], str | None]:
    action, _, power_cut = how.partition(" and ")

    def run(folder: Path) -> str | None:
        work, unflushed = prepared.copy(folder), folder / "unflushed.json"
        fault = Fault(str(work), at, action, unflushed=str(unflushed))
        done = run_forked(prepared.scene.argv, work, fault)
        if done.code != -9:
            return f"not killed ({done.short()})" if (problem := prepared.ends_as_straight(work, done)) else problem
        where = f"at {prepared.operations[at - 1]!r}"
        if problem := prepared.half_published(work):
            return f"{where}: {problem}"
        if power_cut:
            for name in json.loads(unflushed.read_text()):
                lose(work / name, Random(f"{at} {name}"))
        problem = prepared.resumes(work)
        return f"{where}: {problem}" if problem else HELD

    return run


def lose(path: Path, random: Random) -> None:
    """What a power cut may leave of a file that was not flushed."""
    if not path.is_file():
        return
    size = path.stat().st_size
    choice = random.randrange(4)
    if choice == 0:
        path.write_bytes(bytes(size))
    elif choice == 1:
        path.write_bytes(b"")
    elif choice == 2:
        path.write_bytes(path.read_bytes()[: size // 2])
    # else the disk had it already


def _interrupted(prepared: Prepared, at: int, signal: str, again: int) -> Callable[[Path], str | None]:
    def run(folder: Path) -> str | None:
        work = prepared.copy(folder)
        done = run_forked(prepared.scene.argv, work, Fault(str(work), at, signal, again=again))
        where = f"at {prepared.operations[at - 1]!r}"
        if not done.hung and prepared.ends_as_straight(work, done) is HELD:
            return HELD
        if problem := prepared.one_line(done, 130) or prepared.half_published(work) or prepared.resumes(work):
            return f"{where}: {problem}"
        return HELD

    return run


def _failing(prepared: Prepared, at: int, error: str, lasting: bool = False) -> Callable[[Path], str | None]:
    moved = prepared.input if error == "vanish" else ""

    def run(folder: Path) -> str | None:
        work = prepared.copy(folder)
        done = run_forked(prepared.scene.argv, work, Fault(str(work), at, error, lasting, moved=moved))
        where = f"at {prepared.operations[at - 1]!r}"
        if (away := Path(f"{work}-{moved}")).exists():
            away.rename(work / moved)
        if done.hung:
            return f"{where}: {done.short()}"
        if prepared.ends_as_straight(work, done) is HELD:
            return HELD
        problem = prepared.one_line(done)
        if error == "EACCES" and done.code == 1 and b"PV007" in done.stdout:
            # Permissions are the file's own: a finding, of the reports too.
            problem = prepared.resumes(work, "after the error")
        elif problem is None:
            problem = prepared.half_published(work) or prepared.resumes(work, "after the error")
        elif done.code in (0, 1, 2) and not done.has_traceback:
            problem = f"a verdict: {prepared.ends_as_straight(work, done)}"
        return f"{where}: {problem}" if problem else HELD

    return run
