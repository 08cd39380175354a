"""Checks that the options of several converters share. Light: `phiv-convert --help` imports this."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from phiv_schemas.errors import UsageError


def check_range(flag: str, value: int, low: int, high: int) -> None:
    """UsageError unless `low <= value <= high`."""
    if not low <= value <= high:
        raise UsageError(flag, f"must be {low} to {high} (found {value})")


VAL_FRACTION = 0.05
"""Share of the groups of train that become val where a published dataset has no val of its own."""


def check_fraction(flag: str, value: float) -> None:
    """UsageError unless `0 <= value < 1`."""
    if not 0 <= value < 1:
        raise UsageError(flag, f"must be 0 or more and below 1 (found {value})")


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
