"""UCF-101: a clip of a human action becomes eight frames, the question which class it is, and the answer.

    phiv-convert ucf101 --source UCF101_subset.tar.gz --out_dir ucf101     the recipe's subset, folder or archive
    phiv-convert ucf101 --source /data/ucf --fold 1 --out_dir ucf101       official UCF-101/ + ucfTrainTestlist/
    phiv-convert ucf101 --source clips --out_dir out                       <Class>/*.mp4 of your own, without lists
    phiv-convert ucf101 --out_dir ucf101                                   downloads the recipe's subset
    phiv-convert ucf101 --demo --out_dir out                               makes a small synthetic set, offline

Before, a clip of a class folder:

    UCF101_subset/val/BenchPress/v_BenchPress_g08_c01.avi

After, a record (and eight JPEG files):

    {"id": "val-0000000300", "source": "ucf101", "conversations": [{
      "images": ["val/BenchPress/v_BenchPress_g08_c01.0.jpg", ..., "val/BenchPress/v_BenchPress_g08_c01.7.jpg"],
      "user": "Classify the video into one of the following classes: ApplyEyeMakeup, ..., BenchPress.",
      "assistant": "BenchPress"}]}

Output tree, file names, ids, prompt and keys are those of the Phi-3.5-vision recipe. Frame k of n is decodable frame
`(k*T)//n` in decode order, which equals the recipe's choice for n = 8.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from difflib import get_close_matches
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar

from phiv_converters.base import Release, refuse_exports
from phiv_converters.clips import clip_images
from phiv_converters.synthetic.clips import make_synthetic_ucf101
from phiv_converters.ucf101.layouts import SPLITS, Clip, Ucf101Layout, find_layout, list_clips
from phiv_converters.ucf101.options import HUB_SHA256, PROMPT, SHARING, Ucf101Options
from phiv_converters.val_split import val_warning
from phiv_data.convert.base import Inputs, Item
from phiv_data.media.reject import RejectInput
from phiv_data.media.video import library_versions
from phiv_data.sources.hub import download
from phiv_data.sources.image_index import open_source
from phiv_data.storage.sample import Draft
from phiv_schemas import Turn, check_image_path
from phiv_schemas.errors import SourceError, UsageError
from phiv_schemas.sharing import Sharing

HUB_REPO, HUB_FILE = "sayakpaul/ucf101-subset", "UCF101_subset.tar.gz"


def open_ucf101(flags: Ucf101Options, work_dir: Path) -> Ucf101:
    """Find, unpack, download or make the source, and recognise its layout."""
    fixed = flags.identity()
    if flags.demo:
        root = make_synthetic_ucf101(work_dir / "demo")
    elif flags.source is None:
        hint = "Pass --source (UCF101_subset folder or archive, or UCF-101/ with ucfTrainTestlist/), or --demo"
        root = open_source(download(HUB_REPO, HUB_FILE, sha256=HUB_SHA256, hint=hint), work_dir, sha256=HUB_SHA256)
    else:
        refuse_exports(flags.source)
        root = open_source(flags.source, work_dir, sha256=fixed["source"] if fixed else None)
    return Ucf101(flags, find_layout(root, flags.fold, str(flags.source or HUB_FILE)), fixed)


@dataclass(frozen=True)
class Ucf101(Release):
    """An opened source: lists its clips and turns one into a draft."""

    name: ClassVar[str] = "ucf101"
    sharing: ClassVar[Sharing] = SHARING
    demo_content: ClassVar[str] = "clips"

    flags: Ucf101Options
    layout: Ucf101Layout
    classes: tuple[str, ...] = field(init=False)
    """The classes to convert, sorted."""

    def __post_init__(self) -> None:
        asked, present = self.flags.classes, [name for name in self.layout.classes if _is_sound(name)]
        for name in asked:
            if name not in present:
                close = get_close_matches(name, present, n=1)
                hint = f"Did you mean {close[0]!r}?" if close else f"The source has: {', '.join(present)}"
                raise UsageError("--classes", f"no class {name!r}", hint)
        object.__setattr__(self, "classes", tuple(sorted(set(asked) or present)))

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits that the source has, and those that are made of its train."""
        made = self.layout.splits_made(self.flags.shares)
        return tuple(split for split in SPLITS if split in {*self.layout.own_splits, *made})

    @property
    def prompt(self) -> str:
        """The recipe's question, the same for every clip."""
        return PROMPT.format(classes=", ".join(self.classes))

    def options(self) -> dict[str, Any]:
        """Everything that affects the output; of a folder also what was found in it."""
        found: dict[str, Any] = {"fold": self.layout.fold, "classes": list(self.classes)}
        if self.layout.kind != "official":
            found["val_groups"] = None
        if not self.layout.made_splits:
            found["val_fraction"] = None
        return self.fixed or self.flags.output_options() | found

    def versions(self) -> dict[str, str]:
        """The decoder's and the JPEG encoder's versions."""
        return {"pillow": version("pillow"), "numpy": version("numpy")} | library_versions(self.flags.decoder)

    def inputs(self) -> Inputs:
        """The clips of the chosen classes, at most `max_per_class` of each class and split, and what the lists lack.

        SourceError where two would write the same frames.
        """
        # Clips of a class that cannot be named are inputs too, and rejected.
        unsound = set() if self.flags.classes else {name for name in self.layout.classes if not _is_sound(name)}
        shares = self.flags.shares
        if not self.layout.made_splits:
            shares.check_source(self.layout.own_splits)
        listing = list_clips(self.layout, self.flags.val_groups, {*self.classes, *unsound}, shares)
        if listing.absent and self.flags.require_all:
            raise SourceError(
                self.name,
                f"{len(listing.absent)} clips of the official lists have no file (first: {listing.absent[0]!r})",
                "Leave out --require_all to convert what is there",
            )
        items: list[Item] = []
        counts: Counter[tuple[str, str]] = Counter()
        first: dict[tuple[str, str, str], Clip] = {}
        for clip in sorted(listing.clips, key=lambda clip: clip.key):
            counts[clip.split, clip.label] += 1
            if self.flags.max_per_class is not None and counts[clip.split, clip.label] > self.flags.max_per_class:
                continue
            other = first.setdefault((clip.split, clip.label, clip.path.stem), clip)
            if other is not clip:
                what = f"its frames would have the names of those of {str(other.path)!r}"
                raise SourceError(str(clip.path), what, "Rename one")
            items.append(Item(clip.split, clip.key, clip.path, clip))
        made = self.layout.splits_made(shares)
        rows, warnings = Counter(item.split for item in items), listing.warnings
        if made == ("val",):
            warnings += (val_warning((item.split for item in items if item.split != "test"), "source videos"),)
        elif made:
            parts = f"{rows['val']} of {rows.total()} rows are val and {rows['test']} test, by whole source videos"
            warnings += (f"no lists of splits in the source: {parts}. --val_fraction 0 keeps all in train",)
        return Inputs(items, absent=len(listing.absent), warnings=warnings)

    def drafts_depend_on(self) -> object:
        """The flags, and the classes that every question lists; clips are payloads."""
        return self.flags, self.classes

    def draft(self, item: Item) -> Draft:
        """One clip as one turn: its frames, the recipe's question, the class."""
        clip: Clip = item.payload
        if not _is_sound(clip.label):
            raise RejectInput(item.key, "bad-name", "the name of its class folder is not UTF-8, or not part of a path")
        images = clip_images(
            clip.path,
            f"{clip.split}/{clip.label}/{clip.path.stem}",
            clip.key,
            self.flags.num_frames,
            self.flags.jpeg_quality,
            decoder=self.flags.decoder,
            on_corrupt=self.flags.on_corrupt,
            check=self.flags.check_video,
        )
        turn = Turn(images=tuple(image.meta.path for image in images), user=self.prompt, assistant=clip.label)
        return Draft((turn,), images)


def _is_sound(label: str) -> bool:
    """Whether a class can have this name: part of a path, and UTF-8."""
    try:
        return bool(check_image_path(label).encode())
    except ValueError:  # UnicodeEncodeError is one: a name on disk need not be UTF-8
        return False
