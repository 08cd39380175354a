"""Whether finished output is still as it was written, as far as names, kinds and sizes of its files say.

    find_damage(Path("out"), [("train.jsonl", 812), ("images/a.jpg", None)])     "images/a.jpg is missing", or None

What a command asks before it says "nothing to do": one call of the system for a file. phiv-validate reads every byte.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from itertools import chain, repeat
from pathlib import Path
from stat import S_ISLNK, S_ISREG

import numpy as np

from phiv_data.utils.atomic import environment_problems
from phiv_schemas import Manifest


def find_damage(folder: Path, files: Iterable[tuple[str, int | None]]) -> str | None:
    """What is wrong with the first damaged one of `files`, in words; None where all are whole.

    A file is its path in `folder` and its size in bytes (None: any). EnvironmentProblem for a disk that fails.
    """
    with environment_problems(folder):
        for path, size_bytes in files:
            try:
                found = (folder / path).lstat()
            except (FileNotFoundError, NotADirectoryError, ValueError):
                return f"{path} is missing"
            if not S_ISREG(found.st_mode):
                return f"{path} is {'a symbolic link' if S_ISLNK(found.st_mode) else 'no file'}"
            if size_bytes is not None and found.st_size != size_bytes:
                return f"{path} was cut or changed: {found.st_size} bytes, not {size_bytes}"
    return None


def dataset_files(
    folder: Path, manifest: Manifest, image_sizes: Path | None = None
) -> Iterator[tuple[str, int | None]]:
    """Every file of a converted dataset for `find_damage`. `image_sizes`: a file of eight bytes each."""
    yield from ((info.path, info.size_bytes) for info in manifest.files)
    sizes = _read_sizes(image_sizes) if image_sizes else ()
    with environment_problems(folder), (folder / manifest.image_hashes.path).open("rb") as lines:
        for line, size in zip(lines, chain(sizes, repeat(None)), strict=False):
            yield os.fsdecode(line.rstrip(b"\n").partition(b"  ")[2]), size


def _read_sizes(file: Path) -> Iterator[int]:
    """The sizes in a file of eight bytes each, a block at a time; none of one that is not there."""
    try:
        with file.open("rb") as blocks:
            while block := blocks.read(2**16):
                yield from np.frombuffer(block[: len(block) // 8 * 8], "<u8").tolist()
    except OSError:
        return
