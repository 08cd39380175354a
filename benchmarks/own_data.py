"""Memory and time of `phiv-convert table` and `folder` by size, beside the builders of `datasets` on the same files.

    python benchmarks/own_data.py [--kinds table folder] [--sizes 10000 100000] [--num_workers 0]

`table`: a csv with a question and an answer a row, about 1,000 images. `folder`: images of 32x32 pixels in 20 classes.
Each conversion runs in a process of its own and writes jsonl, images and shards; the builder of `datasets` (csv,
imagefolder) writes its Arrow cache, opening no image of the csv. The peak is that of anonymous memory, sampled every
10 ms, in MiB; the time that of the processor, in milliseconds a row, children included.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from PIL import Image
from validation_memory import Peak

IMAGES, CLASSES = 1000, 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kinds", nargs="+", choices=("table", "folder"), default=("table", "folder"))
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--num_workers", type=int, default=0)
    parser.add_argument("--run", nargs=3, metavar=("TOOL", "KIND", "FOLDER"), help="what the other processes run")
    options = parser.parse_args()
    if options.run:
        tool, kind, folder = options.run
        json.dump(run(tool, kind, Path(folder), options.num_workers), sys.stdout)
        return
    for kind in options.kinds:
        for size in options.sizes:
            found = measure(kind, size, options.num_workers)
            text = "   ".join(f"{tool} {one['ms']:.2f} ms/row, {one['MiB']:.0f} MiB" for tool, one in found.items())
            ratio = found["phiv"]["ms"] / found["datasets"]["ms"]
            sys.stdout.write(f"{kind:7}{size:10,} rows   {text}   ratio {ratio:.1f}\n")


def measure(kind: str, size: int, num_workers: int) -> dict[str, dict[str, float]]:
    """Write the source and read it with both tools, each in a new process."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        SOURCES[kind](Path(folder) / "source", size)
        for tool in ("phiv", "datasets"):
            flags = ["--run", tool, kind, folder, "--num_workers", str(num_workers)]
            done = subprocess.run([sys.executable, __file__, *flags], check=True, capture_output=True)
            one = json.loads(done.stdout.splitlines()[-1])
            assert one["rows"] == size, (tool, one)
            found[tool] = {"ms": one["seconds"] * 1000 / size, "MiB": one["MiB"]}
    return found


def run(tool: str, kind: str, folder: Path, num_workers: int) -> dict[str, Any]:
    peak = Peak()
    before = _processor_seconds()
    rows = _convert(kind, folder, num_workers) if tool == "phiv" else _load(kind, folder)
    return {"rows": rows, "seconds": _processor_seconds() - before, "MiB": peak.kib() / 1024}


def _convert(kind: str, folder: Path, num_workers: int) -> int:
    from phiv_converters.folder.options import FolderOptions
    from phiv_converters.table.options import TableOptions
    from phiv_data.convert.engine import convert

    options = TableOptions(folder / "source/qa.csv") if kind == "table" else FolderOptions(folder / "source")
    return convert(options, folder / "out", num_workers=num_workers).manifest.accounting.written


def _load(kind: str, folder: Path) -> int:
    import datasets

    builder, files = ("csv", {"data_files": str(folder / "source/qa.csv")}) if kind == "table" else ("imagefolder", {})
    place = {} if kind == "table" else {"data_dir": str(folder / "source")}
    rows = datasets.load_dataset(builder, split="train", cache_dir=str(folder / "cache"), **files, **place)
    return len(rows)


def _processor_seconds() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def write_table(source: Path, rows: int) -> None:
    write_images([source / f"{i}.jpg" for i in range(IMAGES)])
    with (source / "qa.csv").open("w") as file:
        file.write("image,question,answer\n")
        file.writelines(f'{i % IMAGES}.jpg,"Which number, {i}?",number {i}\n' for i in range(rows))


def write_folder(source: Path, images: int) -> None:
    write_images([source / f"class{i % CLASSES}/{i}.jpg" for i in range(images)])


def write_images(paths: list[Path]) -> None:
    rng = random.Random(0)
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (32, 32), tuple(rng.randbytes(3))).save(path)


SOURCES = {"table": write_table, "folder": write_folder}


if __name__ == "__main__":
    main()
