"""A converter over a folder of small PNG files, for tests of the engine. A file's name decides how it behaves."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from phiv_data.convert import Converter, Item
from phiv_data.media.reject import RejectInput
from phiv_data.storage.sample import Draft, encoded_image
from phiv_data.utils.atomic import sha256_file
from phiv_schemas import Turn

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class ToyOptions(Converter):
    """Options and converter in one. `shuffle` seeds the order of the listing."""

    source: Path
    shuffle: int = 0
    question: str = "What is it?"
    fixed: bool = False
    name: str = "toy"
    splits: tuple[str, ...] = SPLITS

    def identity(self) -> dict[str, Any] | None:
        return self.options() if self.fixed else None

    def describe(self) -> str:
        return "toy folder"

    def options(self) -> dict[str, Any]:
        return {"question": self.question}

    def versions(self) -> dict[str, str]:
        return {"toy": "1"}

    def inputs(self) -> Iterator[Item]:
        files = [p for split in SPLITS for p in self.source.glob(f"{split}/*.png")]
        random.Random(self.shuffle).shuffle(files)
        return (Item(p.parent.name, p.name, p) for p in sorted(files, key=lambda path: path.name))

    def draft(self, item: Item) -> Draft:
        path = item.path
        if "crash" in path.name:
            os.kill(os.getpid(), signal.SIGSEGV)
        if "full" in path.name:  # as the system ends a process when memory is full
            os.kill(os.getpid(), signal.SIGKILL)
        if "bad" in path.name:
            raise RejectInput(item.key, "bad", "the name asks for it")
        image = encoded_image(
            f"{item.split}/{path.name}",
            path.read_bytes(),
            size=(4, 3),
            format="PNG",
            source=f"{item.split}/{item.key}",
            source_sha256=sha256_file(path),
        )
        label = None if "unlabeled" in path.name else path.stem
        return Draft((Turn(images=(image.meta.path,), user=self.question, assistant=label),), (image,))


def draw_toy_source(folder: Path, names: dict[str, list[str]]) -> Path:
    """Write 4x3 PNG files whose pixels differ from name to name ("same" in a name: equal pixels)."""
    from PIL import Image

    for split, stems in names.items():
        (folder / split).mkdir(parents=True, exist_ok=True)
        for stem in stems:
            rng = random.Random("same" if "same" in stem else f"{split}/{stem}")
            Image.frombytes("RGB", (4, 3), rng.randbytes(36)).save(folder / split / f"{stem}.png")
    return folder
