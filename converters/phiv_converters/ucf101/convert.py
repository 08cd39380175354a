"""UCF-101: a clip of a human action becomes eight frames, the question which class it is, and the answer.

    phiv-convert ucf101 --source UCF101_subset.tar.gz --out_dir ucf101     the recipe's subset, folder or archive
    phiv-convert ucf101 --source /data/ucf --fold 1 --out_dir ucf101       official UCF-101/ + ucfTrainTestlist/
    phiv-convert ucf101 --out_dir ucf101                                   downloads the recipe's subset
    phiv-convert ucf101 --demo --out_dir out                               draws a small synthetic set, offline

Output tree, file names, ids, prompt and keys are those of the Phi-3.5-vision recipe. Frame k of n is decodable frame
`(k*T)//n` in decode order, which equals the recipe's choice for n = 8.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from phiv_schemas import Sharing
from phiv_schemas.errors import SourceError, UsageError

if TYPE_CHECKING:
    from phiv_converters.ucf101.layouts import Clip, Layout
    from phiv_data.convert.base import Inputs, Item
    from phiv_data.media.video import VideoFrame
    from phiv_data.storage.sample import Draft, EncodedImage

SPLITS = ("train", "val", "test")
HUB_REPO, HUB_FILE = "sayakpaul/ucf101-subset", "UCF101_subset.tar.gz"
HUB_SHA256 = "e9fcc76af48d320be88c5265f2e0576ecd615956976f6ce4742fdf2b042b71eb"


@dataclass(frozen=True)
class Ucf101Options:
    """UCF-101 action clips to image-sequence classification conversations."""

    sharing: ClassVar[Sharing] = Sharing(
        group="source video", group_pattern=r"(?i)(?:^|/)v_([^/]+_g\d\d)_c\d\d\."
    )  # all clips of a group (v_Archery_g21_c04: g21) show one scene

    source: Path | None = None
    """Folder or archive: UCF101_subset/{train,val,test}/<Class>/*.avi, or UCF-101/ with ucfTrainTestlist/ beside it.
    Without it, the recipe's subset is downloaded from the Hugging Face hub."""
    demo: bool = False
    """Draw a small synthetic set instead: needs no network and no source."""
    fold: Literal[1, 2, 3] | None = None
    """Which of the three official train/test lists to use (official layout only; 1 when not given)."""
    val_groups: int = 2
    """Official layout: the groups (source videos) with the highest numbers in the train list become val."""
    num_frames: int = 8
    """Frames per clip, evenly spaced over those that decode."""
    classes: tuple[str, ...] = ()
    """Convert these classes only; the prompt then lists only them."""
    max_per_class: int | None = None
    """At most this many clips per class and split, the first by name."""
    jpeg_quality: int = 75
    """JPEG quality of the frames, 1 to 95; 75 is the recipe's."""
    decoder: Literal["pyav", "decord"] = "pyav"
    """Video decoder; decord needs the extra phiv[decord]."""
    on_corrupt: Literal["reject", "salvage"] = "reject"
    """A damaged clip is rejected, or its decodable frames are used."""
    require_all: bool = False
    """Fail when a clip of the official lists has no file (by default these are counted as absent)."""

    def __post_init__(self) -> None:
        _check_range("--num_frames", self.num_frames, 1, 10_000)
        _check_range("--jpeg_quality", self.jpeg_quality, 1, 95)
        _check_range("--val_groups", self.val_groups, 0, 24)
        if self.max_per_class is not None:
            _check_range("--max_per_class", self.max_per_class, 1, 10**9)
        if self.demo and self.source is not None:
            raise UsageError("--demo", "draws its own clips, so it does not go with --source", "Pass one of them")

    def identity(self) -> dict[str, Any] | None:
        """The options of a source that cannot change (demo, archive, hub); None for a folder."""
        if self.demo:
            return self.shape() | {"source": "demo"}
        if self.source is None:
            return self.shape() | {"source": HUB_SHA256}
        if self.source.is_file():
            from phiv_data.utils.atomic import sha256_file

            return self.shape() | {"source": sha256_file(self.source)}
        return None

    def open(self, scratch: Path) -> Ucf101:
        """Find, unpack, download or draw the source, and tell its layout."""
        from phiv_converters.ucf101.layouts import find_layout

        identity = self.identity()  # hashes an archive: once
        layout = find_layout(self._root(scratch, identity), self.fold, str(self.source or HUB_FILE))
        return Ucf101(self, layout, identity)

    def _root(self, scratch: Path, identity: dict[str, Any] | None) -> Path:
        if self.demo:
            return _drawn(scratch)
        if identity is not None:
            return _unpacked(self.source or _downloaded(), scratch, identity["source"])
        assert self.source is not None
        if not self.source.is_dir():
            raise SourceError("--source", f"no such file or folder {str(self.source)!r}")
        return self.source

    def shape(self) -> dict[str, Any]:
        """The options that shape the output, as plain JSON values."""
        names = ("num_frames", "jpeg_quality", "decoder", "on_corrupt", "max_per_class", "fold", "val_groups")
        return {name: getattr(self, name) for name in names} | {"classes": sorted(self.classes)}


@dataclass(frozen=True)
class Ucf101:
    """An opened source: lists its clips and turns one into a draft."""

    options_: Ucf101Options
    layout: Layout
    identity: dict[str, Any] | None
    name: str = "ucf101"
    splits: tuple[str, ...] = SPLITS
    classes: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "classes", _chosen(self.layout.classes, self.options_.classes))

    @property
    def synthetic(self) -> bool:
        """True for the drawn demo set."""
        return self.options_.demo

    @property
    def record_source(self) -> str:
        """`ucf101`, or `ucf101-synthetic` for drawn clips: every row says so."""
        return "ucf101-synthetic" if self.synthetic else "ucf101"

    def describe(self) -> str:
        """The layout found and why."""
        return ("drawn demo clips, " if self.synthetic else "") + self.layout.description

    def options(self) -> dict[str, Any]:
        """Everything that shapes the output; of a folder also what was found in it."""
        found: dict[str, Any] = {"fold": self.layout.fold, "classes": list(self.classes)}
        if self.layout.kind == "subset":
            found["val_groups"] = None  # the subset has its own val split
        return self.identity or self.options_.shape() | found

    def versions(self) -> dict[str, str]:
        """The decoder's and the JPEG encoder's versions."""
        from importlib.metadata import version

        from phiv_data.media.video import library_versions

        return {"pillow": version("pillow"), "numpy": version("numpy")} | library_versions(self.options_.decoder)

    def inputs(self) -> Inputs:
        """The clips of the chosen classes, with what is absent from the official lists."""
        from phiv_converters.ucf101.layouts import list_clips
        from phiv_data.convert.base import Inputs, Item

        listing = list_clips(self.layout, self.options_.val_groups, set(self.classes))
        if listing.absent and self.options_.require_all:
            raise SourceError(
                self.name,
                f"{len(listing.absent)} clips of the official lists have no file (first: {listing.absent[0]!r})",
                "Leave out --require_all to convert what is there",
            )
        clips = _first_per_class(listing.clips, self.options_.max_per_class)
        _check_stems(clips)
        items = tuple(Item(clip.split, clip.key, _size(clip.path), clip) for clip in clips)
        return Inputs(items, absent=len(listing.absent), notices=listing.notices)

    def draft(self, item: Item) -> Draft:
        """One clip as one turn: its frames, the recipe's question, the class."""
        from phiv_data.media.reject import hash_input
        from phiv_data.media.video import sample_frames
        from phiv_data.storage.sample import Draft
        from phiv_schemas import Turn

        clip: Clip = item.payload
        sha256 = hash_input(clip.path, item.key)
        _, frames = sample_frames(
            clip.path,
            self.options_.num_frames,
            decoder=self.options_.decoder,
            on_corrupt=self.options_.on_corrupt,
        )
        images = tuple(self._encode(clip, k, frame, sha256) for k, frame in enumerate(frames))
        turn = Turn(images=tuple(i.meta.path for i in images), user=self.prompt, assistant=clip.label)
        return Draft((turn,), images)

    @property
    def prompt(self) -> str:
        """The recipe's question, the same for every clip."""
        return f"Classify the video into one of the following classes: {', '.join(self.classes)}."

    def _encode(self, clip: Clip, k: int, frame: VideoFrame, source_sha256: str) -> EncodedImage:
        from phiv_data.media.images import encode_jpeg
        from phiv_data.media.video import decoder_version
        from phiv_data.storage.sample import encoded_image

        return encoded_image(
            f"{clip.split}/{clip.label}/{clip.path.stem}.{k}.jpg",
            encode_jpeg(frame.image, self.options_.jpeg_quality),
            size=(frame.width, frame.height),
            format="JPEG",
            source=clip.key,
            source_sha256=source_sha256,
            frame_index=frame.index,
            timestamp=frame.timestamp,
            decoder=decoder_version(self.options_.decoder),
        )


def _check_range(flag: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise UsageError(flag, f"must be {low} to {high} (found {value})")


def _chosen(present: tuple[str, ...], asked: tuple[str, ...]) -> tuple[str, ...]:
    """The classes to convert, sorted. UsageError for one the source does not have."""
    from difflib import get_close_matches

    for name in asked:
        if name not in present:
            close = get_close_matches(name, present, n=1)
            hint = f"Did you mean {close[0]!r}?" if close else f"The source has: {', '.join(present)}"
            raise UsageError("--classes", f"no class {name!r}", hint)
    return tuple(sorted(set(asked) or present))


def _first_per_class(clips: tuple[Clip, ...], limit: int | None) -> list[Clip]:
    from collections import Counter

    kept: list[Clip] = []
    seen: Counter[tuple[str, str]] = Counter()
    for clip in sorted(clips, key=lambda clip: clip.key):
        seen[clip.split, clip.label] += 1
        if limit is None or seen[clip.split, clip.label] <= limit:
            kept.append(clip)
    return kept


def _check_stems(clips: list[Clip]) -> None:
    """Two clips that differ in nothing but the suffix would write the same frames."""
    first: dict[tuple[str, str, str], Clip] = {}
    for clip in clips:
        other = first.setdefault((clip.split, clip.label, clip.path.stem), clip)
        if other is not clip:
            raise SourceError(
                str(clip.path), f"its frames would have the names of those of {str(other.path)!r}", "Rename one"
            )


def _size(path: Path) -> int:
    """Bytes; 0 for what cannot be looked at, which `draft` then rejects."""
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _drawn(scratch: Path) -> Path:
    from phiv_converters.synthetic.clips import draw_demo_source

    return draw_demo_source(scratch / "demo")


def _unpacked(archive: Path, scratch: Path, sha256: str) -> Path:
    """`archive` unpacked below `scratch`, once: the folder is named by its hash, and complete or not there."""
    from phiv_data.sources.archives import extract

    target = scratch / f"unpacked-{sha256[:16]}"
    return target if target.is_dir() else extract(archive, target)


def _downloaded() -> Path:
    """The archive the recipe downloads, from the hub's cache or the network, its sha256 checked."""
    from phiv_data.sources.hub import download

    hint = "Pass --source (UCF101_subset folder or archive, or UCF-101/ with ucfTrainTestlist/), or --demo"
    return download(HUB_REPO, HUB_FILE, sha256=HUB_SHA256, hint=hint)
