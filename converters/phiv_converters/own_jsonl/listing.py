"""The inputs of own jsonl files: every line that is not blank, each row once, in flat memory."""

from __future__ import annotations

import hashlib
import json
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from phiv_converters.own_jsonl.files import SplitFile
from phiv_converters.val_split import Shares, SplitLimits
from phiv_data.convert.base import Duplicate, Item
from phiv_data.sources.json_stream import read_json_lines
from phiv_data.utils.seen_index import SeenIndex


def can_be_file(name: str) -> bool:
    """False for a path that no file can have: parts of over 255 bytes, zero bytes, half a surrogate pair."""
    try:
        parts = name.encode().split(b"/")
    except UnicodeEncodeError:
        return False
    return max(map(len, parts)) <= 255 and len(name) <= 1000 and "\0" not in name


@dataclass(slots=True)
class SplitLines:
    """Where the lines of a file are: 24 bytes of memory per row. Rows of train have their split by `limits`."""

    split: str
    images: Path
    path: Path
    offsets: array[int] = field(default_factory=lambda: array("Q"))
    lengths: array[int] = field(default_factory=lambda: array("I"))
    numbers: array[int] = field(default_factory=lambda: array("I"))  # of lines, from 1
    positions: array[float] = field(default_factory=lambda: array("d"))  # of the groups of rows, in 0..1
    limits: SplitLimits = SplitLimits()  # noqa: RUF009  # a tuple
    num_records: int = 0  # rows that are objects with conversations, good or bad
    clashes: dict[int, str] = field(default_factory=dict)  # line number to the location of the row that has its id

    def items(self) -> Iterator[Item]:
        """The inputs, each read again: their content is their bytes and the files of their images."""
        if not self.offsets:
            return
        with self.path.open("rb") as file:
            columns = zip(self.offsets, self.lengths, self.numbers, self.positions, strict=True)
            for offset, length, number, position in columns:
                file.seek(offset)
                raw = file.read(length)
                try:
                    turns = json.loads(raw)["conversations"]
                    names = [name for turn in turns for name in turn["images"] if isinstance(name, str)]
                    images = [self.images / name for name in names if can_be_file(name)]
                except (ValueError, LookupError, TypeError):  # as far as the row can be read
                    images = []
                content: tuple[bytes | Path, ...] = (hashlib.sha256(raw).digest(), *images)
                payload = (self.path.name, offset, length, number, self.clashes.get(number))
                split = self.limits.split_of(position) if self.split == "train" else self.split
                yield Item(split, f"{self.path.name}:{number}", content, payload, length)


@dataclass(slots=True)
class JsonlListing:
    """What a pass over the files finds."""

    splits: dict[str, SplitLines]
    shares: Shares
    duplicates: list[Duplicate] = field(default_factory=list)
    num_without_id: int = 0

    def add_file(self, file: SplitFile, seen_index: SeenIndex) -> None:
        """Add every line of a file, except those given twice."""
        for row in read_json_lines(file.path):
            text = json.dumps(row.value, sort_keys=True)
            digest = hashlib.sha256(text.encode()).hexdigest()
            row_id = row.value.get("id") if isinstance(row.value, dict) else None
            if not isinstance(row_id, str) or any("\ud800" <= c <= "\udfff" for c in row_id):
                row_id = None  # `draft` rejects what is wrong with it
            try:
                group = str(row.value["conversations"][0]["images"][0])  # what keeps rows in one split
            except (LookupError, TypeError):
                group = row_id or text
            location = f"{file.path.name}:{row.line}"
            before = seen_index.register(row_id, digest, location) if row_id is not None else None
            if before is not None and before[0] == digest:
                self.duplicates.append(Duplicate(before[1], location))
                continue
            self.num_without_id += isinstance(row.value, dict) and "id" not in row.value
            lines = self.splits[file.split]
            lines.num_records += isinstance(row.value, dict) and "conversations" in row.value
            lines.offsets.append(row.offset)
            lines.lengths.append(row.length)
            lines.numbers.append(row.line)
            lines.positions.append(self.shares.position(group))
            if before is not None:
                lines.clashes[row.line] = before[1]
