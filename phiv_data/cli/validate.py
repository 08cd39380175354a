"""`phiv-validate PATH`: `phiv_data.validation`, and the fixes of `phiv_data.repair`, as a command."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import tyro
from tyro.conf import FlagCreatePairsOff, Positional, UseAppendAction

from phiv_data.cli.common import run
from phiv_data.media.images import MAX_PIXELS
from phiv_schemas.errors import EXIT_DATA, EXIT_INTERRUPTED, EXIT_OK, UsageError

if TYPE_CHECKING:
    from tqdm import tqdm

    from phiv_data.validation.core.finding import RowRule
    from phiv_schemas import ValidationReport

# As in phiv_data.validation.inputs.chat_dataset and phiv_data.reports, which are slow to import.
InputFormat = Literal["auto", "phiv", "llava", "sharegpt", "swift", "trl"]
ReportFormat = Literal["text", "json", "junit", "sarif", "html", "github"]


@dataclasses.dataclass(frozen=True)
class ValidateOptions:
    """Check a converted folder, jsonl files, Arrow shards, or external chat formats: schema, ids, texts, images,
    splits.

    Exit codes: 0 clean (warnings do not count), 1 the data has problems, 2 usage, 3 something of the environment is
    missing, 130 interrupted.
    """

    paths: Positional[tuple[Path, ...]]
    """What to check: the folder phiv-convert wrote, a jsonl file, a shard, or a folder of shards. Several are checked
    one after the other."""
    format: ReportFormat = "text"
    """Format of the report on stdout."""
    output: Path | None = None
    """Write the report to this file instead of stdout."""
    report_dir: Path | None = None
    """Write the report into this folder in every format: report.txt, .json, .junit.xml, .sarif and .html."""
    images_root: Path | None = None
    """Folder that the image paths of a jsonl file are relative to. Default: the folder images beside it."""
    input_format: InputFormat = "auto"
    """Format of the rows: phiv's own, or an external chat format, checked without converting. auto detects it from the
    first rows of each file."""
    no_deep: bool = False
    """Do not decode images or hash files: check records, existence and sizes only."""
    no_images: bool = False
    """Do not open image files at all."""
    num_workers: int | None = None
    """Worker processes; 0 works in this one. Default: one per core, none for little work."""
    family: str | None = None
    """Measure every row in tokens as this model family (phi3_vision, tiny) encodes it; needs phiv[train]."""
    max_tokens: int | None = None
    """Rows longer than this are errors. Needs --family."""
    tokenizer: str | None = None
    """Checkpoint folder or hub id whose tokenizer and image settings count. Default: the family's published one."""
    num_crops: int | None = None
    """Tiles (HD crops) of an image, as in training. Default: the checkpoint's own."""
    image_option: UseAppendAction[tuple[str, ...]] = ()
    """KEY=VALUE: an image option of the family, as in training (may be given several times). Default: the checkpoint's
    own."""
    source: UseAppendAction[tuple[Path, ...]] = ()
    """Compare every image with what it was made from, below this folder or in this archive (may be given several
    times): hashes, copied bytes, frames decoded again."""
    ignore: UseAppendAction[tuple[str, ...]] = ()
    """Leave out the findings of a rule, such as PV401. May be given several times."""
    max_pixels: int = MAX_PIXELS
    """Images of more pixels than this are errors, and not decoded. Twice the default is the most that is ever read."""
    fix: Path | None = None
    """Write a fixed copy into this new folder, and check that. Fixes are safe and can be undone; never in place."""
    undo: Path | None = None
    """Undo --fix: from PATH, the folder that --fix wrote, write the data as they were into this new folder."""
    strict: bool = False
    """Warnings count: exit 1 for them too."""
    max_issues: int = 1000
    """List at most this many issues, errors first."""


def main() -> int:
    """Entry point of `phiv-validate`."""
    return run("phiv-validate", lambda: _validate(sys.argv[1:]))


def _validate(argv: list[str]) -> int:
    options = tyro.cli(ValidateOptions, prog="phiv-validate", args=argv, config=(FlagCreatePairsOff,))
    if not options.paths:
        raise UsageError("PATH", "is missing", "Pass what to check")
    one_only = options.report_dir or options.output or options.fix or options.undo
    if len(options.paths) > 1 and (one_only or options.format not in ("text", "github")):
        raise UsageError("PATH", "several go with --format text or github only", "Check them one by one")
    if options.undo:
        return _undo(options, options.paths[0], options.undo)
    _check_outputs(options)
    if options.fix:
        return _fix(options, options.paths[0], options.fix)
    return max([_check(options, path) for path in options.paths])


def _check_outputs(options: ValidateOptions) -> None:
    """UsageError where a report would replace data."""
    for flag, out in (("--output", options.output), ("--report_dir", options.report_dir)):
        real = out and out.resolve()
        if out is None or real is None or not out.exists():
            continue
        if out.is_dir() != (flag == "--report_dir"):
            raise UsageError(flag, f"{out} is a {'folder' if out.is_dir() else 'file'}", "Choose another name")
        inside = any(real.is_relative_to(path.resolve()) for path in options.paths if path.is_dir())
        is_data = inside and (real.suffix in (".jsonl", ".arrow", ".sha256") or real.name == "manifest.json")
        if flag == "--output" and (is_data or any(real == path.resolve() for path in options.paths)):
            raise UsageError(flag, f"{out} is part of the data to check", "Choose another name")


def _fix(options: ValidateOptions, path: Path, out: Path) -> int:
    """Fix, report what was done, and check the copy. Wrong flags are reported before anything is written."""
    from phiv_data.repair import fix
    from phiv_data.repair.summary import fix_summary
    from phiv_data.validation import check_arguments

    _row_rules(options, path)
    check_arguments(
        path, options.images_root, options.max_issues, options.max_pixels, options.num_workers, options.ignore
    )
    if options.source and not (path / "manifest.json").is_file():
        raise UsageError("--source", f"{path} has no manifest.json", "Pass the folder that phiv-convert wrote")
    with _progress_bar("fix") as bar:
        fixed = fix(
            path,
            out,
            images=not options.no_images,
            images_root=options.images_root,
            input_format=options.input_format,
            on_rows=bar.update,
        )
    (sys.stdout if options.format == "text" and not options.output else sys.stderr).write(fix_summary(fixed, out))
    try:
        return _check(dataclasses.replace(options, images_root=None), fixed.path)
    except KeyboardInterrupt:
        sys.stderr.write(f"phiv-validate: interrupted; the copy is whole. Check it with: phiv-validate {fixed.path}\n")
        return EXIT_INTERRUPTED


def _undo(options: ValidateOptions, path: Path, out: Path) -> int:
    from phiv_data.repair import undo
    from phiv_data.repair.summary import undo_summary

    for field in dataclasses.fields(options):
        is_given = getattr(options, field.name) != field.default
        if is_given and field.name not in ("paths", "undo", "no_images"):
            raise UsageError(f"--{field.name}", "does not go with --undo, which checks nothing", "Leave it out")
    with _progress_bar("undo") as bar:
        undone = undo(path, out, images=not options.no_images, on_rows=bar.update)
    sys.stdout.write(undo_summary(undone))
    return EXIT_OK


def _check(options: ValidateOptions, path: Path) -> int:
    from phiv_data.reports import render, write_report, write_reports
    from phiv_data.validation.inputs.chat_dataset import describe_formats, find_chat_files

    if options.input_format == "auto" and path.exists():
        for line in describe_formats(find_chat_files(path)):
            sys.stderr.write(f"phiv-validate: {line} (change it with --input_format)\n")
    report = _report(options, path)
    how: Any = {"images_root": options.images_root, "input_format": options.input_format}
    text = render(report, options.format, path, **how)
    if options.output:
        write_report(options.output, text)
    else:
        sys.stdout.write(text)
    if options.report_dir:
        write_reports(report, options.report_dir, path, **how)
    return EXIT_OK if report.ok and not (options.strict and report.num_warnings) else EXIT_DATA


def _report(options: ValidateOptions, path: Path) -> ValidationReport:
    from phiv_data.validation import validate

    row_rules = _row_rules(options, path)
    with _progress_bar("validate") as bar:
        return validate(
            path,
            deep=not options.no_deep,
            images=not options.no_images,
            images_root=options.images_root,
            max_issues=options.max_issues,
            max_pixels=options.max_pixels,
            num_workers=options.num_workers,
            ignore=options.ignore,
            row_rules=row_rules,
            source=options.source,
            input_format=options.input_format,
            on_rows=bar.update,
        )


def _progress_bar(name: str) -> tqdm:
    from tqdm import tqdm

    return tqdm(unit=" rows", desc=name, disable=None, leave=False, file=sys.stderr)


def _row_rules(options: ValidateOptions, path: Path) -> list[RowRule]:
    if options.family is None:
        for name in ("max_tokens", "tokenizer", "num_crops", "image_option"):
            if getattr(options, name) not in (None, ()):
                raise UsageError(f"--{name}", "needs --family", "Pass the model family to measure rows for")
        return []
    if options.no_images:
        raise UsageError("--no_images", "does not go with --family: lengths need the sizes of images")
    from phiv_data.utils.image_options import collect_image_options
    from phiv_data.validation.rules.token_budget import TokenBudget

    root = options.images_root or (path if path.is_dir() else path.parent) / "images"
    image_options = tuple(collect_image_options(options.image_option).items())
    budget = TokenBudget(options.family, options.max_tokens, options.tokenizer, options.num_crops, root, image_options)
    budget.aggregator()  # what is missing is reported before the work begins
    return [budget]
