"""`undo(path, out)`: from a fixed copy and its log of changes, the data as they were before --fix, byte for byte.

    >>> undo("fixed", "again")
    UndoResult(path=PosixPath('again'), lines=7, restored_lines=3, num_images=2)

`fixed/` must be what --fix wrote: each line that the log names is compared with what the fix left there, and a copy
that was edited since is refused, for the edit would be lost. Images get the names they had; those that --fix did not
copy (no row names them) are not in `again/` either. If the data were fixed more than once, all of it is undone.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path
from typing import BinaryIO

from phiv_data.repair import records
from phiv_data.repair.converted import is_converted_folder, undo_converted
from phiv_data.repair.images import copy_with_old_name
from phiv_data.repair.lines import DamagedLog, is_log_entry, parse_log_entry, read_log, without_marks
from phiv_data.sources.folders import find_files, raise_error
from phiv_data.storage.dataset import FIXES, NON_RECORD_FILES
from phiv_data.utils.atomic import HashingWriter, atomic_folder, atomic_write, must_stay
from phiv_schemas import RecordError, UsageError

OnRows = Callable[[int], object]
_NEEDS_THE_COPY = "Undo needs the copy as --fix wrote it"


@dataclass(frozen=True, slots=True)
class UndoResult:
    """What was done: `restored_lines` of the `lines` differ from the fixed copy. Blank lines count."""

    path: Path
    lines: int
    restored_lines: int
    num_images: int


def undo(path: Path | str, out: Path | str, *, images: bool = True, on_rows: OnRows = lambda count: None) -> UndoResult:
    """Write what `path`, a folder that `fix` wrote, was made from into the new folder `out`, whole or not at all.

    Without `images`, only the jsonl files are written. Raises UsageError where `path` has no log or `out` is not
    empty; RecordError where the log does not fit the data; ShardError for a converted folder that is damaged.
    """
    path, out = Path(path), Path(out)
    if not path.is_dir():
        what = "is not a folder" if path.exists() else "no such folder"
        raise UsageError(str(path), what, "Pass the folder that --fix wrote")
    if not (path / FIXES).is_file():
        raise UsageError(str(path), f"has no {FIXES}: it is not a copy that --fix wrote", "Pass the folder --fix wrote")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(str(out), "already exists", "Pass a new folder to --undo")
    if out.resolve().is_relative_to(path.resolve()):
        raise UsageError(str(out), f"is in {path}, whose fixes are undone", "Pass a folder elsewhere to --undo")
    is_converted = is_converted_folder(path)
    if is_converted and not images:
        raise UsageError("--no_images", "does not go with --undo on a converted folder, whose images are copied too")
    with atomic_folder(out) as new, must_stay(path), (path / FIXES).open("rb") as log_file:
        undoing = _Undo(log_file, on_rows)
        if is_converted:
            num_images = undo_converted(path, new, undoing.old_names(), undoing.restore_lines)
        else:
            num_images = _undo_files(path, new, undoing, images)
        for file, lines in sorted(undoing.blocks.items()):
            if lines:
                what = f"is missing, but {FIXES} has a change of it"
                raise RecordError(f"{path / file}:{min(lines)}", what, _NEEDS_THE_COPY)
    return UndoResult(out, undoing.lines, undoing.restored_lines, num_images)


def _undo_files(path: Path, new: Path, undoing: _Undo, images: bool) -> int:
    """Write the jsonl files and images of a folder without a manifest; returns the number of images."""
    names = {file.name for file in find_files(path, "*.jsonl") if file.is_file()} - NON_RECORD_FILES
    for name in sorted(names | {name for name in undoing.blocks if (path / name).is_file()}):
        undoing.restore_lines(path / name, new / name)
    count = 0
    if images and (path / "images").is_dir():
        old_names = undoing.old_names()
        for folder, _, files in os.walk(path / "images", onerror=raise_error):
            for file in files:
                image = Path(folder, file).relative_to(path / "images").as_posix()
                copy_with_old_name(path / "images", new / "images", image, old_names)
                count += 1
    return count


@dataclass(slots=True)
class _Undo:
    """A log of changes, not kept in memory: read once to index the changes by line, then again line by line."""

    log: BinaryIO
    on_rows: OnRows
    lines: int = 0
    restored_lines: int = 0
    blocks: dict[str, dict[int, list[int]]] = field(default_factory=dict)
    """File, line, and where in the log each block of changes of this line begins: a block for every fix of the data."""
    renamed: dict[str, str] = field(default_factory=dict)
    """The path of each renamed image, to the one before."""

    def __post_init__(self) -> None:
        start = 0
        try:
            for raw, entry in read_log(self.log):
                lines = self.blocks.setdefault(entry.file, {})
                if entry.line_before is not None:
                    lines.setdefault(entry.line, []).append(start)
                if entry.change.fix == "suffix":
                    self.renamed[str(entry.change.after)] = str(entry.change.before)
                start += len(raw)
        except DamagedLog as damage:
            raise RecordError(f"{self.log.name}:{damage.line}", damage.what, _NEEDS_THE_COPY) from None

    def old_names(self) -> dict[str, str]:
        """The path of each renamed image, to the one it had before the first fix."""
        names = {}
        for path in self.renamed:
            chain = [path]
            while (old := self.renamed.get(chain[-1])) and old not in chain:  # names may form a circle
                chain.append(old)
            names[path] = chain[-1]
        return names

    def restore_lines(self, source: Path, target: Path) -> HashingWriter:
        """Write one file with each line that the log names as it was."""
        blocks = self.blocks.get(source.name, {})
        with source.open("rb") as file, atomic_write(target) as out:
            is_empty = source.stat().st_size == 0  # a byte order mark was all there was
            for number, raw in enumerate([b""] if is_empty else file, start=1):
                line = raw
                for start in reversed(blocks.pop(number, [])):
                    line = self._restore_line(line, start, f"{source}:{number}")
                out.write(line)
                self.lines += bool(line)
                self.restored_lines += line != raw
                self.on_rows(1)
        return out

    def _restore_line(self, raw: bytes, start: int, where: str) -> bytes:
        """The line before the block of changes at `start`. RecordError where `raw` is not what they left."""
        self.log.seek(start)
        first = parse_log_entry(self.log.readline())
        before, changes = first.line_before or b"", [first.change]
        for raw_entry in takewhile(is_log_entry, self.log):
            entry = parse_log_entry(raw_entry)
            if entry.line_before is not None or entry[:2] != first[:2]:
                break
            changes.append(entry.change)
        has_mark = any(change.fix == "mark" for change in changes)
        text = without_marks(before) if has_mark else before
        try:
            if all(change.fix == "mark" for change in changes):
                fits = raw == text
            else:
                fits = json.dumps(records.undo(json.loads(raw), changes)) == json.dumps(json.loads(text))
        except (ValueError, RecursionError):
            fits = False
        if not fits:
            raise RecordError(where, f"is not the line that --fix wrote, by {FIXES}", _NEEDS_THE_COPY)
        return before
