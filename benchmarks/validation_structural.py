"""How fast records are checked: `validate` without image files, beside two plain loops over the same file.

    python benchmarks/validation_structural.py --rows 200000

Peers, in the same process and run: `json.loads` alone, which checks nothing, and pydantic's `model_validate_json`
alone, which checks the schema. Seconds are of processor time, one core; the best of `--repeats`.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from phiv_data.validation import validate
from phiv_schemas import Conversation

QUESTION = "Classify the video into one of the following classes: Archery, Basketball, Biking"


def main() -> None:
    """Write the rows, time each way of reading them, and print records per second."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for images in (1, 8):
            path = Path(folder) / f"train_{images}.jsonl"
            path.write_text("".join(line(i, images) for i in range(options.rows)))
            report(path, images, options)


def line(i: int, images: int) -> str:
    """A row of UCF-101's kind: some 240 bytes with one image, 550 with eight."""
    names = [f"train/Class{i % 101}/v_Class_g{i % 25:02d}_c{i % 7:02d}.{i}.{k}.jpg" for k in range(images)]
    turn = {"images": names, "user": QUESTION, "assistant": f"Class{i % 101}"}
    return json.dumps({"id": f"train-{i:010d}", "source": "ucf101", "conversations": [turn]}) + "\n"


def report(path: Path, images: int, options: argparse.Namespace) -> None:
    """Print the speed of each way, and its ratio to `json.loads`."""
    ways = {"json.loads": with_json, "pydantic": with_pydantic, "validate": with_validate}
    seconds = {name: min(timed(way, path) for _ in range(options.repeats)) for name, way in ways.items()}
    for name, taken in seconds.items():
        speed, ratio = options.rows / taken, seconds["json.loads"] / taken
        sys.stdout.write(f"{images} image(s) a row: {name:10} {speed:9,.0f} records/s  {ratio:5.2f} of json.loads\n")


def timed(way: Callable[[Path], None], path: Path) -> float:
    """Seconds of processor time."""
    start = time.process_time()
    way(path)
    return time.process_time() - start


def with_json(path: Path) -> None:
    """Parse, and check nothing."""
    with path.open("rb") as file:
        for raw in file:
            json.loads(raw)


def with_pydantic(path: Path) -> None:
    """Check the schema."""
    with path.open("rb") as file:
        for raw in file:
            Conversation.model_validate_json(raw)


def with_validate(path: Path) -> None:
    """Check everything but image files."""
    assert validate(path, images=False, num_workers=0).ok


if __name__ == "__main__":
    main()
