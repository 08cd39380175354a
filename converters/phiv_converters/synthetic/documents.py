"""Synthetic DocVQA, NLVR2 and Hateful Memes: small sets in the official layouts, for demos and tests offline.

    make_synthetic_docvqa(folder)          # folder/docvqa/: train_v1.0_withQT.json, ..., spdocvqa_images/*.png
    make_synthetic_nlvr2(folder)           # folder/nlvr2/: data/train.json, ..., images/train/<directory>/*.png
    make_synthetic_hateful_memes(folder)   # folder/hateful_memes/: train.jsonl, dev_seen.jsonl, ..., img/*.png

Each returns the root of the set, made in under a second; the same version of Pillow gives the same bytes. A complete
set that is already there is returned as it is; an interrupted one is made again.

Every answer can be read off the images. DocVQA's test questions have no answers and the memes' test rows no labels,
as in the official files. Nothing in the memes is hateful: label 1 means "the caption contradicts the image".
"""

from __future__ import annotations

import json
import secrets
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

from phiv_data.utils.atomic import TMP_PREFIX, environment_problems

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageDraw import ImageDraw

COLOURS = {"red": (214, 40, 40), "green": (30, 150, 60), "blue": (40, 80, 210), "yellow": (235, 200, 30)}
CORNERS = {"circle": 40, "square": 4, "triangle": 3}


def make_synthetic_docvqa(folder: Path) -> Path:
    """Forms of two pages with names, dates and amounts, and questions that ask for them."""
    return _make_once(folder / "docvqa", _write_docvqa)


def make_synthetic_nlvr2(folder: Path) -> Path:
    """Pairs of images with a few shapes each, and sentences that are true or false of the pair."""
    return _make_once(folder / "nlvr2", _write_nlvr2)


def make_synthetic_hateful_memes(folder: Path) -> Path:
    """A coloured shape over a caption that names its colour (label 0) or another one (label 1)."""
    return _make_once(folder / "hateful_memes", _write_hateful_memes)


def _make_once(target: Path, draw: Callable[[Path], None]) -> Path:
    if target.is_dir():
        return target
    with environment_problems(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        unfinished = target.parent / f"{TMP_PREFIX}{secrets.token_hex(8)}"
        try:
            unfinished.mkdir()
            draw(unfinished)
            unfinished.rename(target)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
    return target


# DocVQA -----------------------------------------------------------------------------------------------------------

_PAGE = (224, 288)
_DOCUMENTS = {"train": 24, "val": 6, "test": 4}
_NAMES = ("Adams", "Baker", "Clark", "Davis", "Evans", "Fox", "Grant", "Hill")
_MONTHS = ("January", "March", "May", "July", "October", "December")
_TITLES = ("INVOICE", "RECEIPT", "ORDER FORM", "DELIVERY NOTE")


@dataclass(frozen=True, slots=True)
class FormField:
    """A line of a page, the question about it, and every accepted answer, as the page writes it first."""

    label: str
    question: str
    answers: tuple[str, ...]


def _write_docvqa(root: Path) -> None:
    (root / "spdocvqa_images").mkdir()
    question_id, doc_id = 1001, 1
    for split, documents in _DOCUMENTS.items():
        rows: list[dict[str, Any]] = []
        for _ in range(documents):
            for page in (1, 2):
                random = Random(f"docvqa/{doc_id}/{page}")
                title, fields = random.choice(_TITLES), _make_fields(random)
                name = f"drwn{doc_id:04d}_{page}.png"
                _draw_page(title, fields, f"Page {page} of 2").save(root / "spdocvqa_images" / name)
                for field in random.sample(fields, 3):
                    rows.append(_question_row(split, question_id, field, name, doc_id, page))
                    question_id += 1
            doc_id += 1
        body = {"dataset_name": "docvqa", "dataset_version": "1.0", "dataset_split": split, "data": rows}
        file = "test_v1.0.json" if split == "test" else f"{split}_v1.0_withQT.json"
        (root / file).write_text(json.dumps(body), encoding="utf-8")


def _question_row(split: str, question_id: int, field: FormField, name: str, doc_id: int, page: int) -> dict[str, Any]:
    """One element of `data`, keys and types as in the official files: ids are ints, the page number is a string."""
    row: dict[str, Any] = {"questionId": question_id, "question": field.question}
    if split != "test":
        row["question_types"] = ["form"]
    row |= {
        "image": f"documents/{name}",
        "docId": 14000 + doc_id,
        "ucsf_document_id": f"drwn{doc_id:04d}",
        "ucsf_document_page_no": str(page),
    }
    if split != "test":
        row["answers"] = list(field.answers)
    return row | {"data_split": split}


def _make_fields(random: Random) -> list[FormField]:
    name, other = random.sample(_NAMES, 2)
    day, month, year = random.randint(1, 28), random.choice(_MONTHS), random.randint(1960, 1999)
    total, number = 10 * random.randint(1, 99), random.randint(100, 999)
    fields = [
        FormField("From:", "Who sent it?", (f"Mr. {name}", name)),
        FormField("To:", "Who is it addressed to?", (f"Ms. {other}", other)),
        FormField("Date:", "What is the date?", (f"{day} {month} {year}", f"{month} {day}, {year}")),
        FormField("Total:", "What is the total amount?", (f"$ {total}", f"${total}", str(total))),
        FormField("Number:", "What is the number of the form?", (str(number),)),
    ]
    random.shuffle(fields)
    return fields


def _draw_page(title: str, fields: list[FormField], footer: str) -> Image:
    from PIL import Image, ImageDraw, ImageFont

    page = Image.new("L", _PAGE, 250)
    pen = ImageDraw.Draw(page)
    pen.text((16, 12), title, fill=0, font=ImageFont.load_default(22))
    pen.line((16, 44, _PAGE[0] - 16, 44), fill=90, width=2)
    font = ImageFont.load_default(15)
    for i, field in enumerate(fields):
        pen.text((16, 60 + 36 * i), field.label, fill=60, font=font)
        pen.text((84, 60 + 36 * i), field.answers[0], fill=0, font=font)
    pen.text((16, _PAGE[1] - 28), footer, fill=90, font=ImageFont.load_default(12))
    return page


# NLVR2 ------------------------------------------------------------------------------------------------------------

_SETS = {"train": 24, "dev": 6, "test1": 6}
_IMAGE = (112, 112)
_MOST = 4

_Counts = tuple[int, int]  # shapes in the left and in the right image


@dataclass(frozen=True, slots=True)
class Claim:
    """A sentence with `{things}` in it, and when it is true."""

    sentence: str
    holds: Callable[[_Counts], bool]


def _write_nlvr2(root: Path) -> None:
    (root / "data").mkdir()
    for split, sets in _SETS.items():
        lines: list[dict[str, Any]] = []
        for i in range(sets):
            # Spread over the hundred buckets, the first and the last one among them: val is made of whole buckets.
            directory = 99 * i // (sets - 1) if split == "train" else None
            folder = root / "images" / split / ("" if directory is None else str(directory))
            folder.mkdir(parents=True, exist_ok=True)
            lines += _draw_set(folder, split, i, directory)
        _write_lines(root / "data" / f"{split}.json", lines)


def _draw_set(folder: Path, split: str, set_id: int, directory: int | None) -> list[dict[str, Any]]:
    """Four pairs under two sentences; the first sentence is true of two of them, as in the official balance."""
    random = Random(f"nlvr2/{split}/{set_id}")
    shape, colour = random.choice(sorted(CORNERS)), random.choice(sorted(COLOURS))
    number = random.randint(3, 5)
    every = (
        Claim(f"There are exactly {number} {{things}} in total.", lambda n: sum(n) == number),
        Claim("The left image shows more {things} than the right image.", lambda n: n[0] > n[1]),
        Claim("The right image shows more {things} than the left image.", lambda n: n[1] > n[0]),
        Claim("Both images show the same number of {things}.", lambda n: n[0] == n[1]),
    )
    claims = random.sample(every, 2)
    pairs = _balanced_pairs(claims[0], random)
    rows: list[dict[str, Any]] = []
    for pair, counts in enumerate(pairs):
        for side, count in enumerate(counts):
            image = _draw_shapes(shape, colour, count, random)
            image.save(folder / f"{split}-{set_id}-{pair}-img{side}.png")
        for i, claim in enumerate(claims):
            rows.append(
                {
                    "sentence": claim.sentence.format(things=f"{colour} {shape}s"),
                    "left_url": f"https://example.org/synthetic/{split}-{set_id}-{pair}-img0.png",
                    "right_url": f"https://example.org/synthetic/{split}-{set_id}-{pair}-img1.png",
                    "writer": "0",
                    "label": str(claim.holds(counts)),  # the string "True" or "False", as in the official files
                    "synset": shape,
                    "query": f"{colour} {shape}s{set_id}",
                    "identifier": f"{split}-{set_id}-{pair}-{i}",
                }
                | ({} if directory is None else {"directory": directory})
            )
    return rows


def _balanced_pairs(claim: Claim, random: Random) -> list[_Counts]:
    """Four different pairs of counts of 1 to `_MOST`, the claim true of two of them, in random order."""
    every = [(left, right) for left in range(1, _MOST + 1) for right in range(1, _MOST + 1)]
    true = [counts for counts in every if claim.holds(counts)]
    false = [counts for counts in every if not claim.holds(counts)]
    pairs = random.sample(true, 2) + random.sample(false, 2)
    random.shuffle(pairs)
    return pairs


def _draw_shapes(shape: str, colour: str, count: int, random: Random) -> Image:
    from PIL import Image, ImageDraw

    shade = random.randint(200, 250)
    image = Image.new("RGB", _IMAGE, (shade, shade, shade))
    pen = ImageDraw.Draw(image)
    for cell in random.sample(range(9), count):  # a 3 by 3 grid: shapes never overlap
        x, y = (18 + 37 * place + random.randint(-4, 4) for place in (cell % 3, cell // 3))
        _draw_shape(pen, shape, colour, (x, y), random.randint(10, 13))
    return image


# Hateful Memes ----------------------------------------------------------------------------------------------------

_MEME = (128, 128)
_CAPTIONS = ("what a nice {colour} {shape}", "when you see a {colour} {shape}", "this {shape} is so {colour}")
_MEMES = {"train": range(96), "dev_seen": range(96, 120), "dev_unseen": range(104, 132), "test_seen": range(132, 148)}


def _write_hateful_memes(root: Path) -> None:
    """The dev files overlap, as the official ones do; ids are ints with gaps, file names padded to five digits."""
    from PIL import Image, ImageDraw, ImageFont

    (root / "img").mkdir()
    rows: list[dict[str, Any]] = []
    for number in range(max(r.stop for r in _MEMES.values())):
        random = Random(f"hateful_memes/{number}")
        shape, (colour, other) = random.choice(sorted(CORNERS)), random.sample(sorted(COLOURS), 2)
        label = number % 2
        caption = random.choice(_CAPTIONS).format(colour=other if label else colour, shape=shape)
        meme_id = 1203 + 613 * number % 97_001  # distinct: 613 and the prime 97001 have no common factor
        image = Image.new("RGB", _MEME, (245, 245, 245))
        pen = ImageDraw.Draw(image)
        _draw_shape(pen, shape, colour, (random.randint(44, 84), random.randint(44, 56)), random.randint(26, 34))
        pen.text((_MEME[0] / 2, 112), caption, fill=0, anchor="mm", font=ImageFont.load_default(9))
        image.save(root / f"img/{meme_id:05d}.png")
        rows.append({"id": meme_id, "img": f"img/{meme_id:05d}.png", "label": label, "text": caption})
    for name, numbers in _MEMES.items():
        hidden = {"label"} if name.startswith("test") else set[str]()
        _write_lines(root / f"{name}.jsonl", [{k: v for k, v in rows[i].items() if k not in hidden} for i in numbers])


# Shared -----------------------------------------------------------------------------------------------------------


def _draw_shape(pen: ImageDraw, shape: str, colour: str, centre: tuple[int, int], radius: int) -> None:
    # The first side is level: a triangle points up.
    pen.regular_polygon((*centre, radius), CORNERS[shape], fill=COLOURS[colour])


def _write_lines(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
