"""What a path without an image was likely meant to be: another spelling of a name, or another folder to start from.

>>> similar_path(Path("data/images"), "A.JPG"), other_root(Path("data/images"), "b.jpg")
('a.jpg', PosixPath('data/photos'))
"""

from __future__ import annotations

import os
import unicodedata
from functools import lru_cache
from pathlib import Path
from urllib.parse import unquote

_MAX_FOLDERS = 100
_MAX_PATH = 1000


def other_root(root: Path, path: str) -> Path | None:
    """The folder around, beside or below `root` from which the path leads to a file."""
    name = "/".join(_parts(path))
    isfile = os.path.isfile  # False for a name that is too long, where Path.is_file raises
    return next((start for start in _roots(root) if name and isfile(start / name)), None)


def similar_path(root: Path, path: str) -> str | None:
    """A path below `root` with the same name in another case, Unicode form, suffix or folder."""
    *folders, name = _parts(unquote(path)) or [""]
    found = root
    for folder in folders:
        found /= _names(found).get(_form(folder), folder)
    for near in (found, root, *_folders(root)) if name else ():
        names = _names(near)
        if similar := names.get(_form(name)) or names.get(_form(name).rpartition(".")[0] + "."):
            return (near / similar).relative_to(root).as_posix()
    return None


def _parts(path: str) -> list[str]:
    return [part for part in path[:_MAX_PATH].replace("\\", "/").split("/") if part not in ("", ".", "..")]


def _folders(root: Path) -> tuple[Path, ...]:
    """The folders directly in a folder."""
    try:
        return _list_folders(root, root.stat().st_mtime_ns)
    except OSError:
        return ()


@lru_cache(maxsize=4)
def _list_folders(root: Path, changed_ns: int) -> tuple[Path, ...]:
    return tuple(sorted(Path(entry.path) for entry in os.scandir(root) if entry.is_dir()))[:_MAX_FOLDERS]


def _roots(root: Path) -> tuple[Path, ...]:
    return (root.parent, *_folders(root), *(path for path in _folders(root.parent) if path != root), root.parent.parent)


def _form(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def _names(folder: Path) -> dict[str, str]:
    """Each name in a folder by its form; files by that without a suffix too, ending in a dot."""
    try:
        return _list_names(folder, folder.stat().st_mtime_ns)
    except OSError:
        return {}


@lru_cache(maxsize=64)
def _list_names(folder: Path, changed_ns: int) -> dict[str, str]:
    names = sorted(entry.name for entry in os.scandir(folder))
    stems = {f"{_form(name).rpartition('.')[0]}.": name for name in reversed(names) if "." in name}
    return stems | {_form(name): name for name in names}
