"""How long the plan of a large epoch takes, and how full its packs are. One core.

    python benchmarks/planning.py [--rows 1000000] [--max_tokens 8192]

Rows are sampled like the training sets phiv is for; "mixed" is clips, pages and text together. `best` is the fill of
best fit decreasing over the first 5,000 rows at once, in plain Python: what the data allow, more or less.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from bisect import bisect_left, insort
from collections.abc import Callable

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from numpy.typing import NDArray

from phiv_train.batching.plan import PlanSpec, make_plan

Ints = NDArray[np.int64]
Draw = np.random.Generator
CASES: dict[str, Callable[[Draw, int], Ints]] = {
    "mixed: clips, pages, text": lambda draw, n: np.choose(
        draw.integers(0, 3, n),
        [2504 + draw.integers(0, 20, n), draw.integers(1900, 2700, n), draw.integers(20, 900, n)],
    ),
    "half clips, half text": lambda draw, n: np.where(
        draw.random(n) < 0.5, 2504 + draw.integers(0, 20, n), draw.integers(10, 900, n)
    ),
    "log-normal (median 500)": lambda draw, n: np.clip(draw.lognormal(6.2, 0.8, n), 20, 8192).astype(np.int64),
    "short text (10 to 90)": lambda draw, n: draw.integers(10, 90, n),
    "clips of one length (2504)": lambda draw, n: np.full(n, 2504),
    "uniform up to the limit": lambda draw, n: draw.integers(50, 8193, n),
}


def best_fit_fill(lengths: Ints, limit: int) -> float:
    """Fill of best fit decreasing over all rows at once."""
    room: list[int] = []  # ascending
    packs = 0
    for length in sorted(lengths.tolist(), reverse=True):
        at = bisect_left(room, length)
        left = room.pop(at) if at < len(room) else limit
        packs += left == limit
        insort(room, left - length)
    return float(lengths.sum() / (packs * limit))


def main() -> None:
    """Print one line per kind of data."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--max_tokens", type=int, default=8192)
    options = parser.parse_args()
    out = sys.stdout.write
    out(f"{'rows as of':30} {'wall s':>7} {'cpu s':>6} {'packs':>8} {'rows/pack':>9} {'fill %':>7} {'best %':>7}\n")
    for name, draw_lengths in CASES.items():
        lengths = draw_lengths(np.random.default_rng(0), options.rows)
        images = lengths * 3 // 4
        spec = PlanSpec(packs_per_step=16, max_tokens=options.max_tokens)
        wall, cpu = time.perf_counter(), time.process_time()
        plan = make_plan(lengths, images, spec)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        summary = plan.summary()
        best = best_fit_fill(lengths[:5000], options.max_tokens)
        out(f"{name:30} {wall:7.2f} {cpu:6.2f} {summary.packs:8,} {summary.rows / summary.packs:9.1f} ")
        out(f"{100 * (summary.fill or 0):7.2f} {100 * best:7.2f}\n")


if __name__ == "__main__":
    main()
