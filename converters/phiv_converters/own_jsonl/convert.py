"""Your own data: jsonl files in phiv's format and their images become a checked dataset with shards.

    phiv-convert jsonl --source my_train.jsonl --out_dir out            one split; images in images/ beside it
    phiv-convert jsonl --source data/ --images /photos --out_dir out    data/train.jsonl, data/my_val.jsonl, ...
    phiv-convert jsonl --source my.jsonl --val_fraction 0.1 --out_dir out

Before, a line of `birds_train.jsonl`:

    {"conversations": [{"images": ["a/1.jpg"], "user": "Which bird is it?", "assistant": "A wren."}]}

After, a record:

    {"id": "train-0000000000", "source": "birds", "conversations": [{"images": ["a/1.jpg"],
      "user": "Which bird is it?", "assistant": "A wren."}]}

Rows keep their order and their ids; `id` and `source` may be left out. A row given twice (same id, same content) is
written once; a line that breaks the format is rejected with its number and JSON path. `docs/own_data.md` explains.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.metadata import version
from itertools import chain
from pathlib import Path
from typing import Any

from phiv_converters.base import file_stamp, refuse_exports
from phiv_converters.own_jsonl.files import SplitFile, find_split_files, is_split_name
from phiv_converters.own_jsonl.listing import JsonlListing, SplitLines, can_be_file
from phiv_converters.own_jsonl.options import JsonlOptions
from phiv_data.convert.base import Converter, Inputs, Item
from phiv_data.formats.detect import detect_format
from phiv_data.formats.files import explain_shape, shorten
from phiv_data.media.reject import RejectInput
from phiv_data.sources.image_index import checked_image, read_image
from phiv_data.sources.nearby import suggest_image
from phiv_data.storage.jsonl import parse_line
from phiv_data.storage.sample import Draft, EncodedImage
from phiv_data.utils.atomic import sha256_file
from phiv_data.utils.seen_index import open_seen_index
from phiv_schemas import Conversation
from phiv_schemas.errors import SourceError, UsageError


def open_jsonl(flags: JsonlOptions, work_dir: Path) -> Jsonl:
    """Find the files and their splits."""
    refuse_exports(flags.source)
    files = find_split_files(flags.source, flags.split)
    folder = flags.source if flags.source.is_dir() else flags.source.parent
    if flags.images is not None and not flags.images.is_dir():
        raise UsageError("--images", f"no such folder {str(flags.images)!r}")
    if (made := flags.shares.splits_made()) and [file.split for file in files] != ["train"]:
        found = ", ".join(file.split for file in files)
        what = f"takes {made[0]} from train, where there is no other split (found {found})"
        raise UsageError(f"--{made[0]}_fraction", what)
    hashes = tuple(sha256_file(file.path) for file in files)
    # What all files' names begin with, if it can be a name.
    names = {file.name for file in files}
    common = re.sub(r"[^\w.-]+", "_", names.pop()).strip("_.-") if len(names) == 1 else ""
    return Jsonl(flags, files, hashes, flags.images or folder / "images", work_dir, flags.name or common or "own")


@dataclass(frozen=True)
class Jsonl(Converter):
    """The opened files: lists their rows and turns one into a draft."""

    flags: JsonlOptions
    files: tuple[SplitFile, ...]
    hashes: tuple[str, ...]
    images: Path
    work_dir: Path
    name: str
    splits: tuple[str, ...] = field(init=False)
    """The files' splits, or train and what is made of it."""

    def __post_init__(self) -> None:
        made = self.flags.shares.splits_made()
        object.__setattr__(self, "splits", ("train", *made) if made else tuple(file.split for file in self.files))

    def describe(self) -> str:
        """Which file is which split, and why."""
        found = ", ".join(f"{file.path.name} is {file.split}" for file in self.files)
        is_named = len(self.files) > 1 or is_split_name(self.files[0].path.stem)
        why = "by --split" if self.flags.split else "by name" if is_named else "its name says no split"
        shares = self.flags.shares
        part = "".join(f", {getattr(shares, split):g} of it {split}" for split in shares.splits_made())
        return f"jsonl in phiv's format ({found}{part}, {why})"

    def options(self) -> dict[str, Any]:
        """The files' hashes, so that a changed row is noticed, and what affects the output."""
        return {
            "files": {file.path.name: sha256 for file, sha256 in zip(self.files, self.hashes, strict=True)},
            "name": self.name,
            "splits": list(self.splits),
        } | self.flags.split_options()

    def versions(self) -> dict[str, str]:
        """Pillow, which decides what a valid image is."""
        return {"pillow": version("pillow")}

    def inputs(self) -> Inputs:
        """Every line that is not blank, except those given twice."""
        self.work_dir.mkdir(parents=True, exist_ok=True)
        lines_of = {file.split: SplitLines(file.split, self.images, file.path) for file in self.files}
        listing = JsonlListing(lines_of, self.flags.shares)
        with open_seen_index(self.work_dir / "ids.sqlite") as seen_index:
            for file in self.files:
                listing.add_file(file, seen_index)
        splits = listing.splits.values()
        for lines in splits:
            lines.limits = self.flags.shares.limits(lines.positions)
        if any(lines.offsets for lines in splits) and not any(lines.num_records for lines in splits):
            raise self._no_records()
        missing_ids = listing.num_without_id
        warnings = (f"{missing_ids} rows have no id and are given one",) if missing_ids else ()
        items = chain.from_iterable(lines.items() for lines in splits)
        return Inputs(items, warnings=warnings, duplicates=tuple(listing.duplicates))

    def _no_records(self) -> SourceError:
        """The error of a source without any record: what it is instead."""
        path = self.files[0].path
        if problem := explain_shape(path):
            return SourceError(str(path), *problem)
        format = detect_format(path)
        hint = "Pass JSON lines of phiv's format, or use llava, sharegpt, swift or trl for theirs"
        if format not in (None, "phiv"):
            hint = f"Its rows read as {format} rows: use phiv-convert {format}"
        return SourceError(self.name, "no line of the source is a record with conversations", hint)

    def drafts_depend_on(self) -> object:
        """The folder of the images alone: lines are taken as they are."""
        return self.images

    def draft_depends_on(self, item: Item) -> object:
        """Whether another line has its id; not where the line is."""
        return item.payload[-1]

    def draft(self, item: Item) -> Draft:
        """One line as it is, with its images."""
        name, offset, length, number, clash = item.payload
        if clash:
            raise RejectInput(item.key, "duplicate-id", f"$.id: the id is that of another row, at {clash}")
        path = next(file.path for file in self.files if file.path.name == name)
        with path.open("rb") as file:
            file.seek(offset)
            raw = file.read(length)
        record, row_id, source = _parse(raw, name, number, item.key)
        for image in record.image_paths:
            if not can_be_file(image):
                what = f"no file {shorten(image)!r} below {self.images.name}/: no file can have this name"
                raise RejectInput(item.key, "missing-image", what)
        images = tuple(_load_image(self.images, path, file_stamp(self.images / path)) for path in record.image_paths)
        return Draft(record.turns, images, system=record.system, source=source, id=row_id)


def _parse(raw: bytes, file: str, number: int, where: str) -> tuple[Conversation, str | None, str | None]:
    """(record, its id, its source), None where the line has none. RejectInput `bad-row` with the JSON path."""
    line = parse_line(raw, file, number)
    if (record := line.conversation) is not None:
        return record, record.id, record.source
    may_be_left_out = ("$.id", "$.source")
    issues = [
        issue
        for issue in line.issues
        if issue.json_path not in may_be_left_out or not issue.message.startswith("required key is missing")
    ]
    if issues:
        first, more = issues[0], f" (and {len(issues) - 1} more in this row)" if len(issues) > 1 else ""
        path = f"{first.json_path}: " if first.json_path else ""
        raise RejectInput(where, "bad-row", f"{path}{first.message}{more}" + (f". {first.hint}" if first.hint else ""))
    value = json.loads(raw)
    record = Conversation.model_validate({"id": "none", "source": "none", **value})
    return record, value.get("id"), value.get("source")


@lru_cache(maxsize=8)  # rows that ask about one page are next to each other
def _load_image(root: Path, path: str, stamp: tuple[int, ...] | None) -> EncodedImage:
    """The image as its file holds it, decoded once to check that it is complete. RejectInput that names it.

    `stamp` (of `file_stamp`) makes a changed file be read again.
    """
    file, shown = root / path, f"{shorten(path)!r} below {root.absolute().name}/"
    if not file.exists():
        near = suggest_image(path, [root], "--images")
        raise RejectInput(path, "missing-image", f"no file {shown}{f'. {near}' if near else ''}")
    try:
        return checked_image(path, read_image(file, path), path, source=path)
    except RejectInput as reject:
        raise RejectInput(path, reject.code, f"{shown}: {reject.reason}") from reject
