"""Options of the converter for phiv's own tables. Light: `phiv-convert --help` imports this."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from phiv_data.convert.base import ConverterOptions


@dataclass(frozen=True)
class HubOptions(ConverterOptions):
    """Parquet that phiv-export hub wrote (or the arrow folder of a converted dataset) to a dataset again."""

    opener = "phiv_converters.hub.convert:open_hub"

    source: Path
    """Folder of the export, a download of it from the hub, or one of its files."""
