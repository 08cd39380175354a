"""Files of other tools, validated as they are: LLaVA, ShareGPT (LLaMA-Factory), ms-swift, TRL.

    files = external_files(Path("train.json"), "auto")     # what to read as which format; [] for phiv's own data
    planned = plan_external(path, files, job, findings)    # a Job as of any other data
    report = in_their_words(report, job)                  # JSON paths of the rows themselves

Each row becomes a record in memory, by the reader that converters use, and is asked every rule. What the reader itself
turns down is PV501 to PV504.

    external_rows.py   rows to records     external_images.py   the images they name
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

from phiv_data.formats import FORMATS, sharegpt
from phiv_data.formats.files import INFO, SUFFIXES, is_array, read_entries
from phiv_data.formats.text import MARKER
from phiv_data.sources.json_stream import Row, read_json_array
from phiv_data.storage.dataset import MANIFEST, NO_ROWS
from phiv_data.storage.jsonl import UTF16_MARKS
from phiv_data.validation.core.finding import Finding
from phiv_data.validation.core.key_index import KeyIndex
from phiv_data.validation.inputs.chat_rows import ExternalRows, places_of
from phiv_data.validation.partial_result import Findings, Partial
from phiv_data.validation.run import Planned, split_of
from phiv_data.validation.tasks import DEEP_PIECE_BYTES, PIECE_BYTES, Job, Piece, cut_lines
from phiv_schemas import Issue, SourceError, UsageError, ValidationReport

INPUT_FORMATS = ("auto", "phiv", *FORMATS)
_LOOKED_AT = 64  # rows from which a format is guessed
_MAX_LINE = 2**24
_OF_READER = ("PV001", "PV003", "PV004", "PV005", "PV501", "PV502", "PV503", "PV504")  # their paths are the row's own


@dataclass(frozen=True, slots=True)
class ExternalFile:
    """A file of rows, and the format they are read as. `entry` is what dataset_info.json says of it."""

    path: Path
    format: str
    entry: Mapping[str, Any] | None = None


def external_files(path: Path, input_format: str = "auto") -> list[ExternalFile]:
    """The files at `path` to be read as another tool's; none where they are to be read as phiv's own.

    "auto" looks at the first rows of each file. Of a folder, all files of rows directly in it are read, unless one of
    its jsonl files is phiv's. UsageError for an unknown format, or one that does not go with a converted dataset.
    """
    if input_format not in INPUT_FORMATS:
        known = ", ".join(INPUT_FORMATS)
        raise UsageError("input_format", f"must be one of {known} (found {input_format!r})")
    if input_format == "phiv" or (path.is_file() and path.suffix == ".arrow"):
        return []
    if path.is_file():
        return _one_file(path, input_format)
    if (path / MANIFEST).is_file():
        if input_format != "auto":
            raise UsageError("input_format", f"{path} is a converted dataset, which is phiv's", "Leave it out")
        return []
    return _of_folder(path, input_format)


def _one_file(path: Path, input_format: str) -> list[ExternalFile]:
    entry = read_entries(path.parent / INFO) if path.parent.joinpath(INFO).is_file() else {}
    named = _entry_of(path, entry)
    format = _guess(path, named) if input_format == "auto" else input_format
    if format is None and path.suffix == ".json":
        hint = "Pass --input_format, or convert it with phiv-convert"
        raise UsageError(str(path), "holds no rows of a format that phiv can tell", hint)
    return [] if format in (None, "phiv") else [ExternalFile(path, str(format), named)]


def _of_folder(folder: Path, input_format: str) -> list[ExternalFile]:
    entries = read_entries(folder / INFO)
    found = []
    for file in _row_files(folder):
        entry = _entry_of(file, entries)
        format = _guess(file, entry)
        if format is None and input_format == "auto":
            continue  # some other JSON, or an empty file
        if input_format == "auto" and format == "phiv":
            return []
        found.append(ExternalFile(file, str(format) if input_format == "auto" else input_format, entry))
    return found


def _row_files(folder: Path) -> list[Path]:
    names = sorted(name for name in folder.iterdir() if name.suffix in SUFFIXES and name.is_file())
    return [name for name in names if name.name not in {INFO, *NON_RECORD_FILES} and not name.name.startswith(".")]


def passed_over(folder: Path, files: Iterable[ExternalFile]) -> Iterator[Issue]:
    """PV504 for each file of a folder that holds rows, it seems, and is not read beside the others."""
    read = {file.path for file in files}
    for file in _row_files(folder):
        if file in read or not file.stat().st_size:
            continue
        format = _guess(file, None)
        if read and format is None and file.suffix == ".jsonl":
            yield Finding("PV504", None, "holds no rows of a format that phiv can tell: it was not checked").at(
                file.name
            )
        elif not read and format not in (None, "phiv") and file.suffix == ".json":
            what = f"holds {format} rows: it was not checked beside phiv's own"
            yield Finding("PV504", None, what, "Check it by itself").at(file.name)


def _entry_of(path: Path, entries: Mapping[str, Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """The entry of dataset_info.json that names the file as ShareGPT's, the first of several."""
    named = (entry for entry in entries.values() if entry.get("file_name") == path.name)
    return next((entry for entry in named if entry.get("formatting") in ("sharegpt", "openai")), None)


def notices(files: Iterable[ExternalFile]) -> Iterator[str]:
    """A line for each format, about the files that are read as it."""
    names: dict[str, list[str]] = {}
    for file in files:
        names.setdefault(file.format, []).append(file.path.name)
    for format, some in names.items():
        more = f" and {len(some) - 3} more" if len(some) > 3 else ""
        yield f"{', '.join(some[:3])}{more}: read as {format} rows"


# Which format -------------------------------------------------------------------------------------------------------


def _guess(path: Path, entry: Mapping[str, Any] | None) -> str | None:
    """The format that the first rows look like, or "phiv"; None where they look like none."""
    if entry is not None:
        return "sharegpt"
    kinds = {kind for row in _first_rows(path) if (kind := _kind(row))}
    for kind in ("phiv", "trl", "swift", "llava", "marked", "unmarked", "plain"):
        if kind in kinds:
            return {"marked": "sharegpt", "unmarked": "swift", "plain": "sharegpt"}.get(kind, kind)
    return None


def _first_rows(path: Path) -> Iterator[Any]:
    """The values of the first rows, as far as they are JSON."""
    try:
        if is_array(path):
            yield from (row.value for row in islice(read_json_array(path), _LOOKED_AT))
            return
        with path.open("rb") as file:
            for raw in islice(iter(lambda: file.readline(_MAX_LINE), b""), _LOOKED_AT):
                with suppress(ValueError, RecursionError):  # one bad line hides none of the others
                    yield json.loads(raw.removeprefix(BOM))
    except (SourceError, ValueError, RecursionError):
        return


def _kind(row: Any) -> str | None:
    """What one row looks like; the most telling kind of a file's rows decides."""
    if isinstance(row, list):
        return "trl" if row and _has(row[0], "role", "from") else None
    if not isinstance(row, dict):
        return None
    messages = next((row[name] for name in ("messages", "conversations", "conversation") if row.get(name)), None)
    if isinstance(messages, list) and messages and isinstance(messages[0], dict):
        return _kind_of_dialogue(row, messages)
    if "question_id" in row and "text" in row:
        return "llava"
    if "prompt" in row and ("completion" in row or "chosen" in row):
        return "trl"
    is_query = "query" in row or ("instruction" in row and "output" in row)
    return "swift" if is_query or ("response" in row and "history" in row) else None


def _kind_of_dialogue(row: Mapping[str, Any], messages: list[Any]) -> str | None:
    first = messages[0]
    if "user" in first and not _has(first, "role", "from"):
        return "phiv"
    if _has(first, "human"):
        return "swift"
    if _has(first, "from") and row.get("image"):
        return "llava"
    if not _has(first, "role", "from"):
        return None
    contents = [m.get("content", m.get("value")) for m in messages if isinstance(m, dict)]
    if any(isinstance(content, list) for content in contents):
        return "trl"
    if any(isinstance(content, str) and MARKER in content for content in contents):
        return "marked"
    return "unmarked" if row.get("images") or row.get("image") else "plain"


def _has(value: Any, *keys: str) -> bool:
    return isinstance(value, dict) and any(key in value for key in keys)


# Pieces -------------------------------------------------------------------------------------------------------------


def plan_external(path: Path, files: Iterable[ExternalFile], job: Job, findings: Findings) -> Planned:
    """Fill `job` with the pieces of `files`, and say what is wrong with them as files."""
    folder = path if path.is_dir() else path.parent
    job.external_roots = image_roots(path, job.images_root)
    for file in files:
        if file.format == "sharegpt" and file.entry is not None:
            sharegpt.names_of(file.entry, str(folder / INFO))  # an entry that is not well formed is told now
        piece_bytes = DEEP_PIECE_BYTES if job.settings.deep and job.settings.images else PIECE_BYTES
        pieces = cut_external(file, piece_bytes, findings)
        job.pieces += [Piece(split_of(file.path.stem), external=part) for part in pieces]

    def check_whole(whole: Partial, index: KeyIndex, findings: Findings) -> int:
        if not whole.rows:
            findings.add("PV202", path.name, "holds no rows")
        return 0

    return Planned(job, check_whole)


def image_roots(path: Path, images_root: Path | None) -> tuple[Path, ...]:
    """The folders in which paths of images start, the first that has one counts."""
    folder = path if path.is_dir() else path.parent
    return (*(() if images_root is None else (images_root,)), folder, folder / "images")


def cut_external(source: ExternalFile, piece_bytes: int, findings: Findings) -> Iterator[ExternalRows]:
    """A file in pieces of about so many bytes, at least a row each; what is wrong with it as a file."""
    rows = ExternalRows(source.path.name, source.path, source.format, 0, 0, entry=source.entry)
    with rows.path.open("rb") as file:
        head = file.read(len(BOM))
    if head.startswith(UTF16_MARKS):
        findings.add("PV005", rows.file, "the file is UTF-16", line=1, hint="Save it as UTF-8")
        return
    if head == BOM:
        what, hint = "the file begins with a byte order mark", "Save it as plain UTF-8"
        findings.add("PV006", rows.file, what, line=1, hint=hint, severity="warning")
    if is_array(rows.path):
        yield from _cut_array(rows, piece_bytes, findings)
        return
    for lines in cut_lines(rows.file, rows.path, piece_bytes):
        yield replace(rows, start=lines.start, end=lines.end, line=lines.first)


def _cut_array(rows: ExternalRows, piece_bytes: int, findings: Findings) -> list[ExternalRows]:
    """An array in pieces of whole elements. Where it is broken, what stands before that is checked."""
    pieces: list[ExternalRows] = []
    last_line, share_lines = 0, False
    try:
        for count, row in enumerate(read_json_array(rows.path), start=1):
            share_lines |= row.line == last_line
            last_line = row.line
            _add(pieces, rows, row, count, piece_bytes)
    except SourceError as error:
        findings.extend([_broken_array(error, rows.file, len(pieces) > 0)])
    return pieces if share_lines else [replace(piece, element=None) for piece in pieces]


def _add(pieces: list[ExternalRows], rows: ExternalRows, row: JsonRow, count: int, piece_bytes: int) -> None:
    """Put an element into the last piece, or into a new one where that is full."""
    end = row.offset + row.length
    if pieces and end - pieces[-1].start <= piece_bytes:
        pieces[-1] = replace(pieces[-1], end=end)
    else:
        pieces.append(replace(rows, start=row.offset, end=end, line=row.line, is_array=True, element=count))


def _broken_array(error: SourceError, file: str, has_rows: bool) -> Issue:
    line = error.where.rpartition(":")[2]
    code = "PV004" if "is cut" in error.what else "PV005" if "UTF-8" in error.what else "PV001"
    what = error.what + ("; rows after it were not checked" if has_rows else "")
    return Issue(code=code, file=file, line=int(line) if line.isdigit() else None, message=what, hint=error.hint)


# Paths --------------------------------------------------------------------------------------------------------------


def in_their_words(report: ValidationReport, job: Job) -> ValidationReport:
    """The report with the JSON paths of the rows as they stand in their files, where they were phiv's."""
    pieces = [piece.external for piece in job.pieces if piece.external]
    wanted: dict[str, set[int]] = {}
    for issue in report.issues:
        if _is_ours(issue):
            wanted.setdefault(issue.file, set()).add(issue.line or 0)
    own: dict[tuple[str, int], Any] = {}
    for rows, after in pairwise([*pieces, None]):
        assert rows is not None
        last = after.first if after and after.file == rows.file else math.inf
        numbers = {number for number in wanted.get(rows.file, ()) if rows.first <= number <= last}
        own |= {(rows.file, number): path for number, path in (places_of(rows, numbers) if numbers else {}).items()}
    issues = [_translated(issue, own) if _is_ours(issue) else issue for issue in report.issues]
    return report.model_copy(update={"issues": issues}) if pieces else report


def _is_ours(issue: Issue) -> bool:
    return bool(issue.line and issue.json_path) and issue.code not in _OF_READER


def _translated(issue: Issue, own: Mapping[tuple[str, int], Any]) -> Issue:
    path = own.get((issue.file, issue.line or 0))
    return issue.model_copy(update={"json_path": path(issue.json_path)}) if path else issue
