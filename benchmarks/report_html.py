"""Size and speed of the HTML report on a large data set: how long to make, how large, how long a browser takes.

    python benchmarks/report_html.py [--rows 100000] [--images 8]

Images are noise over a gradient, which compresses no better than photographs do. Every 50th row names an image
that is not there; the rows are those of three splits. Needs selenium, chromium and chromedriver; "load" is the
browser's own figure, from the start of the navigation to the end of the load event, the median of five opens with a
warm browser.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image
from selenium import webdriver

from phiv_data.reports import html, junit, sarif
from phiv_data.storage.jsonl import write_jsonl
from phiv_data.validation import validate
from phiv_schemas import Conversation, Turn

IMAGES = 400
SPLITS = {"train": 80, "val": 10, "test": 10}  # percent of the rows
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking")
LOAD = "const [n] = performance.getEntriesByType('navigation'); return n.loadEventEnd"
FILTER = """const f = document.getElementById('filters'), before = performance.now();
f.elements.text.value = 'archery 7'; f.dispatchEvent(new Event('input')); document.body.offsetHeight;
return performance.now() - before"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--images", type=int, default=8, help="per row")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        measure(Path(folder), options.rows, options.images)


def measure(folder: Path, rows: int, images: int) -> None:
    draw(folder, rows, images)
    report, seconds = timed(lambda: validate(folder, deep=False))
    say(f"{report.rows:,} rows of {images} images, {len(report.issues):,} issues; validated (no decoding)", seconds)
    for name, module in (("JUnit", junit), ("SARIF", sarif)):
        text, seconds = timed(lambda module=module: module.render(report))
        say(f"{name}: {len(text.encode()) / 2**20:.2f} MiB", seconds)
    text, seconds = timed(lambda: html.render(report, folder))
    say(f"HTML: {len(text.encode()) / 2**20:.2f} MiB (limit {html.MAX_BYTES / 2**20:.0f})", seconds)
    file = folder / "report.html"
    file.write_text(text, encoding="utf-8")
    open_it(file, folder / "profile")


def draw(folder: Path, rows: int, images: int) -> None:
    noise = np.random.default_rng(0)
    (folder / "images").mkdir()
    for number in range(IMAGES):
        base = np.linspace(0, 200, 640)[None, :, None] * noise.random(3)
        pixels = base + noise.integers(0, 56, (480, 640, 3))
        Image.fromarray(pixels.astype(np.uint8)).save(folder / "images" / f"{number}.jpg", quality=80)
    first = 0
    for split, percent in SPLITS.items():
        numbers = range(first, first + rows * percent // 100)
        write_jsonl(folder / f"{split}.jsonl", (record(split, n, images) for n in numbers))
        first = numbers.stop


def record(split: str, number: int, images: int) -> Conversation:
    names = [f"{(number * 7 + k) % IMAGES}.jpg" for k in range(images)]
    names[0] = "gone.jpg" if number % 50 == 0 else names[0]
    turn = Turn(
        images=tuple(names), user=f"Which class is it? {'A word or two more. ' * 30}", assistant=f"class {number}"
    )
    return Conversation(id=f"{split}-{number:010d}", source="synthetic", conversations=(turn,))


def open_it(file: Path, profile: Path) -> None:
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    for flag in (*FLAGS, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))
    try:
        loads, filters = [], []
        for _ in range(5):
            browser.get(file.as_uri())
            loads.append(browser.execute_script(LOAD) / 1000)
            filters.append(browser.execute_script(FILTER) / 1000)
        say(f"{browser.capabilities['browserVersion']}: load", statistics.median(loads))
        say("a filter", statistics.median(filters))
    finally:
        browser.quit()


def timed(work):  # type: ignore[no-untyped-def]  # any function of no arguments
    start = time.perf_counter()
    return work(), time.perf_counter() - start


def say(what: str, seconds: float) -> None:
    sys.stdout.write(f"{what}: {seconds:.3f} s\n")


if __name__ == "__main__":
    main()
