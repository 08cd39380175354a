"""The seam to datasets: a `Converter` lists the inputs of a raw dataset and turns one into a draft.

It is pure: no ids, no output files, no order, no parallelism. The engine owns those. A converter is pickled to
worker processes, so make it a frozen dataclass. `converters/README.md` shows one in a page.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from phiv_data.storage.sample import Draft


@dataclass(frozen=True, slots=True)
class Item:
    """One input of a split. `key` is unique within the split; its order is the order of the rows.

    `size_bytes` tells a changed input from an unchanged one; `payload` is whatever `Converter.draft` needs.
    """

    split: str
    key: str
    size_bytes: int
    payload: Any = field(default=None, compare=False)


class Duplicate(NamedTuple):
    """An input that the source gives again: `again` repeats `first` and is left out. Both are names for a person."""

    first: str
    again: str


@dataclass(frozen=True, slots=True)
class Inputs:
    """What a source holds: its items in any order, and what a person should know of the rest.

    `items` hold each input once; `duplicates` are counted as inputs too, and named in the manifest. `absent` counts
    entries of official lists without a file: they are not inputs.
    """

    items: Sequence[Item]
    absent: int = 0
    notices: tuple[str, ...] = ()
    duplicates: tuple[Duplicate, ...] = ()


class Converter(Protocol):
    """A raw dataset, opened."""

    @property
    def name(self) -> str:
        """Prefix of the jsonl files: `ucf101`."""
        ...

    @property
    def record_source(self) -> str:
        """The `source` field of every record whose draft names no other."""
        ...

    @property
    def splits(self) -> tuple[str, ...]:
        """Splits in the order of the ids, of any names; each gets a jsonl file, even when empty."""
        ...

    @property
    def synthetic(self) -> bool:
        """True when the data were drawn, not recorded."""
        ...

    def describe(self) -> str:
        """The layout found and why, in one line without absolute paths."""
        ...

    def options(self) -> dict[str, Any]:
        """Every option that shapes the output, as plain JSON values."""
        ...

    def versions(self) -> dict[str, str]:
        """Versions of the libraries that shape the output's bytes."""
        ...

    def inputs(self) -> Inputs:
        """Every input there is. Raises SourceError where the dataset is not as it should be."""
        ...

    def draft(self, item: Item) -> Draft:
        """The draft of one input. Raises RejectInput where the input cannot be used."""
        ...


class ConverterOptions(Protocol):
    """A converter's command line: a dataclass whose fields become flags of `phiv-convert NAME`."""

    def identity(self) -> dict[str, Any] | None:
        """Options that alone prove a finished output is theirs (fixed archives, demo); None: list inputs."""
        ...

    def open(self, scratch: Path) -> Converter:
        """Check the source, unpack or draw it below `scratch` where needed, and return the converter."""
        ...
