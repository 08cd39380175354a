"""The checks a validation is made of: records one by one, images once each, rows of shards.

Everything found goes to one `Findings`, which keeps the first errors in order and counts on.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from phiv_data.jsonl import Line
from phiv_data.record_errors import schema_issues, shown
from phiv_data.reject import RejectInput
from phiv_data.shards import Row, open_shard, to_conversation
from phiv_schemas import Conversation, Issue, ShardError, ValidationReport

CHUNK = 256  # records whose images are checked side by side
_MARKER = re.compile(r"<\|?(?:image|img|vision_start|image_pad)(?:_?\d+)?\|?>", re.IGNORECASE)


class Findings:
    """Issues as they are found: at most `limit` errors and as many warnings are kept, in order of appearance."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._errors: list[Issue] = []
        self._warnings: list[Issue] = []
        self._dropped = 0

    def add(self, code: str, file: str, message: str, **rest: Any) -> None:
        """One more; `rest` are the other fields of Issue."""
        self.extend([Issue(code=code, file=file, message=message, **rest)])

    def extend(self, issues: Iterable[Issue]) -> None:
        """Several more."""
        for issue in issues:
            kept = self._errors if issue.severity == "error" else self._warnings
            if len(kept) < self._limit:
                kept.append(issue)
            else:
                self._dropped += 1

    def report(self, path: str, rows: int, images: int) -> ValidationReport:
        """Everything kept, sorted by file and line; errors take precedence where there are too many."""
        room = self._limit - len(self._errors)
        issues = sorted(self._errors + self._warnings[:room], key=lambda issue: (issue.file, issue.line or 0))
        cut = self._dropped > 0 or len(self._warnings) > room
        return ValidationReport(path=path, rows=rows, images=images, issues=issues, truncated=cut)


@dataclass(frozen=True, slots=True)
class ImageResult:
    """What became of one image: its size as decoded, or what is wrong with it."""

    size: tuple[int, int] | None = None
    code: str = ""
    message: str = ""
    hint: str = ""


class ImageChecks:
    """Images below `root`, each looked at once. `hashes` (path to sha256) is what a dataset says of them."""

    def __init__(self, root: Path, *, deep: bool, hashes: dict[str, str] | None = None) -> None:
        self._root, self._deep, self.hashes = root, deep, hashes
        self._real_root = os.path.realpath(root)
        self.results: dict[str, ImageResult] = {}
        self.has_root = root.is_dir()
        self._pool = ThreadPoolExecutor(min(8, os.cpu_count() or 1))  # Pillow and hashlib release the GIL

    def prepare(self, paths: Iterable[str]) -> None:
        """Check those of `paths` that were not checked before, side by side."""
        new = [path for path in dict.fromkeys(paths) if path not in self.results]
        self.results.update(zip(new, self._pool.map(self._check, new), strict=True))

    def close(self) -> None:
        """End the threads; what they have not begun is dropped."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _check(self, path: str) -> ImageResult:
        full = self._root / path
        real = os.path.realpath(full)
        if not real.startswith(self._real_root + os.sep):
            return ImageResult(None, "PV103", f"leaves images/ through a symbolic link ({shown(path)})")
        try:
            status = full.stat()
        except OSError:
            return ImageResult(None, "PV101", f"no such image {shown(path)} under {self._root.name}/")
        if not stat.S_ISREG(status.st_mode):  # opening a pipe would wait for ever
            return ImageResult(None, "PV101", f"is not a file ({shown(path)})")
        return self._read(path, full) if self._deep else ImageResult()

    def _read(self, path: str, full: Path) -> ImageResult:
        try:
            data = full.read_bytes()
        except OSError as error:
            return ImageResult(None, "PV007", f"cannot be read ({shown(path)}: {error.strerror})")
        if (result := self._compare(path, data)) is not None:
            return result
        return decode(data, path)

    def _compare(self, path: str, data: bytes) -> ImageResult | None:
        if self.hashes is None:
            return None
        if path not in self.hashes:
            return ImageResult(None, "PV104", f"is not listed in images.sha256 ({shown(path)})")
        if hashlib.sha256(data).hexdigest() != self.hashes[path]:
            what = f"bytes differ from those converted: not the sha256 of images.sha256 ({shown(path)})"
            return ImageResult(None, "PV104", what)
        return None


def decode(data: bytes, path: str) -> ImageResult:
    """Decode an image in full; its size, or why it is broken."""
    from phiv_data.images import open_image

    try:
        return ImageResult(open_image(data, where=path).size)
    except RejectInput as error:
        return ImageResult(None, "PV102", f"broken image {shown(path)}: {error.reason}")


class RecordChecks:
    """Checks records of any number of files: schema, unique ids, remarks, and their images."""

    def __init__(self, findings: Findings, images: ImageChecks | None, on_rows: Callable[[int], object]) -> None:
        self.findings, self.images, self._on_rows = findings, images, on_rows
        self.rows = 0
        self._first_seen: dict[str, tuple[str, int]] = {}
        self._told_no_root = False

    def run(self, file: str, lines: Iterator[Line]) -> Iterator[Line]:
        """Check `lines` and pass them on, so that a caller can compare them with something else."""
        unlabeled = 0
        while chunk := list(islice(lines, CHUNK)):
            if self.images and self.images.has_root:
                self.images.prepare(p for line in chunk if line.conversation for p in line.conversation.image_paths)
            for line in chunk:
                self.findings.extend(line.issues)
                if line.conversation is not None:
                    self._check(file, line.number, line.conversation)
                    unlabeled += not line.conversation.is_labeled
                yield line
            self.rows += len(chunk)
            self._on_rows(len(chunk))
        if unlabeled:
            what = "1 row has no answer" if unlabeled == 1 else f"{unlabeled} rows have no answer"
            self.findings.add("PV403", file, what, severity="warning")

    def _check(self, file: str, number: int, conversation: Conversation) -> None:
        first_file, first = self._first_seen.setdefault(conversation.id, (file, number))
        if (first_file, first) != (file, number):
            seen = f"on line {first}" if first_file == file else f"at {first_file}:{first}"
            what = f"duplicate id {shown(conversation.id)}, first seen {seen}"
            self.findings.add("PV201", file, what, line=number, json_path="$.id")
        for t, turn in enumerate(conversation.conversations):
            if marker := _MARKER.search(turn.user):
                self._note_marker(file, number, t, marker[0])
            for i, path in enumerate(turn.images):
                self._check_image(file, number, f"$.conversations[{t}].images[{i}]", path)

    def _note_marker(self, file: str, number: int, turn: int, marker: str) -> None:
        self.findings.add(
            "PV401", file, f"text holds {marker!r}, which is text here and stands for no image",
            line=number, json_path=f"$.conversations[{turn}].user", severity="warning",
        )  # fmt: skip

    def _check_image(self, file: str, number: int, json_path: str, path: str) -> None:
        if self.images is None:
            return
        if not self.images.has_root:
            self._tell_no_root(file, number)
        elif (result := self.images.results[path]).code:
            self.findings.add(result.code, file, result.message, line=number, json_path=json_path, hint=result.hint)

    def _tell_no_root(self, file: str, number: int) -> None:
        if not self._told_no_root:
            what, hint = "no folder images/ beside the file, so no image was checked", "Pass --images_root DIR"
            self.findings.add("PV101", file, what, line=number, hint=hint)
            self._told_no_root = True


def shard_lines(path: Path, file: str, findings: Findings, *, rows: int | None = None) -> Iterator[tuple[Line, Row]]:
    """The rows of a shard, numbered from 1, each as a checked Line and as it stands.

    A shard that cannot be read, or does not hold the `rows` it should, is PV305 and yields nothing.
    """
    try:
        batches = open_shard(path, where=file)
    except ShardError as error:
        findings.add("PV305", file, error.what, hint=error.hint)
        return
    found = sum(batch.num_rows for batch in batches)
    if rows is not None and found != rows:
        findings.add("PV305", file, f"holds {found} rows (the manifest says {rows})")
        return
    number = 0
    for batch in batches:
        for row in batch.to_pylist():
            number += 1
            yield _row_line(row, file, number), row


def _row_line(row: Row, file: str, number: int) -> Line:
    try:
        return Line(number, 0, to_conversation(row))
    except ValidationError as error:
        return Line(number, 0, None, tuple(schema_issues(error, file, number)))


class RowChecks:
    """Checks what a shard's rows embed: the images their turns name, with true hashes, lengths and sizes.

    `files` are the checks of the same images as files, where there are any: bytes equal to a file's that was
    decoded need no second decoding.
    """

    def __init__(self, findings: Findings, *, deep: bool, files: ImageChecks | None = None) -> None:
        self._findings, self._deep, self._files = findings, deep, files
        self.decoded: dict[str, ImageResult] = {}  # by sha256

    def check(self, file: str, line: Line, row: Row) -> None:
        """Check one row; one that breaks the contract is left to its own issues."""
        if line.conversation is None:
            return
        named = line.conversation.image_paths
        for column in ("images", "media"):
            if tuple((one or {}).get("path") for one in row[column] or ()) != named:
                message = f"column {column} does not hold the {len(named)} images its turns name, in order"
                self._findings.add("PV305", file, message, line=line.number)
                return
        for i, (image, meta) in enumerate(zip(row["images"] or (), row["media"] or (), strict=True)):
            for code, message in self._problems(image, meta):
                self._findings.add(code, file, message, line=line.number, json_path=f"$.images[{i}]")

    def _problems(self, image: Row, meta: Row) -> Iterator[tuple[str, str]]:
        data, path = image["bytes"], image["path"]
        if not data:
            yield "PV102", f"no bytes for image {shown(path)}"
            return
        if len(data) != meta["size_bytes"]:
            yield "PV105", f"size_bytes is {meta['size_bytes']} for {len(data)} bytes"
        if self._deep:
            yield from self._deep_problems(data, path, meta)

    def _deep_problems(self, data: bytes, path: str, meta: Row) -> Iterator[tuple[str, str]]:
        digest = hashlib.sha256(data).hexdigest()
        if digest != meta["sha256"]:
            yield "PV104", f"bytes are not those of sha256 in media ({shown(path)})"
            return
        listed = (self._files.hashes or {}).get(path) if self._files else None
        if listed is not None and digest != listed:
            yield "PV104", f"bytes differ from the file's in images/ ({shown(path)})"
        result = self._file_result(path, digest) or self.decoded.get(digest)
        if result is None:
            result = self.decoded[digest] = decode(data, path)
        if result.code:
            yield result.code, result.message
        elif result.size != (meta["width"], meta["height"]):
            yield "PV105", f"media says {meta['width']}x{meta['height']} for a picture of {_by(result.size)}"

    def _file_result(self, path: str, digest: str) -> ImageResult | None:
        if self._files is None or (self._files.hashes or {}).get(path) != digest:
            return None
        result = self._files.results.get(path)
        return result if result and result.size else None


def _by(size: tuple[int, int] | None) -> str:
    return f"{size[0]}x{size[1]}" if size else "no size"
