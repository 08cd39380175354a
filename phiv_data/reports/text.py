"""A report for a terminal: findings, those of one cause on one line, what to do about each rule, and the verdict."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from phiv_data.reports.findings import plural, rule_of, rule_title
from phiv_data.utils.terminal import printable
from phiv_schemas import Issue, ValidationReport

MAX_ALONE = 3
"""So many findings of one cause have a line each."""
_MAX_LINES_CHARS = 60
_MAX_VALUE = 100
_MAX_HINTS = 3  # of one rule
_OF_ONE_FINDING = "Did you mean"
_QUOTED = re.compile(r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"")
_VALUE = re.compile(rf"(['\"])([^'\"]{{{_MAX_VALUE},}})\1")


def render(report: ValidationReport) -> str:
    """The report as lines, each ending in a newline."""
    groups: dict[tuple[str, ...], list[Issue]] = {}
    for issue in report.issues:
        cause = re.sub(r"\d+", "#", _QUOTED.sub("''", f"{issue.json_path} {issue.message}"))
        groups.setdefault((issue.code, issue.severity, issue.file, cause, issue.hint), []).append(issue)
    lines: list[str] = []
    for group in groups.values():  # a line each for a few findings of one cause; else the first, with the others' lines
        for issue in group if len(group) <= MAX_ALONE else group[:1]:
            warning = "warning " if issue.severity == "warning" else ""
            hint = issue.hint if issue.hint.startswith(_OF_ONE_FINDING) else ""
            text = _VALUE.sub(_shorten, str(issue.model_copy(update={"hint": hint})))
            if len(group) > MAX_ALONE:
                text += f" (and {len(group) - 1:,} more like it{_line_numbers(group[1:])})"
            lines.append(f"{text} [{warning}{rule_title(issue.code)}]")
    lines += _hint_lines(report.issues)
    if report.not_applied:
        lines.append("not applied: " + "; ".join(f"{rules}: {why}" for rules, why in report.not_applied.items()))
    return "".join(f"{printable(line)}\n" for line in [*lines, summary(report)])


def _shorten(match: re.Match[str]) -> str:
    """Both ends of a long value: the last part of a path is what tells it."""
    quote, value = match.groups()
    half = _MAX_VALUE // 2 - 2
    return f"{quote}{value[:half]}...{value[-half:]}{quote}"


def _line_numbers(issues: Iterable[Issue]) -> str:
    """`: lines 2-9, 12, ...`"""
    ranges: list[list[int]] = []
    for number in sorted({issue.line for issue in issues if issue.line}):
        if ranges and number == ranges[-1][1] + 1:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    texts = [str(first) if first == last else f"{first}-{last}" for first, last in ranges]
    text = ", ".join(texts)
    if len(text) > _MAX_LINES_CHARS:
        text = f"{text[:_MAX_LINES_CHARS].rpartition(',')[0]}, ..."
    return f": lines {text}" if text else ""


def _hint_lines(issues: Iterable[Issue]) -> Iterator[str]:
    """What to do about each rule, once; of a rule with several hints the first few."""
    hints: dict[str, dict[str, None]] = {}
    for issue in issues:
        if not issue.hint.startswith(_OF_ONE_FINDING):
            hints.setdefault(issue.code, {})[issue.hint or rule_of(issue.code).hint] = None
    of_rules = {code: [hint for hint in some if hint] for code, some in sorted(hints.items())}
    if any(of_rules.values()):
        yield "what to do:"
    for code, some in of_rules.items():
        if some:
            more = f" (and {len(some) - _MAX_HINTS} more)" if len(some) > _MAX_HINTS else ""
            yield f"  {code}: {'; '.join(some[:_MAX_HINTS])}{more}"


def summary(report: ValidationReport) -> str:
    """What was checked, and the verdict."""
    errors, warnings = report.num_errors, report.num_warnings
    found = [plural(errors, "error")] if errors else ["valid"]
    found += [plural(warnings, "warning")] if warnings else []
    counts = ", ".join(f"{count} {rule_title(code)}" for code, count in report.counts().items())
    cut = f"; {len(report.issues)} listed: raise --max_issues for more" if report.truncated else ""
    checked = f"{plural(report.rows, 'row')}, {plural(report.images, 'image')}"
    return f"{report.path}: {checked}: {', '.join(found)}{f' ({counts})' if counts else ''}{cut}"
