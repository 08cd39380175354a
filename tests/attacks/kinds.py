"""All kinds of attack, and which commands the quick run has."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from random import Random

from attacks import archives, damage, faults, processes, terminal
from attacks.scenes import SCENES
from attacks.trials import Bench, Trial

KINDS: dict[str, Callable[[Bench, list[str], int, int], Iterator[Trial]]] = {
    "kills": faults.kills,
    "interrupts": faults.interrupts,
    "errors": faults.errors,
    "damage": damage.damage,
    "undo-damage": damage.undo_damage,
    "work-damage": damage.work_damage,
    "terminal": terminal.terminal,
    "archives": archives.archives,
    "workers": processes.workers,
    "calls": processes.calls,
    "limits": processes.limits,
}
QUICK = ("convert-jsonl", "export-hub", "fix-plain", "undo-plain", "validate")


def list_trials(
    bench: Bench, kind: str, per_scene: int, seed: int, *, quick: bool = False, only: str = ""
) -> list[Trial]:
    """The trials of a kind, shuffled. `only`: those whose name contains it; its first word may be the scene."""
    chosen = list(QUICK if quick else SCENES)
    scenes = [name for name in chosen if only.split()[:1] == [name]] or chosen
    trials = [trial for trial in KINDS[kind](bench, scenes, per_scene, seed) if only in trial.name]
    Random(seed).shuffle(trials)
    return trials
