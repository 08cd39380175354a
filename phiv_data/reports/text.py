"""A report for a terminal: one line per issue, then what was checked and the verdict."""

from __future__ import annotations

from phiv_data.reports.findings import rule_title
from phiv_schemas import ValidationReport


def render(report: ValidationReport) -> str:
    """The report as lines, each ending in a newline."""
    lines = []
    for issue in report.issues:
        warning = "warning " if issue.severity == "warning" else ""
        lines.append(f"{issue} [{warning}{rule_title(issue.code)}]")
    if report.not_applied:
        lines.append("not applied: " + "; ".join(f"{rules}: {why}" for rules, why in report.not_applied.items()))
    return "".join(f"{printable(line)}\n" for line in [*lines, summary(report)])


def printable(line: str) -> str:
    """A line that no terminal obeys: names of files may hold anything."""
    return line if line.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in line)


def summary(report: ValidationReport) -> str:
    """What was checked, and the verdict."""
    errors, warnings = report.num_errors, report.num_warnings
    found = [_plural(errors, "error")] if errors else ["valid"]
    found += [_plural(warnings, "warning")] if warnings else []
    counts = ", ".join(f"{count} {rule_title(code)}" for code, count in report.counts().items())
    cut = f"; {len(report.issues)} listed: raise --max_issues for more" if report.truncated else ""
    checked = f"{_plural(report.rows, 'row')}, {_plural(report.images, 'image')}"
    return f"{report.path}: {checked}: {', '.join(found)}{f' ({counts})' if counts else ''}{cut}"


def _plural(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"
