"""PV310 to PV314: every image of a converted dataset compared with the source it was made from. On demand only.

    report = validate("out", source="/data/ucf")         # phiv-validate out --source /data/ucf

A shard records of each image which input file it came from, that file's sha256 and, of a frame, its number in the clip.
So the file is searched below the source and hashed; an image must be its bytes; a frame is decoded and encoded again as
in the conversion. What cannot be compared is counted by reason: PV313.

Bytes of a frame depend on the builds of FFmpeg and libjpeg and on the processor, so frames whose bytes differ are
compared as pixels (`imaging.pixel_diff`); where all versions are those of the conversion, other bytes alone are PV314.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

from phiv_data.media.images import encode_jpeg
from phiv_data.media.reject import RejectInput
from phiv_data.media.video import GROUPS_ONLY, decoder_version, frames_at, library_versions
from phiv_data.sources.image_index import is_archive, open_source
from phiv_data.storage.dataset import MANIFEST, read_manifest
from phiv_data.storage.record_errors import short_repr
from phiv_data.storage.shards import ShardRow, open_shard
from phiv_data.validation.core.finding import Finding, Settings
from phiv_data.validation.imaging.pixel_diff import MAX_BYTES, difference_of
from phiv_data.validation.partial_result import IssueCollector, PartialResult
from phiv_data.validation.provenance.source_files import SourceFiles
from phiv_schemas import Issue, Manifest, ShardError, UsageError

if TYPE_CHECKING:
    import pyarrow as pa

ROWS = 64  # of a unit of work: some seconds of decoding
_AFTER_ROWS = 2**31  # numbers of issues: they come after what other rules find in the same row
_DETERMINING = ("av", "libavcodec", "libavformat", "libavutil", "libswscale", "pillow")

NO_SOURCE = "the shards name none"
REMADE = "their converter made them again, and they differ from it"
OTHER_PROGRAM = "another program decoded them, or the manifest names no jpeg_quality"


@dataclass
class SourceContext:
    """The source, and what the conversion recorded of how it made images; keeps the latest shard and clip."""

    settings: Settings
    manifest: Manifest
    files: SourceFiles
    frames: dict[int, bytes] = field(default_factory=dict)
    """Of the latest clip: frames encoded again, for rows that show the same."""
    frames_of: Path | None = None
    _shard: tuple[Path, list[pa.RecordBatch]] | None = None

    def batches(self, path: Path) -> list[pa.RecordBatch]:
        """The batches of a shard; none of one that is broken (PV305)."""
        if self._shard is None or self._shard[0] != path:
            try:
                self._shard = path, open_shard(path)
            except ShardError:
                self._shard = path, []
        return self._shard[1]

    @cached_property
    def has_same_libraries(self) -> bool:
        """True when the libraries that determine a frame's bytes are those of the conversion."""
        here = library_versions() | {"pillow": version("pillow")}
        return all(here.get(name) == self.manifest.versions.get(name) for name in _DETERMINING)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_shard": None, "frames": {}, "frames_of": None}


@dataclass(frozen=True, slots=True)
class SourceRows:
    """Rows `start` to `stop` of a shard, a unit of work."""

    file: str
    path: Path
    start: int
    stop: int
    first_line: ClassVar[None] = None

    def __str__(self) -> str:
        return self.file

    def check(self, context: SourceContext) -> PartialResult:
        """What is wrong with their images, compared with the source."""
        issues = IssueCollector(context.settings.max_issues, context.settings.ignore, _AFTER_ROWS)
        comparison = _Comparison(context)
        first = 0
        for batch in context.batches(self.path):
            start, stop = max(self.start - first, 0), min(self.stop - first, batch.num_rows)
            for number in range(start, stop):  # one row in memory at a time
                row = batch.slice(number, 1).to_pylist()[0]
                issues.extend(found.at(self.file, first + number + 1) for found in comparison.check_row(row))
            first += batch.num_rows
        return PartialResult(issues, aggregators={"sources": UncheckedImages(comparison.unchecked)})


@dataclass(frozen=True, slots=True)
class SourcePlan:
    """The rows to compare with a source, and what is known before any is compared."""

    rows: list[SourceRows]
    context: SourceContext
    known: PartialResult


class InputsComparison(Protocol):
    """The inputs of a source compared with those that a manifest records; `reason`: what differs, or why it is open."""

    @property
    def status(self) -> Literal["same", "changed", "unknown", "no converter"]:
        """ "unknown" where they could not be compared."""

    @property
    def reason(self) -> str:
        """For people; "" where they are the same."""


CompareInputs = Callable[[Manifest, Sequence[Path], Path], InputsComparison]
"""Takes a manifest, the paths of the source, and an empty folder to unpack to."""


def plan_sources(
    path: Path,
    source: Path | str | Sequence[Path],
    settings: Settings,
    new_folder: Callable[[], Path],
    compare_inputs: CompareInputs | None = None,
) -> SourcePlan | None:
    """A comparison of what phiv-convert wrote to `path` with `source`: a folder, archives, a file of rows.

    Images of a file of rows are in the folder or the archives beside it, else around it.

    `compare_inputs` compares rows: PV312 where the source has others now, PV313 where it cannot compare them. Of a
    manifest that names no converter only images are compared.
    None where the manifest is broken, which is PV304.
    UsageError for a path without a manifest; SourceError for a source that is not there or cannot be unpacked.
    """
    if not (path / MANIFEST).is_file():
        raise UsageError("--source", f"{path} holds no {MANIFEST}", "Pass the folder that phiv-convert wrote")
    paths = [Path(source)] if isinstance(source, str | Path) else list(source)
    rows_of = [one for one in paths if one.is_file() and not is_archive(one)]
    if rest := [one for one in paths if one not in rows_of]:
        root = open_source(rest, new_folder())
    else:
        root = rows_of[0].parent  # the images of a file of rows lie around it
    try:
        manifest = read_manifest(path)
    except ShardError:
        return None
    rows, unchecked = [], Counter[str]()
    for split in manifest.splits:
        if not split.shards and split.num_images:
            unchecked[f"split {split.name!r} has no shards, which would name it"] += split.num_images
        for shard in split.shards:
            file = path / shard.path
            starts = range(0, shard.rows, ROWS) if file.is_file() else ()
            rows += [SourceRows(shard.path, file, start, min(start + ROWS, shard.rows)) for start in starts]
    known = PartialResult(IssueCollector.of(settings), aggregators={"sources": UncheckedImages(unchecked)})
    if compare_inputs:
        inputs = compare_inputs(manifest, paths, new_folder())
        if inputs.status == "changed":
            what = f"the source has changed since it was converted: {inputs.reason}"
            known.issues.add("PV312", MANIFEST, what, hint="Convert it again, or pass the source as it was")
        elif inputs.status == "unknown":
            what = f"rows were not compared with the source: {inputs.reason}"
            known.issues.extend((Finding("PV313", None, what).at(MANIFEST),))
    return SourcePlan(rows, SourceContext(settings, manifest, SourceFiles(root)), known)


@dataclass(slots=True)
class UncheckedImages:
    """PV313: images that were not compared, counted by reason."""

    images: Counter[str] = field(default_factory=Counter)

    def observe(self, row: object) -> None:
        """Rows alone contain nothing of sources."""

    def merge(self, other: UncheckedImages) -> UncheckedImages:
        """The counts of both."""
        return UncheckedImages(self.images + other.images)

    def findings(self) -> Iterator[Issue]:
        """One for each reason."""
        for reason, count in sorted(self.images.items()):
            images = "1 image was" if count == 1 else f"{count} images were"
            yield Finding("PV313", None, f"{images} not compared with the source: {reason}").at(MANIFEST)


# One row ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _RowImage:
    """An image of a row: its number, what its shard records of it, its bytes."""

    number: int
    media: ShardRow
    data: bytes

    def finding(self, code: str, message: str) -> Finding:
        return Finding(code, f"$.images[{self.number}]", message)


@dataclass(slots=True)
class _Comparison:
    """Compares rows with their sources, and counts the images that cannot be compared, by reason."""

    context: SourceContext
    unchecked: Counter[str] = field(default_factory=Counter)

    def check_row(self, row: ShardRow) -> Iterator[Finding]:
        """Every image of a row, grouped by the source that it names."""
        by_source = defaultdict(list)
        pairs = zip(row["images"] or (), row["media"] or (), strict=False)
        for number, (image, media) in enumerate(pairs):
            if image and media and image["bytes"]:  # otherwise it is PV305 or PV102
                by_source[media["source"], media["source_sha256"]].append(_RowImage(number, media, image["bytes"]))
        for (source, sha256), images in by_source.items():
            file = NO_SOURCE if source is None or sha256 is None else self.context.files.find(source, sha256)
            if isinstance(file, str):
                self.unchecked[file] += len(images)
            elif isinstance(file, Finding):
                yield images[0].finding(file.code, file.message)
            else:
                for image in images:
                    if image.media["frame_index"] is not None or hashlib.sha256(image.data).hexdigest() == sha256:
                        continue
                    if image.media["sha256"] == sha256:  # declared a copy
                        yield image.finding("PV310", f"bytes are not those of its source {short_repr(source)}")
                        continue
                    difference = difference_of(image.data, file) if file.stat().st_size <= MAX_BYTES else None
                    if difference is None or not difference.is_noise():
                        self.unchecked[REMADE] += 1
                yield from self._check_frames(file, [one for one in images if one.media["frame_index"] is not None])

    def _check_frames(self, file: Path, images: list[_RowImage]) -> Iterator[Finding]:
        given = self.context.manifest.options.get("jpeg_quality")
        quality = given if isinstance(given, int) else None
        ours = [one for one in images if str(one.media["decoder"]).startswith(("pyav-", "decord-")) and quality]
        if len(ours) < len(images):
            self.unchecked[OTHER_PROGRAM] += len(images) - len(ours)
        if not ours:
            return
        context, indices = self.context, {one.media["frame_index"] for one in ours}
        if context.frames_of != file:
            context.frames_of, context.frames = file, {}
        try:  # encode the frames again, as the conversion did
            if missing := indices - context.frames.keys():
                groups_only = any(str(one.media["decoder"]).endswith(GROUPS_ONLY) for one in ours)
                again = frames_at(file, missing, groups_only=groups_only)
                context.frames |= {frame.index: encode_jpeg(frame.image, quality or 75) for frame in again}
        except RejectInput as reject:
            what = f"its source {short_repr(ours[0].media['source'])} does not decode: {reject.reason}"
            yield ours[0].finding("PV310", what)
            return
        for image in ours:
            frame = f"frame {image.media['frame_index']} of {short_repr(image.media['source'])}"
            data = context.frames.get(image.media["frame_index"])
            if data is None:
                yield image.finding("PV310", f"there is no {frame}")
            elif data != image.data:
                difference = difference_of(image.data, data)
                if difference is None or not difference.is_noise(quality or 75):
                    by = "size, or does not decode" if difference is None else str(difference)
                    yield image.finding("PV310", f"is not {frame}: it differs in {by}")
                elif (
                    str(image.media["decoder"]).removesuffix(GROUPS_ONLY) == decoder_version()
                    and context.has_same_libraries
                ):
                    yield image.finding("PV314", f"bytes are not those of {frame}, though its pixels are")
