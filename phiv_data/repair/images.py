"""Images of a fixed data set: copied, and renamed where the suffix says another format than the file has.

    images = Images(Path("images"), out / "images")
    images.copy(["a/page.jpg", ...])              # of every row; page.jpg is a PNG
    images.rename(taken=["a/page.jpg", ...])      # {"a/page.jpg": "a/page.png"}, and so on disk

A new name is never one that a file of the old set or a row has: then it is `a/page.jpg.png`, and if that is taken too,
the old one stays. Names are compared as disks do that know neither case nor Unicode forms.
"""

from __future__ import annotations

import os
import shutil
import unicodedata
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from phiv_data.export.base import suffix
from phiv_data.media.images import image_size
from phiv_data.media.reject import RejectInput
from phiv_data.storage.sample import MAX_NAME_BYTES
from phiv_data.validation.inputs.image_checks import ImageChecks
from phiv_data.validation.rules.image import base_format, declared_format
from phiv_schemas import UsageError


class Images:
    """The images of rows, below `root`, on their way into the folder `out`. `num_left` were not to be had."""

    def __init__(self, root: Path, out: Path) -> None:
        self._root, self._out = root, out
        self._checks = ImageChecks(root, deep=False)
        self._seen: set[str] = set()
        self._formats: dict[str, str] = {}  # of those whose suffix lies
        self._kept: set[str] = set()
        self._names: dict[PurePosixPath, frozenset[str]] = {}
        self.num_copied = self.num_left = 0

    def copy(self, paths: Iterable[str]) -> None:
        """Copy those that are new; what is not there, or leads out of `root`, is counted."""
        new = [path for path in dict.fromkeys(paths) if path not in self._seen]
        facts = self._checks.check(new)
        for path in new:
            self._seen.add(path)
            if facts[path].found:
                self.num_left += 1
            else:
                self._copy(path)

    def keep(self, names: Iterable[str]) -> None:
        """Copy those of `names` that are images, and leave them their names: lines that stay as they are name them."""
        there = [name for name in names if os.path.isfile(self._root / name)]  # noqa: PTH113  # takes any name
        self._kept.update(there)
        self.copy(there)

    def rename(self, taken: Iterable[str] = ()) -> dict[str, str]:
        """Old to new path of all that were renamed. `taken`: paths of rows, which no image may get again."""
        wanted = {path: _new_names(path, name) for path, name in self._formats.items() if path not in self._kept}
        candidates = {_as_disks_see(new) for names in wanted.values() for new in names}
        not_free = {seen for path in taken if (seen := _as_disks_see(path)) in candidates}
        renamed: dict[str, str] = {}
        for path in sorted(wanted):
            if new := next((new for new in wanted[path] if self._is_free(new, not_free)), None):
                (self._out / path).rename(self._out / new)
                not_free.add(_as_disks_see(new))
                renamed[path] = new
        return renamed

    def _copy(self, path: str) -> None:
        target = self._out / path
        target.parent.mkdir(parents=True, exist_ok=True)
        if os.path.lexists(target):
            what = f"has one file for {path!r} and another name of the images"
            raise UsageError(str(target.parent), what, "Use a disk that tells upper from lower case")
        shutil.copyfile(self._root / path, target)
        self.num_copied += 1
        said, _ = declared_format(path)
        if said and (found := _format(target)) and said != base_format(found):
            self._formats[path] = found

    def _is_free(self, path: str, not_free: set[str]) -> bool:
        pure, seen = PurePosixPath(path), _as_disks_see(path)
        is_short = len(pure.name.encode()) <= MAX_NAME_BYTES
        return is_short and seen not in not_free and _as_disks_see(pure.name) not in self._names_in(pure.parent)

    def _names_in(self, folder: PurePosixPath) -> frozenset[str]:
        """What stands in a folder of the old set."""
        if folder not in self._names:
            self._names[folder] = frozenset(_as_disks_see(one.name) for one in (self._root / folder).iterdir())
        return self._names[folder]


def _as_disks_see(path: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", path).casefold())


def _format(file: Path) -> str:
    """What the header says; "" where it says nothing."""
    try:
        return image_size(file, where=file.name).format
    except RejectInput:
        return ""


def _new_names(path: str, format: str) -> tuple[str, str]:
    pure = PurePosixPath(path)
    return str(pure.with_suffix(f".{suffix(format)}")), f"{path}.{suffix(format)}"
