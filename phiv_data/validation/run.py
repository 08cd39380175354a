"""What a path holds, as a Job of independent pieces, and what is wrong with its files as such.

A converted folder is held against its manifest: every file it names, with its size and hash, every row, every image.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path

from phiv_data.convert.staging import is_unfinished
from phiv_data.storage.dataset import FIXES, MANIFEST, NO_ROWS, manifest_files, read_manifest
from phiv_data.validation.core.image_stats import IMAGE_KEYS
from phiv_data.validation.core.key_index import KeyIndex
from phiv_data.validation.core.sharing import SharingTable
from phiv_data.validation.inputs.checksums import Listing, make_listing, read_listing
from phiv_data.validation.inputs.image_checks import ImageChecks
from phiv_data.validation.partial_result import Findings, Partial
from phiv_data.validation.tasks import (
    AGAIN,
    DEEP_PIECE_BYTES,
    PIECE_BYTES,
    Job,
    Lines,
    Piece,
    Shard,
    cut_lines,
    cut_rows,
)
from phiv_schemas import FileInfo, Manifest, Reject, ShardError, SplitInfo, UsageError

_SHARD_NAME = re.compile(r"data-\d{5}-of-(\d{5})\.arrow")
_SHARD_MARK = b"\xff\xff\xff\xff"  # how an Arrow stream begins
_LOADER_FILES = ("dataset_info.json", "state.json", "dataset_dict.json")
_SPLIT_NAMES = ("train", "val", "validation", "dev", "test")


@dataclass(frozen=True, slots=True)
class Planned:
    """A job, and `check_whole(whole, index, findings)` for after it, which says how many more images it looked at."""

    job: Job
    check_whole: Callable[[Partial, KeyIndex, Findings], int]


def plan_path(path: Path, job: Job, findings: Findings, scratch: Callable[[], Path]) -> Planned:
    """Fill `job` (its `deep` and `images_root` are set) with the pieces of `path`, and say what is wrong already."""
    if path.is_file():
        if _is_shard(path):
            return _plan_shards(path.parent, [path], job)
        _check_kind(path)
        return _plan_jsonl(path.parent, [path], job)
    if (path / MANIFEST).is_file():
        return _plan_converted(path, job, findings, scratch)
    if jsonl := sorted(
        file for file in path.glob("*.jsonl") if file.name not in NON_RECORD_FILES and not file.is_dir()
    ):
        _note_no_manifest(path, findings)
        for file in jsonl:
            if not file.is_file():
                findings.add("PV007", file.name, "cannot be read (a link that leads nowhere, or no file)")
        return _plan_jsonl(path, [file for file in jsonl if file.is_file()], job)
    if shards := sorted(chain(path.glob("*.arrow"), path.glob("*/*.arrow"))):
        _check_shard_names(path, shards, findings)
        return _plan_shards(path, shards, job)
    if is_unfinished(path):
        _note_no_manifest(path, findings)
        return Planned(job, _nothing_more)
    raise UsageError(str(path), "holds no manifest.json, jsonl file or shard", "Pass what phiv-convert wrote")


_OTHER_KINDS = {
    b"PAR1": "a Parquet file",
    b"ARROW1": "an Arrow IPC file, where phiv's shards are Arrow IPC streams",
    b"\x1f\x8b": "gzip",
    b"PK\x03\x04": "a zip archive",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"\x89PNG": "a PNG image",
    b"\xff\xd8\xff": "a JPEG image",
    b"%PDF": "a PDF document",
}


def _check_kind(path: Path) -> None:
    """UsageError for a file that is plainly something else: thousands of broken lines would say less."""
    with path.open("rb") as file:
        start = file.read(16)
    if kind := next((kind for mark, kind in _OTHER_KINDS.items() if start.startswith(mark)), None):
        raise UsageError(
            str(path), f"is {kind}, not jsonl", "Unpack or convert it first: phiv-convert reads many formats"
        )


def _is_shard(path: Path) -> bool:
    with path.open("rb") as file:
        start = file.read(6)
    return (path.suffix == ".arrow" and start != b"ARROW1") or start.startswith(_SHARD_MARK)


def _nothing_more(whole: Partial, index: KeyIndex, findings: Findings) -> int:
    return 0


# jsonl and shards that stand alone --------------------------------------------------------------------------------


def _plan_jsonl(folder: Path, files: list[Path], job: Job) -> Planned:
    job.images_root = job.images_root or folder / "images"
    job.has_images = job.images_root.is_dir()
    for file in files:
        split = split_of(file.stem)
        job.pieces += [Piece(split, lines) for lines in _cut(job, file.name, file)]

    def check_whole(whole: Partial, index: KeyIndex, findings: Findings) -> int:
        if not whole.rows:
            findings.add("PV202", files[0].name if files else folder.name, "holds no rows")
        return 0

    return Planned(job, check_whole)


def _cut(job: Job, file: str, path: Path) -> Iterator[Lines]:
    return cut_lines(file, path, DEEP_PIECE_BYTES if job.settings.deep and job.has_images else PIECE_BYTES)


REPORT_FILES = ("report.txt", "report.json", "report.junit.xml", "report.sarif", "report.html")
"""What --report_dir writes: `phiv_data.reports` holds the same names to this."""


def split_of(stem: str) -> str:
    """`val` of `ucf101_val`; a name that says no split is its own."""
    last = re.split(r"[_.-]", stem)[-1]
    return last if last in _SPLIT_NAMES else stem


def _plan_shards(folder: Path, files: list[Path], job: Job) -> Planned:
    job.images_root = None
    for file in files:
        job.pieces.append(Piece(file.parent.name, shard=Shard(file.relative_to(folder).as_posix(), file)))
    return Planned(job, _nothing_more)


def _check_shard_names(folder: Path, shards: list[Path], findings: Findings) -> None:
    """Without a manifest, the names still say how many shards there should be."""
    for parent in sorted({shard.parent for shard in shards}):
        names = {shard.name for shard in shards if shard.parent == parent}
        counts = {int(match[1]) for name in names if (match := _SHARD_NAME.fullmatch(name))}
        wanted = {f"data-{i:05d}-of-{count:05d}.arrow" for count in counts for i in range(count)}
        for name in sorted(wanted - names):
            missing = (parent / name).relative_to(folder).as_posix()
            findings.add("PV301", missing, "this shard is missing", hint=AGAIN)


def _note_no_manifest(folder: Path, findings: Findings) -> None:
    unfinished = is_unfinished(folder)
    what = "unfinished conversion" if unfinished else "hashes and row counts cannot be checked"
    hint = "Run its phiv-convert command again" if unfinished else ""
    if not unfinished and any(folder.glob("arrow/*/*.arrow")):
        what, hint = f"{what}, and the shards below arrow/ were not looked at", "Pass arrow/ to check them"
    findings.add(
        "PV303", MANIFEST, f"there is none: {what}", hint=hint,
        severity="error" if unfinished else "warning",
    )  # fmt: skip


# A converted folder -----------------------------------------------------------------------------------------------


def _plan_converted(folder: Path, job: Job, findings: Findings, scratch: Callable[[], Path]) -> Planned:
    try:
        manifest = read_manifest(folder)
    except ShardError as error:
        where = error.where.removeprefix(str(folder / MANIFEST)).removeprefix(": ") or None
        findings.add("PV304", MANIFEST, error.what, json_path=where, hint=error.hint)
        return Planned(job, _nothing_more)
    job.settings = replace(job.settings, sharing=SharingTable(manifest.sharing))
    there = {info.path for info in manifest.files if _plan_file(folder, info, job, findings)}
    job.images_root, job.has_images = job.images_root or folder / "images", True  # where it is gone, all are missing
    job.listing = _read_listing(folder, manifest, there, findings, scratch)
    splits = [split for split in manifest.splits if split.jsonl.path in there]
    for split in splits:
        _plan_split(folder, split, job, there)

    def check_whole(whole: Partial, index: KeyIndex, findings: Findings) -> int:
        for split in splits:
            if (rows := whole.rows[split.jsonl.path]) != split.rows:
                what = f"holds {rows} rows (the manifest says {split.rows})"
                findings.add("PV304", split.jsonl.path, what, hint=AGAIN)
        if manifest.rejects.path in there:
            _check_rejects(folder, manifest, findings)
        _check_accounting(manifest, job.listing, findings)
        _check_unlisted(folder, manifest, job.listing, findings)
        return _check_listed(folder, manifest, job, index, findings)

    return Planned(job, check_whole)


def _plan_file(folder: Path, info: FileInfo, job: Job, findings: Findings) -> bool:
    """True when the file is there; its hash is a piece of the job, or it is not the one the manifest names."""
    path = folder / info.path
    if not path.is_file():
        findings.add("PV301", info.path, "is in the manifest but not there", hint=AGAIN)
        return False
    if (size := path.stat().st_size) != info.size_bytes:
        what = f"was cut or changed: {size} bytes (the manifest says {info.size_bytes})"
        findings.add("PV302", info.path, what, hint=AGAIN)
    elif job.settings.deep:
        job.pieces.append(Piece(shard=Shard(info.path, path), sha256=info.sha256))
    return True


def _plan_split(folder: Path, split: SplitInfo, job: Job, there: set[str]) -> None:
    """The split's jsonl, with the rows of its shards beside it where all are there."""
    file, path = split.jsonl.path, folder / split.jsonl.path
    if not split.shards or any(shard.path not in there for shard in split.shards):
        job.pieces += [Piece(split.name, lines) for lines in _cut(job, file, path)]
        return
    shards = [Shard(shard.path, folder / shard.path, shard.rows) for shard in split.shards]
    ranges = list(cut_rows(file, path, (shard.rows or 0 for shard in shards)))
    job.pieces += [Piece(split.name, lines, shard) for lines, shard in zip(ranges, shards, strict=False)]
    job.pieces += [Piece(split.name, lines) for lines in ranges[len(shards) :]]


def _read_listing(
    folder: Path, manifest: Manifest, there: set[str], findings: Findings, scratch: Callable[[], Path]
) -> Listing | None:
    """images.sha256 as a table; None where it is gone, which was told: then nothing can be held against it."""
    name = manifest.image_hashes.path

    def on_bad_line(number: int) -> None:
        findings.add("PV302", name, "is not a line of sha256sum", line=number, hint=AGAIN)

    return make_listing(read_listing(folder / name, on_bad_line), scratch()) if name in there else None


def _check_listed(folder: Path, manifest: Manifest, job: Job, index: KeyIndex, findings: Findings) -> int:
    """Images that are listed but that no good record shows; how many there are."""
    if job.listing is None or job.images_root is None or not job.settings.images:
        return 0
    name, listing = manifest.image_hashes.path, job.listing
    unseen = listing.unseen(index.first_entries(IMAGE_KEYS))
    if not unseen.any():
        return 0
    deep, most, threads = job.settings.deep, job.settings.max_pixels, min(8, os.cpu_count() or 1)
    images = ImageChecks(job.images_root, deep=deep, listing=listing, threads=threads, max_pixels=most)
    try:
        rest = (path for path, _ in read_listing(folder / name) if unseen[listing.position(path)])
        while paths := list(islice(rest, 256)):
            facts = images.look_at(paths)
            findings.extend(found.at(name) for path in paths for found in facts[path].found)
    finally:
        images.close()
    return int(unseen.sum())


def _check_rejects(folder: Path, manifest: Manifest, findings: Findings) -> None:
    name, codes = manifest.rejects.path, Counter[str]()
    with (folder / name).open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                codes[Reject.model_validate_json(line).code] += 1
            except ValueError:
                findings.add("PV002", name, "is not a reject record", line=number)
    if codes != Counter(manifest.accounting.rejected):
        what = f"counts {dict(sorted(codes.items()))} (the manifest says {manifest.accounting.rejected})"
        findings.add("PV304", name, what, hint=AGAIN)


def _check_accounting(manifest: Manifest, listing: Listing | None, findings: Findings) -> None:
    if manifest.rows != manifest.accounting.written:
        what = f"accounts for {manifest.accounting.written} rows written, but its splits hold {manifest.rows}"
        findings.add("PV304", MANIFEST, what, hint=AGAIN)
    images = sum(split.num_images for split in manifest.splits)
    if listing is not None and images != (listed := len(listing)):
        what = f"counts {images} images, but images.sha256 lists {listed}"
        findings.add("PV304", MANIFEST, what, hint=AGAIN)
    if not manifest.rows:
        findings.add("PV202", MANIFEST, "the dataset holds no rows")


def _check_unlisted(folder: Path, manifest: Manifest, listing: Listing | None, findings: Findings) -> None:
    """Files that nothing names: leftovers of another run, or edits by hand."""
    known = {MANIFEST, FIXES, "README.md", *manifest_files(manifest)}
    names = {*REPORT_FILES, "Thumbs.db", "desktop.ini"}  # of this tool, and of desktops
    arrow = {Path(shard.path).parent.as_posix() for split in manifest.splits for shard in split.shards}
    known |= {f"{parent}/{name}" for parent in (*arrow, "arrow") for name in _LOADER_FILES}
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(name for name in files if not name.startswith(".") and name not in names):
            path = (Path(parent) / name).relative_to(folder).as_posix()
            is_image = path.startswith("images/") and (listing is None or path.removeprefix("images/") in listing)
            if path not in known and not is_image:
                findings.add("PV402", path, "is not part of the dataset", severity="warning")
