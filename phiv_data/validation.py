"""`validate(path)`: everything wrong with a converted folder, a jsonl file or shards, in one report.

    >>> report = validate("out")
    >>> report.ok, report.rows, report.images
    (True, 30, 240)
    >>> [str(issue) for issue in report.issues]
    ["ucf101_val.jsonl:17: $.conversations[0].images[3]: no such image 'val/A/v.3.jpg' under images/"]

`deep` (the default) decodes every distinct image once, in full, and hashes every file; without it only schema,
ids, existence and sizes are checked.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import chain, zip_longest
from pathlib import Path

from phiv_data.checks import Findings, ImageChecks, RecordChecks, RowChecks, shard_lines
from phiv_data.dataset import MANIFEST, manifest_files, read_manifest
from phiv_data.files import environment_problems, sha256_file
from phiv_data.jsonl import Line, read_lines
from phiv_data.shards import Row
from phiv_schemas import FileInfo, Manifest, Reject, ShardError, SplitInfo, UsageError, ValidationReport

MAX_ISSUES = 1000
_HASH_LINE = re.compile(r"([0-9a-f]{64})  images/(.+)")
_SHARD_NAME = re.compile(r"data-\d{5}-of-(\d{5})\.arrow")
_SHARD_MARK = b"\xff\xff\xff\xff"  # how an Arrow stream begins
_LOADER_FILES = ("dataset_info.json", "state.json", "dataset_dict.json")
_AGAIN = "Run the same phiv-convert command with --overwrite"

OnRows = Callable[[int], object]


def validate(
    path: Path | str,
    *,
    deep: bool = True,
    images_root: Path | str | None = None,
    max_issues: int = MAX_ISSUES,
    on_rows: OnRows = lambda count: None,
) -> ValidationReport:
    """Check `path`: a converted folder, one jsonl file, one shard, or a folder of shards.

    `images_root` is where a jsonl file's paths start (default: the folder `images` beside it). At most
    `max_issues` issues are listed, errors first. `on_rows(n)` is called as rows are done. Raises UsageError when
    there is nothing to check.
    """
    path = Path(path)
    if not path.exists():
        raise UsageError(str(path), "no such file or folder")
    if max_issues < 1:
        raise UsageError("max_issues", f"must be at least 1 (found {max_issues})")
    root = Path(images_root) if images_root is not None else None
    if root and not root.is_dir():
        raise UsageError("images_root", f"no such folder {str(root)!r}")
    findings = Findings(max_issues)
    with environment_problems(path):
        rows, images = _dispatch(path, root, deep, findings, on_rows)
    return findings.report(str(path), rows, images)


def _dispatch(path: Path, root: Path | None, deep: bool, findings: Findings, on_rows: OnRows) -> tuple[int, int]:
    """Check `path` for what it is; returns how many rows and distinct images were checked."""
    if path.is_file():
        if _is_shard(path):
            return _check_shards(path.parent, [path], deep, findings, on_rows)
        return _check_jsonl(path.parent, [path], root, deep, findings, on_rows)
    if (path / MANIFEST).is_file():
        return _check_converted(path, root, deep, findings, on_rows)
    if jsonl := sorted(file for file in path.glob("*.jsonl") if file.is_file() and file.name != "rejects.jsonl"):
        _note_no_manifest(path, findings)
        return _check_jsonl(path, jsonl, root, deep, findings, on_rows)
    if shards := sorted(chain(path.glob("*.arrow"), path.glob("*/*.arrow"))):
        _check_shard_names(path, shards, findings)
        return _check_shards(path, shards, deep, findings, on_rows)
    if (path / ".phiv").exists():
        _note_no_manifest(path, findings)
        return 0, 0
    raise UsageError(str(path), "holds no manifest.json, jsonl file or shard", "Pass what phiv-convert wrote")


def _is_shard(path: Path) -> bool:
    with path.open("rb") as file:
        return path.suffix == ".arrow" or file.read(len(_SHARD_MARK)) == _SHARD_MARK


# jsonl and shards that stand alone --------------------------------------------------------------------------------


def _check_jsonl(
    folder: Path, files: list[Path], root: Path | None, deep: bool, findings: Findings, on_rows: OnRows
) -> tuple[int, int]:
    images = ImageChecks(root or folder / "images", deep=deep)
    records = RecordChecks(findings, images, on_rows)
    try:
        for file in files:
            _exhaust(records.run(file.name, read_lines(file)))
    finally:
        images.close()
    if not records.rows:
        findings.add("PV202", files[0].name, "holds no rows")
    return records.rows, len(images.results)


def _check_shards(folder: Path, files: list[Path], deep: bool, findings: Findings, on_rows: OnRows) -> tuple[int, int]:
    records, rows = RecordChecks(findings, None, on_rows), RowChecks(findings, deep=deep)
    for file in files:
        name = file.relative_to(folder).as_posix()
        _exhaust(records.run(name, _with_row_checks(name, file, rows, findings)))
    return records.rows, len(rows.decoded)


def _with_row_checks(name: str, file: Path, rows: RowChecks, findings: Findings) -> Iterator[Line]:
    for line, row in shard_lines(file, name, findings):
        rows.check(name, line, row)
        yield line


def _check_shard_names(folder: Path, shards: list[Path], findings: Findings) -> None:
    """Without a manifest, the names still say how many shards there should be."""
    for parent in sorted({shard.parent for shard in shards}):
        names = {shard.name for shard in shards if shard.parent == parent}
        counts = {int(match[1]) for name in names if (match := _SHARD_NAME.fullmatch(name))}
        wanted = {f"data-{i:05d}-of-{count:05d}.arrow" for count in counts for i in range(count)}
        for name in sorted(wanted - names):
            missing = (parent / name).relative_to(folder).as_posix()
            findings.add("PV301", missing, "this shard is missing", hint=_AGAIN)


def _note_no_manifest(folder: Path, findings: Findings) -> None:
    unfinished = (folder / ".phiv").exists()
    what = "unfinished conversion" if unfinished else "hashes and row counts cannot be checked"
    findings.add(
        "PV303", MANIFEST, f"there is none: {what}", hint="Run its phiv-convert command again" if unfinished else "",
        severity="error" if unfinished else "warning",
    )  # fmt: skip


# A converted folder -----------------------------------------------------------------------------------------------


def _check_converted(
    folder: Path, root: Path | None, deep: bool, findings: Findings, on_rows: OnRows
) -> tuple[int, int]:
    try:
        manifest = read_manifest(folder)
    except ShardError as error:
        findings.add("PV304", MANIFEST, error.what, hint=error.hint)
        return 0, 0
    there = {info.path for info in manifest.files if _check_file(folder, info, deep, findings)}
    hashes = _read_hashes(folder, manifest, findings) if manifest.image_hashes.path in there else {}
    images = ImageChecks(root or folder / "images", deep=deep, hashes=hashes)
    images.has_root = True  # where images/ is gone, every image is missing
    records = RecordChecks(findings, images, on_rows)
    try:
        for split in manifest.splits:
            if split.jsonl.path in there:
                _check_split(folder, split, records, deep, there)
        _check_listed(manifest, images, findings)
    finally:
        images.close()
    if manifest.rejects.path in there:
        _check_rejects(folder, manifest, findings)
    _check_accounting(manifest, hashes, findings)
    _check_unlisted(folder, manifest, hashes, findings)
    return records.rows, len(images.results)


def _check_file(folder: Path, info: FileInfo, deep: bool, findings: Findings) -> bool:
    """True when the file is there; says so when it is not the one the manifest names."""
    path = folder / info.path
    if not path.is_file():
        findings.add("PV301", info.path, "is in the manifest but not there", hint=_AGAIN)
        return False
    if (size := path.stat().st_size) != info.size_bytes:
        what = f"was cut or changed: {size} bytes (the manifest says {info.size_bytes})"
        findings.add("PV302", info.path, what, hint=_AGAIN)
    elif deep and sha256_file(path) != info.sha256:
        findings.add("PV302", info.path, "was changed: its sha256 is not the manifest's", hint=_AGAIN)
    return True


def _check_split(folder: Path, split: SplitInfo, records: RecordChecks, deep: bool, there: set[str]) -> None:
    """The split's jsonl, record by record beside the rows of its shards."""
    before = records.rows
    lines = records.run(split.jsonl.path, read_lines(folder / split.jsonl.path, name=split.jsonl.path))
    if split.shards and all(shard.path in there for shard in split.shards):
        _compare(folder, split, lines, records, deep)
    else:
        _exhaust(lines)
    if (rows := records.rows - before) != split.rows:
        what = f"holds {rows} rows (the manifest says {split.rows})"
        records.findings.add("PV304", split.jsonl.path, what, hint=_AGAIN)


def _compare(folder: Path, split: SplitInfo, lines: Iterator[Line], records: RecordChecks, deep: bool) -> None:
    findings = records.findings
    rows = RowChecks(findings, deep=deep, files=records.images)
    for line, found in zip_longest(lines, _rows(folder, split, findings)):
        if found is None:
            continue  # the shards end early, which was said
        file, row_line, row = found
        findings.extend(row_line.issues)
        rows.check(file, row_line, row)
        if line and line.conversation and row_line.conversation not in (None, line.conversation):
            what = f"is not the record of {split.jsonl.path}:{line.number}"
            findings.add("PV306", file, what, line=row_line.number, hint=_AGAIN)


def _rows(folder: Path, split: SplitInfo, findings: Findings) -> Iterator[tuple[str, Line, Row]]:
    for shard in split.shards:
        count = 0
        for line, row in shard_lines(folder / shard.path, shard.path, findings, rows=shard.rows):
            yield shard.path, line, row
            count += 1
        if count != shard.rows:
            return  # broken: what follows cannot be matched to lines


def _read_hashes(folder: Path, manifest: Manifest, findings: Findings) -> dict[str, str]:
    """images.sha256 as path to hash."""
    name, hashes = manifest.image_hashes.path, dict[str, str]()
    with (folder / name).open(encoding="utf-8", errors="replace", newline="\n") as file:
        for number, line in enumerate(file, start=1):
            if match := _HASH_LINE.fullmatch(line.rstrip("\n")):
                hashes[match[2]] = match[1]
            else:
                findings.add("PV302", name, "is not a line of sha256sum", line=number, hint=_AGAIN)
    return hashes


def _check_listed(manifest: Manifest, images: ImageChecks, findings: Findings) -> None:
    """Images that are listed but that no record shows."""
    rest = [path for path in images.hashes or () if path not in images.results]
    images.prepare(rest)
    for path in rest:
        if (result := images.results[path]).code:
            findings.add(result.code, manifest.image_hashes.path, result.message)


def _check_rejects(folder: Path, manifest: Manifest, findings: Findings) -> None:
    name, codes = manifest.rejects.path, Counter[str]()
    for number, line in enumerate((folder / name).read_bytes().splitlines(), start=1):
        try:
            codes[Reject.model_validate_json(line).code] += 1
        except ValueError:
            findings.add("PV002", name, "is not a reject record", line=number)
    if codes != Counter(manifest.accounting.rejected):
        what = f"counts {dict(sorted(codes.items()))} (the manifest says {manifest.accounting.rejected})"
        findings.add("PV304", name, what, hint=_AGAIN)


def _check_accounting(manifest: Manifest, hashes: dict[str, str], findings: Findings) -> None:
    if manifest.rows != manifest.accounting.written:
        what = f"accounts for {manifest.accounting.written} rows written, but its splits hold {manifest.rows}"
        findings.add("PV304", MANIFEST, what, hint=_AGAIN)
    if (images := sum(split.num_images for split in manifest.splits)) != len(hashes):
        what = f"counts {images} images, but images.sha256 lists {len(hashes)}"
        findings.add("PV304", MANIFEST, what, hint=_AGAIN)
    if not manifest.rows:
        findings.add("PV202", MANIFEST, "the dataset holds no rows")


def _check_unlisted(folder: Path, manifest: Manifest, hashes: dict[str, str], findings: Findings) -> None:
    """Files that nothing names: leftovers of another run, or edits by hand."""
    known = {MANIFEST, "README.md", *manifest_files(manifest)}
    arrow = {Path(shard.path).parent.as_posix() for split in manifest.splits for shard in split.shards}
    known |= {f"{parent}/{name}" for parent in (*arrow, "arrow") for name in _LOADER_FILES}
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            path = (Path(parent) / name).relative_to(folder).as_posix()
            is_image = path.startswith("images/") and path.removeprefix("images/") in hashes
            if path not in known and not is_image:
                findings.add("PV402", path, "is not part of the dataset", severity="warning")


def _exhaust(lines: Iterator[Line]) -> None:
    for _ in lines:
        pass
