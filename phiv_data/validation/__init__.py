"""`validate(path)`: everything wrong with a converted folder, a jsonl file or shards, in one report.

    >>> report = validate("out")
    >>> report.ok, report.rows, report.images
    (True, 30, 240)
    >>> [str(issue) for issue in report.issues]
    ["ucf101_val.jsonl:17: $.conversations[0].images[3]: no such image 'val/A/v.3.jpg' under images/"]

`deep` (the default) decodes every distinct image in full, and hashes every file; without it only schema, ids,
existence and sizes are checked.

    dataset.py   a path -> a Job of pieces          text.py, images.py   rules: pure functions
    walk.py      a piece -> a Partial               tallies.py, keys.py  rules over many rows
    partial.py   Partials merge; finish() reports   found.py             what rules are given and say
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from phiv_data.media.images import MAX_PIXELS
from phiv_data.storage.dataset import MANIFEST
from phiv_data.utils.atomic import environment_problems
from phiv_data.validation.core.finding import RowRule, Settings
from phiv_data.validation.core.key_index import KeyIndex
from phiv_data.validation.inputs.chat_dataset import external_files, in_their_words, passed_over, plan_external
from phiv_data.validation.partial_result import Findings, Partial, finish, merge
from phiv_data.validation.provenance.check import compare_sources, source_job
from phiv_data.validation.run import plan_path
from phiv_data.validation.tasks import Job, find_rows, run_pieces
from phiv_schemas import RULES, UsageError, ValidationReport

MAX_ISSUES = 1000
OWN_CODE = re.compile(r"PV9\d\d")
"""Codes of rules of your own."""

OnRows = Callable[[int], object]


def validate(
    path: Path | str,
    *,
    deep: bool = True,
    images: bool = True,
    images_root: Path | str | None = None,
    max_issues: int = MAX_ISSUES,
    max_pixels: int = MAX_PIXELS,
    num_workers: int | None = 0,
    ignore: Collection[str] = (),
    row_rules: Iterable[RowRule] = (),
    input_format: str = "auto",
    source: Path | str | Sequence[Path] = (),
    on_rows: OnRows = lambda count: None,
) -> ValidationReport:
    """Check `path`: a converted folder, one jsonl file, one shard, or a folder of shards.

    Without `deep`, images are not decoded and files not hashed; without `images`, image files are not looked at.
    `images_root` is where a jsonl file's paths start (default: the folder `images` beside it). At most `max_issues`
    issues are listed, errors first. Images of more than `max_pixels` are errors, and not decoded. Findings of the codes
    in `ignore` are left out. `row_rules` are asked beside the usual rules. With `source`, a folder or archives, every
    image of a converted folder is compared with what it was made from (`provenance`). `num_workers` processes share the
    work (0: this one; None: one per core, if there is much to do); the report does not depend on them. `on_rows(n)` is
    called as rows are done.

    `input_format` is "phiv", that of another tool ("llava", "sharegpt", "swift", "trl"), or "auto", which looks at the
    first rows (`external`).

    Raises UsageError when there is nothing to check.
    """
    path = Path(path)
    check_arguments(path, images_root, max_issues, max_pixels, num_workers, ignore)
    settings = Settings(deep, images, frozenset(ignore), tuple(row_rules), max_issues, max_pixels)
    job = Job(settings=settings, images_root=None if images_root is None else Path(images_root))
    findings = Findings.of(settings)
    with ExitStack() as stack, environment_problems(path):

        def scratch() -> Path:
            """A new temporary folder, removed in the end."""
            return Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="phiv-validate-")))

        index = KeyIndex(scratch)
        sources = source_job(path, source, settings, scratch) if source else None
        files = external_files(path, input_format)
        if path.is_dir() and input_format == "auto" and not (path / MANIFEST).is_file():
            findings.extend(passed_over(path, files))
        planned = plan_external(path, files, job, findings) if files else plan_path(path, job, findings, scratch)
        whole = Partial(Findings.of(settings))
        for part in run_pieces(planned.job, num_workers):
            index.add(part.keys)
            whole = merge(whole, replace(part, keys=()))
            on_rows(sum(part.rows.values()))
        if sources:
            whole = merge(whole, compare_sources(sources, num_workers))
        more = planned.check_whole(whole, index, findings)
        whole = merge(whole, Partial(findings))
        report = finish(whole, index, str(path), lambda places: find_rows(job, places), num_images=more)
        return in_their_words(report, job)


def check_arguments(
    path: Path,
    images_root: Path | str | None,
    max_issues: int,
    max_pixels: int,
    num_workers: int | None,
    ignore: Collection[str],
) -> None:
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
