"""The statistics of each split are those that a plain count gives, in the same bins for all splits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image

from phiv_data.storage.jsonl import write_jsonl
from phiv_data.validation import validate
from phiv_schemas import Conversation, SplitStats, Turn

SIZES = {"a.png": (3, 9), "b.png": (8, 8), "c.jpg": (40, 20), "d.png": (130, 7)}
ROWS = {
    "train": [(["a.png", "b.png"], ["what?", "yes"], "s"), (["a.png"], ["x" * 40, "no"], "s"), ([], ["y", "yes"], "t")],
    "val": [(["c.jpg"] * 20, ["z" * 300, None], "t")],
    "test": [(["a.png", "d.png"], ["why?", "yes", "how?", "no"], "t")],
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three jsonl files beside their images; `a.png` is in train and test."""
    (tmp_path / "images").mkdir()
    for name, size in SIZES.items():
        image = Image.new("RGB", size, "navy")
        image.putpixel((1, 1), (255, 255, 255))
        data = BytesIO()
        image.save(data, "JPEG" if name.endswith("jpg") else "PNG")
        (tmp_path / "images" / name).write_bytes(data.getvalue())
    for split, rows in ROWS.items():
        write_jsonl(tmp_path / f"{split}.jsonl", (record(f"{split}-{n}", *row) for n, row in enumerate(rows)))
    return tmp_path


def record(name: str, images: list[str], texts: list[str | None], source: str) -> Conversation:
    pairs = list(zip(texts[::2], texts[1::2], strict=True))
    turns = [
        Turn(images=() if n else tuple(images), user=user or "", assistant=answer)
        for n, (user, answer) in enumerate(pairs)
    ]
    return Conversation(id=name, source=source, conversations=tuple(turns))


def in_bins(numbers: Iterable[int], label: Callable[[int], str]) -> dict[str, int]:
    return dict(Counter(map(label, numbers)))


def power(n: int) -> str:
    """By doubling, where `stats` counts bits."""
    low = 1
    while 2 * low <= n:
        low *= 2
    return str(n) if n < 2 else f"{low}-{2 * low - 1}"


def fine(n: int) -> str:
    return str(n) if n <= 16 else "17-31" if n < 32 else power(n)


@pytest.mark.parametrize("split", ROWS)
def test_each_split_is_as_a_plain_count_finds_it(folder: Path, split: str) -> None:
    found, rows = validate(folder).stats.splits[split], ROWS[split]
    images = {name for names, _, _ in rows for name in names}
    users = [text for _, texts, _ in rows for text in texts[::2] if text is not None]
    answers = [text for _, texts, _ in rows for text in texts[1::2] if text is not None]
    expected = {
        "rows_per_source": dict(Counter(source for _, _, source in rows)),
        "images_per_row": in_bins((len(names) for names, _, _ in rows), fine),
        "turns_per_row": in_bins((len(texts) // 2 for _, texts, _ in rows), fine),
        "user_characters": in_bins(map(len, users), power),
        "assistant_characters": in_bins(map(len, answers), power),
        "image_width": in_bins((SIZES[name][0] for name in images), power),
        "image_height": in_bins((SIZES[name][1] for name in images), power),
        "image_format": dict(Counter("JPEG" if name.endswith("jpg") else "PNG" for name in images)),
        "classes": dict(Counter(answers)),
    }
    assert held(found) == {name: bins for name, bins in expected.items() if bins}
    assert (found.rows, found.images) == (len(rows), len(images))
    assert (found.turns, found.answered_turns) == (len(users), len(answers))


def held(split: SplitStats) -> dict[str, dict[str, int]]:
    """The histograms that hold anything, without the bins that hold nothing."""
    histograms = {name: value for name, value in split.model_dump().items() if isinstance(value, dict)}
    counted = {name: {bin_: n for bin_, n in bins.items() if n} for name, bins in histograms.items()}
    return {name: bins for name, bins in counted.items() if bins}


def test_every_split_has_the_same_bins_without_gaps(folder: Path) -> None:
    splits = validate(folder).stats.splits
    assert list(splits) == ["test", "train", "val"]
    for name, bins in {
        "images_per_row": [*map(str, range(17)), "17-31"],
        "user_characters": ["1", "2-3", "4-7", "8-15", "16-31", "32-63", "64-127", "128-255", "256-511"],
        "image_width": ["2-3", "4-7", "8-15", "16-31", "32-63", "64-127", "128-255"],
    }.items():
        assert {tuple(getattr(split, name)) for split in splits.values()} == {tuple(bins)}, name


def test_an_image_of_two_splits_counts_in_each_but_once_in_the_report(folder: Path) -> None:
    report = validate(folder)
    assert report.images == len(SIZES)
    assert {name: split.images for name, split in report.stats.splits.items()} == {"test": 2, "train": 2, "val": 1}
    assert report.stats.total("image_height")["8-15"] == 3  # a, b, and a again


def test_images_that_were_not_decoded_have_no_size(folder: Path) -> None:
    (folder / "images" / "d.png").write_bytes(b"broken")
    deep, shallow = validate(folder).stats.splits["test"], validate(folder, deep=False).stats.splits["test"]
    assert (deep.images, sum(deep.image_width.values()), deep.image_format) == (2, 1, {"PNG": 1})
    assert (shallow.images, shallow.image_width, shallow.image_format) == (2, {}, {})
    assert validate(folder, images=False).stats.splits["test"].images == 0
