"""`phiv-validate PATH`: the validation of `phiv_data.validation` as a command."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from tyro.conf import FlagCreatePairsOff, Positional

from phiv_data.cli import run
from phiv_schemas.errors import EXIT_DATA, EXIT_OK

if TYPE_CHECKING:
    from phiv_schemas import ValidationReport


@dataclasses.dataclass(frozen=True)
class Options:
    """Check a converted folder, a jsonl file or Arrow shards: schema, ids, images, hashes.

    Exit codes: 0 clean (warnings do not count), 1 the data has problems, 2 usage, 3 something of the environment is
    missing, 130 interrupted.
    """

    path: Positional[Path]
    """What to check: the folder phiv-convert wrote, one jsonl file, one shard, or a folder of shards."""
    format: Literal["text", "json"] = "text"
    """How to print the report on stdout."""
    images_root: Path | None = None
    """Where the image paths of a jsonl file start. Default: the folder images beside it."""
    no_deep: bool = False
    """Do not decode images or hash files: check schema, ids, existence and sizes only."""
    max_issues: int = 1000
    """List at most this many issues, errors first."""


def main() -> int:
    """Entry point of `phiv-validate`."""
    return run("phiv-validate", lambda: _validate(_parse(sys.argv[1:])))


def _validate(options: Options) -> int:
    from tqdm import tqdm

    from phiv_data.validation import validate

    with tqdm(unit=" rows", desc="validate", disable=None, leave=False, file=sys.stderr) as bar:
        report = validate(
            options.path,
            deep=not options.no_deep,
            images_root=options.images_root,
            max_issues=options.max_issues,
            on_rows=bar.update,
        )
    sys.stdout.write(as_json(report) if options.format == "json" else as_text(report))
    return EXIT_OK if report.ok else EXIT_DATA


def as_json(report: ValidationReport) -> str:
    """The report as one JSON object, with the verdict and the counts by code beside the issues."""
    value = report.model_dump(mode="json")
    issues = value.pop("issues")
    return json.dumps({**value, "ok": report.ok, "counts": report.counts(), "issues": issues}, indent=2) + "\n"


def as_text(report: ValidationReport) -> str:
    """One line per issue, then what was checked and the verdict."""
    lines = [_issue_line(str(issue), issue.code, issue.severity) for issue in report.issues]
    return "".join(f"{line}\n" for line in [*lines, _summary(report)])


def _issue_line(text: str, code: str, severity: str) -> str:
    from phiv_schemas import CODES

    warning = "warning " if severity == "warning" else ""
    return f"{text} [{warning}{code} {CODES[code]}]"


def _summary(report: ValidationReport) -> str:
    from phiv_schemas import CODES

    errors, warnings = report.num_errors, report.num_warnings
    found = [_plural(errors, "error")] if errors else ["valid"]
    found += [_plural(warnings, "warning")] if warnings else []
    counts = ", ".join(f"{count} {code} {CODES[code]}" for code, count in report.counts().items())
    cut = f"; {len(report.issues)} listed: raise --max_issues for more" if report.truncated else ""
    checked = f"{_plural(report.rows, 'row')}, {_plural(report.images, 'image')}"
    return f"{report.path}: {checked}: {', '.join(found)}{f' ({counts})' if counts else ''}{cut}"


def _plural(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def _parse(argv: list[str]) -> Options:
    import tyro

    return tyro.cli(Options, prog="phiv-validate", args=argv, config=(FlagCreatePairsOff,))
