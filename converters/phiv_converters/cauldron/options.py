"""Options of the converter for The Cauldron and FineVision. Light: `phiv-convert --help` imports this."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from phiv_converters.flags import SplitFlags, fixed_options


@dataclass(frozen=True)
class CauldronOptions(SplitFlags):
    """Tables of The Cauldron or FineVision (columns images and texts) to conversations."""

    opener = "phiv_converters.cauldron.convert:open_cauldron"

    source: Path
    """Folder, archive or file: Parquet files, a save_to_disk folder, or a folder of such per config."""
    config: str | None = None
    """Convert this config (sub-folder) only; by default all that are there."""
    turns: Literal["all", "first"] = "all"
    """All pairs of a row, or its first one only."""
    val_fraction: float = field(default=0.0, kw_only=True)
    """Move about this share of train to val, by the hash of a row's images (or its texts where it has none): rows that
    share an image stay together. Reads every image once more."""

    def __post_init__(self) -> None:
        self.check_fractions()

    def identity(self) -> dict[str, Any] | None:
        """The options with the hash of an archive; None for a folder or a table, which can change."""
        return fixed_options(self.output_options(), [self.source])

    def output_options(self) -> dict[str, Any]:
        """The options that affect the output, as plain JSON values."""
        return {"config": self.config, "turns": self.turns} | self.split_options()
