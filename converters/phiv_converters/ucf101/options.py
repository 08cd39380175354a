"""Options of the UCF-101 converter. Light: `phiv-convert --help` imports this."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

from phiv_converters.flags import VAL_FRACTION, SplitFlags, check_demo, check_range, fixed_options
from phiv_schemas.sharing import Sharing

PROMPT = "Classify the video into one of the following classes: {classes}."
HUB_SHA256 = "e9fcc76af48d320be88c5265f2e0576ecd615956976f6ce4742fdf2b042b71eb"
SHARING = Sharing(group="source video", group_pattern=r"(?i)(?:^|/)v_([^/]+_g\d\d)_c\d\d\.")


@dataclass(frozen=True)
class Ucf101Options(SplitFlags):
    """UCF-101 action clips to image-sequence classification conversations."""

    opener = "phiv_converters.ucf101.convert:open_ucf101"

    sharing: ClassVar[Sharing] = SHARING

    source: Path | None = None
    """Folder or archive: UCF101_subset/{train,val,test}/<Class>/*.avi (or some of the three), UCF-101/ with
    ucfTrainTestlist/ beside it, or <Class>/*.avi alone; clips may be mp4, mkv, webm and mov too. Without it, the
    recipe's subset is downloaded from the Hugging Face hub."""
    demo: bool = False
    """Make a small synthetic set instead: needs no network and no source."""
    fold: Literal[1, 2, 3] | None = None
    """Which of the three official train/test lists to use (official layout only; 1 when not given)."""
    val_groups: int = 2
    """Official layout: the groups (source videos) with the highest numbers in the train list become val."""
    val_fraction: float = field(default=VAL_FRACTION, kw_only=True)
    """Other layouts without val: about this share of train becomes val, whole groups by a hash; of class folders alone
    the same share becomes test too."""
    num_frames: int = 8
    """Frames per clip, evenly spaced over those that decode."""
    classes: tuple[str, ...] = ()
    """Convert these classes only; the prompt then lists only them."""
    max_per_class: int | None = None
    """At most this many clips per class and split, the first by name."""
    jpeg_quality: int = 75
    """JPEG quality of the frames, 1 to 95; 75 is the recipe's."""
    decoder: Literal["pyav", "decord"] = "pyav"
    """Video decoder; decord needs the extra phiv[decord], and has not been maintained since 2021."""
    on_corrupt: Literal["reject", "salvage"] = "reject"
    """A damaged clip is rejected, or its decodable frames are used."""
    check_video: Literal["full", "used"] = "full"
    """full decodes all of a clip; used only the groups of frames that hold wanted ones, where these are provably the
    same: faster on long clips, but damage elsewhere is not found."""
    require_all: bool = False
    """Fail when a clip of the official lists has no file (by default these are counted as absent)."""

    def __post_init__(self) -> None:
        check_range("--num_frames", self.num_frames, 1, 10_000)
        check_range("--jpeg_quality", self.jpeg_quality, 1, 95)
        check_range("--val_groups", self.val_groups, 0, 24)
        self.check_fractions()
        if self.max_per_class is not None:
            check_range("--max_per_class", self.max_per_class, 1, 10**9)
        check_demo(self.demo, [self.source])

    def identity(self) -> dict[str, Any] | None:
        """The options of a source that cannot change (demo, archive, hub); None for a folder."""
        if self.source is None and not self.demo:
            return self.output_options() | {"source": HUB_SHA256}
        return fixed_options(self.output_options(), [self.source], demo=self.demo)

    def output_options(self) -> dict[str, Any]:
        """The options that affect the output, as plain JSON values."""
        names = ("num_frames", "jpeg_quality", "decoder", "on_corrupt", "check_video", "max_per_class", "fold")
        values = {name: getattr(self, name) for name in (*names, "val_groups")} | self.split_options()
        return values | {"classes": sorted(self.classes), "prompt_text": PROMPT}
