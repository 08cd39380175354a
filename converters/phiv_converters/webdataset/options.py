"""Options of the converter for phiv's own tars. Light: `phiv-convert --help` imports this."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from phiv_data.convert.base import ConverterOptions


@dataclass(frozen=True)
class WebDatasetOptions(ConverterOptions):
    """Tars that phiv-export webdataset wrote to a dataset again."""

    opener = "phiv_converters.webdataset.convert:open_webdataset"

    source: Path
    """Folder of the export, or one of its tars."""
