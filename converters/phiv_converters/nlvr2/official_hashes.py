"""The official image hashes of NLVR2 (util/hashes/*_hashes.json): found, read, and computed for an image."""

from __future__ import annotations

import io
import json
import re
from functools import cache
from pathlib import Path

from PIL import Image

from phiv_data.sources.folders import entries, find_files
from phiv_schemas import SourceError


def average_hash(data: bytes) -> int:
    """The 64-bit average hash of an image, as imagehash.average_hash gives it and the official hash files hold it.

    The image in grey, scaled to 8x8 (Lanczos): a pixel above the mean is a 1, row by row from the top left.
    """
    with Image.open(io.BytesIO(data)) as image:  # as stored: the official script ignores EXIF too
        small = image.convert("L").resize((8, 8), Image.Resampling.LANCZOS)
    pixels = small.tobytes()
    mean = sum(pixels) / len(pixels)
    return int("".join("1" if pixel > mean else "0" for pixel in pixels), 2)


def find_hash_files(roots: tuple[Path, ...]) -> list[Path]:
    """Official hash files at their usual places in or beside `roots`, by name."""
    found: set[Path] = set()
    for root in (root.absolute() for root in roots):
        bases = [root, root / "nlvr2", *([root.parent] if root.name == "data" or root.is_file() else [])]
        bases += [root / entry.name for entry in entries(root) if entry.is_dir()][:8] if root.is_dir() else []
        for folder in (inner for base in bases for inner in (base, base / "hashes", base / "util/hashes")):
            found |= set(find_files(folder, "*_hashes.json")) if folder.is_dir() else set()
    return sorted(found, key=lambda path: (path.name, str(path)))


@cache
def read_hashes(files: tuple[Path, ...], stamps: tuple[tuple[int, ...] | None, ...]) -> dict[str, str]:
    """Official hash by image name. `stamps` (of `file_stamp`) make changed files be read again."""
    hashes: dict[str, str] = {}
    for file in files:
        try:
            pairs = json.loads(file.read_bytes(), object_pairs_hook=list)
            read = dict(pairs)
            good = {name: text for name, text in pairs if re.fullmatch("[0-9a-f]{16}", text)}
        except (OSError, ValueError, AttributeError, TypeError) as error:
            hint = "Get it again, or pass --ignore_hashes"
            raise SourceError(str(file), f"is no file of image hashes ({error})", hint) from error
        if len(read) < len(pairs):
            raise SourceError(str(file), "names an image twice", "Get it again, or pass --ignore_hashes")
        if len(good) < len(read):
            raise SourceError(str(file), "holds hashes that are not 16 hex digits", "Pass --ignore_hashes")
        hashes |= good
    return hashes
