"""The parts that all export formats share: the report they fill, the protocol they implement, names of files."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import phiv_schemas
from phiv_data.utils.atomic import HashingWriter
from phiv_schemas.errors import UsageError

if TYPE_CHECKING:
    from phiv_data.export.dataset import ExportedDataset
    from phiv_data.storage.sample import Sample
    from phiv_schemas import FileInfo, SplitInfo

SUFFIXES = {"JPEG": "jpg", "MPO": "jpg", "JPEG2000": "jp2", "TIFF": "tif"}
"""Suffix of an image's real format where it is not the format's name in lower case."""

PROVENANCE = "where images come from (input file, frame, time)"
_HUB_SPLIT = re.compile(r"\w+(\.\w+)*")


@dataclass(slots=True)
class ExportReport:
    """What an export reports: the number of rows that lose something, by what it is, and warnings."""

    losses: Counter[str] = field(default_factory=Counter)
    warnings: list[str] = field(default_factory=list)

    def add_losses(self, losses: Iterable[str]) -> None:
        """Count one row that loses these, each once."""
        self.losses.update(set(losses))


class Writer(Protocol):
    """One format with its options: a frozen dataclass whose fields are flags of `phiv-export NAME`."""

    @property
    def name(self) -> str:
        """The format: `hub`."""
        ...

    def write(self, dataset: ExportedDataset, out: Path, report: ExportReport) -> Iterable[FileInfo]:
        """Write everything into the empty folder `out`. Yields the files that a reader opens, without the images."""
        ...


def losses_of_media(sample: Sample) -> tuple[str, ...]:
    """What a row loses in formats that have no field for the provenance of images."""
    kept = ("source", "source_sha256", "frame_index", "timestamp", "decoder")
    known = any(getattr(image.meta, name) is not None for image in sample.images for name in kept)
    return (PROVENANCE,) if known else ()


def suffix(format: str) -> str:
    """The file suffix of Pillow's format name, without a dot: `JPEG` gives `jpg`."""
    return SUFFIXES.get(format, re.sub(r"[^a-z0-9]", "", format.lower()) or "bin")


def file_info(path: Path, root: Path, written: HashingWriter) -> FileInfo:
    """The name, size and hash of a file that was just written."""
    return phiv_schemas.FileInfo(
        path=path.relative_to(root).as_posix(), size_bytes=written.size_bytes, sha256=written.sha256
    )


def hub_splits(dataset: ExportedDataset, report: ExportReport) -> tuple[SplitInfo, ...]:
    """The splits that `datasets` can open: not those without rows. UsageError for a name it refuses."""
    for split in dataset.splits:
        if not _HUB_SPLIT.fullmatch(split.name):
            what = f"the hub takes no split named {split.name!r} (letters, digits, _ and dots only)"
            raise UsageError(str(dataset.folder), what, "Choose others with --split, or another format")
        if not split.rows:
            report.warnings.append(f"split {split.name!r} has no rows, so no file: `datasets` opens no empty split")
    return tuple(split for split in dataset.splits if split.rows)
