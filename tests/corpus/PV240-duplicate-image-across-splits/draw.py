"""Draws the data sets of PV240 to PV243."""

from __future__ import annotations

import io
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

CORPUS = Path(__file__).resolve().parents[1]
SIZE = (54, 48)  # cells of the difference hash are 6x6 pixels
Row = dict[str, Any]


def mosaic(seed: int, change: int = 0) -> Image.Image:
    """9x8 patches of grey, each lighter or darker than its neighbours; the first `change` rows are the other way."""
    pick, image = random.Random(seed), Image.new("L", SIZE)
    brush = ImageDraw.Draw(image)
    for y in range(8):
        for x in range(9):
            light = (pick.random() < 0.5) != (y < change)
            brush.rectangle((6 * x, 6 * y, 6 * x + 5, 6 * y + 5), 200 + 5 * (x % 3) if light else 40 + 5 * (x % 3))
    return image


def png(image: Image.Image) -> bytes:
    """As a PNG of few bytes."""
    out = io.BytesIO()
    image.save(out, "PNG", optimize=True)
    return out.getvalue()


def jpeg(image: Image.Image) -> bytes:
    """As a JPEG."""
    out = io.BytesIO()
    image.save(out, "JPEG", quality=70)
    return out.getvalue()


def row(split: str, number: int, *images: str, source: str = "drawn", user: str = "") -> Row:
    """A row; each asks something of its own unless it is told what."""
    turn = {"images": list(images), "user": user or f"What is on {split} {number}?", "assistant": "patches"}
    return {"id": f"{split}-{number}", "source": source, "conversations": [turn]}


def write(folder: Path, images: dict[str, bytes], **splits: list[Row]) -> None:
    """Files of rows beside their images, in place of what is there."""
    shutil.rmtree(folder, ignore_errors=True)
    for name, data in images.items():
        (folder / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "images" / name).write_bytes(data)
    for split, rows in splits.items():
        text = "".join(json.dumps(one) + "\n" for one in rows)
        (folder / f"{split}.jsonl").write_text(text, encoding="utf-8", newline="\n")


def exact(broken: Path, clean: Path) -> None:
    """One image of train in val and in test; beside it, black ones, and memes."""
    a, b, black = png(mosaic(0)), png(mosaic(1)), png(Image.new("L", SIZE))
    rows = {split: [row(split, 1, "b.png"), row(split, 2, "a.png")] for split in ("train", "val", "test")}
    rows["val"][0] = row("val", 1, "c.png")
    rows["test"][0] = row("test", 1, "c2.png")
    write(broken, {"a.png": a, "b.png": b, "c.png": png(mosaic(2)), "c2.png": png(mosaic(3))}, **rows)
    memes = {split: [row(split, 1, "black.png"), row(split, 2, "a.png", source="hateful_memes")] for split in rows}
    write(clean, {"a.png": a, "black.png": black}, **memes)


def near(broken: Path, clean: Path) -> None:
    """An image of train as a JPEG and of half the size; beside it, one with a row of other patches, and pages."""
    a = mosaic(0)
    images = {"a.png": png(a), "a.jpg": jpeg(a), "half.png": png(a.resize((27, 24))), "b.png": png(mosaic(1))}
    val = [row("val", 1, "b.png"), row("val", 2, "a.jpg")]
    write(broken, images, train=[row("train", 1, "a.png")], val=val, test=[row("test", 1, "half.png")])
    other = {"a.png": png(a), "other.png": png(mosaic(0, change=1))}
    pages = {"train/ffbf0001_1.png": png(mosaic(1)), "val/ffbf0002_1.jpg": jpeg(mosaic(1))}
    train = [row("train", 1, "a.png"), row("train", 2, "train/ffbf0001_1.png", source="docvqa")]
    val = [row("val", 1, "other.png"), row("val", 2, "val/ffbf0002_1.jpg", source="docvqa")]
    write(clean, other | pages, train=train, val=val)


def record(broken: Path, clean: Path) -> None:
    """A meme with its caption in two splits; beside it, the confounders that a meme has on purpose."""
    images = {"01.png": png(mosaic(0)), "02.png": png(mosaic(0)), "03.png": png(mosaic(1))}
    cute, ugly = "Is 'so cute' hateful?", "Is 'so ugly' hateful?"
    train = [row("train", 1, "01.png", source="hateful_memes", user=cute)]
    again = [row("val", 1, "03.png", source="hateful_memes", user=ugly)]
    again.append(row("val", 2, "02.png", source="hateful_memes", user=cute))
    write(broken, images, train=train, val=again)
    val = [row("val", 1, "02.png", source="hateful_memes", user=ugly)]
    val.append(row("val", 2, "03.png", source="hateful_memes", user=cute))
    write(clean, images, train=train, val=val)


def group(broken: Path, clean: Path) -> None:
    """Clips of one video, pages of one document and pairs of one image set; beside them, their neighbours."""
    train = {
        "ucf101": "train/Archery/v_Archery_g01_c01.0.png",
        "docvqa": "train/ffbf0001_1.png",
        "nlvr2": "train/train-7-0-img0.png",
    }
    same = {
        "ucf101": "val/Archery/v_Archery_g01_c02.0.png",
        "docvqa": "val/ffbf0001_2.png",
        "nlvr2": "val/train-7-1-img1.png",
    }
    others = {
        "ucf101": "val/Archery/v_Archery_g02_c01.0.png",
        "docvqa": "val/ffbf0002_1.png",
        "nlvr2": "val/train-70-0-img0.png",
    }
    for folder, val in ((broken, same), (clean, others)):
        names = [*train.values(), *val.values()]
        rows = {
            split: [row(split, i, name, source=source) for i, (source, name) in enumerate(of_split.items(), 1)]
            for split, of_split in (("train", train), ("val", val))
        }
        write(folder, {name: png(mosaic(seed)) for seed, name in enumerate(names)}, **rows)


DRAW: dict[str, Callable[[Path, Path], None]] = {
    "PV240-duplicate-image-across-splits": exact,
    "PV241-near-duplicate-across-splits": near,
    "PV242-duplicate-question-across-splits": record,
    "PV243-group-across-splits": group,
}

if __name__ == "__main__":
    for folder_name, draw in DRAW.items():
        draw(CORPUS / folder_name / "broken", CORPUS / folder_name / "clean")
