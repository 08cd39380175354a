"""Options of the converter that finds the right one. Light: `phiv-convert --help` imports this."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from phiv_data.convert.base import ConverterOptions


@dataclass(frozen=True)
class AutoOptions(ConverterOptions):
    """Whatever the source is, by the command that reads it: says which, and runs it without further flags."""

    source: Path
    """A file or folder of any shape that a command of phiv-convert reads."""

    def chosen(self) -> ConverterOptions:
        """The options of the command for the source's shape. SourceError where none is known."""
        from phiv_converters.auto.choose import choose_options  # imports pyarrow

        return choose_options(self.source)
