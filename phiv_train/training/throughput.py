"""`Meter`: throughput per log step: tokens/s, images/s, time spent waiting for data, fill, padding, memory.

    meter = Meter()
    meter.waited_s += 0.02                                                       # time spent waiting for data
    meter.add(Work(tokens=900, padded_tokens=1024, capacity=1024, images=8))     # per optimizer step
    logs |= meter.read()                                                         # since the last read

`tokens_per_s` and `images_per_s` count all processes. Steps per second are not comparable between packed and padded
runs; these are. `run_speed` gives the figures of the whole run.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import torch

from phiv_train.batching.schedule import Schedule, Work


class Meter:
    """Counts since the last `read`; `waited_s` is the caller's to add to, seconds that it waited for data.

    `sum_over_ranks` adds a list of numbers up over all processes.
    """

    def __init__(self, sum_over_ranks: Callable[[list[float]], list[float]] = list) -> None:
        self._sum = sum_over_ranks
        self._reset()

    def add(self, work: Work) -> None:
        """Count what one step runs."""
        self._work += work

    def read(self) -> dict[str, float]:
        """The figures since the last call; a collective call where there are several processes."""
        seconds = max(time.perf_counter() - self._start, 1e-9)
        work = self._work
        counts = [work.tokens, work.padded_tokens, work.capacity, work.images, self.waited_s, seconds]
        tokens, padded_tokens, capacity, images, waited, all_seconds = self._sum([float(count) for count in counts])
        self._reset()
        if torch.cuda.is_available():
            peak_bytes = torch.cuda.max_memory_allocated()
        else:  # of this process
            import resource

            unit = 1 if sys.platform == "darwin" else 1024
            peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
        return {
            "tokens_per_s": round(tokens / seconds, 1),
            "images_per_s": round(images / seconds, 2),
            "data_wait_percent": round(100 * waited / all_seconds, 2),
            "fill_percent": round(100 * tokens / max(capacity, 1), 2),
            "padding_percent": round(100 * (1 - tokens / max(padded_tokens, 1)), 2),
            "peak_memory_gb": round(peak_bytes / 1e9, 3),
        }

    def _reset(self) -> None:
        self._start, self.waited_s, self._work = time.perf_counter(), 0.0, Work()


def run_speed(schedule: Schedule, first: int, last: int, seconds: float) -> dict[str, float]:
    """Rows and steps per second of steps `first`..`last`, under transformers' names.

    transformers counts the steps it was asked for, also those before a resume or after a stop, and packs as samples.
    """
    rows = schedule.rows_until(last) - schedule.rows_until(first)
    seconds = max(seconds, 1e-9)
    return {
        "train_samples_per_second": round(rows / seconds, 3),
        "train_steps_per_second": round((last - first) / seconds, 3),
    }
