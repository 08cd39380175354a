"""A converted dataset of rows of every shape: several turns, images of any size or none, offsets, a system prompt."""

from __future__ import annotations

import io
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from toy_converter import ToyOptions

from phiv_data.convert.base import Inputs, Item
from phiv_data.convert.engine import convert
from phiv_data.storage.dataset import ConversationDataset
from phiv_data.storage.sample import Draft, EncodedImage, encoded_image
from phiv_schemas import Turn

Size = tuple[int, int]


@dataclass(frozen=True)
class Exchange:
    """One turn: the sizes of its images, its texts, where its images are."""

    sizes: tuple[Size, ...] = ()
    user: str = "What is it?"
    assistant: str | None = "A cat."
    offsets: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Mixed(ToyOptions):
    """`rows`: (turns, system prompt) of each row of the train split."""

    source: Path = Path()
    rows: tuple[tuple[tuple[Exchange, ...], str | None], ...] = ()

    def inputs(self) -> Inputs:
        return Inputs(tuple(Item("train", f"{i:06d}", repr(row).encode(), row) for i, row in enumerate(self.rows)))

    def draft(self, item: Item) -> Draft:
        exchanges, system = item.payload
        turns, images = [], []
        for number, exchange in enumerate(exchanges):
            mine = [_image(f"train/{item.key}.{number}.{k}.png", size) for k, size in enumerate(exchange.sizes)]
            paths = tuple(image.meta.path for image in mine)
            turns.append(Turn(images=paths, user=exchange.user, assistant=exchange.assistant,
                              image_offsets=exchange.offsets))  # fmt: skip
            images += mine
        return Draft(tuple(turns), tuple(images), system=system)


def _image(path: str, size: Size) -> EncodedImage:
    out = io.BytesIO()
    code = zlib.crc32(path.encode())  # another image for every path
    Image.new("RGB", size, (code & 255, code >> 8 & 255, code >> 16 & 255)).save(out, "PNG")
    return encoded_image(path, out.getvalue(), size=size, format="PNG")


def converted(folder: Path, *rows: Any, include_unlabeled: bool = False) -> ConversationDataset:
    """The rows, converted. A row is an Exchange, a tuple of them, or (tuple of them, system prompt)."""
    whole = tuple(_row(row) for row in rows)
    convert(Mixed(rows=whole), folder, num_workers=1, include_unlabeled=include_unlabeled)
    return ConversationDataset(folder, "train")


def _row(row: Any) -> tuple[tuple[Exchange, ...], str | None]:
    if isinstance(row, Exchange):
        return (row,), None
    return row if isinstance(row[0], tuple) else (row, None)


def any_rows(count: int, seed: int = 0) -> list[Any]:
    """Random rows of every shape."""
    draw = np.random.default_rng(seed)
    return [_any_row(draw) for _ in range(count)]


def _any_row(draw: np.random.Generator) -> tuple[tuple[Exchange, ...], str | None]:
    turns = tuple(_any_exchange(draw) for _ in range(draw.integers(1, 4)))
    return turns, "Be brief." if draw.random() < 0.3 else None


def _any_exchange(draw: np.random.Generator) -> Exchange:
    sizes = tuple((int(w), int(h)) for w, h in draw.integers(8, 130, (draw.integers(0, 4), 2)))
    user = "Où est-ce? " * int(draw.integers(1, 6))
    offsets = tuple(sorted(draw.integers(0, len(user) + 1, len(sizes)).tolist())) if draw.random() < 0.3 else None
    return Exchange(sizes, user, "Ja. " * int(draw.integers(0, 9)), offsets)
