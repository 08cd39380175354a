"""Files of external chat formats, validated as they are: LLaVA, ShareGPT (LLaMA-Factory), ms-swift, TRL.

    files = find_chat_files(Path("train.json"), "auto")            # which file as which format; [] for phiv's own data
    plan = plan_chat_files(path, files, settings, None, issues)    # a plan as of any other data
    report = use_original_paths(report, plan.pieces)               # JSON paths as in the rows themselves

Each row becomes a record in memory, by the parser that the converters use, and is asked every rule. Rows that this
parser rejects are PV501 to PV504.

    chat_rows.py   rows to records     chat_images.py   the images they name
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from phiv_data.formats import FORMATS, sharegpt
from phiv_data.formats.detect import detect_format
from phiv_data.formats.files import INFO, SUFFIXES, explain_encoding, explain_shape, is_array, read_entries
from phiv_data.sources.json_stream import read_json_array
from phiv_data.storage.dataset import MANIFEST, NON_RECORD_FILES
from phiv_data.utils.lines import BOM, UTF16_MARKS
from phiv_data.validation.core.finding import Finding, Settings
from phiv_data.validation.core.key_index import KeyIndex
from phiv_data.validation.inputs.chat_images import ChatImageChecks
from phiv_data.validation.inputs.chat_rows import ChatRange, original_paths
from phiv_data.validation.inputs.jsonl_range import piece_bytes_for, split_jsonl, split_of
from phiv_data.validation.partial_result import IssueCollector, PartialResult
from phiv_data.validation.tasks import CheckContext, Piece, ValidationPlan
from phiv_schemas import Issue, SourceError, UsageError, ValidationReport

INPUT_FORMATS = ("auto", "phiv", *FORMATS)
_CODES_OF_READER = ("PV001", "PV003", "PV004", "PV005", "PV501", "PV502", "PV503", "PV504")
"""Issues of these name the row's own JSON paths already."""


_LOADER_FILES = frozenset({"dataset_dict.json", "state.json"})
"""What `datasets` writes beside its Arrow files."""


@dataclass(frozen=True, slots=True)
class ChatFile:
    """A file of rows, and the format they are read as. `entry`: that of the file in dataset_info.json."""

    path: Path
    format: str
    entry: Mapping[str, Any] | None = None


def find_chat_files(path: Path, input_format: str = "auto") -> list[ChatFile]:
    """The files at `path` to read as an external chat format; none where they are to be read as phiv's own.

    "auto" reads the first rows of each file. Of a folder, all files of rows directly in it are read, unless one of
    its jsonl files is phiv's. UsageError for an unknown format, or one that does not go with a converted dataset.
    """
    if input_format not in INPUT_FORMATS:
        known = ", ".join(INPUT_FORMATS)
        raise UsageError("input_format", f"must be one of {known} (found {input_format!r})")
    if input_format == "phiv" or (path.is_file() and path.suffix == ".arrow"):
        return []
    if path.is_file():
        entry = _sharegpt_entry(path, read_entries(path.parent / INFO))
        format = _detect(path, entry) if input_format == "auto" else input_format
        if format is None:
            problem = explain_shape(path)
            if problem is None and path.suffix == ".json":  # a jsonl file may hold broken rows of phiv
                hint = "Pass --input_format, or convert it with phiv-convert"
                problem = explain_encoding(path) or ("holds no rows of a format that phiv can detect", hint)
            if problem:
                raise UsageError(str(path), *problem)
        return [] if format in (None, "phiv") else [ChatFile(path, str(format), entry)]
    if (path / MANIFEST).is_file():
        if input_format != "auto":
            raise UsageError("input_format", f"{path} is a converted dataset, which is phiv's", "Leave it out")
        return []
    entries = read_entries(path / INFO)
    files = []
    for file in _row_files(path):
        entry = _sharegpt_entry(file, entries)
        format = _detect(file, entry)
        if input_format != "auto":
            files.append(ChatFile(file, input_format, entry))
        elif format == "phiv":
            return []
        elif format is not None:  # otherwise some other JSON, or an empty file
            files.append(ChatFile(file, format, entry))
    return files


def unread_files(folder: Path, files: Iterable[ChatFile]) -> Iterator[Issue]:
    """PV504 for each file of a folder that seems to hold rows and is not read beside the others."""
    read = {file.path for file in files}
    for file in _row_files(folder):
        if file in read or not file.stat().st_size:
            continue
        format = detect_format(file)
        if format is None and (shape := explain_shape(file) or (read and explain_encoding(file))):
            yield Finding("PV504", None, f"{shape[0]}: it was not checked", shape[1]).at(file.name)
        elif read and format is None and file.suffix == ".jsonl":
            what = "holds no rows of a format that phiv can detect: it was not checked"
            yield Finding("PV504", None, what).at(file.name)
        elif not read and format not in (None, "phiv") and file.suffix == ".json":
            what = f"holds {format} rows: it was not checked beside phiv's own"
            yield Finding("PV504", None, what, "Check it by itself").at(file.name)


def describe_formats(files: Iterable[ChatFile]) -> Iterator[str]:
    """A line for each format, about the files that are read as it."""
    names: dict[str, list[str]] = {}
    for file in files:
        names.setdefault(file.format, []).append(file.path.name)
    for format, some in names.items():
        more = f" and {len(some) - 3} more" if len(some) > 3 else ""
        yield f"{', '.join(some[:3])}{more}: read as {format} rows"


def _row_files(folder: Path) -> list[Path]:
    names = sorted(name for name in folder.iterdir() if name.suffix in SUFFIXES and name.is_file())
    others = {INFO, *NON_RECORD_FILES, *_LOADER_FILES}
    return [name for name in names if name.name not in others and not name.name.startswith(".")]


def _sharegpt_entry(path: Path, entries: Mapping[str, Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """The entry of dataset_info.json that names the file as ShareGPT's, the first of several."""
    named = (entry for entry in entries.values() if entry.get("file_name") == path.name)
    return next((entry for entry in named if entry.get("formatting") in ("sharegpt", "openai")), None)


def _detect(path: Path, entry: Mapping[str, Any] | None) -> str | None:
    return "sharegpt" if entry is not None else detect_format(path)


# Pieces -------------------------------------------------------------------------------------------------------------


def plan_chat_files(
    path: Path, files: Iterable[ChatFile], settings: Settings, images_root: Path | None, issues: IssueCollector
) -> ValidationPlan:
    """The pieces of `files`; what is wrong with them as files goes to `issues`."""
    context = CheckContext(settings)
    if settings.images:
        roots, pixels = image_roots(path, images_root), settings.max_pixels
        context.images = ChatImageChecks(roots, deep=settings.deep, max_pixels=pixels)
    piece_bytes = piece_bytes_for(context)
    pieces: list[Piece] = []
    for file in files:
        if file.format == "sharegpt" and file.entry is not None:
            sharegpt.names_of(file.entry, str(file.path.parent / INFO))  # a malformed entry is reported now
        pieces += split_chat_file(file, piece_bytes, issues)

    def check_whole(whole: PartialResult, index: KeyIndex, issues: IssueCollector) -> int:
        if not whole.rows:
            issues.add("PV202", path.name, "holds no rows")
        return 0

    return ValidationPlan(pieces, context, check_whole)


def image_roots(path: Path, images_root: Path | None) -> tuple[Path, ...]:
    """The folders in which paths of images start; the first that has one counts."""
    folder = path if path.is_dir() else path.parent
    return (*(() if images_root is None else (images_root,)), folder, folder / "images")


def split_chat_file(source: ChatFile, piece_bytes: int, issues: IssueCollector) -> Iterator[ChatRange]:
    """A file in pieces of about so many bytes, at least a row each. Errors of the file itself go to `issues`."""
    path, file = source.path, source.path.name
    rows = ChatRange(split_of(path.stem), file, path, source.format, 0, 0, entry=source.entry)
    with path.open("rb") as opened:
        head = opened.read(len(BOM))
    if head.startswith(UTF16_MARKS):
        issues.add("PV005", file, "the file is UTF-16", line=1, hint="Save it as UTF-8")
        return
    if head == BOM:
        what, hint = "the file begins with a byte order mark", "Save it as plain UTF-8"
        issues.add("PV006", file, what, line=1, hint=hint, severity="warning")
    if is_array(path):
        yield from _split_array(rows, piece_bytes, issues)
        return
    for lines in split_jsonl(path, file, rows.split, piece_bytes):
        yield replace(rows, start=lines.start, end=lines.end, line=lines.first_line)


def _split_array(rows: ChatRange, piece_bytes: int, issues: IssueCollector) -> list[ChatRange]:
    """An array in pieces of whole elements. Where it is broken, the elements before that are checked."""
    pieces: list[ChatRange] = []
    last_line, share_lines = 0, False
    try:
        for count, row in enumerate(read_json_array(rows.path), start=1):
            share_lines |= row.line == last_line
            last_line, end = row.line, row.offset + row.length
            if pieces and end - pieces[-1].start <= piece_bytes:
                pieces[-1] = replace(pieces[-1], end=end)
            else:
                pieces.append(replace(rows, start=row.offset, end=end, line=row.line, is_array=True, element=count))
    except SourceError as error:
        number = error.where.rpartition(":")[2]
        issues.add(
            "PV004" if "is cut" in error.what else "PV005" if "UTF-8" in error.what else "PV001",
            rows.file,
            error.what + ("; rows after it were not checked" if pieces else ""),
            line=int(number) if number.isdigit() else None,
            hint=error.hint,
        )
    return pieces if share_lines else [replace(piece, element=None) for piece in pieces]


def use_original_paths(report: ValidationReport, pieces: Sequence[Piece]) -> ValidationReport:
    """The report with JSON paths of the rows as they are in their files, in place of phiv's."""
    ranges = [piece for piece in pieces if isinstance(piece, ChatRange)]
    if not ranges:
        return report

    def has_phiv_path(issue: Issue) -> bool:
        return bool(issue.line and issue.json_path) and issue.code not in _CODES_OF_READER

    wanted: dict[str, set[int]] = {}
    for issue in filter(has_phiv_path, report.issues):
        wanted.setdefault(issue.file, set()).add(issue.line or 0)
    original: dict[tuple[str, int], Callable[[str], str | None]] = {}
    for rows, after in pairwise([*ranges, None]):
        assert rows is not None
        last = after.first_line if after and after.file == rows.file else math.inf
        if numbers := {number for number in wanted.get(rows.file, ()) if rows.first_line <= number <= last}:
            original |= {(rows.file, number): path for number, path in original_paths(rows, numbers).items()}
    issues = []
    for issue in report.issues:
        path = original.get((issue.file, issue.line or 0)) if has_phiv_path(issue) else None
        issues.append(issue.model_copy(update={"json_path": path(issue.json_path or "$")}) if path else issue)
    return report.model_copy(update={"issues": issues})
