"""`.phiv-export.json`, the record of an export: by it, and not by the names of files, its splits come back.

>>> read_export(Path("ucf101_hub"))                                              # doctest: +SKIP
ExportRecord(format='hub', dataset='ucf101', rows={'train': 576, 'val-unseen': 0}, files=('README.md', ...))
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

from phiv_data.utils.atomic import environment_problems

RECORD = ".phiv-export.json"  # hidden: tools that search the folder for rows or tables skip it


class ExportRecord(NamedTuple):
    """What phiv-export wrote to a folder: rows by split, empty ones too, and the files that readers open."""

    format: str
    dataset: str
    rows: dict[str, int]
    files: tuple[str, ...]


def read_export(folder: Path) -> ExportRecord | None:
    """The record of the export in `folder`; None where there is none, or one that cannot be read."""
    try:
        with environment_problems(folder / RECORD):
            record = json.loads((folder / RECORD).read_bytes())
        rows = {str(split): int(count) for split, count in record["rows"].items()}
        files = tuple(str(file["path"]) for file in record["files"])
        return ExportRecord(str(record["format"]), str(record["dataset"]), rows, files)
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return None
