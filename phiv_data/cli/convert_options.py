"""The flags of `phiv-convert` that every converter has: where the output goes, and how it is made."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Literal

from phiv_data.cli.engine_options import EngineOptions


@dataclasses.dataclass(frozen=True, kw_only=True)
class OutputOptions(EngineOptions):
    """Where the output goes and how it is made; only --no_arrow and --include_unlabeled change what it holds."""

    out_dir: Path
    """Folder of the output, or an address such as s3://bucket/folder. A finished one is left alone; an unfinished one
    is resumed."""
    task: str | None = None
    """With --engine array: which part of the plan is done here, as 17/256; counted from 0 or from 1. Default: as
    Slurm's variables say."""
    finish: bool = False
    """Make the output of what the tasks of an array job have done; refused while any is missing."""
    status: bool = False
    """Print how far the array job in the output folder is, and convert nothing."""
    format: Literal["text", "json"] = "text"
    """How --status is printed."""
    no_arrow: bool = False
    """Write the jsonl files and images only."""
    include_unlabeled: bool = False
    """Write rows without an answer too, with assistant null; by default they are left out and counted."""
    input_timeout: float = 300.0
    """Reject an input whose reading takes longer than this many seconds, alone and again; 0 waits for ever."""
    overwrite: bool = False
    """Replace an output made from other options or inputs; the old one stays until the new one is complete."""
    update: bool = False
    """As --overwrite, with the same result, but of a finished output keep the rows of inputs that have not changed."""
    retry_failed: bool = False
    """As --update, also where nothing has changed: inputs that were rejected are converted again, the others kept."""
    verify: bool = False
    """Compare the source's files with those of an earlier run by sha256, instead of by size and time."""


@dataclasses.dataclass(frozen=True)
class ConvertCommand:
    """A dataset's options and the output's, as one flat command line."""

    dataset: Any
    output: OutputOptions
