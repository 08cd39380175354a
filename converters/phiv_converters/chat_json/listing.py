"""The inputs of other tools' JSON: every row of every file, in flat memory, and what is left out of the rows."""

from __future__ import annotations

import os
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from phiv_converters.chat_json.files import ChatFile, row_key
from phiv_data.convert.base import Item
from phiv_data.formats import ParsedRow
from phiv_data.formats.text import MARKER
from phiv_data.sources.json_stream import JsonRow


@dataclass(slots=True)
class ChatRows:
    """Where the rows of all files are: 36 bytes of memory per row, and the paths of its images."""

    files: tuple[ChatFile, ...]
    file: array[int] = field(default_factory=lambda: array("I"))
    number: array[int] = field(default_factory=lambda: array("I"))
    offset: array[int] = field(default_factory=lambda: array("Q"))
    length: array[int] = field(default_factory=lambda: array("I"))
    path_end: array[int] = field(default_factory=lambda: array("Q"))
    paths: bytearray = field(default_factory=bytearray)

    def __len__(self) -> int:
        return len(self.file)

    def add(self, file: int, number: int, row: JsonRow, images: Iterable[Path]) -> None:
        """Add row `number` of `files[file]`, with the files of its images."""
        self.paths += b"".join(os.fsencode(path) + b"\0" for path in images)
        self.file.append(file)
        self.number.append(number)
        self.offset.append(row.offset)
        self.length.append(row.length)
        self.path_end.append(len(self.paths))

    def items(self) -> Iterator[Item]:
        """The inputs, each made when it is asked for. Their content is the file of rows and those of their images."""
        start = 0
        columns = zip(self.file, self.number, self.offset, self.length, self.path_end, strict=True)
        for i, number, offset, length, end in columns:
            file = self.files[i]
            images = [Path(os.fsdecode(path)) for path in bytes(self.paths[start:end]).split(b"\0")[:-1]]
            content: tuple[bytes | Path, ...] = (file.sha256.encode(), *images)
            yield Item(file.split, row_key(file, number), content, (i, offset, length), None if images else length)
            start = end


@dataclass(slots=True)
class IgnoredContent:
    """What is left out of rows that are used, counted."""

    keeps_ids: bool
    unread: Counter[str] = field(default_factory=Counter)
    num_with_id: int = 0
    num_with_marker: int = 0

    def add(self, row: ParsedRow) -> None:
        """Count what a row contains that the record will not."""
        self.unread.update(row.unread)
        self.num_with_id += row.id is not None
        self.num_with_marker += not row.image_refs and any(MARKER in turn.user for turn in row.turns)

    def warnings(self) -> tuple[str, ...]:
        """One line for each kind."""
        lines = [f"{count} rows have {key!r}, which is left out" for key, count in sorted(self.unread.items())]
        if self.num_with_id and not self.keeps_ids:
            lines.append(f"{self.num_with_id} rows have an id, which is left out (--keep_ids keeps it)")
        if self.num_with_marker:
            lines.append(f"{self.num_with_marker} rows without images have {MARKER} in their text: it is kept as text")
        return tuple(lines)
