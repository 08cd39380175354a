"""A converted folder: every file that its manifest names, with size and hash, every row, every image.

plan = plan_converted(Path("out"), settings, None, issues, new_folder)
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path

from phiv_data.engines.local import default_workers
from phiv_data.storage.dataset import MANIFEST, MANIFEST_CHANGED, manifest_files, parse_manifest
from phiv_data.utils.atomic import raise_if_of_machine
from phiv_data.validation.core.finding import Settings
from phiv_data.validation.core.image_stats import IMAGE_KEYS
from phiv_data.validation.core.key_index import KeyIndex
from phiv_data.validation.core.sharing import SharingTable
from phiv_data.validation.inputs.checksums import ChecksumTable, read_checksums, write_table
from phiv_data.validation.inputs.file_hash import FileHash
from phiv_data.validation.inputs.image_checks import ImageChecks
from phiv_data.validation.inputs.jsonl_range import piece_bytes_for, split_by_rows, split_jsonl
from phiv_data.validation.inputs.paired import PairedPiece
from phiv_data.validation.inputs.shard import ShardPiece
from phiv_data.validation.inputs.shard_checks import EmbeddedImageChecks
from phiv_data.validation.partial_result import IssueCollector, PartialResult
from phiv_data.validation.tasks import CONVERT_AGAIN, CheckContext, Piece, ValidationPlan
from phiv_schemas import FileInfo, Manifest, Reject, ShardError, SplitInfo
from phiv_schemas.rules import Severity

REPORT_FILES = ("report.txt", "report.json", "report.junit.xml", "report.sarif", "report.html")
"""What --report_dir writes, as in `phiv_data.reports`; a test compares both."""
_WORK_FOLDER = ".phiv"
_TOOLS = (".git", ".cache", ".gitattributes", ".gitignore", ".DS_Store", "Thumbs.db", "desktop.ini")
"""What git, the hub's client and desktops put into folders: a warning."""
_LINKED_FOLDERS = ("images", "arrow")
"""What may be a symbolic link to a folder elsewhere."""


def plan_converted(
    folder: Path, settings: Settings, images_root: Path | None, issues: IssueCollector, new_folder: Callable[[], Path]
) -> ValidationPlan:
    """The pieces of a converted folder; what is wrong with its manifest and its files goes to `issues`."""
    try:
        manifest, is_whole = parse_manifest(folder)
    except ShardError as error:
        where = error.where.removeprefix(str(folder / MANIFEST)).removeprefix(": ") or None
        issues.add("PV304", MANIFEST, error.what, json_path=where, hint=error.hint)
        return ValidationPlan([], CheckContext(settings))
    if (folder / MANIFEST).is_symlink():
        issues.add("PV302", MANIFEST, "is a symbolic link, not the file that was converted", hint=CONVERT_AGAIN)
    if not is_whole:
        issues.add("PV302", MANIFEST, MANIFEST_CHANGED, hint=CONVERT_AGAIN)
    settings = replace(settings, sharing=SharingTable(manifest.sharing))
    present = {info.path for info in manifest.files if _is_present(folder, info, issues)}
    pieces: list[Piece] = []
    if settings.deep:
        complete = (info for info in manifest.files if info.path in present)
        complete = (info for info in complete if (folder / info.path).stat().st_size == info.size_bytes)
        pieces += [FileHash(info.path, folder / info.path, info.sha256) for info in complete]
    checksums, name = None, manifest.image_hashes.path
    if name in present:  # otherwise no image is compared with it

        def on_bad_line(number: int) -> None:
            issues.add("PV302", name, "is not a line of sha256sum", line=number, hint=CONVERT_AGAIN)

        checksums = write_table(read_checksums(folder / name, on_bad_line), new_folder())
    deep, max_pixels, images = settings.deep, settings.max_pixels, None
    if settings.images:  # of a folder of images that is not there, every image is missing
        root = images_root or folder / "images"
        images = ImageChecks(root, deep=deep, checksums=checksums, max_pixels=max_pixels)
    embedded = EmbeddedImageChecks(deep=deep, files=images, max_pixels=max_pixels)
    context = CheckContext(settings, images, embedded)
    splits = [split for split in manifest.splits if split.jsonl.path in present]
    for split in splits:
        pieces += _pieces_of(folder, split, present, piece_bytes_for(context))

    def check_whole(whole: PartialResult, index: KeyIndex, issues: IssueCollector) -> int:
        for split in splits:
            if (rows := whole.rows[split.jsonl.path]) != split.rows:
                what = f"holds {rows} rows (the manifest says {split.rows})"
                issues.add("PV304", split.jsonl.path, what, hint=CONVERT_AGAIN)
        if manifest.rejects.path in present:
            _check_rejects(folder, manifest, issues)
        if manifest.rows != manifest.accounting.written:
            what = f"accounts for {manifest.accounting.written} rows written, but its splits hold {manifest.rows}"
            issues.add("PV304", MANIFEST, what, hint=CONVERT_AGAIN)
        num_images = sum(split.num_images for split in manifest.splits)
        if checksums is not None and num_images != (listed := len(checksums)):
            what = f"counts {num_images} images, but images.sha256 lists {listed}"
            issues.add("PV304", MANIFEST, what, hint=CONVERT_AGAIN)
        if not manifest.rows:
            issues.add("PV202", MANIFEST, "the dataset holds no rows")
        _check_unlisted(folder, manifest, checksums, issues)
        return _check_unused(folder, manifest, context, index, issues)

    return ValidationPlan(pieces, context, check_whole)


def _is_present(folder: Path, info: FileInfo, issues: IssueCollector) -> bool:
    path = folder / info.path
    if not path.is_file():
        issues.add("PV301", info.path, "is in the manifest but not there", hint=CONVERT_AGAIN)
        return False
    if path.is_symlink():
        issues.add("PV302", info.path, "is a symbolic link, not the file that was converted", hint=CONVERT_AGAIN)
    if (size := path.stat().st_size) != info.size_bytes:
        what = f"was cut or changed: {size} bytes (the manifest says {info.size_bytes})"
        issues.add("PV302", info.path, what, hint=CONVERT_AGAIN)
    return True


def _pieces_of(folder: Path, split: SplitInfo, present: set[str], piece_bytes: int) -> list[Piece]:
    """The split's jsonl, with the rows of its shards beside it where all shards are there."""
    file, path = split.jsonl.path, folder / split.jsonl.path
    if not split.shards or any(shard.path not in present for shard in split.shards):
        return list(split_jsonl(path, file, split.name, piece_bytes))
    shards = [ShardPiece(split.name, shard.path, folder / shard.path, shard.rows) for shard in split.shards]
    ranges = list(split_by_rows(path, file, split.name, (shard.rows or 0 for shard in shards)))
    pairs = [PairedPiece(lines, shard) for lines, shard in zip(ranges, shards, strict=False)]
    return [*pairs, *ranges[len(shards) :]]


def _check_unused(
    folder: Path, manifest: Manifest, context: CheckContext, index: KeyIndex, issues: IssueCollector
) -> int:
    """Check images that are listed and that no good record names; how many there are."""
    images = context.images
    if images is None or (checksums := images.checksums) is None:
        return 0
    images.phash, images.threads = False, min(8, default_workers())
    name = manifest.image_hashes.path
    unseen = checksums.find_unseen(index.first_entries(IMAGE_KEYS))
    if not unseen.any():
        return 0
    unused = (path for path, _ in read_checksums(folder / name) if unseen[checksums.position(path)])
    while paths := list(islice(unused, 256)):
        facts = images.check(paths)
        issues.extend(finding.at(name) for path in paths for finding in facts[path].found)
    return int(unseen.sum())


def _check_rejects(folder: Path, manifest: Manifest, issues: IssueCollector) -> None:
    name, codes = manifest.rejects.path, Counter[str]()
    with (folder / name).open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                codes[Reject.model_validate_json(line).code] += 1
            except ValueError:
                issues.add("PV002", name, "is not a reject record", line=number)
    if codes != Counter(manifest.accounting.rejected):
        what = f"counts {dict(sorted(codes.items()))} (the manifest says {manifest.accounting.rejected})"
        issues.add("PV304", name, what, hint=CONVERT_AGAIN)


def _check_unlisted(folder: Path, manifest: Manifest, checksums: ChecksumTable | None, issues: IssueCollector) -> None:
    """PV402 for what nothing names: leftovers of another run, edits by hand. Only phiv's own `.phiv` is left out."""
    known = {MANIFEST, *manifest_files(manifest)}
    for path, name in _walk_files(folder, issues):
        is_image = path.startswith("images/") and (checksums is None or path.removeprefix("images/") in checksums)
        is_report = path in REPORT_FILES
        if not (path in known or is_image or is_report):
            is_tools = name in _TOOLS or (name.startswith("cache-") and path.startswith("arrow/"))  # of `datasets`
            severity: Severity = "warning" if is_tools else "error"
            issues.add("PV402", path, "is not part of the dataset", severity=severity)


def _walk_files(folder: Path, issues: IssueCollector) -> Iterator[tuple[str, str]]:
    """The path and name of every file of a dataset, hidden ones too; of symbolic links and folders of tools once."""

    def on_error(error: OSError) -> None:
        path = Path(os.fsdecode(error.filename)).relative_to(folder).as_posix()
        raise_if_of_machine(error, path)
        issues.add("PV007", path, f"cannot be read ({error.strerror})")

    roots = [folder, *(folder / name for name in _LINKED_FOLDERS if (folder / name).is_symlink())]
    for parent, folders, files in chain.from_iterable(os.walk(root, onerror=on_error) for root in roots):
        at = Path(parent).relative_to(folder)
        if parent == str(folder):
            folders[:] = [name for name in folders if name != _WORK_FOLDER]
        leaves = [name for name in folders if name in _TOOLS or Path(parent, name).is_symlink()]
        for name in sorted(files + leaves):
            if parent != str(folder) or name not in _LINKED_FOLDERS:
                yield (at / name).as_posix(), name
        folders[:] = sorted(set(folders) - set(leaves))
