"""Your own data: jsonl files in phiv's format and their images become a checked dataset with shards.

    phiv-convert jsonl --source my_train.jsonl --out_dir out            one split; images in images/ beside it
    phiv-convert jsonl --source data/ --images /photos --out_dir out    data/train.jsonl, data/my_val.jsonl, ...
    phiv-convert jsonl --source my.jsonl --val_fraction 0.1 --out_dir out

Rows keep their order and their ids; `id` and `source` may be left out. A row given twice (same id, same content) is
written once; a line that breaks the format is rejected with its number and JSON path. `docs/own_data.md` explains.
"""

from __future__ import annotations

import hashlib
import json
import re
from array import array
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import accumulate, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from phiv_data.convert.base import Converter, ConverterOptions
from phiv_schemas.errors import SourceError, UsageError

if TYPE_CHECKING:
    from phiv_data.convert.base import Duplicate, Inputs, Item
    from phiv_data.storage.sample import Draft, EncodedImage
    from phiv_data.utils.seen_index import SeenIndex
    from phiv_schemas import Conversation, Issue

_ORDER = ("train", "val", "valid", "validation", "dev", "test")
_SPLIT = re.compile(rf"(?:(?P<name>.*)[_-])?(?P<split>(?:{'|'.join(_ORDER)})\d*)")


@dataclass(frozen=True)
class JsonlOptions(ConverterOptions):
    """Your own jsonl files and images, in phiv's format, to a checked dataset with shards."""

    source: Path
    """A jsonl file, or a folder with {split}.jsonl or NAME_{split}.jsonl (train, val, test, ...)."""
    images: Path | None = None
    """Where the image paths of the rows start; the folder images/ beside the files when not given."""
    split: str | None = None
    """Split of a single file; by default what its name ends in (my_val.jsonl: val), else train."""
    val_fraction: float = 0.0
    """Move this share of train to val, chosen by a hash, so that it stays the same when rows are added; rows whose
    first image is the same stay together."""
    name: str | None = None
    """Name of the dataset: what its files are called, and the source of rows that name none. By default from the files'
    names."""

    def __post_init__(self) -> None:
        if not 0 <= self.val_fraction < 1:
            raise UsageError("--val_fraction", f"must be 0 or more and below 1 (found {self.val_fraction})")
        for flag, text in (("--name", self.name), ("--split", self.split)):
            if text is not None and not re.fullmatch(r"\w[\w.-]*", text):
                raise UsageError(flag, f"must be letters, digits, '_', '-' or '.' (found {text!r})")

    def identity(self) -> dict[str, Any] | None:
        """None: files can change, so they are read to see whether an output is theirs."""
        return None

    def open(self, scratch: Path) -> Jsonl:
        """Find the files and tell their splits."""
        from phiv_data.utils.atomic import sha256_file

        files = _find_files(self)
        folder = self.source if self.source.is_dir() else self.source.parent
        if self.images is not None and not self.images.is_dir():
            raise UsageError("--images", f"no such folder {str(self.images)!r}")
        if self.val_fraction and [file.split for file in files] != ["train"]:
            found = ", ".join(file.split for file in files)
            raise UsageError("--val_fraction", f"takes val from train, where there is no other split (found {found})")
        hashes = tuple(sha256_file(file.path) for file in files)
        return Jsonl(self, files, hashes, self.images or folder / "images", scratch, self.name or _common_name(files))


@dataclass(frozen=True, slots=True)
class File:
    """A jsonl file, the split it holds, and what its name says of the dataset's."""

    path: Path
    split: str
    name: str = ""


@dataclass(frozen=True)
class Jsonl(Converter):
    """The opened files: lists their rows and turns one into a draft."""

    options_: JsonlOptions
    files: tuple[File, ...]
    hashes: tuple[str, ...]
    images: Path
    scratch: Path
    name: str
    synthetic: bool = False

    @property
    def record_source(self) -> str:
        """The dataset's name, for rows that name no source."""
        return self.name

    @property
    def splits(self) -> tuple[str, ...]:
        """The files' splits, and val where a part of train becomes it."""
        return ("train", "val") if self.options_.val_fraction else tuple(file.split for file in self.files)

    def describe(self) -> str:
        """Which file is which split, and why."""
        found = ", ".join(f"{file.path.name} is {file.split}" for file in self.files)
        why = "as told by --split" if self.options_.split else "by name"
        part = f", {self.options_.val_fraction:g} of it val" if self.options_.val_fraction else ""
        return f"jsonl in phiv's format ({found}{part}, {why})"

    def options(self) -> dict[str, Any]:
        """The files' hashes, so that a changed row is seen, and what shapes the output."""
        files = {file.path.name: sha256 for file, sha256 in zip(self.files, self.hashes, strict=True)}
        return {
            "files": files,
            "name": self.name,
            "splits": list(self.splits),
            "val_fraction": self.options_.val_fraction,
        }

    def versions(self) -> dict[str, str]:
        """Pillow, which decides what a sound image is."""
        from importlib.metadata import version

        return {"pillow": version("pillow")}

    def inputs(self) -> Inputs:
        """Every line that is not blank, but for those given twice. 16 bytes of memory each."""
        from phiv_data.convert.base import Inputs
        from phiv_data.utils.seen_index import open_seen_index

        self.scratch.mkdir(parents=True, exist_ok=True)
        listing = Listing({split: Part(split, self.images) for split in self.splits})
        with open_seen_index(self.scratch / "ids.sqlite") as seen_index:
            for file in self.files:
                _list_file(file, self.options_.val_fraction, seen_index, listing)
        _check_any(self.name, listing)
        notices = (f"{listing.without_id} rows have no id and are given one",) if listing.without_id else ()
        parts = [part for part in listing.parts.values() if len(part.offsets)]
        return Inputs(Lines(parts), warnings=notices, duplicates=tuple(listing.duplicates))

    def draft(self, item: Item) -> Draft:
        """One line as it is, with its images."""
        from phiv_data.media.reject import RejectInput
        from phiv_data.storage.sample import Draft

        file, offset, length, number, clash = item.payload
        if clash:
            raise RejectInput(item.key, "duplicate-id", f"$.id: the id is that of another row, at {clash}")
        with self._path_of(file).open("rb") as opened:
            opened.seek(offset)
            raw = opened.read(length)
        record, row_id, source = _parse(raw, file, number, item.key)
        images = tuple(_image(self.images, path) for path in record.image_paths)
        return Draft(record.turns, images, system=record.system, source=source, id=row_id)

    def _path_of(self, name: str) -> Path:
        """The jsonl file called `name`."""
        return next(file.path for file in self.files if file.path.name == name)


# Files ------------------------------------------------------------------------------------------------------------


def _find_files(options: JsonlOptions) -> tuple[File, ...]:
    source = options.source
    if source.is_file():
        match = _SPLIT.fullmatch(source.stem)
        split = options.split or (match["split"] if match else "train")
        return (File(source, split, (match["name"] if match else source.stem) or ""),)
    if not source.is_dir():
        raise SourceError("--source", f"no such file or folder {str(source)!r}")
    if options.split is not None:
        raise UsageError("--split", "names the split of a single file, and --source is a folder", "Pass the file")
    from phiv_data.storage.dataset import NON_RECORD_FILES

    paths = [path for path in source.glob("*.jsonl") if path.is_file() and path.name not in NON_RECORD_FILES]
    files = sorted((_by_name(path) for path in sorted(paths)), key=_rank)
    if not files:
        raise SourceError("--source", f"no *.jsonl in {str(source)!r}", "Pass a jsonl file, or a folder of some")
    for a, b in pairwise(files):
        if a.split == b.split:
            what = f"{a.path.name!r} and {b.path.name!r} are both {a.split}"
            raise SourceError("--source", what, "Pass one file, or join them: rows of a split are one file")
    return tuple(files)


def _by_name(path: Path) -> File:
    match = _SPLIT.fullmatch(path.stem)
    if not match:
        what = f"the name of {path.name!r} does not end in a split ({', '.join(_ORDER)}, or one with a number)"
        raise SourceError("--source", what, "Rename it, or pass this file alone with --split")
    return File(path, match["split"], match["name"] or "")


def _rank(file: File) -> tuple[int, int, str]:
    word = file.split.rstrip("0123456789")
    return _ORDER.index(word), int(file.split[len(word) :] or 0), file.split


def _common_name(files: tuple[File, ...]) -> str:
    """What all files' names begin with, if it can be a name; else `own`."""
    names = {file.name for file in files}
    name = re.sub(r"[^\w.-]+", "_", names.pop()).strip("_.-") if len(names) == 1 else ""
    return name or "own"


# Lines ------------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Part:
    """Where the lines of a split are: one entry per row in each array."""

    split: str
    images: Path
    path: Path = Path()
    offsets: array[int] = field(default_factory=lambda: array("Q"))
    lengths: array[int] = field(default_factory=lambda: array("I"))
    numbers: array[int] = field(default_factory=lambda: array("I"))  # of lines, from 1
    objects: int = 0  # rows that are objects with conversations, good or bad
    clashes: dict[int, str] = field(default_factory=dict)  # line number to the place of the row that has its id

    def items(self, rows: range) -> Iterator[Item]:
        """The inputs at `rows`, each read again: its content are its bytes and the files of its images."""
        from phiv_data.convert.base import Item

        with self.path.open("rb") as file:
            for i in rows:
                number, length = self.numbers[i], self.lengths[i]
                file.seek(self.offsets[i])
                raw = file.read(length)
                payload = (self.path.name, self.offsets[i], length, number, self.clashes.get(number))
                content: list[bytes | Path] = [hashlib.sha256(raw).digest()]
                content += [self.images / name for name in _image_names(raw)]
                yield Item(self.split, f"{self.path.name}:{number:08d}", tuple(content), payload, length)


@dataclass(slots=True)
class Listing:
    """What a pass over the files finds."""

    parts: dict[str, Part]
    duplicates: list[Duplicate] = field(default_factory=list)
    without_id: int = 0


class Lines(Sequence["Item"]):
    """The rows of all splits as inputs, each made when it is asked for."""

    def __init__(self, parts: list[Part]) -> None:
        self._parts, self._starts = parts, [0, *accumulate(len(part.offsets) for part in parts)]

    def __len__(self) -> int:
        return self._starts[-1]

    @overload
    def __getitem__(self, index: int) -> Item: ...
    @overload
    def __getitem__(self, index: slice) -> list[Item]: ...
    def __getitem__(self, index: int | slice) -> Item | list[Item]:
        if isinstance(index, slice):
            return [self[i] for i in range(len(self))[index]]
        row = range(len(self))[index]
        part = bisect_right(self._starts, row) - 1
        first = row - self._starts[part]
        return next(self._parts[part].items(range(first, first + 1)))

    def __iter__(self) -> Iterator[Item]:
        for part in self._parts:
            yield from part.items(range(len(part.offsets)))


def _check_any(name: str, listing: Listing) -> None:
    """SourceError for a source of another kind, rather than a reject per line."""
    if any(part.offsets for part in listing.parts.values()) and not any(p.objects for p in listing.parts.values()):
        hint = "Pass JSON lines of phiv's format, or use llava, sharegpt, swift or trl for theirs"
        raise SourceError(name, "no line of the source is a record with conversations", hint)


def _list_file(file: File, val_fraction: float, seen_index: SeenIndex, listing: Listing) -> None:
    from phiv_data.convert.base import Duplicate
    from phiv_data.sources.json_stream import read_json_lines

    for row in read_json_lines(file.path):
        row_id, digest, group = _look(row.value)
        place = f"{file.path.name}:{row.line:08d}"
        before = seen_index.register(row_id, digest, place) if row_id is not None else None
        if before is not None and before[0] == digest:
            listing.duplicates.append(Duplicate(before[1], place))
            continue
        listing.without_id += isinstance(row.value, dict) and "id" not in row.value
        part = listing.parts["val" if _share(group) < val_fraction else file.split]
        part.path = file.path
        part.objects += isinstance(row.value, dict) and "conversations" in row.value
        part.offsets.append(row.offset)
        part.lengths.append(row.length)
        part.numbers.append(row.line)
        if before is not None:
            part.clashes[row.line] = before[1]


def _look(value: Any) -> tuple[str | None, str, str]:
    """(id, hash of the content, what keeps rows in one split) of a line; what is wrong with it, `draft` tells."""
    text = json.dumps(value, sort_keys=True)
    row_id = value.get("id") if isinstance(value, dict) else None
    if not isinstance(row_id, str) or any("\ud800" <= c <= "\udfff" for c in row_id):
        row_id = None
    try:
        group = str(value["conversations"][0]["images"][0])
    except (LookupError, TypeError):
        group = row_id or text
    return row_id, hashlib.sha256(text.encode()).hexdigest(), group


def _image_names(raw: bytes) -> list[str]:
    """The images that a row names, as far as it can be read."""
    try:
        turns = json.loads(raw)["conversations"]
        return [name for turn in turns for name in turn["images"] if isinstance(name, str)]
    except (ValueError, LookupError, TypeError):
        return []


def _share(group: str) -> float:
    """A number in [0, 1) that depends on `group` alone."""
    digest = hashlib.sha256(group.encode("utf-8", "surrogatepass")).digest()
    return (int.from_bytes(digest[:8], "big") >> 11) / 2**53


# Rows -------------------------------------------------------------------------------------------------------------


def _parse(raw: bytes, file: str, number: int, where: str) -> tuple[Conversation, str | None, str | None]:
    """(record, its id, its source), None where the line has none. RejectInput `bad-row` with the JSON path."""
    from phiv_data.media.reject import RejectInput
    from phiv_data.storage.jsonl import parse_line

    line = parse_line(raw, file, number)
    if (record := line.conversation) is not None:
        return record, record.id, record.source
    if issues := [issue for issue in line.issues if not _may_be_left_out(issue)]:
        first, more = issues[0], f" (and {len(issues) - 1} more in this row)" if len(issues) > 1 else ""
        path = f"{first.json_path}: " if first.json_path else ""
        raise RejectInput(where, "bad-row", f"{path}{first.message}{more}" + (f". {first.hint}" if first.hint else ""))
    from phiv_schemas import Conversation

    value = json.loads(raw)
    record = Conversation.model_validate({"id": "none", "source": "none", **value})
    return record, value.get("id"), value.get("source")


def _may_be_left_out(issue: Issue) -> bool:
    return issue.json_path in ("$.id", "$.source") and issue.message.startswith("required key is missing")


@lru_cache(maxsize=8)  # rows that ask about one page stand side by side
def _image(root: Path, path: str) -> EncodedImage:
    """The image as its file holds it, decoded once to see that it is whole. RejectInput that names it."""
    from phiv_data.media.reject import RejectInput
    from phiv_data.sources.image_index import checked_image, read_image

    file, shown = root / path, f"{path!r} below {root.name}/"
    if not file.exists():
        raise RejectInput(path, "missing-image", f"no file {shown}")
    try:
        return checked_image(path, read_image(file, path), path, source=path)
    except RejectInput as reject:
        raise RejectInput(path, reject.code, f"{shown}: {reject.reason}") from reject
