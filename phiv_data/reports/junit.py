"""A report as JUnit XML, which CI servers show as test results.

    >>> print(render(report))
    <?xml version="1.0" encoding="UTF-8"?>
    <testsuites name="out" tests="60" failures="1" errors="0" time="0">
      <testsuite name="PV101 missing-image" tests="1" failures="1" errors="0" skipped="0" time="0">
        <testcase classname="PV101 missing-image" name="ucf101_val.jsonl" time="0">
          <failure type="PV101" message="2 errors: ucf101_val.jsonl:17: ...">every listed finding, a line each</failure>

A test suite per rule and a test case per file it was broken in; a rule that was kept is one test case that passes, so
a CI server can follow a rule from run to run. JUnit knows no warnings: they pass, and stand in `system-out`. Elements,
their order and attributes are those of Jenkins' junit-4.xsd; times are 0, since a report holds no clock.
"""

from __future__ import annotations

import re
from itertools import groupby
from xml.etree import ElementTree as ET

from phiv_data.reports.findings import codes, issues_by_code, not_listed, plural, rule_title
from phiv_schemas import Issue, ValidationReport

# What XML 1.0 does not allow, escaped or not; a carriage return, which parsers turn into a newline; C1 controls; marks
# that break lines or turn their order around, which a terminal would obey.
_ILLEGAL = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]"
)


def render(report: ValidationReport) -> str:
    """The report as an XML document. The same report gives the same text."""
    by_code, suites = issues_by_code(report), list[ET.Element]()
    for code in codes(report):
        title, issues = rule_title(code), by_code.get(code, [])
        cases = [_case(title, file, list(some)) for file, some in groupby(issues, key=lambda issue: issue.file)]
        errors, warnings = not_listed(report, code, "error"), not_listed(report, code, "warning")
        if errors or warnings:
            cases.append(case := _case(title, "not listed", []))
            if errors:
                what = f"{plural(errors, 'more error')} beyond the limit of the report"
                ET.SubElement(case, "failure", {"type": code, "message": what}).text = what
            if warnings:
                what = f"{plural(warnings, 'more warning')} beyond the limit of the report"
                ET.SubElement(case, "system-out").text = what
        cases = cases or [_case(title, "no findings", [])]
        failed = sum(case.find("failure") is not None for case in cases)
        counts = {"tests": str(len(cases)), "failures": str(failed), "errors": "0", "skipped": "0", "time": "0"}
        suites.append(ET.Element("testsuite", {"name": title, **counts}))
        suites[-1].extend(cases)
    tests, failures = (sum(int(suite.attrib[name]) for suite in suites) for name in ("tests", "failures"))
    attributes = {"tests": str(tests), "failures": str(failures), "errors": "0", "time": "0"}
    root = ET.Element("testsuites", {"name": _legal(report.path), **attributes})
    root.extend(suites)
    ET.indent(root)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{ET.tostring(root, encoding="unicode")}\n'


def _case(title: str, name: str, issues: list[Issue]) -> ET.Element:
    case = ET.Element("testcase", {"classname": title, "name": _legal(name), "time": "0"})
    if errors := [_legal(str(issue)) for issue in issues if issue.severity == "error"]:
        what = {"type": issues[0].code, "message": f"{plural(len(errors), 'error')}: {errors[0]}"}
        ET.SubElement(case, "failure", what).text = "\n".join(errors)
    if warnings := [_legal(str(issue)) for issue in issues if issue.severity == "warning"]:
        ET.SubElement(case, "system-out").text = "\n".join(warnings)
    return case


def _legal(text: str) -> str:
    """`text` with what XML cannot hold shown as Python would: `\\x00`."""
    return _ILLEGAL.sub(lambda match: match[0].encode("unicode_escape").decode(), text)
