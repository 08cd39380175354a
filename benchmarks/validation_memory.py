"""Peak memory of a validation, from 10,000 to 1,000,000 generated lines, each run in a process of its own.

    python benchmarks/validation_memory.py [--rows 10000 100000 1000000] [--num_workers 0]

`good`: every line is fine, with an id, an image path and a question of its own, in two splits. `bad`: every line has
errors and warnings, half of the ids are repeated, questions have two answers. `shards`: Arrow rows with an image of 4x4
pixels each, decoded. `leaks`: the same in two splits, whose images are compared.
The peak is that of anonymous memory, sampled every 10 ms: pages of mapped shards are left out, which the system takes
back when it needs them. With workers, it is the resident memory of the parent or the largest worker.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from phiv_data.storage.sample import EncodedImage, Sample
from phiv_data.storage.shards import shard_name, write_shard
from phiv_data.validation import validate
from phiv_schemas import Conversation, ImageMeta, Turn


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--kinds", nargs="+", choices=list(KINDS), default=list(KINDS))
    parser.add_argument("--num_workers", type=int, default=0)
    parser.add_argument("--check", type=Path, help="validate this and print the peak; what the other processes run")
    options = parser.parse_args()
    if options.check:
        json.dump(check(options.check, options.num_workers), sys.stdout)
        return
    for kind in options.kinds:
        for rows in options.rows:
            found = measure(kind, rows, options.num_workers)
            line = f"{kind:7}{rows:10,} rows{found['MiB']:8.0f} MiB{found['seconds']:8.1f} s  {found['counts']}"
            sys.stdout.write(line + "\n")


def measure(kind: str, rows: int, num_workers: int = 0) -> dict[str, Any]:
    """Write the data, and validate it in a new process: peak memory in MiB, seconds, and what was found."""
    with tempfile.TemporaryDirectory() as folder:
        KINDS[kind](Path(folder) / "data", rows)
        command = [sys.executable, __file__, "--check", f"{folder}/data", "--num_workers", str(num_workers)]
        found: dict[str, Any] = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    assert found["rows"] == rows
    return found


def check(path: Path, num_workers: int) -> dict[str, Any]:
    start, peak = time.perf_counter(), Peak()
    report = validate(path, images=path.is_dir(), num_workers=num_workers)
    seconds = time.perf_counter() - start
    resident = (resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    mib = (max(resident) if num_workers else peak.kib()) / 1024
    return {"rows": report.rows, "MiB": mib, "seconds": seconds, "counts": report.counts()}


class Peak:
    """The largest anonymous memory of this process since it was made."""

    def __init__(self) -> None:
        self._largest, self._is_done = 0, threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()

    def kib(self) -> int:
        self._is_done.set()
        self._thread.join()
        return self._largest

    def _sample(self) -> None:
        status = Path("/proc/self/status")
        while not self._is_done.wait(0.01):
            self._largest = max(self._largest, int(status.read_text().split("RssAnon:")[1].split()[0]))


def good(path: Path, rows: int) -> None:
    with path.open("w") as file:
        file.writelines(lines(rows))


def lines(rows: int) -> Iterator[str]:
    for i in range(rows):
        turn = {"images": [f"train/{i}.jpg"], "user": f"How many are there in image {i}?", "assistant": f"{i % 9}"}
        yield json.dumps({"id": f"row-{i:010d}", "source": "generated", "conversations": [turn]}) + "\n"


def bad(path: Path, rows: int) -> None:
    with path.open("w") as file:
        for i in range(rows):
            turn: dict[str, Any] = {"images": ["a.jpg"], "user": f"What <image> is {i // 2}? ", "assistant": f"{i}"}
            turn |= {"assistant": 3, "more": i} if i % 4 == 0 else {}
            file.write(json.dumps({"id": f"row-{i // 2}", "source": f"s{i % 7}", "conversations": [turn]}) + "\n")


def shards(path: Path, rows: int, splits: tuple[str, ...] = ("train",)) -> None:
    per_split = max(1, rows // len(splits) // 50_000)
    count = per_split * len(splits)
    for s in range(count):
        numbers = range(s * rows // count, (s + 1) * rows // count)
        write_shard(path / splits[s % len(splits)] / shard_name(s // len(splits), per_split), map(sample, numbers))


def leaks(path: Path, rows: int) -> None:
    shards(path, rows, ("train", "val"))


def sample(i: int) -> Sample:
    data = b"P5 4 4 255\n" + i.to_bytes(16, "little")
    meta = ImageMeta(
        path=f"{i}.pgm", width=4, height=4, format="PPM", size_bytes=len(data), sha256=hashlib.sha256(data).hexdigest()
    )
    turn = Turn(images=(meta.path,), user=f"What is in image {i}?", assistant="grey")
    record = Conversation(id=f"row-{i}", source="generated", conversations=(turn,))
    return Sample(record, (EncodedImage(meta, data),))


KINDS: dict[str, Callable[[Path, int], None]] = {"good": good, "bad": bad, "shards": shards, "leaks": leaks}


if __name__ == "__main__":
    main()
