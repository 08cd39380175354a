"""Images of a mended data set: copied, and renamed where the suffix says another format than the file has.

    pictures = Pictures(Path("images"), out / "images")
    pictures.copy(["a/page.jpg", ...])              # of every row; page.jpg is a PNG
    pictures.rename(taken=["a/page.jpg", ...])      # {"a/page.jpg": "a/page.png"}, and so on disk

A new name is never one that a file or a row has: then it is `a/page.jpg.png`, and if that is taken too, the old one.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from phiv_data.export_source import suffix
from phiv_data.images import image_size
from phiv_data.reject import RejectInput
from phiv_data.validation.image_rules import plain_format, said_format
from phiv_data.validation.images import ImageChecks


class Pictures:
    """The images of rows, below `root`, on their way into the folder `out`."""

    def __init__(self, root: Path, out: Path) -> None:
        self._root, self._out = root, out
        self._checks = ImageChecks(root, deep=False)
        self._formats: dict[str, str] = {}  # of those whose suffix lies
        self._kept: set[str] = set()
        self.num_copied = 0

    def copy(self, paths: Iterable[str], *, keep_names: bool = False) -> None:
        """Copy those that are there and not copied yet. `keep_names`: they are not to be renamed."""
        paths = list(dict.fromkeys(paths))
        facts = self._checks.look_at(paths)
        for path in paths:
            if keep_names:
                self._kept.add(path)
            if not facts[path].found and not os.path.lexists(self._out / path):
                self._copy(path)

    def rename(self, taken: Iterable[str] = ()) -> dict[str, str]:
        """Old to new path of all that were renamed. `taken`: paths of rows, which no image may get anew."""
        wanted = {path: _new_names(path, name) for path, name in self._formats.items() if path not in self._kept}
        candidates = {new for names in wanted.values() for new in names}
        taken = {path for path in taken if path in candidates}
        renamed: dict[str, str] = {}
        for path in sorted(wanted):
            for new in wanted[path]:
                if new not in taken and not os.path.lexists(self._out / new):
                    (self._out / path).rename(self._out / new)
                    renamed[path] = new
                    break
        return renamed

    def _copy(self, path: str) -> None:
        target = self._out / path
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(self._root / path, target)
        self.num_copied += 1
        said, _ = said_format(path)
        if said and (found := _format(target)) and said != plain_format(found):
            self._formats[path] = found


def _format(file: Path) -> str:
    """What the header says; "" where it says nothing."""
    try:
        return image_size(file, where=file.name).format
    except RejectInput:
        return ""


def _new_names(path: str, format: str) -> tuple[str, str]:
    pure = PurePosixPath(path)
    return str(pure.with_suffix(f".{suffix(format)}")), f"{path}.{suffix(format)}"
