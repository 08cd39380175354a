"""Runs a validation: a path is planned as pieces of work, each is checked, and their results merge into one report.

plan      which pieces a path consists of                  run.py, inputs/converted.py, inputs/chat_dataset.py
check     a piece -> a partial result, in any process      inputs/, rules/
merge     partial results, in any order                    partial_result.py
finalize  rules over many rows, then the report            partial_result.py, core/key_index.py
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial, reduce
from itertools import chain
from pathlib import Path

from phiv_data.convert.reopen import compare_source
from phiv_data.convert.staging import is_unfinished
from phiv_data.engines.base import Engine, Killed
from phiv_data.engines.local import LocalEngine, default_workers
from phiv_data.formats.files import INFO
from phiv_data.media.images import MAX_PIXELS
from phiv_data.sources.folders import find_files
from phiv_data.sources.hf_tables import missing_shards
from phiv_data.storage.dataset import MANIFEST, NON_RECORD_FILES
from phiv_data.utils.atomic import environment_problems, must_stay
from phiv_data.validation.core.aggregators import MissingImagesFolder
from phiv_data.validation.core.finding import RowRule, Settings
from phiv_data.validation.core.key_index import KeyIndex
from phiv_data.validation.inputs.chat_dataset import (
    ChatFile,
    plan_chat_files,
    unread_files,
    use_original_paths,
)
from phiv_data.validation.inputs.converted import plan_converted
from phiv_data.validation.inputs.fast_parse import fast_record
from phiv_data.validation.inputs.image_checks import ImageChecks, missing_image
from phiv_data.validation.inputs.jsonl_range import piece_bytes_for, split_jsonl, split_of
from phiv_data.validation.inputs.other_kinds import find_rows
from phiv_data.validation.inputs.shard import ShardPiece
from phiv_data.validation.inputs.shard_checks import EmbeddedImageChecks
from phiv_data.validation.partial_result import FileLine, IssueCollector, PartialResult, finalize, merge
from phiv_data.validation.provenance.check import plan_sources
from phiv_data.validation.rules.labels import LabelCounts
from phiv_data.validation.rules.leakage import split_kind
from phiv_data.validation.tasks import CONVERT_AGAIN, CheckContext, Context, Piece, ValidationPlan, WorkUnit
from phiv_schemas import RULES, Conversation, UsageError, ValidationReport
from phiv_schemas.rules import Severity

MAX_ISSUES = 1000
OWN_CODE = re.compile(r"PV9\d\d")
"""Codes of rules of your own."""

OnRows = Callable[[int], object]

_MAX_LINE_BYTES = 2**24
_SHARD_NAME = re.compile(r"data-\d{5}-of-\d{5}\.arrow")
_SHARD_MARK = b"\xff\xff\xff\xff"  # how an Arrow stream begins


def validate(
    path: Path | str,
    *,
    deep: bool = True,
    images: bool = True,
    images_root: Path | str | None = None,
    max_issues: int = MAX_ISSUES,
    max_pixels: int = MAX_PIXELS,
    num_workers: int | None = 0,
    engine: Engine | None = None,
    ignore: Collection[str] = (),
    row_rules: Iterable[RowRule] = (),
    input_format: str = "auto",
    source: Path | str | Sequence[Path] = (),
    on_rows: OnRows = lambda count: None,
) -> ValidationReport:
    """Check `path`: a converted folder, one jsonl file, one shard, or a folder of shards.

    Without `deep`, images are not decoded and files not hashed; without `images`, image files are not opened at all.
    `images_root` is where a jsonl file's paths start (default: the folder `images` beside it). At most `max_issues`
    issues are listed, errors first. Images of more than `max_pixels` are errors, and not decoded. Findings of the codes
    in `ignore` are left out. `row_rules` are asked beside the usual rules. With `source`, a folder or archives, every
    image of a converted folder is compared with what it was made from (`provenance`). `num_workers` processes share the
    work (0: this one; None: one per core, if there is much to do), or another `engine` does it; the report depends on
    neither. `on_rows(n)` is called as rows are done. `input_format` is "phiv", an external chat format ("llava",
    "sharegpt", "swift", "trl"), or "auto", which decides by the first rows (`formats.detect`).

    Raises UsageError when there is nothing to check.
    """
    path = Path(path)
    check_arguments(path, images_root, max_issues, max_pixels, num_workers, ignore)
    settings = Settings(deep, images, frozenset(ignore), tuple(row_rules), max_issues, max_pixels)
    with ExitStack() as stack, environment_problems(path), must_stay(path):

        def new_folder() -> Path:
            """A temporary folder, removed in the end."""
            return Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="phiv-validate-")))

        index, issues = KeyIndex(new_folder), IssueCollector.of(settings)
        whole = PartialResult(IssueCollector.of(settings))
        sources = plan_sources(path, source, settings, new_folder, compare_source) if source else None
        chat_files = _find_external_files(path, input_format, issues)
        plan = _plan_path(path, chat_files, settings, Path(images_root) if images_root else None, issues, new_folder)
        chosen = engine or choose_engine(len(plan.pieces), num_workers)
        if plan.context.images:
            stack.callback(plan.context.images.close)
        set_up_images(plan, chosen)
        for result in run_units(plan.pieces, plan.context, settings, chosen):
            index.add(result.keys)
            whole = merge(whole, replace(result, keys=()))
            on_rows(result.rows.total())
        if sources:
            chosen = engine or choose_engine(len(sources.rows), num_workers)
            results = run_units(sources.rows, sources.context, settings, chosen)
            whole = reduce(merge, results, merge(whole, sources.known))
        num_unused = plan.check_whole(whole, index, issues)
        whole = merge(whole, PartialResult(issues))
        report = finalize(whole, index, str(path), partial(find_records, plan.pieces), num_images=num_unused)
        report = report.model_copy(update={"not_applied": _rules_not_applied(plan, settings, whole)})
        return use_original_paths(report, plan.pieces) if chat_files else report


def _rules_not_applied(plan: ValidationPlan, settings: Settings, whole: PartialResult) -> dict[str, str]:
    """The families of rules that could find nothing, whatever the data, and why."""
    found: dict[str, str] = {}
    if not whole.stats.splits:
        return found
    labels, splits = whole.aggregators.get("labels"), sorted(whole.stats.splits)
    if isinstance(labels, LabelCounts) and (reason := labels.not_applied()):
        found["PV230-PV233 (classes)"] = reason
    if len({split_kind(split) for split in splits} - {None}) < 2:
        names = f" ({splits[0]})" if len(splits) == 1 else ""
        found["PV240-PV243 (leakage)"] = f"needs two splits named as train, val or test; found {len(splits)}{names}"
    if not settings.images:
        found["PV101-PV117, PV240-PV244 (images)"] = "image files were not opened"
    elif not settings.deep:
        found["PV102, PV104, PV110-PV116, PV240-PV244 (images)"] = "images were not decoded"
    return found


def check_arguments(
    path: Path,
    images_root: Path | str | None,
    max_issues: int,
    max_pixels: int,
    num_workers: int | None,
    ignore: Collection[str],
) -> None:
    """UsageError for arguments of `validate` that cannot be used."""
    if not path.exists():
        raise UsageError(str(path), "no such file or folder")
    if not path.is_file() and not path.is_dir():  # a pipe can be read only once
        raise UsageError(str(path), "is neither a file nor a folder", "Save what it gives to a file first")
    if max_issues < 1:
        raise UsageError("max_issues", f"must be at least 1 (found {max_issues})")
    if max_pixels < 1:
        raise UsageError("max_pixels", f"must be at least 1 (found {max_pixels})")
    if num_workers is not None and num_workers < 0:
        raise UsageError("num_workers", f"must be at least 0 (found {num_workers})")
    if isinstance(ignore, str):
        raise UsageError("ignore", f"must be a list of codes (found {ignore!r})")
    if unknown := sorted(code for code in set(ignore) - RULES.keys() if not OWN_CODE.fullmatch(code)):
        raise UsageError("ignore", f"no such rule {unknown[0]!r}", "docs/rules.md lists them")
    if images_root is not None and not Path(images_root).is_dir():
        raise UsageError("images_root", f"no such folder {str(images_root)!r}")


# The pieces of a path -----------------------------------------------------------------------------------------------


def _find_external_files(path: Path, input_format: str, issues: IssueCollector) -> list[ChatFile]:
    """The files at `path` to read as an external chat format; files that nothing reads go to `issues`."""
    is_jsonl = input_format == "auto" and path.suffix == ".jsonl" and path.is_file()
    if is_jsonl and not (path.parent / INFO).is_file():
        with path.open("rb") as opened:
            if fast_record(opened.readline(_MAX_LINE_BYTES)) is not None:
                return []  # a record of phiv's: nothing is left to detect
    files = find_rows(path, input_format)
    if path.is_dir() and input_format == "auto" and not (path / MANIFEST).is_file():
        issues.extend(unread_files(path, files))
    return files


def _plan_path(
    path: Path,
    chat_files: Sequence[ChatFile],
    settings: Settings,
    images_root: Path | None,
    issues: IssueCollector,
    new_folder: Callable[[], Path],
) -> ValidationPlan:
    """The pieces of `chat_files`, else of phiv's own data; what is wrong with whole files goes to `issues`."""
    if chat_files:
        return plan_chat_files(path, chat_files, settings, images_root, issues)
    if path.is_file():
        with path.open("rb") as opened:
            start = opened.read(16)
        if start.startswith(_SHARD_MARK) or (path.suffix == ".arrow" and not start.startswith(b"ARROW1")):
            return _plan_shards(path.parent, [path], settings)
        return _plan_jsonl(path.parent, [path], settings, images_root)
    if (path / MANIFEST).is_file():
        return plan_converted(path, settings, images_root, issues, new_folder)
    if jsonl := [file for file in find_files(path, "*.jsonl") if file.name not in NON_RECORD_FILES]:
        _report_no_manifest(path, issues)
        for file in jsonl:
            if not file.is_file():
                issues.add("PV007", file.name, "cannot be read (a link that leads nowhere, or no file)")
        return _plan_jsonl(path, [file for file in jsonl if file.is_file()], settings, images_root)
    if shards := sorted(chain(find_files(path, "*.arrow"), find_files(path, "*/*.arrow"))):
        for parent in sorted({shard.parent for shard in shards}):
            named = [shard for shard in shards if shard.parent == parent and _SHARD_NAME.fullmatch(shard.name)]
            for name in missing_shards(named):  # without a manifest, names still contain how many there should be
                missing = (parent / name).relative_to(path).as_posix()
                issues.add("PV301", missing, "this shard is missing", hint=CONVERT_AGAIN)
        return _plan_shards(path, shards, settings)
    if is_unfinished(path) or _traces_of_conversion(path):
        _report_no_manifest(path, issues)
        return ValidationPlan([], CheckContext(settings))
    raise UsageError(str(path), "holds no manifest.json, jsonl file or shard", "Pass what phiv-convert wrote")


def _plan_jsonl(folder: Path, files: list[Path], settings: Settings, images_root: Path | None) -> ValidationPlan:
    context, root = CheckContext(settings), images_root or folder / "images"
    if settings.images and root.is_dir():
        context.images = ImageChecks(root, deep=settings.deep, max_pixels=settings.max_pixels)
    pieces: list[Piece] = []
    for file in files:
        ranges = split_jsonl(file, file.name, split_of(file.stem), piece_bytes_for(context))
        pieces += [replace(one, may_lack_names=True) for one in ranges]

    def check_whole(whole: PartialResult, index: KeyIndex, issues: IssueCollector) -> int:
        if not whole.rows:
            issues.add("PV202", files[0].name if files else folder.name, "holds no rows")
        missing = whole.aggregators.get("")
        if isinstance(missing, MissingImagesFolder) and missing.first:
            missing.hint = missing_image(root, missing.first[2]).hint
        return 0

    return ValidationPlan(pieces, context, check_whole)


def _plan_shards(folder: Path, files: list[Path], settings: Settings) -> ValidationPlan:
    embedded = EmbeddedImageChecks(deep=settings.deep, max_pixels=settings.max_pixels)
    pieces: list[Piece] = [ShardPiece(path.parent.name, path.relative_to(folder).as_posix(), path) for path in files]
    return ValidationPlan(pieces, CheckContext(settings, embedded=embedded))


def _report_no_manifest(folder: Path, issues: IssueCollector) -> None:
    """PV303: an error where a conversion was not finished, or its manifest is gone; else a warning."""
    traces = _traces_of_conversion(folder)
    severity: Severity = "error"
    if is_unfinished(folder):
        what, hint = "there is none: unfinished conversion", "Run its phiv-convert command again"
    elif traces:
        what = f"is missing beside {' and '.join(traces)}: the folder is not whole"
        hint = "Copy the folder again, or convert it again"
    else:
        severity, what = "warning", "there is none: hashes and row counts cannot be checked"
        hint = f"phiv-convert jsonl --source {folder} --out_dir OUT makes the folder whole"
        if find_files(folder, "ucf101_*.jsonl"):
            what = "there is none, as in what the original recipe writes: hashes and row counts cannot be checked"
    if find_files(folder, "arrow/*/*.arrow"):
        what += "; the shards below arrow/ were not checked"
    issues.add("PV303", MANIFEST, what, hint=hint, severity=severity)


def _traces_of_conversion(folder: Path) -> list[str]:
    """What only phiv-convert writes into a folder, as far as it is there."""
    return [name for name in ("arrow", "images.sha256", "rejects.jsonl") if (folder / name).exists()]


def set_up_images(plan: ValidationPlan, engine: Engine) -> None:
    """Threads where no worker processes are; perceptual hashes where images are decoded."""
    context = plan.context
    if context.images:
        context.images.threads = min(8, default_workers()) if engine == LocalEngine(0) else 0
    for checks in (context.images, context.embedded):
        if checks is not None and context.settings.deep:
            checks.phash = True


# Running ------------------------------------------------------------------------------------------------------------


def choose_engine(num_units: int, num_workers: int | None) -> LocalEngine:
    """Processes on this machine; 0 for this one alone. None: one per core, none for few units."""
    if num_workers is not None:
        return LocalEngine(num_workers)
    workers = min(default_workers(), num_units // 2)
    return LocalEngine(workers if workers > 1 else 0)


def run_units(
    units: Sequence[WorkUnit[Context]], context: Context, settings: Settings, engine: Engine
) -> Iterator[PartialResult]:
    """The result of every unit, in order of completion. A unit that kills its process (a decoder crashes) is PV102."""
    for i, result in engine.map(_check_unit, (units, context), range(len(units))):
        if isinstance(result, Killed):
            issues, what = IssueCollector.of(settings), f"an image kills the decoder ({units[i]})"
            hint = "Find it with --no_deep and fewer lines, and drop it"
            issues.add("PV102", units[i].file, what, line=units[i].first_line, hint=hint)
            result = PartialResult(issues)
        yield result


def _check_unit(shared: tuple[Sequence[WorkUnit[Context]], Context], index: int) -> PartialResult:
    units, context = shared
    return units[index].check(context)


def find_records(pieces: Sequence[Piece], places: Collection[FileLine]) -> dict[FileLine, Conversation]:
    """The records at (file, line), read again; those that cannot be are left out."""
    records: dict[FileLine, Conversation] = {}
    for piece in pieces:
        if wanted := {line for file, line in places if file == piece.file and (file, line) not in records}:
            records.update(((piece.file, line), record) for line, record in piece.records(wanted))
    return records
