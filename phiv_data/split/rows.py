"""The rows of a converted dataset as a split sees them: the class of each, and what it shows and asks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from phiv_data.storage.jsonl import read_range
from phiv_data.validation.core.finding import ImageFacts, RowContext
from phiv_data.validation.core.key_index import digest
from phiv_data.validation.inputs.checksums import read_checksums
from phiv_data.validation.inputs.fast_parse import quick, values_of
from phiv_data.validation.rules.labels import may_be_class
from phiv_data.validation.rules.leakage import RECORDS
from phiv_schemas import Conversation, Manifest, ShardError, SplitInfo


def read_split(data: Path, split: SplitInfo) -> Iterator[Conversation]:
    """The records of a split. ShardError for a line that is none, or where there are more or fewer than there were."""
    path, rows = data / split.jsonl.path, 0
    if not path.is_file():
        raise ShardError(str(path), "is in the manifest but not there", "Convert the data again")
    for rows, line in enumerate(read_range(path, split.jsonl.path, quick=quick), start=1):
        if line.conversation is None or line.number != rows:
            what = line.issues[0].message if line.issues else "a blank line before it"
            raise ShardError(f"{path}:{line.number}", what, "Convert the data again")
        yield line.conversation
    if rows != split.rows:
        raise ShardError(str(path), f"holds {rows} rows (the manifest says {split.rows})", "Convert the data again")


def class_of(record: Conversation) -> str:
    """The source of a row, and its answer where that may be a class.

    An answer that no other row has changes nothing: where a class has one row, the shares of all rows decide.
    """
    turn = record.conversations[0]
    if len(record.conversations) > 1 or turn.assistant is None or not may_be_class(turn):
        return record.source
    return f"{record.source}\0{turn.assistant}"


def row_keys(data: Path, manifest: Manifest) -> Iterator[tuple[str, bytes]]:
    """The split of each row, and 16 bytes that are equal for rows that ask the same of the same images (PV242)."""
    hashes = dict(read_checksums(data / manifest.image_hashes.path))
    for split in manifest.splits:
        for record in read_split(data, split):
            images = tuple(ImageFacts(sha256=bytes.fromhex(hashes.get(path, ""))) for path in record.image_paths)
            keys = [key for key, _, _ in RECORDS.keys(RowContext("", 0, "", record, images))]
            yield split.name, keys[0] if keys else digest(repr(values_of(record)[1:]))
