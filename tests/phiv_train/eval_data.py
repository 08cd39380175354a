"""A small dataset of dialogues about plain colours, and a tiny model that has learned it."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from toy_converter import ToyOptions

from phiv_data.convert.base import Inputs, Item
from phiv_data.convert.engine import convert
from phiv_data.storage.dataset import ConversationDataset
from phiv_data.storage.sample import Draft, EncodedImage, encoded_image
from phiv_schemas import Turn
from phiv_train.families.base import get_family

COLOURS = {"Red": (230, 20, 20), "Green": (20, 200, 20), "Blue": (20, 20, 230)}
SIZES = [(40, 40), (70, 30), (30, 64)]
ASK = "What is shown?"


@dataclass(frozen=True)
class Dialogues(ToyOptions):
    """Rows are tuples of turns; a turn is (colours of its images, question, answer, further accepted answers)."""

    rows: tuple[tuple[str, tuple[Any, ...]], ...] = ()
    source: Path = Path()

    def inputs(self) -> Inputs:
        return Inputs(
            tuple(Item(split, f"{i:03d}", repr(turns).encode(), turns) for i, (split, turns) in enumerate(self.rows))
        )

    def draft(self, item: Item) -> Draft:
        turns, images = [], []
        for number, (colours, user, assistant, *more) in enumerate(item.payload):
            mine = [_image(f"{item.split}/{item.key}.{number}.{k}.png", c) for k, c in enumerate(colours)]
            answers = (assistant, *more) if more else None
            paths = tuple(image.meta.path for image in mine)
            turns.append(Turn(images=paths, user=user, assistant=assistant, answers=answers))
            images += mine
        return Draft(tuple(turns), tuple(images))


def _image(path: str, colour: str) -> EncodedImage:
    size = SIZES[sum(path.encode()) % len(SIZES)]
    out = io.BytesIO()
    Image.new("RGB", size, COLOURS[colour]).save(out, "PNG")
    return encoded_image(path, out.getvalue(), size=size, format="PNG")


def ask(*colours: str, answer: str | None = None) -> tuple[Any, ...]:
    """A turn with images, asked for the colour of the last one."""
    return colours, ASK, answer or colours[-1]


def mixed_rows(split: str) -> list[tuple[str, tuple[Any, ...]]]:
    """Single turns, several images, images in several turns, text-only rows and turns, in every colour."""
    text = ((), "Is this True?", "Yes")
    rows: list[tuple[Any, ...]] = []
    for i, colour in enumerate(COLOURS):
        other = list(COLOURS)[(i + 1) % 3]
        rows += [(ask(colour),), (ask(other, colour),), (ask(colour), text, ask(other))]
    return [(split, row) for row in [*rows, (text,), (text, ask("Red"))]]


def make_dataset(out: Path, rows: list[tuple[str, tuple[Any, ...]]]) -> Path:
    """The rows, converted."""
    convert(Dialogues(rows=tuple(rows)), out, num_workers=1, include_unlabeled=True)
    return out


def train_tiny(data: ConversationDataset) -> tuple[Any, Any]:
    """`(model, processor)`: tiny that knows the rows by heart."""
    family = get_family("tiny")
    model, processor = family.load("tiny:0")
    samples = [family.encode(s.conversation, [i.open() for i in s.images], processor) for s in data]
    batch = family.collate(samples, processor)
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=8e-3, betas=(0.9, 0.95))
    for _ in range(200):
        loss = model(**batch).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if loss < 0.005:
            return model, processor
    raise AssertionError(f"not learned: loss {loss.item()}")
