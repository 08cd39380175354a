"""Cats and dogs: an image becomes the question what it shows."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from phiv_data.convert.base import Inputs, Item
from phiv_data.sources.image_index import checked_image, read_image
from phiv_data.storage.sample import Draft
from phiv_schemas import Turn


@dataclass(frozen=True)
class Pets:
    """Images of cats and dogs to questions."""

    source: Path
    """Folder with {train,val}/{cat,dog}/*.jpg."""
    question: str = "Cat or dog?"
    """What is asked of every image."""

    name = record_source = "pets"
    splits = ("train", "val")
    synthetic = False

    def identity(self) -> dict[str, Any] | None:
        return None  # a folder can change: list it to see whether an output is still its own

    def open(self, scratch: Path) -> "Pets":
        return self

    def describe(self) -> str:
        return "folder with {train,val}/{cat,dog}/"

    def options(self) -> dict[str, Any]:
        return {"question": self.question}

    def versions(self) -> dict[str, str]:
        return {}

    def inputs(self) -> Inputs:
        files = [path for split in self.splits for path in self.source.glob(f"{split}/*/*.jpg")]  # in any order
        return Inputs([Item(p.parts[-3], p.relative_to(self.source).as_posix(), p.stat().st_size, p) for p in files])

    def draft(self, item: Item) -> Draft:
        image = checked_image(item.key, read_image(item.payload, item.key), item.key, source=item.key)
        return Draft((Turn(images=(item.key,), user=self.question, assistant=item.payload.parent.name),), (image,))
