"""Where the clips of UCF-101 are, and which split each belongs to. Two layouts exist in the wild.

    UCF101_subset/{train,val,test}/<Class>/*.avi          the recipe's subset: the folders are the splits
    UCF-101/<Class>/v_<Class>_g08_c01.avi                 official (or all clips flat in one folder), with
    ucfTrainTestlist/{classInd,trainlist0N,testlist0N}.txt  three alternative folds and no val split

The official val split is made of whole groups (clips of a group are cut from one video, so a split through a group
leaks): the groups with the highest numbers among those of the train list, for every class. File names are matched
without regard to case, as the release spells `HandstandPushups/v_HandStandPushups_*`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from phiv_schemas import SourceError, UsageError

SPLITS = ("train", "val", "test")
SUBSET_NAME, LISTS_NAME = "UCF101_subset", "ucfTrainTestlist"
OFFICIAL_NAMES = ("UCF-101", "UCF101", "UCF_101")
GROUP = re.compile(r"_g(\d+)_c\d+$", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Ucf101Layout:
    """A recognised source. `lists` and `fold` are set for the official layout."""

    kind: Literal["subset", "official"]
    clips: Path
    classes: tuple[str, ...]
    description: str
    lists: Path | None = None
    fold: int | None = None
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Clip:
    """One clip. `key` names it in rejects; the clips of a split are sorted by it."""

    split: str
    label: str
    key: str
    path: Path


@dataclass(frozen=True, slots=True)
class ClipListing:
    """The clips to convert, entries of the lists without a file, and warnings for the user."""

    clips: tuple[Clip, ...]
    absent: tuple[str, ...]
    warnings: tuple[str, ...]


def find_layout(root: Path, fold: int | None, name: str) -> Ucf101Layout:
    """The layout of `root`, or of the one folder in it; errors call it `name`.

    The official layout wins where both are there. SourceError where none is.
    """
    inner = [Path(entry.path) for entry in _scan(root) if entry.is_dir()]
    for folder in (root, *(inner if len(inner) == 1 else ())):  # archives are often packed with one folder around them
        official = _find_official(folder)
        bases = [base for base in (folder, folder / SUBSET_NAME) if (base / "train").is_dir()]
        subset = next((base for base in bases if (base / "val").is_dir() or (base / "test").is_dir()), None)
        if official or subset:
            break
    if official is not None:
        return _official_layout(*official, fold or 1, also_subset=subset is not None)
    if subset is None:
        found = ", ".join(sorted(path.name for path in root.iterdir())[:8]) or "nothing"
        raise SourceError(
            name,
            f"neither UCF101_subset/{{train,val,test}} nor UCF-101/ with {LISTS_NAME}/ (found: {found})",
            "Pass the folder that holds one of them; the official lists come in their own archive",
        )
    if fold is not None:
        raise UsageError("--fold", f"the subset layout has its own splits (found {subset.name}/train)", "Leave it out")
    classes = {path.parent.name for split in SPLITS for path in _in_class_folders(subset / split) if _is_avi(path)}
    description = f"subset layout: {subset.name if subset.name == SUBSET_NAME else 'folder'} with train/, val/, test/"
    others = [entry.name for entry in _scan(subset) if entry.is_dir() and entry.name not in SPLITS]
    warnings = (f"folders that are no split were left alone: {', '.join(others)}",) if others else ()
    return Ucf101Layout("subset", subset, tuple(sorted(classes)), description, warnings=warnings)


def list_clips(layout: Ucf101Layout, val_groups: int, classes: set[str]) -> ClipListing:
    """Every clip of `classes`, in no particular order."""
    listing = _list_subset(layout) if layout.kind == "subset" else _list_official(layout, val_groups)
    clips = tuple(clip for clip in listing.clips if clip.label in classes)
    absent = tuple(entry for entry in listing.absent if entry.split("/")[0] in classes)
    return ClipListing(clips, absent, layout.warnings + listing.warnings)


# The subset ------------------------------------------------------------------------------------------------------


def _list_subset(layout: Ucf101Layout) -> ClipListing:
    clips: list[Clip] = []
    others = 0
    for split in SPLITS:
        others += sum(1 for entry in _scan(layout.clips / split) if not entry.is_dir())
        for path in _in_class_folders(layout.clips / split):
            if _is_avi(path):
                clips.append(Clip(split, path.parent.name, path.relative_to(layout.clips).as_posix(), path))
            else:
                others += 1
    warnings = (f"{others} files or folders that are not <Class>/*.avi were left alone",) if others else ()
    return ClipListing(tuple(clips), (), warnings)


def _in_class_folders(folder: Path) -> Iterator[Path]:
    """Everything in the folders of `folder`. An unreadable one is an error, where `glob` would leave it out."""
    for entry in _scan(folder):
        if entry.is_dir():
            yield from (Path(inner.path) for inner in _scan(Path(entry.path)))


def _scan(folder: Path) -> list[os.DirEntry[str]]:
    """The entries of a folder that are not hidden, by name; none where there is no such folder."""
    if not folder.is_dir():
        return []
    with os.scandir(folder) as entries:
        return sorted((e for e in entries if not e.name.startswith(".")), key=lambda entry: entry.name)


def _is_avi(path: Path) -> bool:
    return path.suffix.lower() == ".avi"


# The official release --------------------------------------------------------------------------------------------


def _find_official(root: Path) -> tuple[Path, Path] | None:
    """(folder of the clips, folder of the lists), for the release's folder or the clips' own."""
    for base, names in ((root, OFFICIAL_NAMES), (root.resolve().parent, (root.resolve().name,))):
        lists = base / LISTS_NAME
        for name in names:
            if (base / name).is_dir() and (lists / "classInd.txt").is_file() and name != SUBSET_NAME:
                return base / name, lists
    return None


def _official_layout(clips: Path, lists: Path, fold: int, *, also_subset: bool) -> Ucf101Layout:
    for name in (f"trainlist0{fold}.txt", f"testlist0{fold}.txt"):
        if not (lists / name).is_file():
            there = ", ".join(sorted(path.name for path in lists.iterdir()))
            raise SourceError(str(lists), f"no {name} for --fold {fold} (found: {there})")
    classes = tuple(sorted(_class_indices(lists)))
    warnings = (f"{SUBSET_NAME}/ is here too: pass that folder as --source to convert it",) if also_subset else ()
    description = f"official layout: {clips.name}/ with {LISTS_NAME}/, fold {fold}"
    return Ucf101Layout("official", clips, classes, description, lists, fold, warnings)


def _list_official(layout: Ucf101Layout, val_groups: int) -> ClipListing:
    assert layout.lists is not None
    files = _files_by_name(layout.clips)
    labels = _class_indices(layout.lists)
    train = list(_read_list(layout.lists / f"trainlist0{layout.fold}.txt", labels))
    test = list(_read_list(layout.lists / f"testlist0{layout.fold}.txt", labels))
    first: dict[str, _ListEntry] = {}
    for entry in (*train, *test):
        other = first.setdefault(entry.name.casefold(), entry)
        if other is not entry:
            raise SourceError(entry.line, f"{entry.name!r} is listed before, on {other.line}", "Fix the lists")
    groups = sorted({_group(entry.name) for entry in train})
    if val_groups and val_groups >= len(groups):
        raise UsageError("--val_groups", f"{val_groups} would leave nothing to train on (found {len(groups)} groups)")
    val = set(groups[len(groups) - val_groups :])
    split_of = [("val" if _group(entry.name) in val else "train", entry) for entry in train]
    clips: list[Clip] = []
    absent: list[str] = []
    for split, entry in [*split_of, *(("test", entry) for entry in test)]:
        path = files.pop(entry.name.casefold(), None)
        if path is None:
            absent.append(f"{entry.label}/{entry.name}")
        else:
            clips.append(Clip(split, entry.label, f"{entry.label}/{path.name}", path))
    unlisted = (f"{len(files)} clips are in no list of fold {layout.fold} and were left alone",) if files else ()
    return ClipListing(tuple(clips), tuple(absent), unlisted)


@dataclass(frozen=True, slots=True)
class _ListEntry:
    """A line of an official list; `line` is its file and number."""

    label: str
    name: str
    line: str


def _read_list(path: Path, labels: dict[str, int]) -> Iterator[_ListEntry]:
    """Entries of a train list (`Class/file.avi 1`) or a test list (`Class/file.avi`); CRLF and blanks are common."""
    by_name = {label.casefold(): label for label in labels}
    for number, line in _lines(path):
        words = line.split()
        folder, _, name = words[0].rpartition("/")
        label = by_name.get(folder.casefold())
        if label is None:
            raise SourceError(f"{path.name}:{number}", f"class {folder!r} is not in classInd.txt")
        if len(words) > 1 and words[1] != str(labels[label]):
            raise SourceError(
                f"{path.name}:{number}", f"{folder} has index {words[1]}, in classInd.txt {labels[label]}"
            )
        yield _ListEntry(label, name, f"{path.name}:{number}")


def _class_indices(lists: Path) -> dict[str, int]:
    """`classInd.txt`: a 1-based index and a name per line."""
    indices: dict[str, int] = {}
    for number, line in _lines(lists / "classInd.txt"):
        words = line.split()
        if len(words) != 2 or not words[0].isdigit():
            raise SourceError(f"classInd.txt:{number}", f"not 'index name' (found {line!r})")
        indices[words[1]] = int(words[0])
    return indices


def _lines(path: Path) -> Iterable[tuple[int, str]]:
    lines = enumerate(path.read_text(encoding="utf-8-sig", errors="replace").splitlines(), 1)
    return ((number, line.strip()) for number, line in lines if line.strip())


def _files_by_name(folder: Path) -> dict[str, Path]:
    """Clips by casefolded file name, in class folders or flat."""
    files: dict[str, Path] = {}
    flat = (Path(entry.path) for entry in _scan(folder) if not entry.is_dir())
    for path in sorted(p for p in (*flat, *_in_class_folders(folder)) if _is_avi(p)):
        first = files.setdefault(path.name.casefold(), path)
        if first != path:
            raise SourceError(str(path), f"the same name is also at {str(first)!r}", "Keep one of them")
    return files


def _group(name: str) -> int:
    match = GROUP.search(Path(name).stem)
    if match is None:
        raise SourceError(name, "no group number in the file name (expected v_<Class>_g<NN>_c<NN>.avi)")
    return int(match.group(1))
