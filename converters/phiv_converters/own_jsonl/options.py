"""Options of the converter for your own jsonl files. Light: `phiv-convert --help` imports this."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from phiv_converters.flags import SplitFlags, check_name_flag


@dataclass(frozen=True)
class JsonlOptions(SplitFlags):
    """Your own jsonl files and images, in phiv's format, to a checked dataset with shards."""

    opener = "phiv_converters.own_jsonl.convert:open_jsonl"

    source: Path
    """A jsonl file, or a folder with {split}.jsonl or NAME_{split}.jsonl (train, val, test, ...)."""
    images: Path | None = None
    """Where the image paths of the rows start; the folder images/ beside the files when not given."""
    split: str | None = None
    """Split of a single file; by default what its name ends in (my_val.jsonl: val), else train."""
    val_fraction: float = field(default=0.0, kw_only=True)
    """Move this share of train to val, chosen by a hash, so that it stays the same when rows are added; rows whose
    first image is the same stay together."""
    name: str | None = None
    """Name of the dataset: what its files are called, and the source of rows that name none. By default from the files'
    names."""

    def __post_init__(self) -> None:
        self.check_fractions()
        check_name_flag("--name", self.name)
        check_name_flag("--split", self.split)
