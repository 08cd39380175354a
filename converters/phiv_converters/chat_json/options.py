"""Options of the converters for llava, sharegpt, swift and trl JSON. Light: `phiv-convert --help` imports this."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

from phiv_converters.flags import VAL_FRACTION, SplitFlags, check_folder, check_sampling
from phiv_schemas.errors import UsageError


@dataclass(frozen=True)
class ChatJsonOptions(SplitFlags):
    """What the options of the four formats have in common."""

    opener = "phiv_converters.chat_json.convert:open_chat_json"

    format: ClassVar[str]

    source: Path
    """File of rows (one JSON array, or JSON lines), or a folder: its *.json and *.jsonl files, or else those of the
    folders in it; or Parquet and Arrow tables with the same columns."""
    images: Path | None = None
    """Folder that the paths of images and videos start from. The folder of the file of rows is searched too."""
    strip_folders: int = 0
    """Leave out so many folders at the front of each image's path: 1 makes `resource/a.jpg` of `./old/resource/a.jpg`.
    For rows that were written in another place."""
    split: str | None = None
    """Split of all rows. By default the one in the file's name (train, val, test and their other names), else
    train."""
    val_fraction: float = field(default=VAL_FRACTION, kw_only=True)
    """Where all rows are train, and --split does not say so: about this share of them becomes val, rows with an image
    in common together, by a hash."""
    keep_ids: bool = False
    """Rows keep the ids they have, which must then be there and all differ. By default phiv numbers them."""
    num_frames: int | None = None
    """Frames of a video, evenly spaced over those that decode (8). With --fps at most so many (64)."""
    fps: float | None = None
    """Frames per second of a video. One that has more than --num_frames at that rate gives so many, evenly spaced."""
    check_video: Literal["used", "full"] = "used"
    """used decodes the groups of frames that hold wanted ones, where these are provably those of decoding all; full
    decodes all of every video, and so finds damage anywhere."""
    marker: str = ""
    """Text at the place of an image, where it is another than the format's: <|image|>, <IMG_CONTEXT> (xtuner). One
    with a number, such as <|image_1|>, stands for all numbers."""

    def __post_init__(self) -> None:
        if self.strip_folders < 0:
            raise UsageError("--strip_folders", f"must be 0 or more (found {self.strip_folders})")
        if self.split is not None and not self.split.replace("_", "").isalnum():
            raise UsageError("--split", f"must be letters, digits and _ (found {self.split!r})")
        check_folder("--images", self.images)
        self.check_fractions()
        if self.split is not None and self.test_fraction:
            raise UsageError("--test_fraction", "does not go with --split, which all rows are of", "Pass one")
        check_sampling(self.num_frames, self.fps)

    def parser_options(self) -> dict[str, Any]:
        """The options of the format's own parser, as plain JSON values."""
        return {"marker": self.marker}


@dataclass(frozen=True)
class MarkedOptions(ChatJsonOptions):
    """Formats with `<image>` in their text."""

    markers: Literal["strict", "lenient"] = "strict"
    """strict: a row whose `<image>` markers are not as many as its images is rejected; lenient: markers that are
    missing are put before the first text, and those after the last image are text. A row without images keeps its
    markers as text in any case."""

    def parser_options(self) -> dict[str, Any]:
        """`markers` and `marker`."""
        return super().parser_options() | {"markers": self.markers}


@dataclass(frozen=True)
class LlavaOptions(MarkedOptions):
    """LLaVA json (image or video, conversations of from and value) to conversations."""

    format: ClassVar[str] = "llava"


@dataclass(frozen=True)
class SharegptOptions(MarkedOptions):
    """ShareGPT and LLaMA-Factory json (messages or conversations, images, videos) to conversations."""

    format: ClassVar[str] = "sharegpt"

    dataset: str | None = None
    """Entry of the dataset_info.json beside the rows, which names their file, columns and roles. By default the entry
    that names the file is used; without one, every usual name is read."""


@dataclass(frozen=True)
class SwiftOptions(MarkedOptions):
    """ms-swift json (messages, or query, response and history; images, videos) to conversations."""

    format: ClassVar[str] = "swift"


@dataclass(frozen=True)
class TrlOptions(ChatJsonOptions):
    """TRL and OpenAI json (messages or prompt and completion, contents of parts, images) to conversations."""

    format: ClassVar[str] = "trl"
