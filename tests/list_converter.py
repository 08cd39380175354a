"""A converter over rows given in Python, for tests of what the engine makes of drafts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from phiv_data.convert import Converter, Duplicate, Inputs, Item
from phiv_data.media.reject import RejectInput
from phiv_data.storage.sample import Draft, encoded_image
from phiv_schemas import Turn


@dataclass(frozen=True)
class Row:
    """One input: its text and images. `images` are (path, seed of the bytes)."""

    split: str = "train"
    answer: str | None = "yes"
    images: tuple[tuple[str, int], ...] = ()
    id: str | None = None
    source: str | None = None
    kills: bool = False
    text: str = "Is it?"


@dataclass(frozen=True)
class ListOptions(Converter):
    """Options and converter in one."""

    rows: tuple[Row, ...]
    duplicates: tuple[Duplicate, ...] = ()
    splits: tuple[str, ...] = ("train",)
    name: str = "listed"

    def describe(self) -> str:
        return "rows of a list"

    def options(self) -> dict[str, Any]:
        return {}

    def inputs(self) -> Inputs:
        items = tuple(Item(row.split, f"{i:08d}", repr(row).encode(), i, 1) for i, row in enumerate(self.rows))
        return Inputs(items, duplicates=self.duplicates)

    def draft(self, item: Item) -> Draft:
        import os
        import signal

        row = self.rows[item.payload]
        if row.kills:
            os.kill(os.getpid(), signal.SIGSEGV)
        if row.answer == "reject":
            raise RejectInput(item.key, "bad", "the row asks for it")
        images = tuple(encoded_image(path, bytes([seed]) * 40, size=(4, 3), format="PNG") for path, seed in row.images)
        turn = Turn(images=tuple(path for path, _ in row.images), user=row.text, assistant=row.answer)
        return Draft((turn,), images, source=row.source, id=row.id)
