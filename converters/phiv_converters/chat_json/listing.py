"""The inputs of other tools' JSON: every row of every file, in flat memory, and what is left out of the rows."""

from __future__ import annotations

import hashlib
import os
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from phiv_converters.base import DIGEST_BYTES, row_digest
from phiv_converters.chat_json.files import ChatFile, row_key
from phiv_data.convert.base import Item
from phiv_data.formats import ParsedRow
from phiv_data.formats.text import MARKER, media_markers
from phiv_data.sources.json_stream import JsonRow
from phiv_data.storage.record_errors import truncated_repr

MAX_KINDS = 20


@dataclass(slots=True)
class ChatRows:
    """Where the rows of all files are: 52 bytes of memory per row, and the paths of its images.

    A row's number is its line; in an array whose rows share lines, its place in the array, from 1.
    """

    files: tuple[ChatFile, ...]
    file: array[int] = field(default_factory=lambda: array("I"))
    line: array[int] = field(default_factory=lambda: array("I"))
    offset: array[int] = field(default_factory=lambda: array("Q"))
    length: array[int] = field(default_factory=lambda: array("I"))
    path_end: array[int] = field(default_factory=lambda: array("Q"))
    paths: bytearray = field(default_factory=bytearray)
    digests: bytearray = field(default_factory=bytearray)
    files_sharing_lines: set[int] = field(default_factory=set)

    def __len__(self) -> int:
        return len(self.file)

    def add(self, file: int, row: JsonRow, images: Iterable[Path]) -> None:
        """Add the next row of `files[file]`, with the files of its images."""
        if self.file and self.file[-1] == file and self.line[-1] == row.line:
            self.files_sharing_lines.add(file)
        self.paths += b"".join(os.fsencode(path) + b"\0" for path in images)
        self.digests += row_digest(row.value, row.problem)
        self.file.append(file)
        self.line.append(row.line)
        self.offset.append(row.offset)
        self.length.append(row.length)
        self.path_end.append(len(self.paths))

    def digest(self, place: int) -> bytes:
        """The digest of a row's values."""
        return bytes(self.digests[place * DIGEST_BYTES : (place + 1) * DIGEST_BYTES])

    def items(self, splits: Sequence[str] | None = None) -> Iterator[Item]:
        """The inputs, each made when it is asked for. Their content is the row and the files of its images.

        `splits` has that of each row; by default it is the file's.
        """
        start, counts = 0, Counter[int]()
        columns = zip(self.file, self.line, self.offset, self.length, self.path_end, strict=True)
        for place, (i, line, offset, length, end) in enumerate(columns):
            file = self.files[i]
            counts[i] += 1
            number = counts[i] if i in self.files_sharing_lines else line
            images = [Path(os.fsdecode(path)) for path in bytes(self.paths[start:end]).split(b"\0")[:-1]]
            content: tuple[bytes | Path, ...] = (self.digest(place), *images)
            split = splits[place] if splits else file.split
            yield Item(split, row_key(file, number), content, (i, offset, length), None if images else length)
            start = end


def shared_names(digest: bytes, refs: Iterable[str]) -> list[str]:
    """What a row has in common with others: its images' files, and images in the row; without any its digest."""
    names = [
        ref if len(ref) < 256 else hashlib.sha256(ref.encode("utf-8", "surrogatepass")).hexdigest()
        for ref in dict.fromkeys(refs)
    ]
    return names or [digest.hex()]


@dataclass(slots=True)
class IgnoredContent:
    """What is left out of rows that are used, counted."""

    keeps_ids: bool
    unread: Counter[str] = field(default_factory=Counter)
    num_with_id: int = 0
    markers: dict[bool, Counter[str]] = field(default_factory=lambda: {False: Counter(), True: Counter()})
    """Rows by the markers in their text, without images and beside some."""

    def add(self, row: ParsedRow) -> None:
        """Count what a row contains that the record will not."""
        self.unread.update(row.unread)
        self.num_with_id += row.id is not None
        texts = [text or "" for turn in row.turns for text in (turn.user, turn.assistant)]
        found = media_markers("\n".join([row.system or "", *texts]))
        if found:
            self.markers[bool(row.image_refs)].update(found)

    def warnings(self, format: str) -> Iterator[str]:
        """One line for each kind."""
        kinds = sorted(self.unread.items())
        yield from (f"{count} rows have {truncated_repr(key)}, which is left out" for key, count in kinds[:MAX_KINDS])
        if len(kinds) > MAX_KINDS:
            yield f"{len(kinds) - MAX_KINDS} more keys are left out"
        if self.num_with_id and not self.keeps_ids:
            yield f"{self.num_with_id} rows have an id, which is left out (--keep_ids keeps it)"
        for marker, count in self.markers[False].most_common(MAX_KINDS):
            yield f"{count} rows without images have {marker} in their text: it is kept as text"
        for marker, count in self.markers[True].most_common(MAX_KINDS):
            is_readable = "image" in marker.lower() and (marker != MARKER or format == "trl")
            hint = f". --marker {marker!r} reads it as the place of an image" if is_readable else ""
            yield f"{count} rows with images have {marker} in their text: it is kept as text{hint}"
