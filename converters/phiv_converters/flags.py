"""Flags and checks that the options of several converters share. Light: `phiv-convert --help` imports this."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from phiv_converters.val_split import Shares
from phiv_data.convert.base import ConverterOptions
from phiv_schemas.errors import UsageError


def check_range(flag: str, value: int, low: int, high: int) -> None:
    """UsageError unless `low <= value <= high`."""
    if not low <= value <= high:
        raise UsageError(flag, f"must be {low} to {high} (found {value})")


VAL_FRACTION = 0.05
"""Share of the groups of train that become val where a published dataset has no val of its own."""


@dataclass(frozen=True, kw_only=True)
class SplitFlags(ConverterOptions):
    """The flags of val and test that are made of train. Give `val_fraction` the converter's own words and default."""

    val_fraction: float = VAL_FRACTION
    """Where there is no val: about this share of train becomes it, whole groups by a hash."""
    test_fraction: float = 0.0
    """Where there is neither val nor test: about this share of train becomes test, in the same way."""
    seed: int = 0
    """Another number makes another val and test of train."""

    @property
    def shares(self) -> Shares:
        """How much of train becomes what."""
        return Shares(self.val_fraction, self.test_fraction, self.seed)

    def check_fractions(self) -> None:
        """UsageError unless each is at least 0, and train keeps something."""
        check_fraction("--val_fraction", self.val_fraction)
        check_fraction("--test_fraction", self.test_fraction)
        check_fraction("--val_fraction and --test_fraction together", self.val_fraction + self.test_fraction)

    def split_options(self) -> dict[str, Any]:
        """What of them affects the output, for `options`. A manifest without the newer flags keeps its bytes."""
        more = {"test_fraction": self.test_fraction, "seed": self.seed}
        return {"val_fraction": self.val_fraction} | {name: value for name, value in more.items() if value}


def check_fraction(flag: str, value: float) -> None:
    """UsageError unless `0 <= value < 1`."""
    if not 0 <= value < 1:
        raise UsageError(flag, f"must be 0 or more and below 1 (found {value})")


def check_sampling(num_frames: int | None, fps: float | None) -> None:
    """UsageError unless --num_frames and --fps are left out, or can be asked for."""
    if num_frames is not None:
        check_range("--num_frames", num_frames, 1, 10_000)
    if fps is not None and not 0 < fps <= 1000:
        raise UsageError("--fps", f"must be above 0 and at most 1000 (found {fps})")


def check_name_flag(flag: str, name: str | None) -> None:
    """UsageError unless it is left out, or a name that files can begin with."""
    if name is not None and not re.fullmatch(r"\w[\w.-]*", name):
        raise UsageError(flag, f"must be letters, digits, '_', '-' or '.' (found {name!r})")


def check_folder(flag: str, folder: Path | None) -> None:
    """UsageError unless it is left out, or there."""
    if folder is not None and not folder.is_dir():
        raise UsageError(flag, f"no such folder {str(folder)!r}", "Check the path")


def check_demo(demo: bool, sources: Sequence[Path | None]) -> None:
    """UsageError where --demo is given together with a source."""
    if demo and any(source is not None for source in sources):
        raise UsageError("--demo", "makes its own synthetic data", "Leave out --source and --images")


def fixed_options(
    output_options: dict[str, Any], sources: Sequence[Path | None], *, demo: bool = False
) -> dict[str, Any] | None:
    """`output_options` with what identifies a source that cannot change: the demo, or archives by their hash.

    None for a folder, a table or a file of rows, which can change.
    """
    if demo:
        return output_options | {"source": "demo"}
    from phiv_data.sources.image_index import sources_sha256  # imports pydantic

    files = [source for source in sources if source is not None]
    sha256 = sources_sha256(files) if len(files) == len(sources) else None
    return None if sha256 is None else output_options | {"source": sha256}
