"""The files of own jsonl data, and the split that each file name contains."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from phiv_data.sources.folders import MANIFEST, find_files
from phiv_data.sources.hf_layout import standard_split
from phiv_data.storage.dataset import NON_RECORD_FILES
from phiv_schemas import Manifest
from phiv_schemas.errors import SourceError, UsageError

_ORDER = ("train", "val", "valid", "validation", "dev", "test")
_OTHER_WORDS = ("trainval", "minival", "holdout")
_SPLIT = re.compile(rf"(?:(?P<name>.*)[_-])?(?P<word>{'|'.join((*_ORDER, *_OTHER_WORDS))})(?P<number>\d*)")


@dataclass(frozen=True, slots=True)
class SplitFile:
    """A jsonl file, the split it holds, and the name of the dataset that its own name contains."""

    path: Path
    split: str
    name: str = ""


def find_split_files(source: Path, split: str | None) -> tuple[SplitFile, ...]:
    """The file `source`, or those in the folder `source` in the usual order of splits."""
    if source.is_file():
        match = _SPLIT.fullmatch(source.stem)
        name = (match["name"] if match else source.stem) or ""
        return (SplitFile(source, split or (_split(match) if match else "train"), name),)
    if not source.is_dir():
        raise SourceError("--source", f"no such file or folder {str(source)!r}")
    if split is not None:
        raise UsageError("--split", "names the split of a single file, and --source is a folder", "Pass the file")
    found: list[tuple[tuple[int, int, str], SplitFile]] = []
    named = _splits_of_manifest(source)
    for path in find_files(source, "*.jsonl"):
        if path.name in NON_RECORD_FILES or not path.is_file():
            continue
        if path.name in named:
            split = named[path.name]
            rank = _ORDER.index(split) if split in _ORDER else len(_ORDER), 0, split
            found.append((rank, SplitFile(path, split, path.stem.removesuffix(split).rstrip("_-"))))
            continue
        match = _SPLIT.fullmatch(path.stem)
        if not match:
            what = f"the name of {path.name!r} does not end in a split ({', '.join(_ORDER)}, or one with a number)"
            raise SourceError("--source", what, "Rename it, or pass this file alone with --split")
        split = _split(match)
        rank = _ORDER.index(split.rstrip("0123456789")), int(match["number"] or 0), split
        found.append((rank, SplitFile(path, split, match["name"] or "")))
    if not found:
        raise SourceError("--source", f"no *.jsonl in {str(source)!r}", "Pass a jsonl file, or a folder of some")
    files = [file for _, file in sorted(found, key=lambda ranked: ranked[0])]
    for a, b in pairwise(files):
        if a.split == b.split:
            what = f"{a.path.name!r} and {b.path.name!r} are both {a.split}"
            raise SourceError("--source", what, "Pass one file, or join them: rows of a split are one file")
    return tuple(files)


def _splits_of_manifest(folder: Path) -> dict[str, str]:
    """The split of each jsonl file of a converted folder, whatever its name ends in; none of any other folder."""
    try:
        manifest = Manifest.model_validate_json((folder / MANIFEST).read_bytes())
    except (FileNotFoundError, ValueError):  # phiv-validate says what is wrong with it
        return {}
    return {split.jsonl.path: split.name for split in manifest.splits}


def is_split_name(stem: str) -> bool:
    """True where a file's name ends in a split."""
    return _SPLIT.fullmatch(stem) is not None


def _split(match: re.Match[str]) -> str:
    """The split that a file name ends in: its own words for splits stay, others become train, val or test."""
    word = match["word"]
    return f"{word if word in _ORDER else standard_split(word)}{match['number']}"
