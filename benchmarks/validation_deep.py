"""Deep validation against a plain Pillow decode loop over the same files, in one run; and how it grows with workers.

    python benchmarks/validation_deep.py FOLDER [--split train]     what phiv-convert wrote, with some 1,000 images
    python benchmarks/validation_deep.py [--pages 60]               synthetic pages of 1700x2200 pixels, PNG

The plain loop reads, opens and loads every file; both sides have one core, and take turns; figures are medians. "two
splits" is the validation of the same rows in two splits, which checks for leaks too. Workers are compared on many names
of the same files, which are decoded under each.
"""

from __future__ import annotations

import argparse
import io
import os
import random
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from phiv_data.storage.jsonl import read_jsonl, write_jsonl
from phiv_data.validation import validate
from phiv_schemas import Conversation, Turn

SECONDS = 10  # of work for one worker
WORDS = ["the", "of", "a", "report", "to", "in", "budget", "for", "year", "sales", "board", "is", "total", "by", "memo"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--split", default="train")
    parser.add_argument("--pages", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as work_dir:
        if options.folder is None:
            rows, images = draw(Path(work_dir) / "pages", options.pages)
        else:
            (file,) = options.folder.glob(f"*_{options.split}.jsonl")
            rows, images = list(read_jsonl(file)), options.folder / "images"
        measure(Path(work_dir), rows, images, options.rounds)


def measure(work_dir: Path, rows: list[Conversation], images: Path, rounds: int) -> None:
    files = [images / path for row in rows for path in row.image_paths]
    kib = sum(file.stat().st_size for file in files) / len(files) / 2**10
    say(f"{len(files)} images of {kib:.0f} KiB, {len(rows)} rows")
    one = write(work_dir / "one", {"train": rows})
    two = write(work_dir / "two", {"train": rows[1::2], "val": rows[::2]})
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(cores)})
    sides = {
        "plain loop": lambda: plain(files),
        "one split": lambda: check(one, images),
        "two splits": lambda: check(two, images),
    }
    took = in_turns(sides, rounds)
    os.sched_setaffinity(0, cores)
    for name, seconds in took.items():
        say(f"{name:11}{seconds / len(files) * 1e6:9.0f} us an image{took['plain loop'] / seconds:7.2f}")
    grow(work_dir, rows, images, times=int(SECONDS / took["one split"]) + 1)


def grow(work_dir: Path, rows: list[Conversation], images: Path, times: int) -> None:
    many = write(work_dir / "many", {"train": [renamed(row, f"{k}/") for k in range(times) for row in rows]})
    for k in range(times):
        shutil.copytree(images, work_dir / "copies" / str(k), copy_function=link)
    sides = {f"{n} workers": lambda n=n: check(many, work_dir / "copies", n) for n in (1, 2)}
    took = in_turns(sides, 3)
    one, two = took.values()
    say(f"{times} times as much: 1 worker {one:.1f} s, 2 workers {two:.1f} s, {one / two:.2f} times as fast")


def say(line: str) -> None:
    sys.stdout.write(line + "\n")


def plain(files: list[Path]) -> None:
    for file in files:
        Image.open(io.BytesIO(file.read_bytes())).load()


def check(data: Path, images: Path, workers: int = 0) -> None:
    report = validate(data, images_root=images, num_workers=workers)
    assert report.ok, report.issues[0]


def in_turns(sides: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    took: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, side in sides.items():
            start = time.perf_counter()
            side()
            took[name].append(time.perf_counter() - start)
    return {name: statistics.median(seconds) for name, seconds in took.items()}


def write(folder: Path, splits: dict[str, list[Conversation]]) -> Path:
    folder.mkdir(parents=True)
    for split, rows in splits.items():
        write_jsonl(folder / f"{split}.jsonl", rows)
    return folder


def renamed(row: Conversation, prefix: str) -> Conversation:
    turns = tuple(
        turn.model_copy(update={"images": tuple(prefix + path for path in turn.images)}) for turn in row.turns
    )
    return row.model_copy(update={"id": prefix + row.id, "conversations": turns})


def link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def draw(images: Path, pages: int) -> tuple[list[Conversation], Path]:
    """Typed pages as large as those of DocVQA, a row each."""
    images.mkdir(parents=True)
    font, rows = ImageFont.load_default(24), []
    for i in range(pages):
        chance, page = random.Random(i), Image.new("L", (1700, 2200), 250)
        for y in range(150, 2050, 36):
            ImageDraw.Draw(page).text(
                (150, y), " ".join(chance.choices(WORDS, k=22)), fill=chance.randrange(60), font=font
            )
        page.save(images / f"{i}.png")
        turn = Turn(images=(f"{i}.png",), user="How much was paid?", assistant="nothing")
        rows.append(Conversation(id=f"page-{i}", source="synthetic", conversations=(turn,)))
    return rows, images


if __name__ == "__main__":
    main()
