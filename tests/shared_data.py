"""Where the real sample data are."""

from __future__ import annotations

import os
from pathlib import Path

REPO = Path(__file__).resolve().parents[1]


def shared_folder() -> Path | None:
    """The folder with the real sample data and golden tensors, or None where it is absent."""
    folder = Path(os.environ.get("PHIV_SHARED", REPO.parent / "shared"))
    return folder if folder.is_dir() else None
