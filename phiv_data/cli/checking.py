"""What `phiv-validate` does with its options: check, fix, undo. Everything heavy is imported here: not for --help."""

from __future__ import annotations

import dataclasses
import sys
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import Any

from tqdm import tqdm

from phiv_data.cli.engine_options import make_engine
from phiv_data.cli.validate_options import ValidateOptions
from phiv_data.repair import fix, undo
from phiv_data.repair.summary import fix_summary
from phiv_data.reports import render, write_report, write_reports
from phiv_data.stores.address import spell_place
from phiv_data.stores.folder_copy import local_copy
from phiv_data.utils.atomic import must_stay
from phiv_data.utils.image_options import collect_image_options
from phiv_data.utils.terminal import say, write_document
from phiv_data.validation import check_arguments, validate
from phiv_data.validation.core.finding import RowRule
from phiv_data.validation.inputs.chat_dataset import describe_formats
from phiv_data.validation.inputs.other_kinds import find_rows
from phiv_data.validation.rules.token_budget import TokenBudget
from phiv_schemas import ValidationReport
from phiv_schemas.errors import EXIT_DATA, EXIT_INTERRUPTED, EXIT_OK, UsageError


def check(options: ValidateOptions, place: Path) -> int:
    """Check one path or address and write its report in every form asked for."""
    with ExitStack() as stack:
        path = stack.enter_context(local_copy(place, leave_out="images/" if options.no_images else ""))
        sources = tuple(stack.enter_context(local_copy(source)) for source in options.source)
        return _check(dataclasses.replace(options, source=sources), path, spell_place(place))


def _check(options: ValidateOptions, path: Path, name: str) -> int:
    with must_stay(path) if path.exists() else nullcontext():
        if options.input_format == "auto" and path.exists():
            for line in describe_formats(find_rows(path)):
                say(f"phiv-validate: {line} (change it with --input_format)", to=sys.stderr)
        row_rules = _row_rules(options, path)
        if options.engine == "array":
            raise UsageError("--engine", "array is for phiv-convert alone", "Pass local or ray")
        engine = None if options.engine == "local" else make_engine(options)
        with _progress_bar("validate") as bar:
            report = validate(
                path,
                deep=not options.no_deep,
                images=not options.no_images,
                images_root=options.images_root,
                max_issues=options.max_issues,
                max_pixels=options.max_pixels,
                num_workers=options.num_workers,
                engine=engine,
                ignore=options.ignore,
                row_rules=row_rules,
                source=options.source,
                input_format=options.input_format,
                on_rows=bar.update,
            )
    if name != str(path):  # as they are called, not where the copy is
        report = ValidationReport.model_validate_json(report.model_dump_json().replace(str(path), name))
    how: Any = {"images_root": options.images_root, "input_format": options.input_format}
    text = render(report, options.format, path, **how)
    if options.output:
        write_report(options.output, text)
    elif options.format in ("text", "github"):
        say(*text.splitlines())
    else:
        write_document(text)
    if options.report_dir:
        write_reports(report, options.report_dir, path, **how)
    return EXIT_OK if report.ok and not (options.strict and report.num_warnings) else EXIT_DATA


def fix_and_check(options: ValidateOptions, path: Path, out: Path) -> int:
    """Fix, report what was done, and check the copy. Wrong flags are reported before anything is written."""
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
    to = sys.stdout if options.format == "text" and not options.output else sys.stderr
    say(*fix_summary(fixed, out).splitlines(), to=to)
    try:
        return check(dataclasses.replace(options, images_root=None), fixed.path)
    except KeyboardInterrupt:
        say(f"phiv-validate: interrupted; the copy is whole. Check it with: phiv-validate {fixed.path}", to=sys.stderr)
        return EXIT_INTERRUPTED


def undo_fixes(options: ValidateOptions, path: Path, out: Path) -> int:
    """Write the data as they were before --fix."""
    for field in dataclasses.fields(options):
        is_given = getattr(options, field.name) != field.default
        if is_given and field.name not in ("paths", "undo", "no_images"):
            raise UsageError(f"--{field.name}", "does not go with --undo, which checks nothing", "Leave it out")
    with _progress_bar("undo") as bar:
        undone = undo(path, out, images=not options.no_images, on_rows=bar.update)
    restored = f"{undone.restored_lines:,} of {undone.lines:,} lines restored"
    say(f"{undone.path}: {restored}, {undone.num_images:,} images copied")
    return EXIT_OK


def _progress_bar(name: str) -> tqdm:
    return tqdm(unit=" rows", desc=name, disable=None, leave=False, file=sys.stderr)


def _row_rules(options: ValidateOptions, path: Path) -> list[RowRule]:
    if options.family is None:
        for name in ("max_tokens", "tokenizer", "num_crops", "image_option"):
            if getattr(options, name) not in (None, ()):
                raise UsageError(f"--{name}", "needs --family", "Pass the model family to measure rows for")
        return []
    if options.no_images:
        raise UsageError("--no_images", "does not go with --family: lengths need the sizes of images")
    root = options.images_root or (path if path.is_dir() else path.parent) / "images"
    image_options = tuple(collect_image_options(options.image_option).items())
    budget = TokenBudget(options.family, options.max_tokens, options.tokenizer, options.num_crops, root, image_options)
    budget.aggregator()  # what is missing is reported before the work begins
    return [budget]
