"""All kinds of attack, and what the quick run has of them."""

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
QUICK_PER_SCENE = 16
FEW = {"kills": 12, "errors": 16, "damage": 10, "terminal": 3, "workers": 1, "calls": 2, "limits": 3}
"""How many trials a quick run has; 8 of the other kinds."""
QUICK = ("convert-jsonl", "export-hub", "fix-plain", "undo-plain", "validate")


def list_trials(
    bench: Bench, kind: str, per_scene: int, seed: int, *, quick: bool = False, only: str = ""
) -> list[Trial]:
    """The trials of a kind, shuffled. `only`: those whose name contains it; its first word may be the scene."""
    chosen = list(QUICK if quick else SCENES)
    scenes = [name for name in chosen if only.split()[:1] == [name]] or chosen
    trials = [trial for trial in KINDS[kind](bench, scenes, per_scene, seed) if only in trial.name]
    Random(seed).shuffle(trials)
    return trials[: FEW.get(kind, 8)] if quick and not only else trials
