"""What the files of a folder are: each image or clip with its class and split, by its folders or by lists of labels."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path, PurePosixPath

from phiv_converters.examples import text_of_cell
from phiv_converters.table.files import KINDS, LFS_POINTER, Row, RowFile, is_pointer, read
from phiv_data.formats.recognise import CLIP_SUFFIXES, IMAGE_SUFFIXES
from phiv_data.sources.folders import walk
from phiv_data.sources.hf_layout import split_word, standard_split
from phiv_data.sources.hf_tables import find_tables
from phiv_data.utils.atomic import environment_problems
from phiv_data.utils.lines import numbered_lines
from phiv_schemas.errors import SourceError

FILE_COLUMNS = (
    "path",
    "file_name",
    "filename",
    "file",
    "video",
    "clip",
    "image",
    "video_path",
    "youtube_id",
    "id",
    "name",
)
LABEL_COLUMNS = ("template", "label", "class", "class_name", "category", "action")


@dataclass(frozen=True, slots=True)
class Media:
    """An image or a clip: its path, its name below the source, its class and split ("" where none is named)."""

    path: Path
    name: str
    label: str
    split: str

    @property
    def is_clip(self) -> bool:
        """True for a video file."""
        return _suffix(self.name) in CLIP_SUFFIXES


@dataclass(frozen=True, slots=True)
class FolderListing:
    """All media that have a class, in the order of their names (of lists: in theirs), and what was left alone."""

    media: tuple[Media, ...]
    why: str
    warnings: tuple[str, ...] = ()
    absent: int = 0


def list_folders(root: Path) -> FolderListing:
    """Files by the folder that holds them. SourceError where no file is in a class's folder."""
    names, others = list_media(root)
    tops = {name.split("/")[0] for name in names if "/" in name}
    words = [split_word(top) for top in tops]
    is_deep = all(name.count("/") >= 2 for name in names)  # below a folder called train, there are folders of classes
    has_splits = bool(tops) and (all(words) or (is_deep and any(word and word[0] == "train" for word in words)))
    media, unclassed = [], []
    for name in names:
        parts = name.split("/")[:-1]
        split = standard_split(parts[0]) if has_splits and parts else ""
        classes = parts[1:] if has_splits else parts
        if classes:
            media.append(Media(root / name, name, classes[-1], split))
        else:
            unclassed.append(name)
    if not media:
        found = f"{len(unclassed)} files and no folder of a class" if unclassed else "no images or clips"
        raise SourceError(str(root), f"holds {found}", "Put them into a folder for each class, or pass --labels")
    warnings = [count_names("files in no folder of a class are left alone", unclassed)] if unclassed else []
    depths = Counter(name.count("/") for name in names if name not in unclassed)
    if len(depths) > 1:
        deep = next(one.name for one in media if one.name.count("/") == max(depths))
        warnings.append(f"files lie at {len(depths)} depths: a class is the folder that holds the file ({deep})")
    filled = {folder for name in (*names, *others) for folder in accumulate(name.split("/")[:-1], "{}/{}".format)}
    if empty := sorted({path.relative_to(root).as_posix() for path, _ in walk(root) if path != root} - filled):
        warnings.append(count_names("folders without a file give no class", empty))
    if others:
        warnings.append(count_names("files that are neither images nor clips are left alone", others))
    return FolderListing(
        tuple(media), "splits and classes by folder" if has_splits else "classes by folder", tuple(warnings)
    )


def list_labelled(root: Path, lists: Sequence[Path]) -> FolderListing:
    """Files by lists of labels. Entries without a file are counted as absent, files without an entry named."""
    names, _ = list_media(root)
    by_alias: dict[str, dict[int, list[str]]] = {}
    for name in names:
        for rank, alias in enumerate(_aliases(name)):
            by_alias.setdefault(alias, {}).setdefault(rank, []).append(name)
    media, absent, again = list[Media](), list[str](), list[str]()
    listed: dict[tuple[str, str], tuple[str, str]] = {}  # (file, split) to (label, place)
    for path in lists:
        if not path.is_file():
            raise SourceError("--labels", f"no such file {str(path)!r}", "Check the path")
        if is_pointer(path):
            raise SourceError(str(path), *LFS_POINTER)
        word = split_word(path.stem)
        of_list = word[0] if word else ""
        for number, entry, label, split in _entries(path):
            ranked = next((by_alias[alias] for alias in (entry, *_aliases(entry)) if alias in by_alias), {})
            found = ranked[min(ranked)] if ranked else []  # of a path before names, of those before parts of them
            if len(found) > 1:
                what = f"{entry!r} could be {len(found)} files ({', '.join(map(repr, found[:2]))})"
                raise SourceError(f"{path}:{number}", what, "Name it with its folder")
            if not found:
                absent.append(entry)
                continue
            split = split or of_list
            first, place = listed.setdefault((found[0], split), (label, f"{path}:{number}"))
            if place != f"{path}:{number}":
                if first != label:
                    raise SourceError(
                        f"{path}:{number}", f"{entry!r} is {label!r} here and {first!r} at {place}", "Keep one"
                    )
                again.append(entry)
                continue
            media.append(Media(root / found[0], found[0], label, split))
    if not media:
        what = f"none of its {len(absent)} entries has a file" if absent else "has no entries"
        raise SourceError(str(lists[0]), what, "Pass the folder of the files as --source")
    warnings = (
        [count_names("files in no list are left alone", unlisted)]
        if (unlisted := sorted({*names} - {name for name, _ in listed}))
        else []
    )
    warnings += [count_names("entries of the lists that are there twice are read once", again)] if again else []
    warnings += [count_names("entries of the lists without a file", absent)] if absent else []
    return FolderListing(
        tuple(media), f"classes by {', '.join(path.name for path in lists)}", tuple(warnings), len(absent)
    )


def list_media(root: Path) -> tuple[list[str], list[str]]:
    """(images and clips, other files) by their sorted names below `root`."""
    media, others = list[str](), list[str]()
    for folder, files in walk(root):
        for file in files:
            name = (folder / file.name).relative_to(root).as_posix()
            (media if _suffix(name) in {*IMAGE_SUFFIXES, *CLIP_SUFFIXES} else others).append(name)
    return sorted(media), sorted(others)


def _entries(path: Path) -> Iterator[tuple[int, str, str, str]]:
    """(line, file, label, split) of each entry of a list."""
    if path.suffix.lower() not in KINDS:
        with environment_problems(path), path.open("rb") as file:
            for number, _, raw in numbered_lines(file):
                line = raw.decode("utf-8", "surrogateescape").removeprefix("\ufeff").strip()
                name, _, text = line.rpartition("\t" if "\t" in line else " ")
                if not text.isascii() and any("\ud800" <= char <= "\udfff" for char in text):
                    raise SourceError(f"{path}:{number}", "its label is not UTF-8", "Save the list as UTF-8")
                if line and not name:
                    raise SourceError(f"{path}:{number}", "is no path, blank and label", "Write 'path label' a line")
                if line:
                    yield number, name.strip(), text, ""
        return
    kind = KINDS[path.suffix.lower()]
    table = next(iter(find_tables(path)), None) if kind == "table" else None
    for row in read(RowFile(path, path.name, kind, "", table)):
        where = f"{path}:{row.number}"
        if row.problem:
            raise SourceError(where, row.problem, "Fix the list")
        plain = {re.sub(r"[\s-]+", "_", name.strip().lower()): name for name in row.values}
        entry, label = (_cell(row, plain, columns, where) for columns in (FILE_COLUMNS, LABEL_COLUMNS))
        if entry is None or label is None:
            what = f"has no {'file' if entry is None else 'label'} (found {', '.join(row.values)[:200]})"
            raise SourceError(
                where, what, f"Name its column {' or '.join((FILE_COLUMNS if entry is None else LABEL_COLUMNS)[:3])}"
            )
        if "template" in plain:  # of Something-Something, whose classes are "Putting something", without brackets
            label = label.replace("[", "").replace("]", "")
        split = _cell(row, plain, ("split", "subset"), where) or ""
        yield row.number, entry, label, split and standard_split(split)


def _cell(row: Row, plain: Mapping[str, str], columns: Sequence[str], where: str) -> str | None:
    """The first of `columns` that the row has, as text."""
    name = next((plain[column] for column in columns if column in plain), None)
    return None if name is None else text_of_cell(row.values[name], repr(name), where)


def _aliases(name: str) -> tuple[str, str, str, str]:
    """What an entry of a list may call a file: its path, its name, that without the suffix, that of a Kinetics clip."""
    base = PurePosixPath(name.replace("\\", "/"))
    cut = re.sub(r"_\d{6}_\d{6}$", "", base.stem)
    return base.as_posix(), base.name, base.stem, cut


def _suffix(name: str) -> str:
    return name.rpartition(".")[2].lower()


def count_names(what: str, names: Sequence[str]) -> str:
    """How many names there are, and the first of them."""
    return f"{what}: {len(names)} (first: {names[0]!r})"
