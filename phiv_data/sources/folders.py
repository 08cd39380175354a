"""What belongs to a source's folders: everything but hidden entries and outputs of phiv.

    entries(folder)                 of one folder, by name
    find_files(folder, "*/*.arrow")         its files that match; `Path.glob` has none for a folder that it cannot read
    for folder, files in walk(root): ...    files of all folders below, links followed, each folder once
    output_finder(source)(file)     of a file that was found in another way

A conversion may write into its own source (`phiv-convert ... --source . --out_dir out`): what it finds there must be
the same before and after.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from fnmatch import fnmatchcase
from itertools import pairwise
from pathlib import Path

from phiv_data.utils.atomic import environment_problems

WORK_FOLDER, MANIFEST, HASHES = ".phiv", "manifest.json", "images.sha256"


def is_output(folder: Path) -> bool:
    """True for the folder of a conversion, finished or not."""
    return (folder / WORK_FOLDER).is_dir() or all((folder / name).is_file() for name in (MANIFEST, HASHES))


def entries(folder: Path) -> list[os.DirEntry[str]]:
    """The entries of `folder` by name, without hidden ones and outputs of phiv.

    EnvironmentProblem for a folder that cannot be read.
    """
    with environment_problems(folder), os.scandir(folder) as scan:
        shown = sorted((entry for entry in scan if not entry.name.startswith(".")), key=lambda entry: entry.name)
    return [entry for entry in shown if not (entry.is_dir() and is_output(folder / entry.name))]


def find_files(folder: Path, pattern: str) -> list[Path]:
    """The files that match `pattern` from `folder` on, by name; `*` is part of one name.

    EnvironmentProblem for a folder that cannot be read.
    """
    name, _, below = pattern.partition("/")
    found = [entry for entry in entries(folder) if fnmatchcase(entry.name, name) and entry.is_dir() == bool(below)]
    paths = [folder / entry.name for entry in found]
    return [file for path in paths for file in find_files(path, below)] if below else paths


def walk(folder: Path, seen: set[tuple[int, int]] | None = None) -> Iterator[tuple[Path, list[os.DirEntry[str]]]]:
    """Each folder below `folder`, itself included, with its other entries; each once, whatever links lead there.

    `seen` holds the folders of earlier walks, which are left out. `folder` itself may be an output.
    """
    seen = set() if seen is None else seen
    with environment_problems(folder):
        status = folder.stat()
    if (status.st_dev, status.st_ino) in seen:
        return
    seen.add((status.st_dev, status.st_ino))
    found = entries(folder)
    yield folder, [entry for entry in found if not entry.is_dir()]
    for entry in found:
        if entry.is_dir():
            yield from walk(folder / entry.name, seen)


def raise_error(error: OSError) -> None:
    """For `os.walk`, which by itself passes over a folder that it cannot list."""
    raise error


def output_finder(source: Path) -> Callable[[Path], bool]:
    """`is_inside(file)`: whether a file lies in an output of phiv below `source`. Each folder is asked about once.

    What a conversion unpacks for itself, below `.phiv/source/`, is no part of its output.
    """
    top, unpacked = source.absolute(), (WORK_FOLDER, "source")
    known: dict[Path, bool] = {}

    def is_inside(folder: Path) -> bool:
        if folder not in known:
            below = folder != top and folder.is_relative_to(top) and unpacked not in pairwise(folder.parts)
            known[folder] = below and (is_output(folder) or is_inside(folder.parent))
        return known[folder]

    def is_inside_file(file: Path) -> bool:
        folder = file.parent
        if folder not in known:
            known[folder] = is_inside(folder.absolute())
        return known[folder]

    return is_inside_file
