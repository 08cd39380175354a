"""A report as workflow commands of GitHub Actions: printed by a step, they become annotations beside the lines.

    >>> print(render(report))
    ::error file=out/ucf101_val.jsonl,line=17,title=PV101 missing-image::$.conversations[0].images[3]: no such image ...
    phiv-validate: out: 30 rows, 240 images: 1 error (1 PV101 missing-image)

GitHub shows 10 errors and 10 warnings of a step, so the first finding of every rule comes before the second of any.
Files are named as in SARIF: validate with a path relative to the repository. Escapes are those of `actions/toolkit`,
packages/core/src/command.ts.
"""

from __future__ import annotations

from collections import Counter

from phiv_data.reports import text
from phiv_data.reports.findings import path_of, rule_title
from phiv_data.utils.terminal import printable
from phiv_schemas import ValidationReport

_DATA = str.maketrans({"%": "%25", "\r": "%0D", "\n": "%0A"})
_PROPERTY = str.maketrans({":": "%3A", ",": "%2C"})


def render(report: ValidationReport) -> str:
    """The report as lines, each ending in a newline: a command per listed issue, then the verdict as plain text."""
    seen: Counter[str] = Counter()
    ranked = []
    for issue in report.issues:
        properties = {"file": path_of(report, issue).as_posix()}
        if issue.line:
            properties["line"] = str(issue.line)
        properties["title"] = rule_title(issue.code)
        listed = ",".join(f"{name}={_escape(value).translate(_PROPERTY)}" for name, value in properties.items())
        message = (f"{issue.json_path}: " if issue.json_path else "") + issue.message
        message += f". {issue.hint}" if issue.hint else ""
        ranked.append((seen[issue.code], f"::{issue.severity} {listed}::{_escape(message)}"))
        seen[issue.code] += 1
    lines = [command for _, command in sorted(ranked, key=lambda one: one[0])]
    # Plain text does not begin with `::`, and holds no `##[`, the older form, which may stand anywhere.
    verdict = printable(" ".join(text.summary(report).split()))
    lines.append(f"phiv-validate: {verdict}".replace("##[", "## ["))
    return "".join(f"{line}\n" for line in lines)


def _escape(value: str) -> str:
    return value.translate(_DATA)
