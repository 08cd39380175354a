"""`scripts/attack [KIND ...] [--quick] [--seconds N] [--seed N] [--only NAME]`: attack phiv, print what held."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from attacks.kinds import KINDS, QUICK_PER_SCENE, list_trials
from attacks.running import import_all
from attacks.trials import Bench, report, run_trials


def main() -> int:
    """Exit code 1 where a trial failed."""
    parser = argparse.ArgumentParser(prog="scripts/attack", description=__doc__.partition("\n")[0])
    parser.add_argument("kinds", nargs="*", metavar="KIND", help=f"{', '.join(KINDS)}; all when none is given")
    parser.add_argument("--quick", action="store_true", help="few trials of each kind, as the default tests run them")
    parser.add_argument("--per-scene", type=int, default=60, help="trials of each command (60)")
    parser.add_argument("--seconds", type=float, help="stop each kind after this time")
    parser.add_argument("--seed", type=int, default=0, help="chooses the places (0)")
    parser.add_argument("--only", default="", help="the trials whose name contains this")
    options = parser.parse_args()
    if unknown := set(options.kinds) - KINDS.keys():
        parser.error(f"no such kind: {', '.join(sorted(unknown))}")
    import_all()
    outcomes = []
    with tempfile.TemporaryDirectory(prefix="phiv-attack-") as folder:
        bench = Bench(Path(folder).resolve())
        for kind in options.kinds or KINDS:
            per_scene = QUICK_PER_SCENE if options.quick else options.per_scene
            trials = list_trials(bench, kind, per_scene, options.seed, quick=options.quick, only=options.only)
            outcomes += run_trials(trials, seconds=options.seconds)
    flags = " --quick" if options.quick else "" if options.per_scene == 60 else f" --per-scene {options.per_scene}"
    sys.stdout.write(report(outcomes, flags + (f" --seed {options.seed}" if options.seed else "")))
    return int(any(outcome.failures for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main())
