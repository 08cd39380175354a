"""Options of the converter for tables. Light: `phiv-convert --help` imports this."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from phiv_converters.flags import VAL_FRACTION, SplitFlags, check_folder, check_name_flag, check_sampling


@dataclass(frozen=True)
class TableOptions(SplitFlags):
    """Tables of images, questions and answers (csv, tsv, xlsx, parquet, Arrow, flat json) to conversations."""

    opener = "phiv_converters.table.convert:open_table"

    source: Path
    """A table, or a folder with some: *.csv, *.tsv, *.xlsx, *.parquet, *.arrow, save_to_disk folders, or JSON (lines or
    an array) of flat objects. Of a folder with metadata.csv, .jsonl or .parquet these are read."""
    images: Path | None = None
    """Folder that the paths of images start from. The table's own folder is searched too."""
    image: tuple[str, ...] = ()
    """Columns with the images: paths, several in a list or separated by ';', bytes, data URIs; paths of clips, which
    become frames. By default those whose cells are images or clips."""
    question: str | None = None
    """Column with the question; or the question itself, which is then asked of every row, and may hold {classes} and
    {NAME} of a column. By default the column's usual names (question, query, prompt, ...)."""
    answer: str | None = None
    """Column with the answer that is learned. By default its usual names (answer, label, caption, ...)."""
    answers: str | None = None
    """Column with every accepted answer, as a list. By default the column answers."""
    id: str | None = None
    """Column with ids to keep. By default phiv numbers the rows."""
    split: str | None = None
    """Column with each row's split. By default a column split, or what names of files and folders say, else train."""
    group: str | None = None
    """Column of what rows of one split have in common (a patient, a document), for the val that is made. By default
    rows with an image in common stay together."""
    val_fraction: float = field(default=VAL_FRACTION, kw_only=True)
    """Where there is no val: about this share of train becomes it, whole groups by a hash."""
    num_frames: int | None = None
    """Of columns with clips: frames per clip, evenly spaced (8). With --fps at most so many (64)."""
    fps: float | None = None
    """Frames per second of a clip. One that has more than --num_frames at that rate gives so many, evenly spaced."""
    check_video: Literal["used", "full"] = "used"
    """used decodes the groups of frames that hold wanted ones, where these are provably those of decoding all; full
    decodes all of every clip, and so finds damage anywhere."""
    name: str | None = None
    """Name of the dataset: what its files are called, and the source of its rows. By default that of the source."""

    def __post_init__(self) -> None:
        check_sampling(self.num_frames, self.fps)
        self.check_fractions()
        check_name_flag("--name", self.name)
        check_folder("--images", self.images)
