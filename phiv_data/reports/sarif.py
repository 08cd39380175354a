"""A report as SARIF 2.1.0, which code scanning services and editors show beside the lines it is about.

    >>> json.loads(render(report))["runs"][0]["results"][0]["locations"][0]["physicalLocation"]
    {'artifactLocation': {'uri': 'out/ucf101_val.jsonl'}, 'region': {'startLine': 17}}

Paths are the report's path joined with the issue's file, as relative as the path that was validated, so validate with a
path relative to the repository. A row of a shard counts as a line. Section numbers below are those of the OASIS
standard, SARIF 2.1.0 plus errata 01.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from typing import Any
from urllib.parse import quote

from phiv_data.reports.findings import codes, path_of, rule_of
from phiv_schemas import Issue, ValidationReport

_SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
MAX_RESULTS = 25_000  # GitHub's code scanning refuses a run with more
_BRACES = str.maketrans({"{": "{{", "}": "}}"})


def render(report: ValidationReport) -> str:
    """The report as a SARIF log with one run. The same report gives the same text."""
    rules = codes(report)
    # By file and line; errors first in where there are too many.
    shown = sorted(report.issues, key=lambda issue: issue.severity)[:MAX_RESULTS]
    shown.sort(key=lambda issue: (issue.file, issue.line or 0, issue.code))
    seen: Counter[str] = Counter()
    run = {
        "tool": {"driver": {"name": "phiv-validate", "rules": [_rule(report, code) for code in rules]}},
        "columnKind": "unicodeCodePoints",
        "results": [_result(report, issue, rules.index(issue.code), seen) for issue in shown],
        "properties": {
            "rows": report.rows,
            "images": report.images,
            "complete": len(shown) == sum(report.counts().values()),
        },
    }
    log = {"$schema": _SCHEMA, "version": "2.1.0", "runs": [run]}
    return json.dumps(log, indent=1) + "\n"  # ASCII: JSON escapes whatever the data holds


def _rule(report: ValidationReport, code: str) -> dict[str, Any]:
    rule = rule_of(code)
    return {
        "id": code,
        "name": "".join(word.capitalize() for word in rule.name.split("-")),
        "shortDescription": {"text": rule.name},
        "fullDescription": {"text": _sentence(rule.summary)},
        "help": {"text": " ".join(map(_sentence, filter(None, (rule.summary, rule.hint))))},
        "defaultConfiguration": {"level": rule.severity},
        "properties": {"count": report.counts().get(code, 0)},
    }


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."


def _result(report: ValidationReport, issue: Issue, rule_index: int, seen: Counter[str]) -> dict[str, Any]:
    # The same for a finding whose line moved, so that it is not reported as a new one; repeats are numbered.
    about = "\0".join((issue.code, issue.file, issue.json_path or "", issue.message))
    digest = hashlib.sha256(about.encode("utf-8", "backslashreplace")).hexdigest()[:16]
    seen[digest] += 1
    path = path_of(report, issue)
    encoded = quote(path.as_posix(), safe="/", errors="backslashreplace")
    # A region without a line is legal, but GitHub shows only results that have one.
    location: dict[str, Any] = {
        "physicalLocation": {
            "artifactLocation": {"uri": f"file://{encoded}" if path.is_absolute() else encoded},
            "region": {"startLine": issue.line or 1},
        }
    }
    if issue.json_path:
        location["logicalLocations"] = [{"fullyQualifiedName": issue.json_path, "kind": "member"}]
    return {
        "ruleId": issue.code,
        "ruleIndex": rule_index,
        "level": issue.severity,
        "message": {"text": _message(issue)},
        "locations": [location],
        "partialFingerprints": {"primaryLocationLineHash": f"{digest}:{seen[digest]}"},
    }


def _message(issue: Issue) -> str:
    """What is wrong and what to do, with nothing in it that a viewer could take for a placeholder or a link."""
    text = issue.message + (f". {issue.hint}" if issue.hint else "")
    text = " ".join(text.split()).translate(_BRACES)  # §3.11.5
    return text.replace("](", "] (") or issue.code  # §3.11.6: [text](target) is a link
