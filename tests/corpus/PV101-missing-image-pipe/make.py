"""A pipe and a folder where images should be. Opening the pipe would wait for ever."""

import os
from pathlib import Path

from PIL import Image


def make(folder: Path) -> None:
    broken, clean = folder / "broken" / "images", folder / "clean" / "images"
    (broken / "folder.png").mkdir(parents=True)
    os.mkfifo(broken / "pipe.png")
    (clean / "folder.png").mkdir(parents=True)
    for name in ("fox.png", "folder.png/fox.png"):
        Image.new("RGB", (4, 3)).save(clean / name)
