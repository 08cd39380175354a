"""PV310 to PV314: every image of the shards made again from its source, and compared. On demand only.

    report = validate("out", source="/data/ucf")         # phiv-validate out --source /data/ucf

A shard says of each image which input file it came from, that file's sha256 and, of a frame, its number in the clip. So
the file is looked for below the source and hashed; an image must be its bytes; a frame is decoded and encoded again as
it was converted, clips one frame at a time. What cannot be compared is counted by reason: PV313.

Bytes of a frame depend on the builds of FFmpeg and libjpeg and on the processor, so frames whose bytes differ are
compared as pixels (`likeness`); where all versions are those of the conversion, bytes that differ alone are PV314.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any

from phiv_data.media.reject import RejectInput
from phiv_data.sources.image_index import open_source
from phiv_data.storage.dataset import MANIFEST, read_manifest
from phiv_data.storage.record_errors import shown
from phiv_data.storage.shards import Row, open_shard
from phiv_data.validation.core.finding import Finding, Settings
from phiv_data.validation.imaging.pixel_diff import difference_of, is_same_image
from phiv_data.validation.partial_result import Findings, Partial, merge
from phiv_data.validation.provenance.source_files import SourceFiles
from phiv_data.validation.tasks import Job, Piece, Shard, run_pieces
from phiv_schemas import Issue, Manifest, ShardError, UsageError

if TYPE_CHECKING:
    import pyarrow as pa

ROWS = 64  # of a piece: some seconds of decoding
_AFTER_ROWS = 2**31  # the findings of a row come behind those that other rules have of it
_SHAPING = ("av", "libavcodec", "libavformat", "libavutil", "libswscale", "pillow")

NO_SOURCE = "the shards name none"
REMADE = "their converter made them again, and they differ from it"
OTHER_PROGRAM = "another program decoded them, or the manifest names no jpeg_quality"


@dataclass(frozen=True, slots=True)
class Rows(Piece):
    """Rows `start` to `stop` of a shard."""

    start: int = 0
    stop: int = 0


@dataclass
class SourceJob(Job):
    """All rows of all shards, and the source that they are held against."""

    manifest: Manifest | None = None
    files: SourceFiles = field(default_factory=lambda: SourceFiles(Path()))
    unchecked: Counter[str] = field(default_factory=Counter)
    _shard: tuple[Path, list[pa.RecordBatch]] | None = None

    def rows(self, piece: Rows) -> Iterator[tuple[int, ShardRow]]:
        """The rows of a piece, numbered from 1, a batch in memory at a time; none of a shard that is broken (PV305)."""
        assert piece.shard
        if self._shard is None or self._shard[0] != piece.shard.path:
            try:
                self._shard = piece.shard.path, open_shard(piece.shard.path)
            except ShardError:
                self._shard = piece.shard.path, []
        first = 0
        for batch in self._shard[1]:
            start, stop = max(piece.start - first, 0), min(piece.stop - first, batch.num_rows)
            for number in range(start, stop):
                yield first + number + 1, batch.slice(number, 1).to_pylist()[0]
            first += batch.num_rows

    @property
    def quality(self) -> int | None:
        """Of the JPEG files that frames became."""
        quality = self.manifest.options.get("jpeg_quality") if self.manifest else None
        return quality if isinstance(quality, int) else None

    @cached_property
    def same_libraries(self) -> bool:
        """True when the libraries that shape a frame's bytes are those of the conversion."""
        from importlib.metadata import version

        from phiv_data.media.video import library_versions

        here = library_versions() | {"pillow": version("pillow")}
        there = self.manifest.versions if self.manifest else {}
        return all(here.get(name) == there.get(name) for name in _SHAPING)

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_shard": None}


def compare_sources(job: SourceJob, num_workers: int | None) -> Partial:
    """What is wrong with the images of a `source_job`."""
    whole = Partial(Findings.of(job.settings), aggregators={"sources": Unchecked(job.unchecked)})
    return reduce(merge, run_pieces(job, num_workers, check_sources), whole)


def source_job(
    path: Path, source: Path | str | Sequence[Path], settings: Settings, scratch: Callable[[], Path]
) -> SourceJob:
    """The job of holding what phiv-convert wrote to `path` against `source`: a folder, or archives, which are unpacked.

    UsageError for a path without a manifest; SourceError for a source that is not there or cannot be unpacked.
    """
    if not (path / MANIFEST).is_file():
        raise UsageError("--source", f"{path} holds no {MANIFEST}", "Pass the folder that phiv-convert wrote")
    root = open_source(Path(source) if isinstance(source, str) else source, scratch())
    try:
        manifest = read_manifest(path)
    except ShardError:  # PV304
        return SourceJob(settings=settings)
    job = SourceJob(settings=settings, manifest=manifest, files=SourceFiles(root))
    for split in manifest.splits:
        if not split.shards and split.num_images:
            job.unchecked[f"split {split.name!r} has no shards, which would name it"] += split.num_images
        for shard in split.shards:
            of_shard = Shard(shard.path, path / shard.path, shard.rows)
            starts = range(0, shard.rows, ROWS) if of_shard.path.is_file() else ()
            job.pieces += [Rows(split.name, shard=of_shard, start=a, stop=min(a + ROWS, shard.rows)) for a in starts]
    return job


def check_sources(job: Job, index: int) -> Partial:
    """What is wrong with the images of one piece, held against their sources. A task, as `walk.check_piece`."""
    piece = job.pieces[index]
    assert isinstance(job, SourceJob)
    assert isinstance(piece, Rows)
    assert piece.shard
    findings = Findings(job.settings.max_issues, job.settings.ignore, _AFTER_ROWS)
    check = _Check(job, piece.shard.file, findings)
    for line, row in job.rows(piece):
        check.row(line, row)
    return Partial(check.findings, aggregators={"sources": Unchecked(check.unchecked)})


@dataclass(slots=True)
class Unchecked:
    """PV313: images by the reason why they were not compared."""

    images: Counter[str] = field(default_factory=Counter)

    def observe(self, row: object) -> None:
        """Rows of a validation say nothing of sources."""

    def merge(self, other: Unchecked) -> Unchecked:
        """The counts of both."""
        return Unchecked(self.images + other.images)

    def findings(self) -> Iterator[Issue]:
        """One for each reason."""
        for reason, count in sorted(self.images.items()):
            images = "1 image was" if count == 1 else f"{count} images were"
            yield Finding("PV313", None, f"{images} not compared with the source: {reason}").at(MANIFEST)


# One row ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Image:
    """An image of a row: its number, what its shard says of it, its bytes."""

    number: int
    media: ShardRow
    data: bytes

    def found(self, code: str, message: str, hint: str = "") -> Finding:
        return Finding(code, f"$.images[{self.number}]", message, hint)


@dataclass(slots=True)
class _Check:
    """Checks rows of `file`; remembers what the latest frames of a clip became, for rows that show the same."""

    job: SourceJob
    file: str
    findings: Findings
    unchecked: Counter[str] = field(default_factory=Counter)
    _clip: tuple[Path | None, dict[int, bytes]] = (None, {})

    def row(self, line: int, row: ShardRow) -> None:
        """Every image of a row, by the source that it names."""
        by_source = defaultdict(list)
        pairs = zip(row["images"] or (), row["media"] or (), strict=False)
        for number, (image, media) in enumerate(pairs):
            if image and media and image["bytes"]:  # otherwise it is PV305 or PV102
                by_source[media["source"], media["source_sha256"]].append(_Image(number, media, image["bytes"]))
        for (source, sha256), images in by_source.items():
            for found in self._images(source, sha256, images):
                self.findings.extend([found.at(self.file, line)])

    def _images(self, source: str | None, sha256: str | None, images: list[_Image]) -> Iterator[Finding]:
        if source is None or sha256 is None:
            self.unchecked[NO_SOURCE] += len(images)
            return
        found = self.job.files.find(source, sha256)
        if isinstance(found, str):
            self.unchecked[found] += len(images)
        elif isinstance(found, Finding):
            yield images[0].found(found.code, found.message)
        else:
            yield from self._copies(found, [one for one in images if one.media["frame_index"] is None])
            yield from self._frames(found, [one for one in images if one.media["frame_index"] is not None])

    def _copies(self, file: Path, images: list[_Image]) -> Iterator[Finding]:
        for image in images:
            source, sha256 = image.media["source_sha256"], hashlib.sha256(image.data).hexdigest()
            if sha256 == source:
                continue
            if image.media["sha256"] == source:  # it says that it is a copy
                yield image.found("PV310", f"bytes are not those of its source {short_repr(image.media['source'])}")
            elif not is_same_image(image.data, file):
                self.unchecked[REMADE] += 1

    def _frames(self, file: Path, images: list[_Image]) -> Iterator[Finding]:
        ours = [one for one in images if str(one.media["decoder"]).startswith(("pyav-", "decord-"))]
        if self.job.quality is None:
            ours = []
        if len(ours) < len(images):
            self.unchecked[OTHER_PROGRAM] += len(images) - len(ours)
        if not ours:
            return
        try:
            again = self._again(file, {one.media["frame_index"] for one in ours}, self.job.quality or 75)
        except RejectInput as reject:
            what = f"its source {short_repr(ours[0].media['source'])} does not decode: {reject.reason}"
            yield ours[0].found("PV310", what)
            return
        for image in ours:
            yield from self._frame(image, again.get(image.media["frame_index"]))

    def _again(self, file: Path, indices: set[int], quality: int) -> dict[int, bytes]:
        """The frames of a clip, encoded again."""
        from phiv_data.media.images import encode_jpeg
        from phiv_data.media.video import frames_at

        if self._clip[0] != file:
            self._clip = (file, {})
        if missing := indices - self._clip[1].keys():
            made = {frame.index: encode_jpeg(frame.image, quality) for frame in frames_at(file, missing)}
            self._clip = (file, {**self._clip[1], **made})
        return self._clip[1]

    def _frame(self, image: _Image, again: bytes | None) -> Iterator[Finding]:
        from phiv_data.media.video import decoder_version

        frame = f"frame {image.media['frame_index']} of {short_repr(image.media['source'])}"
        if again is None:
            yield image.found("PV310", f"there is no {frame}")
        elif again != image.data:
            difference = difference_of(image.data, again)
            if difference is None or not difference.is_noise(self.job.quality or 75):
                by = "size, or does not decode" if difference is None else str(difference)
                yield image.found("PV310", f"is not {frame}: it differs in {by}")
            elif image.media["decoder"] == decoder_version() and self.job.same_libraries:
                yield image.found("PV314", f"bytes are not those of {frame}, though its pixels are")
