"""What a path that leads to no image was likely meant to be: another spelling of a name, or another folder.

>>> suggest_image("A.JPG", [Path("data/images")], "--images")
"Did you mean 'a.jpg'?"
"""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Sequence
from functools import lru_cache
from itertools import islice
from pathlib import Path
from urllib.parse import unquote

_MAX_FOLDERS, _MAX_PARENTS, _MAX_ENTRIES, _MAX_PATH = 100, 4, 20_000, 1000
_SUFFIXES = ("jpg", "jpeg", "png", "gif", "bmp", "webp", "tif", "tiff")


def suggest_image(path: str, roots: Sequence[Path], flag: str, strip_flag: str = "") -> str:
    """A sentence on what a path below one of `roots` was likely meant to be; "" where nothing is near.

    In this order: a spelling that differs in upper case, Unicode form or suffix; a folder above, beside or below a root
    from which the path leads to a file; the path without its first folders; the same name in a folder of a root.
    `flag` names the folder that paths start from, `strip_flag` how many folders of them are left out.
    """
    written = [_parts(path), _parts(unquote(path))]
    parts = written[0]
    if not parts or len(path) > _MAX_PATH or "\0" in path:
        return ""
    for root in roots:
        for spelling in written:
            if (near := _similar_path(root, spelling)) and near != "/".join(parts):
                return _did_you_mean(near)
    for root in roots:
        for start in _other_roots(root):
            if _is_file(start.joinpath(*parts)):
                there, here = start.absolute(), Path.cwd()
                shown = there.relative_to(here) if there.is_relative_to(here) else there
                return f"Pass {flag} {shown.as_posix()}: it is there"
    for root in roots:
        for count in range(1, len(parts)):
            if _is_file(root.joinpath(*parts[count:])):
                near = "/".join(parts[count:])
                return f"It is there as {near!r}: pass {strip_flag} {count}" if strip_flag else _did_you_mean(near)
    for root in roots:
        for folder in (root, *_folders(root)):
            if near := _similar_path(folder, written[1][-1:]):
                return _did_you_mean((folder.relative_to(root) / near).as_posix())
    return ""


def _did_you_mean(path: str) -> str:
    return f"Did you mean {path!r}?"


def _parts(path: str) -> list[str]:
    return [part for part in path.replace("\\", "/").split("/") if part not in ("", ".", "..")]


def _similar_path(root: Path, parts: Sequence[str]) -> str:
    """The path of a file below `root` that differs from the parts in how they are written only; "" for none."""
    found = root
    for i, part in enumerate(parts):
        names = _names(found)
        near = names.get(_form(part)) or (names.get(_stem(part)) if i == len(parts) - 1 else None)
        if not near:
            return ""
        found /= part if part in near else near[0]
    return found.relative_to(root).as_posix() if parts and _is_file(found) else ""


def _other_roots(root: Path) -> list[Path]:
    """The folders around, beside and below a folder, and that of the command."""
    beside = [path for path in _folders(root.parent) if path != root]
    return [
        *root.absolute().parents[:1],
        *_folders(root),
        *beside,
        *root.absolute().parents[1:_MAX_PARENTS],
        Path.cwd(),
    ]


def _is_file(path: Path) -> bool:
    return os.path.isfile(path)  # noqa: PTH113  # False for a name that is too long, where Path.is_file raises


def _form(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def _stem(name: str) -> str:
    """A name without the suffix of an image, and with a mark of that, so that it is no other file's name."""
    stem, dot, suffix = _form(name).rpartition(".")
    return f"{stem}/" if dot and suffix in _SUFFIXES else f"{_form(name)}/"


def _folders(root: Path) -> tuple[Path, ...]:
    """The folders directly in a folder, the first hundred by name."""
    try:
        return _list_folders(root, root.stat().st_mtime_ns)
    except OSError:
        return ()


@lru_cache(maxsize=4)
def _list_folders(root: Path, changed_ns: int) -> tuple[Path, ...]:
    with os.scandir(root) as scan:
        return tuple(sorted(Path(entry.path) for entry in scan if entry.is_dir())[:_MAX_FOLDERS])


def _names(folder: Path) -> dict[str, list[str]]:
    """The entries of a folder by their names and stems in one form; none of one that is too large."""
    try:
        return _list_names(folder, folder.stat().st_mtime_ns)
    except (OSError, ValueError):
        return {}


@lru_cache(maxsize=64)
def _list_names(folder: Path, changed_ns: int) -> dict[str, list[str]]:
    with os.scandir(folder) as scan:
        entries = [entry.name for entry in islice(scan, _MAX_ENTRIES + 1)]
    by_form: dict[str, list[str]] = {}
    for name in sorted(entries) if len(entries) <= _MAX_ENTRIES else ():
        by_form.setdefault(_form(name), []).append(name)
        by_form.setdefault(_stem(name), []).append(name)
    return by_form
