"""Images of a fixed dataset: copied, and renamed where the suffix is not that of the file's real format.

    copies = ImageCopies(Path("images"), out / "images")
    copies.copy(["a/page.jpg", ...])              # of every row; page.jpg is a PNG
    copies.rename(taken=["a/page.jpg", ...])      # {"a/page.jpg": "a/page.png"}, and so on disk

A new name is never one that a file of the old dataset or a row has: then it is `a/page.jpg.png`, and if that is taken
too, the old one stays. Names are compared as by disks that know neither case nor Unicode forms.
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
from phiv_data.repair.records import RenamedPaths
from phiv_data.storage.sample import MAX_NAME_BYTES
from phiv_data.validation.inputs.image_checks import ImageChecks
from phiv_data.validation.rules.image import base_format, declared_format
from phiv_schemas import ShardError, UsageError


class ImageCopies:
    """Copies the images of rows from `root` into the folder `out`. `num_left`: those that could not be copied."""

    def __init__(self, root: Path, out: Path) -> None:
        self._root, self._out = root, out
        self._checks = ImageChecks(root, deep=False)
        self._seen: set[str] = set()
        self._formats: dict[str, str] = {}  # of those with the suffix of another format
        self._kept: set[str] = set()
        self._names: dict[PurePosixPath, frozenset[str]] = {}
        self.num_copied = self.num_left = 0

    def copy(self, paths: Iterable[str]) -> None:
        """Copy those that are new. What is missing, or leads out of `root`, is counted in `num_left`."""
        new = [path for path in dict.fromkeys(paths) if path not in self._seen]
        facts = self._checks.check(new)
        for path in new:
            self._seen.add(path)
            if facts[path].found:
                self.num_left += 1
                continue
            target = self._out / path
            _copy_file(self._root / path, target)
            self.num_copied += 1
            expected, _ = declared_format(path)
            if not expected:
                continue
            try:
                format = image_size(target, where=target.name).format
            except RejectInput:  # its header names no format
                continue
            if format and expected != base_format(format):
                self._formats[path] = format

    def keep(self, names: Iterable[str]) -> None:
        """Copy those of `names` that are images, under the same names: lines that stay as they are name them."""
        there = [name for name in names if os.path.isfile(self._root / name)]  # noqa: PTH113  # takes any name
        self._kept.update(there)
        self.copy(there)

    def rename(self, taken: Iterable[str] = ()) -> dict[str, str]:
        """Rename the copies. Returns old to new path of each. `taken`: paths of rows, which no image may get again."""
        wanted: dict[str, tuple[str, str]] = {}
        for path, format in self._formats.items():
            if path not in self._kept:
                ending = f".{suffix(format)}"
                wanted[path] = str(PurePosixPath(path).with_suffix(ending)), path + ending
        candidates = {_comparable(new) for names in wanted.values() for new in names}
        not_free = {name for path in taken if (name := _comparable(path)) in candidates}
        renamed: dict[str, str] = {}
        for path in sorted(wanted):
            if new := next((new for new in wanted[path] if self._is_free(new, not_free)), None):
                (self._out / path).rename(self._out / new)
                not_free.add(_comparable(new))
                renamed[path] = new
        return renamed

    def _is_free(self, path: str, not_free: set[str]) -> bool:
        """Whether an image may get this path: no row and no file of the old dataset has it."""
        pure = PurePosixPath(path)
        if len(pure.name.encode()) > MAX_NAME_BYTES or _comparable(path) in not_free:
            return False
        if pure.parent not in self._names:
            files = (self._root / pure.parent).iterdir()
            self._names[pure.parent] = frozenset(_comparable(file.name) for file in files)
        return _comparable(pure.name) not in self._names[pure.parent]


def copy_with_old_name(root: Path, out: Path, path: str, old_names: RenamedPaths) -> Path:
    """Copy one image of a fixed dataset into `out`, under the path it had before. Returns the copy."""
    source, copy = root / path, out / old_names.get(path, path)
    if source.is_symlink() or not source.is_file():
        raise ShardError(str(source), "is missing, or not a regular file", "--fix wrote a copy of each image here")
    _copy_file(source, copy)
    return copy


def _copy_file(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if os.path.lexists(target):
        what = f"has one file for {source.name!r} and another name of the images"
        raise UsageError(str(target.parent), what, "Use a disk on which upper and lower case differ")
    shutil.copyfile(source, target)


def _comparable(path: str) -> str:
    """A path as disks compare it that know neither case nor Unicode forms."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", path).casefold())
