"""Rows of Arrow shards and the images embedded in them, whose hashes, lengths and sizes must be as declared."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from phiv_data.media.images import MAX_PIXELS
from phiv_data.storage.jsonl import Line
from phiv_data.storage.record_errors import quote_path, schema_issues
from phiv_data.storage.shards import ShardRow, open_shard, to_conversation
from phiv_data.validation.core.finding import Finding, ImageFacts
from phiv_data.validation.inputs.fast_parse import fast_row
from phiv_data.validation.inputs.image_checks import MAX_CACHED, ImageChecks, decode
from phiv_data.validation.partial_result import IssueCollector
from phiv_schemas import ShardError

if TYPE_CHECKING:
    import pyarrow as pa


def shard_lines(
    path: Path, file: str, issues: IssueCollector, *, rows: int | None = None
) -> Iterator[tuple[Line, ShardRow]]:
    """The rows of a shard, numbered from 1, each as a checked Line and as Arrow holds it.

    A shard that cannot be read, or does not hold the `rows` it should, is PV305 and yields nothing.
    """
    batches = read_batches(path, file, issues)
    if batches is None:
        return
    found = sum(batch.num_rows for batch in batches)
    if rows is not None and found != rows:
        issues.add("PV305", file, f"holds {found} rows (the manifest says {rows})")
        return
    number = 0
    for batch in batches:
        for row in batch.to_pylist():
            number += 1
            yield row_line(row, file, number), row


def read_batches(path: Path, file: str, issues: IssueCollector) -> list[pa.RecordBatch] | None:
    """The batches of a shard; None, and PV305, where it cannot be read."""
    try:
        return open_shard(path, where=file)
    except ShardError as error:
        issues.add("PV305", file, error.what, hint=error.hint)
        return None


def row_line(row: ShardRow, file: str, number: int) -> Line:
    """A row of a shard as a checked line."""
    if (record := fast_row(row)) is not None:
        return Line(number, 0, record)
    try:
        return Line(number, 0, to_conversation(row))
    except ValidationError as error:
        return Line(number, 0, None, tuple(schema_issues(error, file, number)))


class EmbeddedImageChecks:
    """Checks the images that rows embed. `files` are the checks of the same images as files, where there are any:
    bytes equal to those of a decoded file are not decoded again. With `phash`, perceptual hashes are kept too."""

    def __init__(
        self, *, deep: bool, files: ImageChecks | None = None, phash: bool = False, max_pixels: int = MAX_PIXELS
    ) -> None:
        self.phash = phash
        self._deep, self._files, self._max_pixels = deep, files, max_pixels
        self._decoded: dict[tuple[bytes, str], ImageFacts] = {}  # by sha256 and path, which issues name

    def check(self, file: str, line: Line, row: ShardRow, issues: IssueCollector) -> tuple[ImageFacts, ...]:
        """Check one row; one that breaks the contract is left to its own issues. The facts of its images, if sound."""
        if line.conversation is None:
            return ()
        named = line.conversation.image_paths
        for column in ("images", "media"):
            if tuple((one or {}).get("path") for one in row[column] or ()) != named:
                message = f"column {column} does not hold the {len(named)} images its turns name, in order"
                issues.add("PV305", file, message, line=line.number)
                return ()
        pairs = zip(row["images"] or (), row["media"] or (), strict=True)
        checked = [self._check_image(image, meta) for image, meta in pairs]
        for i, (_, found) in enumerate(checked):
            issues.extend(one.at(file, line.number, f"$.images[{i}]") for one in found)
        return tuple(facts for facts, _ in checked)

    def _check_image(self, image: ShardRow, meta: ShardRow) -> tuple[ImageFacts, list[Finding]]:
        """The facts of one image, and all that is wrong with it in this shard."""
        data, path = image["bytes"], image["path"]
        if not data:
            return ImageFacts(), [Finding("PV102", None, f"no bytes for image {quote_path(path)}")]
        found: list[Finding] = []
        if len(data) != meta["size_bytes"]:
            found.append(Finding("PV105", None, f"size_bytes is {meta['size_bytes']} for {len(data)} bytes"))
        if not self._deep:
            width, height = meta["width"] or 0, meta["height"] or 0
            return ImageFacts(declared_size=(width, height) if width > 0 < height else None), found
        digest = hashlib.sha256(data).digest()
        if digest.hex() != meta["sha256"]:
            return ImageFacts(sha256=digest), [
                *found,
                Finding("PV104", None, f"bytes are not those of sha256 in media ({quote_path(path)})"),
            ]
        facts, more = self._decode(data, path, digest)
        if facts.size not in (None, (meta["width"], meta["height"])):
            width, height = facts.size or (0, 0)
            what = f"media says {meta['width']}x{meta['height']} for an image of {width}x{height}"
            more.append(Finding("PV105", None, what))
        return facts, found + more

    def _decode(self, data: bytes, path: str, digest: bytes) -> tuple[ImageFacts, list[Finding]]:
        checksums = self._files.checksums if self._files else None
        listed = checksums.get(path) if checksums else None
        found = []
        if listed not in (None, digest):
            found.append(Finding("PV104", None, f"bytes differ from the file's in images/ ({quote_path(path)})"))
        file = self._files.get(path) if self._files and listed == digest else None
        if file and file.size:
            return file, found  # its own findings are reported at the file
        facts = self._decoded.get((digest, path))
        if facts is None:
            if len(self._decoded) > MAX_CACHED:
                self._decoded = {}
            facts = decode(data, path, digest, phash=self.phash, max_pixels=self._max_pixels)
            self._decoded[digest, path] = facts
        return facts, [*found, *facts.found]
