"""Options of the converter for folders of images or clips. Light: `phiv-convert --help` imports this."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from phiv_converters.flags import VAL_FRACTION, SplitFlags, check_name_flag, check_sampling


@dataclass(frozen=True)
class FolderOptions(SplitFlags):
    """Images or clips in [split/]Class/ folders, or with a list of labels, to classification conversations."""

    opener = "phiv_converters.folder.convert:open_folder"

    source: Path
    """Folder of images (jpg, png, webp, tiff, ...) and clips (avi, mp4, mkv, webm, mov, ...). The class of a file is
    the folder that holds it; where all folders at the top are called train, val, test or such, they are splits."""
    labels: tuple[Path, ...] = ()
    """Lists of the files and their classes instead: csv or tsv (columns path, file_name, video or youtube_id; label or
    class; split), json or jsonl (id and label or template), txt (path, blank, label). A list is of the split that its
    name says."""
    question: str | None = None
    """The question of every row; {classes} becomes the list of all classes. By default "Classify the image (or video)
    into one of the following classes: {classes}."."""
    classes: tuple[str, ...] = ()
    """Convert these classes only; the question then lists only them."""
    num_frames: int | None = None
    """Frames per clip, evenly spaced over those that decode (8). With --fps at most so many (64)."""
    fps: float | None = None
    """Frames per second of a clip. One that has more than --num_frames at that rate gives so many, evenly spaced."""
    check_video: Literal["used", "full"] = "used"
    """used decodes the groups of frames that hold wanted ones, where these are provably those of decoding all; full
    decodes all of every clip, and so finds damage anywhere."""
    val_fraction: float = field(default=VAL_FRACTION, kw_only=True)
    """Where there is no val: about this share of each class of train becomes it, by a hash of the file's name."""
    name: str | None = None
    """Name of the dataset: what its files are called, and the source of its rows. By default that of the folder."""

    def __post_init__(self) -> None:
        check_sampling(self.num_frames, self.fps)
        self.check_fractions()
        check_name_flag("--name", self.name)
