"""Where the clips of UCF-101 are, and which split each belongs to. Three layouts exist in the wild.

    UCF101_subset/{train,val,test}/<Class>/*.avi          the recipe's subset: the folders are the splits
    UCF-101/<Class>/v_<Class>_g08_c01.avi                 official (or all clips flat in one folder), with
    ucfTrainTestlist/{classInd,trainlist0N,testlist0N}.txt  three alternative folds and no val split
    <Class>/*.mp4                                         classes alone: UCF101.rar without its lists, own clips

Splits that a source does not have are made of whole groups (clips of a group are cut from one video, so a split through
a group leaks). The official val: the groups with the highest numbers among those of the train list, for every class. Of
other layouts val, and of classes alone test too: groups by a hash. Names of the official lists are matched without
regard to case and suffix, as the release spells `HandstandPushups/v_HandStandPushups_*`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from phiv_converters.base import hint_for_converted
from phiv_converters.val_split import NO_SHARES, Shares, val_limit
from phiv_data.sources.folders import entries
from phiv_data.sources.hf_layout import standard_split
from phiv_schemas import SourceError, UsageError

SPLITS = ("train", "val", "test")
SUBSET_NAME, LISTS_NAME, INDEX_NAME = "UCF101_subset", "ucfTrainTestlist", "classInd.txt"
OFFICIAL_NAMES = ("UCF-101", "UCF101", "UCF_101")
SUFFIXES = (".avi", ".mp4", ".mkv", ".webm", ".mov")
_OFFICIAL_CLIP = re.compile(r"v_(\w+)_g\d+_c\d+\.\w+$", re.IGNORECASE)
GROUP = re.compile(r"_g(\d+)_c\d+$", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Ucf101Layout:
    """A recognised source. `lists` and `fold` are set for the official layout, `folders` (by split) for the subset."""

    kind: Literal["subset", "official", "classes"]
    clips: Path
    classes: tuple[str, ...]
    description: str
    lists: Path | None = None
    fold: int | None = None
    folders: tuple[tuple[str, Path], ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def own_splits(self) -> tuple[str, ...]:
        """The splits that the source has itself."""
        if self.kind == "subset":
            return tuple(split for split, _ in self.folders)
        return SPLITS if self.kind == "official" else ("train",)

    @property
    def made_splits(self) -> tuple[str, ...]:
        """The splits that can be made of train."""
        if "val" in self.own_splits or "train" not in self.own_splits:
            return ()
        return tuple(split for split in ("val", "test") if split not in self.own_splits)

    def splits_made(self, shares: Shares) -> tuple[str, ...]:
        """The splits that are made of train: of class folders alone test too, as much as is val."""
        made = ("val", "test") if self.kind == "classes" and shares.val else shares.splits_made()
        return tuple(split for split in self.made_splits if split in made)


@dataclass(frozen=True, slots=True)
class Clip:
    """One clip. `key` names it in rejects; the clips of a split are sorted by it."""

    split: str
    label: str
    key: str
    path: Path

    @property
    def group(self) -> str:
        """The video that it is cut from, as far as its name says: class and group, else the clip itself."""
        match = GROUP.search(self.path.stem)
        return f"{self.label}/{self.path.stem[: match.end(1)] if match else self.path.stem}".casefold()


@dataclass(frozen=True, slots=True)
class ClipListing:
    """The clips to convert, entries of the lists without a file, and warnings for the user."""

    clips: tuple[Clip, ...]
    absent: tuple[str, ...]
    warnings: tuple[str, ...]


def find_layout(root: Path, fold: int | None, name: str) -> Ucf101Layout:
    """The layout of `root`, or of the one folder in it; errors call it `name`.

    Of several the official one, then the subset. SourceError where there is none.
    """
    inner = _folders(root)
    for folder in (root, *(inner if len(inner) == 1 else ())):  # archives are often packed with one folder around them
        subset = next((found for base in (folder, folder / SUBSET_NAME) if (found := _find_subset(base))), None)
        official = _find_official(folder, is_subset=subset is not None)
        if official and not (subset and not (official[1] / INDEX_NAME).is_file()):
            return _official_layout(*official, fold or 1, also_subset=subset is not None)
        if fold is not None and subset:
            raise UsageError("--fold", "the subset layout has its own splits (found train/)", "Leave it out")
        if subset:
            return subset
    for folder in (root, *(path for path in inner if path.name in OFFICIAL_NAMES or len(inner) == 1)):
        classes = [path for path in _folders(folder) if any(map(_is_clip, _files(path)))]
        if not classes or fold is not None:
            continue
        if len(classes) == 1:  # with official clips of other classes than its own name it is no class
            own = classes[0].name.casefold()
            named = (_OFFICIAL_CLIP.match(path.name) for path in _files(classes[0]))
            if any(match[1].casefold() != own for match in named if match):
                continue
        names = tuple(path.name for path in classes)
        return Ucf101Layout("classes", folder, names, "class folders, without lists of splits")
    there = ", ".join(entry.name for entry in entries(root)[:8]) or "nothing"
    raise SourceError(
        name,
        f"neither UCF101_subset/{{train,val,test}} nor UCF-101/ with {LISTS_NAME}/ nor folders of classes with clips "
        f"({', '.join(SUFFIXES)}) (found: {there})",
        hint_for_converted(root, name)
        or "Pass the folder that holds one; the official lists come in their own archive",
    )


def list_clips(layout: Ucf101Layout, val_groups: int, classes: set[str], shares: Shares = NO_SHARES) -> ClipListing:
    """Every clip of `classes`, in no particular order."""
    listing = _list_official(layout, val_groups) if layout.kind == "official" else _list_folders(layout)
    clips = tuple(clip for clip in listing.clips if clip.label in classes)
    absent = tuple(entry for entry in listing.absent if entry.split("/")[0] in classes)
    if layout.made_splits:  # whole groups of train
        shares.check_source(layout.own_splits)
        at = {clip.group: shares.position(clip.group) for clip in clips if clip.split == "train"}
        limits = shares.limits(at.values())
        clips = tuple(replace(c, split=limits.split_of(at[c.group])) if c.split == "train" else c for c in clips)
    if layout.kind == "classes" and not shares.test:  # as much as is val, by another hash
        at = {clip.group: shares.position(f"test:{clip.group}") for clip in clips if clip.split == "train"}
        limit = val_limit(at.values(), shares.val)
        clips = tuple(replace(c, split="test") if c.split == "train" and at[c.group] < limit else c for c in clips)
    return ClipListing(clips, absent, layout.warnings + listing.warnings)


# Folders of classes ----------------------------------------------------------------------------------------------


def _find_subset(base: Path) -> Ucf101Layout | None:
    """The layout with a folder for each of some splits, where one of them has clips in folders of classes."""
    folders: dict[str, Path] = {}
    others = []
    for path in sorted(_folders(base), key=lambda path: (path.name not in SPLITS, path.name)):
        split = standard_split(path.name)
        if split in SPLITS and split not in folders:
            folders[split] = path
        else:
            others.append(path.name)
    clips = (path for folder in folders.values() for path in _in_class_folders(folder) if _is_clip(path))
    classes = tuple(sorted({path.parent.name for path in clips}))
    if not classes:
        return None
    ordered = tuple((split, folders[split]) for split in SPLITS if split in folders)
    described = ", ".join(f"{path.name}/" for _, path in ordered)
    base_name = SUBSET_NAME if base.absolute().name == SUBSET_NAME else "folder"
    warnings = left_alone("folders that are no split", others)
    return Ucf101Layout(
        "subset", base, classes, f"subset layout: {base_name} with {described}", folders=ordered, warnings=warnings
    )


def _list_folders(layout: Ucf101Layout) -> ClipListing:
    clips: list[Clip] = []
    others: list[str] = []
    for split, folder in layout.folders or (("train", layout.clips),):
        for path in (*_files(folder), *_in_class_folders(folder)):
            key = path.relative_to(layout.clips).as_posix()
            if path.parent != folder and _is_clip(path):
                clips.append(Clip(split, path.parent.name, key, path))
            else:
                others.append(key)
    what = f"files or folders that are not <Class>/*{{{','.join(SUFFIXES)}}}"
    return ClipListing(tuple(clips), (), left_alone(what, others))


def left_alone(what: str, names: Iterable[str]) -> tuple[str, ...]:
    """A warning that counts what is not read and names the first of it; none where there is nothing."""
    found = sorted(names)
    shown = ", ".join(repr(name) for name in found[:3]) + (", ..." if len(found) > 3 else "")
    return (f"{what} were left alone ({len(found)}: {shown})",) if found else ()


def _in_class_folders(folder: Path) -> Iterator[Path]:
    """Everything in the folders of `folder`. An unreadable one is an error, where `glob` would leave it out."""
    for path in _folders(folder):
        yield from (path / entry.name for entry in entries(path))


def _folders(folder: Path) -> list[Path]:
    """The folders in a folder, by name; none where there is no such folder."""
    return [folder / entry.name for entry in entries(folder) if entry.is_dir()] if folder.is_dir() else []


def _files(folder: Path) -> list[Path]:
    """What is no folder in a folder, by name."""
    return [folder / entry.name for entry in entries(folder) if not entry.is_dir()]


def _is_clip(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES


# The official release --------------------------------------------------------------------------------------------


def _find_official(root: Path, *, is_subset: bool) -> tuple[Path, Path] | None:
    """(folder of the clips, folder of the lists), for the release's folder or the clips' own."""
    around = root.resolve()
    for base, names in ((root, OFFICIAL_NAMES), (around.parent, () if is_subset else (around.name,))):
        clips = next((base / name for name in names if (base / name).is_dir() and name != SUBSET_NAME), None)
        if clips is None:
            continue
        clips = next((clips / name for name in OFFICIAL_NAMES if (clips / name).is_dir()), clips)
        # The lists' own archive may be unpacked in a folder of its own.
        places = [base, *(_folders(base) if base == root else ())]
        lists = next((place / LISTS_NAME for place in places if (place / LISTS_NAME).is_dir()), None)
        if lists is not None:
            return clips, lists
    return None


def _official_layout(clips: Path, lists: Path, fold: int, *, also_subset: bool) -> Ucf101Layout:
    for name in (INDEX_NAME, f"trainlist0{fold}.txt", f"testlist0{fold}.txt"):
        if not (lists / name).is_file():
            found = ", ".join(entry.name for entry in entries(lists)) or "nothing"
            of_fold = "" if name == INDEX_NAME else f" for --fold {fold}"
            hint = "Unpack the archive of the official lists again, whole"
            raise SourceError(str(lists), f"no {name}{of_fold} (found: {found})", hint)
    classes = tuple(sorted(_class_indices(lists)))
    warnings = (f"{SUBSET_NAME}/ is here too: pass that folder as --source to convert it",) if also_subset else ()
    description = f"official layout: {clips.absolute().name}/ with {LISTS_NAME}/, fold {fold}"
    return Ucf101Layout("official", clips, classes, description, lists, fold, warnings=warnings)


def _list_official(layout: Ucf101Layout, val_groups: int) -> ClipListing:
    assert layout.lists is not None
    files: dict[str, Path] = {}  # by casefolded file name without its suffix, in class folders or flat
    for path in sorted(p for p in (*_files(layout.clips), *_in_class_folders(layout.clips)) if _is_clip(p)):
        same = files.setdefault(path.stem.casefold(), path)
        if same != path:
            raise SourceError(str(path), f"the same name is also at {str(same)!r}", "Keep one of them")
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
        found = files.pop(Path(entry.name).stem.casefold(), None)
        if found is None:
            absent.append(f"{entry.label}/{entry.name}")
        else:
            clips.append(Clip(split, entry.label, f"{entry.label}/{found.name}", found))
    unlisted = left_alone(f"clips in no list of fold {layout.fold}", (path.name for path in files.values()))
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
    for number, line in _lines(lists / INDEX_NAME):
        words = line.split()
        if len(words) != 2 or not words[0].isdigit():
            raise SourceError(f"classInd.txt:{number}", f"not 'index name' (found {line!r})")
        indices[words[1]] = int(words[0])
    return indices


def _lines(path: Path) -> Iterable[tuple[int, str]]:
    lines = enumerate(path.read_text(encoding="utf-8-sig", errors="replace").splitlines(), 1)
    return ((number, line.strip()) for number, line in lines if line.strip())


def _group(name: str) -> int:
    match = GROUP.search(Path(name).stem)
    if match is None:
        raise SourceError(name, "no group number in the file name (expected v_<Class>_g<NN>_c<NN>.avi)")
    return int(match.group(1))
