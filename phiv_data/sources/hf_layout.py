"""Layouts of Hugging Face datasets on disk: which files are tables, and the split and configuration of each.

data/validation-00000-of-00006.parquet            split validation     as on the hub, with or without a hash
<config>/train-00000-of-00014.parquet             split train of a configuration
<config>/partial-train/0000.parquet               as the hub's own conversion writes
state.json, data-00000-of-00001.arrow             Dataset.save_to_disk; below dataset_dict.json one per split
<config>/<version>/<hash>/<name>-train.arrow      the cache of `datasets`
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from phiv_data.sources.folders import walk
from phiv_schemas import SourceError, UsageError

_SHARD = re.compile(r"-\d{5}-of-\d{5}(-[0-9a-f]{16})?$")
_NUMBER = re.compile(r"(^|[-_.])\d+$")
_SNAPSHOT = re.compile(r"(^|/)snapshots/([0-9a-f]{40})/")
_GENERIC = ("", "data", "dataset", "part", "shard", "chunk")
_WORDS = {
    "train": ("train", "training", "trainval"),
    "val": ("val", "validation", "valid", "dev", "minival"),
    "test": ("test", "testing", "eval", "evaluation", "holdout"),
}


def standard_split(name: str) -> str:
    """`train`, `val` or `test` where the name holds such a word (`validation`, `balanced_dev`), else `name` itself.

    >>> standard_split("validation"), standard_split("test_unseen"), standard_split("extra")
    ('val', 'test', 'extra')
    """
    found = split_word(name)
    return found[0] if found else name


def split_word(name: str) -> tuple[str, str] | None:
    """`train`, `val` or `test`, and the word in `name` that means it; None where there is none, or words disagree.

    >>> split_word("coco_minival2014"), split_word("train_test")
    (('val', 'minival'), None)
    """
    words = re.split(r"[^a-z]+", name.lower())
    hits = {split: word for word in reversed(words) for split, known in _WORDS.items() if word in known}
    return next(iter(hits.items())) if len(hits) == 1 else None


def named_tables(root: Path) -> Iterator[tuple[Path, str, str | None]]:
    """(file, split, config) of every table at or below `root`. Hidden folders, temporary files and outputs of
    phiv are left out.

    SourceError where a saved dataset lacks one of its splits or files, UsageError for several revisions.
    """
    if root.is_file():
        if root.suffix in (".parquet", ".arrow"):
            yield root, _split_of(root.stem) or "train", None
        return
    if not root.is_dir():
        return
    # The hub's cache keeps one folder per revision; reading two would give every row twice.
    snapshots = root / "snapshots"
    found = sorted(path.name for path in snapshots.iterdir()) if snapshots.is_dir() else []
    if len(found) > 1:
        raise UsageError(str(root), f"holds {len(found)} revisions ({', '.join(found)})", "Pass one of snapshots/*")
    top = root.absolute()  # which has a name, even for `.`
    for folder, files in walk(root):
        names = [file.name for file in files if file.is_file() or file.is_symlink()]  # a link to nothing is an error
        # Folder names below `root`, without those of the hub's cache.
        below = _SNAPSHOT.sub("", folder.relative_to(root).as_posix() + "/")
        parts = tuple(part for part in below.split("/") if part not in ("", "."))
        if "dataset_dict.json" in names:
            for split in _read_json(folder / "dataset_dict.json").get("splits", []):
                if not (folder / split / "state.json").is_file():
                    what = f"dataset_dict.json names the split {split!r}, which has no state.json"
                    raise SourceError(str(folder), what)
                yield from _saved_dataset(folder / split, split, parts)
        elif "state.json" in names:
            in_dict = (folder.absolute().parent / "dataset_dict.json").is_file()
            if not in_dict or folder == root:
                yield from _saved_dataset(folder, top.name if in_dict else None, parts)
        else:
            yield from _tables_by_name(folder, names, parts, top.name)


def _tables_by_name(
    folder: Path, names: list[str], parts: tuple[str, ...], root_name: str
) -> Iterator[tuple[Path, str, str | None]]:
    info = _read_json(folder / "dataset_info.json") if "dataset_info.json" in names else {}
    for name in names:
        stem, suffix = Path(name).stem, Path(name).suffix
        if suffix not in (".parquet", ".arrow") or name.startswith(("cache-", "tmp", ".")):
            continue
        if (split := _split_of(stem)) is not None:
            config = parts
        elif parts and (split := _split_of(parts[-1])) is not None:
            config = parts[:-1]
        else:  # any folder can be the source's root: its name counts where it ends in nothing but a split
            word = root_name.rpartition("-")[2]
            split = word if any(word.lower() in words for words in _WORDS.values()) else "train"
            config = parts
        yield folder / name, split, info.get("config_name") or _config(config)


def _split_of(stem: str) -> str | None:
    """The split in a file's stem or a folder's name; None where it names none."""
    whole = _SHARD.sub("", stem)
    name = (whole if whole != stem else _NUMBER.sub("", stem)).rpartition("-")[2]  # split names hold no "-"
    if name.lower() in _GENERIC:
        return None
    return name if whole != stem or standard_split(name) in _WORDS else None


def _config(parts: tuple[str, ...]) -> str | None:
    return "/".join(part for part in parts if part not in _GENERIC) or None


def _saved_dataset(folder: Path, split: str | None, parts: tuple[str, ...]) -> Iterator[tuple[Path, str, str | None]]:
    """The files of a saved Dataset, as its state.json lists them. SourceError where one is missing."""
    state = _read_json(folder / "state.json")
    if state.get("_indices_data_files") or state.get("_indices_files"):
        hint = "Save it again after dataset.flatten_indices()"
        raise SourceError(str(folder), "the saved dataset selects rows through a list of indices", hint)
    for entry in state.get("_data_files", []):
        path = folder / entry["filename"]
        if not path.is_file():
            raise SourceError(str(folder), f"state.json names {path.name!r}, which is not there", "Copy it again")
        yield path, split or state.get("_split") or "train", _config(parts)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes())
    except ValueError as error:
        raise SourceError(str(path), f"is not JSON ({error})", "Copy it again") from error
    if not isinstance(value, dict):
        raise SourceError(str(path), f"is not a JSON object (found {type(value).__name__})", "Copy it again")
    return value
