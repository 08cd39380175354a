"""What the report formats share: findings by rule, total counts, names of rules and files."""

from __future__ import annotations

from pathlib import Path

from phiv_schemas import Issue, ValidationReport
from phiv_schemas.rules import RULES, Rule, Severity


def codes(report: ValidationReport) -> list[str]:
    """Every rule there is, and any that the report names beside them, sorted."""
    return sorted(RULES.keys() | report.counts().keys())


def issues_by_code(report: ValidationReport) -> dict[str, list[Issue]]:
    """The listed issues of each rule that has any, by file and line."""
    found: dict[str, list[Issue]] = {}
    for issue in sorted(report.issues, key=lambda issue: (issue.code, issue.file, issue.line or 0)):
        found.setdefault(issue.code, []).append(issue)
    return found


def not_listed(report: ValidationReport, code: str, severity: Severity) -> int:
    """How many more findings of a rule there were than the report lists."""
    listed = sum(issue.code == code and issue.severity == severity for issue in report.issues)
    return max(0, report.totals.get(severity, {}).get(code, 0) - listed)


def severity_of(report: ValidationReport, code: str) -> Severity:
    """The worst severity of a rule in this report; of a rule without findings, its usual one."""
    found: dict[str, Severity] = {issue.severity: issue.severity for issue in report.issues if issue.code == code}
    found |= {severity: severity for severity, counts in report.totals.items() if counts.get(code)}
    return found.get("error") or found.get("warning") or rule_of(code).severity


def rule_of(code: str) -> Rule:
    """The rule of a code; a placeholder for a code that this version of phiv does not know."""
    return RULES.get(code) or Rule(code, "unknown", "error", "a rule of another version of phiv", "")


def rule_title(code: str) -> str:
    """`PV101 missing-image`."""
    return f"{code} {rule_of(code).name}"


def plural(count: int, what: str) -> str:
    """`1 row`, `2,000 rows`."""
    return f"{count:,} {what}" + ("" if count == 1 else "s")


def path_of(report: ValidationReport, issue: Issue) -> Path:
    """The file an issue is about, as relative as the path that was validated."""
    path = Path(report.path)
    return path if path.name == issue.file else path / issue.file
