"""The flags of `phiv-validate`."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Literal

from tyro.conf import Positional, UseAppendAction

from phiv_data.cli.engine_options import EngineOptions
from phiv_data.media.images import MAX_PIXELS

# As in phiv_data.validation.inputs.chat_dataset and phiv_data.reports, which are slow to import.
InputFormat = Literal["auto", "phiv", "llava", "sharegpt", "swift", "trl"]
ReportFormat = Literal["text", "json", "junit", "sarif", "html", "github"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ValidateOptions(EngineOptions):
    """Check a converted folder, jsonl files, Arrow shards, or external chat formats: schema, ids, texts, images,
    splits.

    Exit codes: 0 clean (warnings do not count), 1 the data has problems, 2 usage, 3 something of the environment is
    missing, 130 interrupted.
    """

    paths: Positional[tuple[Path, ...]]
    """What to check: the folder phiv-convert wrote, a jsonl file, a shard, or a folder of shards, or the address of one
    in an object store. Several are checked one after the other."""
    format: ReportFormat = "text"
    """Format of the report on stdout."""
    output: Path | None = None
    """Write the report to this file instead of stdout."""
    report_dir: Path | None = None
    """Write the report into this folder in every format: report.txt, .json, .junit.xml, .sarif and .html."""
    images_root: Path | None = None
    """Folder that the image paths of a jsonl file are relative to. Default: the folder images beside it."""
    input_format: InputFormat = "auto"
    """Format of the rows: phiv's own, or an external chat format, checked without converting. auto detects it from the
    first rows of each file."""
    no_deep: bool = False
    """Do not decode images or hash files: check records, existence and sizes only."""
    no_images: bool = False
    """Do not open image files at all."""
    family: str | None = None
    """Measure every row in tokens as this model family (phi3_vision, tiny) encodes it; needs phiv[train]."""
    max_tokens: int | None = None
    """Rows longer than this are errors. Needs --family."""
    tokenizer: str | None = None
    """Checkpoint folder or hub id whose tokenizer and image settings count. Default: the family's published one."""
    num_crops: int | None = None
    """Tiles (HD crops) of an image, as in training. Default: the checkpoint's own."""
    image_option: UseAppendAction[tuple[str, ...]] = ()
    """KEY=VALUE: an image option of the family, as in training (may be given several times). Default: the checkpoint's
    own."""
    source: UseAppendAction[tuple[Path, ...]] = ()
    """Compare every image with what it was made from, below this folder or in this archive: hashes, copied bytes,
    frames decoded again. A file of rows too, with the folder of its images beside it (may be given several times)."""
    ignore: UseAppendAction[tuple[str, ...]] = ()
    """Leave out the findings of a rule, such as PV401. May be given several times."""
    max_pixels: int = MAX_PIXELS
    """Images of more pixels than this are errors, and not decoded. Twice the default is the most that is ever read."""
    fix: Path | None = None
    """Write a fixed copy into this new folder, and check that. Fixes are safe and can be undone; never in place."""
    undo: Path | None = None
    """Undo --fix: from PATH, the folder that --fix wrote, write the data as they were into this new folder."""
    strict: bool = False
    """Warnings count: exit 1 for them too."""
    max_issues: int = 1000
    """List at most this many issues, errors first."""
