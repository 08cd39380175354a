"""The rows of a validation as independent pieces: byte ranges of jsonl files, shards, files to hash.

    check_piece(job, i) -> Partial        the task; any runner may call it, in any order, anywhere
    run_pieces(job, num_workers)          all of them, on phiv_data.utils.process_pool

A jsonl file is cut at line ends into ranges of a few MB that know their first line's number. Where a manifest pairs a
jsonl file with shards, a piece is a shard with its lines, so that rows are compared side by side.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice, repeat, zip_longest
from pathlib import Path
from typing import Any

from phiv_data.storage.jsonl import Line, parse_line, read_range
from phiv_data.storage.shards import ShardRow, to_conversation
from phiv_data.utils.atomic import sha256_file
from phiv_data.utils.process_pool import WorkerDied, can_start, default_workers, run_local, survives
from phiv_data.validation.core.aggregators import Aggregator
from phiv_data.validation.core.finding import ImageFacts, RowContext, Settings
from phiv_data.validation.inputs.chat_images import Addresses, ExternalImages
from phiv_data.validation.inputs.chat_rows import ExternalRows, read_external, whole_record
from phiv_data.validation.inputs.checksums import Listing
from phiv_data.validation.inputs.fast_parse import quick, same
from phiv_data.validation.inputs.image_checks import ImageChecks
from phiv_data.validation.inputs.shard_checks import RowChecks, read_batches, shard_lines
from phiv_data.validation.partial_result import Builder, Findings, Partial
from phiv_data.validation.rules.leakage import spans_split_kinds
from phiv_data.validation.rules.registry import record_finders
from phiv_schemas import Conversation, EnvironmentProblem

AGAIN = "Run the same phiv-convert command with --overwrite"
PIECE_BYTES = 2**22  # of jsonl: some 10,000 rows
DEEP_PIECE_BYTES = 2**18  # where the images of each row are decoded, some seconds
_CHUNK = 256  # records whose images are looked at side by side


@dataclass(frozen=True, slots=True)
class Lines:
    """A byte range of a jsonl file, cut at line ends; `first` is the number of its first line. `file`: its name."""

    file: str
    path: Path
    start: int
    end: int
    first: int


@dataclass(frozen=True, slots=True)
class Shard:
    """A shard; `rows` is how many a manifest says it holds."""

    file: str
    path: Path
    rows: int | None = None


@dataclass(frozen=True, slots=True)
class Piece:
    """What one task checks: lines, a shard, a shard beside its lines, a file whose `sha256` is known, or rows of
    another tool."""

    split: str = ""
    lines: Lines | None = None
    shard: Shard | None = None
    sha256: str = ""
    external: ExternalRows | None = None

    @property
    def file(self) -> str:
        """What issues call its file."""
        source = self.external or self.lines or self.shard
        return source.file if source else "nothing"

    def __str__(self) -> str:
        if self.external:
            return str(self.external)
        if self.lines:
            return f"{self.lines.file}, from line {self.lines.first}"
        return self.shard.file if self.shard else "nothing"


@dataclass
class Job:
    """All pieces, and how to check them. `images_root` None: no image files; a folder that is not there is told.

    `external_roots` are where the images of rows of other tools start.
    """

    pieces: list[Piece] = field(default_factory=list)
    settings: Settings = field(default_factory=Settings)
    images_root: Path | None = None
    has_images: bool = False
    listing: Listing | None = None
    external_roots: tuple[Path, ...] = ()
    threads: int = 0
    _open: tuple[ImageChecks | None, RowChecks] | None = None

    def checks(self) -> tuple[ImageChecks | None, RowChecks]:
        """What remembers images between the pieces of one process."""
        if self._open is None:
            images: ImageChecks | None = None
            deep, most = self.settings.deep, self.settings.max_pixels
            if self.settings.images and self.external_roots:
                images = ExternalImages(self.external_roots, deep=deep, threads=self.threads, max_pixels=most)
            elif self.settings.images and self.images_root and self.has_images:
                more: Any = {"listing": self.listing, "threads": self.threads, "max_pixels": most}
                images = ImageChecks(self.images_root, deep=deep, **more)
            phash = deep and spans_split_kinds(piece.split for piece in self.pieces)
            if images:
                images.phash = phash
            self._open = (images, RowChecks(deep=deep, files=images, phash=phash, max_pixels=most))
        return self._open

    def close(self) -> None:
        """End its threads."""
        if self._open and self._open[0]:
            self._open[0].close()
        self._open = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": None}


def check_piece(job: Job, index: int) -> Partial:
    """Everything that is wrong with one piece by itself."""
    piece = job.pieces[index]
    if piece.sha256:
        return _check_hash(job, piece)
    if piece.external:
        return _check_lines(job, piece, read_external(piece.external), {"addresses": Addresses()})
    if piece.lines and piece.shard:
        return _check_pair(job, piece.split, piece.lines, piece.shard)
    return _check_lines(job, piece, _read(piece.lines)) if piece.lines else _check_shard(job, piece)


def run_pieces(
    job: Job, num_workers: int | None, check: Callable[[Job, int], Partial] = check_piece
) -> Iterator[Partial]:
    """The Partial of every piece, in order of completion. None: a worker per core, none for few pieces.

    A piece that kills its process (a decoder that crashes) is PV102. EnvironmentProblem when workers do not start.
    """
    workers = min(default_workers(), len(job.pieces) // 2) if num_workers is None else num_workers
    workers = workers if workers > 1 or num_workers else 0
    job.threads = 0 if workers else min(8, default_workers())
    try:
        for i, partial in run_isolated(check, job, range(len(job.pieces)), workers):
            yield _crashed(job, job.pieces[i]) if isinstance(partial, Killed) else partial
    finally:
        job.close()


def _crashed(job: Job, piece: Piece) -> Partial:
    builder = Builder(piece.file, piece.split, job.settings)
    rows = piece.external or piece.lines
    line = rows.first if rows else None
    hint = "Find it with --no_deep and fewer lines, and drop it"
    builder.findings.add("PV102", builder.file, f"an image kills the decoder ({piece})", line=line, hint=hint)
    return builder.partial()


# Pieces of a path --------------------------------------------------------------------------------------------------


def cut_lines(file: str, path: Path, piece_bytes: int) -> Iterator[Lines]:
    """A jsonl file in ranges of about `piece_bytes`, together the whole file; none for an empty file."""
    with path.open("rb") as opened:
        start, first = 0, 1
        while block := opened.read(piece_bytes):
            if start == 0 and block.startswith(UTF16_MARKS):
                yield Lines(file, path, 0, path.stat().st_size, 1)  # line ends mean nothing in it
                return
            rest = b"" if block.endswith(b"\n") else opened.readline()
            end = start + len(block) + len(rest)
            yield Lines(file, path, start, end, first)
            first += block.count(b"\n") + rest.count(b"\n")
            start = end


def cut_rows(file: str, path: Path, rows: Iterable[int]) -> Iterator[Lines]:
    """A jsonl file in ranges of so many non-blank lines each, and a last one with what is left, if anything is."""
    with path.open("rb") as opened:
        start = end = 0
        first = number = 1
        for wanted in rows:
            while wanted and (raw := opened.readline()):
                wanted -= bool(raw.strip())
                end, number = end + len(raw), number + 1
            yield Lines(file, path, start, end, first)
            start, first = end, number
        if start < (size := path.stat().st_size):
            yield Lines(file, path, start, size, first)


# One piece ---------------------------------------------------------------------------------------------------------


def _check_hash(job: Job, piece: Piece) -> Partial:
    assert piece.shard
    builder = Builder(piece.shard.file, piece.split, job.settings)
    if sha256_file(piece.shard.path) != piece.sha256:
        builder.findings.add("PV302", builder.file, "was changed: its sha256 is not the manifest's", hint=AGAIN)
    return builder.partial()


def _check_lines(
    job: Job, piece: Piece, lines: Iterator[Line], more: Mapping[str, Aggregator] | None = None
) -> Partial:
    builder = Builder(piece.file, piece.split, job.settings, more)
    for _ in _checked(job, builder, lines):
        pass
    return builder.partial()


def _read(lines: Lines) -> Iterator[Line]:
    return read_range(lines.path, lines.file, lines.start, lines.end, lines.first, quick)


def _checked(job: Job, builder: Builder, lines: Iterator[Line]) -> Iterator[list[Line]]:
    """Check `lines` and pass them on in chunks, so that a caller can compare them with something else."""
    images, _ = job.checks()
    while chunk := list(islice(lines, _CHUNK)):
        facts = _look_at(images, chunk) if images else None
        _check_chunk(builder, chunk, facts)
        for line, of_row in zip(chunk, facts or (), strict=False):
            if any(one.found for one in of_row):
                _tell_images(builder, line, of_row)
        yield chunk


def _look_at(images: ImageChecks, lines: Sequence[Line]) -> list[tuple[ImageFacts, ...]]:
    """The facts of the images of each line, in the order of `image_paths`."""
    paths = [line.conversation.image_paths if line.conversation else () for line in lines]
    facts = images.look_at(chain.from_iterable(paths))
    return [tuple([facts[path] for path in of_row]) for of_row in paths]


def _check_chunk(builder: Builder, lines: Sequence[Line], facts: Sequence[tuple[ImageFacts, ...]] | None) -> None:
    """Consecutive rows, with what is known of their images; None where images were not looked at."""
    rows, file, split, extend = [], builder.file, builder.split, builder.findings.extend
    sharing = builder.settings.sharing
    for line, images in zip(lines, repeat(()) if facts is None else facts, strict=False):
        if line.issues:
            extend(line.issues)
        if (record := line.conversation) is not None:
            rows.append(RowContext(file, line.number, split, record, images, sharing))
            for find in record_finders(is_plain=line.is_plain):
                for found in find(record):
                    extend((found.at(file, line.number),))
            for row_rule in builder.settings.row_rules:
                extend(found.at(file, line.number) for found in row_rule(rows[-1]))
    builder.observe(rows, len(lines), no_folder=facts is None and builder.settings.images)


def _tell_images(builder: Builder, line: Line, facts: tuple[ImageFacts, ...]) -> None:
    """What is wrong with images, at every use."""
    assert line.conversation
    turns = enumerate(line.conversation.conversations)
    places = [f"$.conversations[{t}].images[{i}]" for t, turn in turns for i in range(len(turn.images))]
    for place, one in zip(places, facts, strict=True):
        builder.findings.extend(found.at(builder.file, line.number, place) for found in one.found)


def _check_shard(job: Job, piece: Piece) -> Partial:
    """A shard by itself."""
    assert piece.shard
    shard, (_, rows) = piece.shard, job.checks()
    builder = Builder(shard.file, piece.split, job.settings)
    for line, row in shard_lines(shard.path, shard.file, builder.findings, rows=shard.rows):
        _check_chunk(builder, [line], [rows.check(shard.file, line, row, builder.findings)])
    return builder.partial()


def _check_pair(job: Job, split: str, lines: Lines, shard: Shard) -> Partial:
    """Lines, record by record beside the rows of their shard."""
    builder, (_, rows) = Builder(lines.file, split, job.settings), job.checks()
    beside = shard_lines(shard.path, shard.file, builder.findings, rows=shard.rows)
    for line, found in zip_longest(chain.from_iterable(_checked(job, builder, _read(lines))), beside):
        if found is None:
            continue  # the shard is broken, which was said
        row_line, row = found
        builder.findings.extend(row_line.issues)
        rows.check(shard.file, row_line, row, builder.findings)
        if line and line.conversation and row_line.conversation and not same(row_line.conversation, line.conversation):
            what = f"is not the record of {lines.file}:{line.number}"
            builder.findings.add("PV306", shard.file, what, line=row_line.number, hint=AGAIN)
    return builder.partial()


# Rows again --------------------------------------------------------------------------------------------------------


def find_rows(job: Job, places: set[tuple[str, int]]) -> dict[tuple[str, int], Conversation]:
    """The records at (file, line), read again; those that cannot be are left out."""
    found: dict[tuple[str, int], Conversation] = {}
    for piece in job.pieces:
        file = piece.file if not piece.sha256 else None
        if wanted := {line for name, line in places if name == file} - {line for name, line in found if name == file}:
            rows = _lines_at(piece.lines, wanted) if piece.lines else _rows_at(piece.shard, wanted)
            rows = _external_at(piece.external, wanted) if piece.external else rows
            found.update(((piece.file, number), record) for number, record in rows if record is not None)
    return found


def _external_at(rows: ExternalRows, wanted: set[int]) -> Iterator[tuple[int, Conversation | None]]:
    if max(wanted) >= rows.first:
        found = ((line.number, line.conversation) for line in read_external(rows) if line.number in wanted)
        yield from ((number, record and whole_record(record)) for number, record in found)


def _lines_at(lines: Lines, wanted: set[int]) -> Iterator[tuple[int, Conversation | None]]:
    if max(wanted) < lines.first:
        return
    with lines.path.open("rb") as file:
        file.seek(lines.start)
        for number in range(lines.first, max(wanted) + 1):
            raw = file.readline()
            if number in wanted:
                yield number, parse_line(raw.rstrip(b"\r\n"), lines.file, number).conversation
            if not raw or file.tell() >= lines.end:
                return


def _rows_at(shard: Shard | None, wanted: set[int]) -> Iterator[tuple[int, Conversation | None]]:
    batches = (shard and read_batches(shard.path, shard.file, Findings())) or []
    start = 1
    for batch in batches:
        for number in sorted(wanted & set(range(start, start + batch.num_rows))):
            yield number, _conversation(batch.slice(number - start, 1).to_pylist()[0])
        start += batch.num_rows


def _conversation(row: ShardRow) -> Conversation | None:
    try:
        return to_conversation(row)
    except ValueError:  # pydantic's is one
        return None
