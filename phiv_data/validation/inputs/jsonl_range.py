"""Lines of a jsonl file as a piece of work: a byte range that begins and ends at line ends.

for piece in split_jsonl(path, "val.jsonl", "val", piece_bytes=2**22):
    piece.start, piece.end, piece.first_line
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path

from phiv_data.storage.jsonl import Line, parse_line, read_range
from phiv_data.utils.lines import UTF16_MARKS
from phiv_data.validation.inputs.fast_parse import quick
from phiv_data.validation.partial_result import PartialResult, ResultBuilder
from phiv_data.validation.tasks import CheckContext
from phiv_schemas import Conversation

PIECE_BYTES = 2**22  # of jsonl: some 10,000 rows
DEEP_PIECE_BYTES = 2**18  # where the images of each row are decoded: some seconds of work
_BATCH = 256  # records whose images are checked side by side
SPLIT_NAMES = ("train", "val", "valid", "validation", "dev", "test")


@dataclass(frozen=True, slots=True)
class JsonlRange:
    """Bytes `start` to `end` of a jsonl file; line `first_line` starts at `start`. `file` is what issues call it.

    `may_lack_names`: its rows are somebody's own, which may lack `id` and `source` (PV404).
    """

    split: str
    file: str
    path: Path
    start: int
    end: int
    first_line: int
    may_lack_names: bool = False

    def __str__(self) -> str:
        return f"{self.file}, from line {self.first_line}"

    def check(self, context: CheckContext) -> PartialResult:
        """Check every line and the images it names."""
        builder = ResultBuilder(self.file, self.split, context.settings)
        for _ in check_lines(self.lines(), builder, context):
            pass
        return builder.result()

    def lines(self) -> Iterator[Line]:
        """Its non-blank lines, good or bad."""
        of_file = (self.path, self.file, self.start, self.end, self.first_line)
        return read_range(*of_file, quick, may_lack_names=self.may_lack_names)

    def records(self, lines: set[int]) -> Iterator[tuple[int, Conversation]]:
        """The records at `lines`; those that cannot be read are left out."""
        last = max(lines)
        with self.path.open("rb") as file:
            file.seek(self.start)
            for number in range(self.first_line, last + 1):
                raw = file.readline()
                if number in lines:
                    line = parse_line(raw.rstrip(b"\r\n"), self.file, number, may_lack_names=self.may_lack_names)
                    if line.conversation is not None:
                        yield number, line.conversation
                if not raw or file.tell() >= self.end:
                    return


def check_lines(lines: Iterable[Line], builder: ResultBuilder, context: CheckContext) -> Iterator[Line]:
    """Check `lines` and the images they name, and pass them on, so that a caller can compare them with something."""
    lines = iter(lines)
    while batch := list(islice(lines, _BATCH)):
        if context.images is None:
            builder.add(batch)
        else:
            paths = [line.conversation.image_paths if line.conversation else () for line in batch]
            known = context.images.check(chain.from_iterable(paths))
            builder.add(batch, [tuple([known[path] for path in of_row]) for of_row in paths], report_images=True)
        yield from batch


def piece_bytes_for(context: CheckContext) -> int:
    """How many bytes of rows make a piece."""
    return DEEP_PIECE_BYTES if context.settings.deep and context.images is not None else PIECE_BYTES


def split_of(stem: str) -> str:
    """The split that a file's name ends in: `val` of `ucf101_val`. A name without one is its own split."""
    last = re.split(r"[_.-]", stem)[-1]
    return last if last in SPLIT_NAMES else stem


def split_jsonl(path: Path, file: str, split: str, piece_bytes: int) -> Iterator[JsonlRange]:
    """A jsonl file in ranges of about `piece_bytes`, together the whole file; none for an empty file."""
    with path.open("rb") as opened:
        start, first = 0, 1
        while block := opened.read(piece_bytes):
            if start == 0 and block.startswith(UTF16_MARKS):
                yield JsonlRange(split, file, path, 0, path.stat().st_size, 1)  # line ends mean nothing in it
                return
            rest = b"" if block.endswith(b"\n") else opened.readline()
            end = start + len(block) + len(rest)
            yield JsonlRange(split, file, path, start, end, first)
            first += block.count(b"\n") + rest.count(b"\n")
            start = end


def split_by_rows(path: Path, file: str, split: str, rows: Iterable[int]) -> Iterator[JsonlRange]:
    """A jsonl file in ranges of so many non-blank lines each, and a last one with what is left, if anything is."""
    with path.open("rb") as opened:
        start = end = 0
        first = number = 1
        for wanted in rows:
            while wanted and (raw := opened.readline()):
                wanted -= bool(raw.strip())
                end, number = end + len(raw), number + 1
            yield JsonlRange(split, file, path, start, end, first)
            start, first = end, number
        if start < (size := path.stat().st_size):
            yield JsonlRange(split, file, path, start, size, first)
