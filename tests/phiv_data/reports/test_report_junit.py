"""The report as JUnit XML."""

from __future__ import annotations

import re
from xml.etree import ElementTree as ET

from hypothesis import given
from report_strategies import HOSTILE, reports

from phiv_data.reports import junit
from phiv_schemas import CODES, Issue, ValidationReport
from phiv_schemas.rules import Severity

# Jenkins' junit-4.xsd: the children of each element in their order, and its attributes, the required ones first.
CHILDREN = {
    "testsuites": ("testsuite",),
    "testsuite": ("properties", "testcase", "system-out", "system-err"),
    "testcase": ("skipped", "error", "failure", "system-out", "system-err"),
}
REQUIRED = {"testsuite": {"name", "tests"}, "testcase": {"name"}}
ALLOWED = {
    "testsuites": {"name", "time", "tests", "failures", "disabled", "errors"},
    "testsuite": {"name", "tests", "failures", "errors", "time", "disabled", "skipped", "timestamp", "hostname", "id"},
    "testcase": {"name", "assertions", "time", "classname", "status"},
    "failure": {"type", "message"},
}


def conforms(element: ET.Element) -> bool:
    children = CHILDREN.get(element.tag, ())
    order = [children.index(child.tag) for child in element]  # ValueError for one that may not stand here
    return (
        order == sorted(order)
        and REQUIRED.get(element.tag, set()) <= element.attrib.keys() <= ALLOWED.get(element.tag, set())
        and all(conforms(child) for child in element)
    )


def issue(code: str = "PV101", file: str = "a.jsonl", line: int | None = 1, **rest: object) -> Issue:
    return Issue.model_validate({"code": code, "file": file, "line": line, "message": "is wrong", **rest})


def parsed(*issues: Issue) -> ET.Element:
    return ET.fromstring(junit.render(ValidationReport(path="out", rows=3, images=2, issues=list(issues))))


@given(reports())
def test_every_report_is_well_formed_and_keeps_to_the_schema(report: ValidationReport) -> None:
    text = junit.render(report)
    root = ET.fromstring(text.encode())
    assert conforms(root)
    assert text == junit.render(report)
    assert not re.search("[\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]", text)  # a terminal would obey them
    failed = [suite.attrib["name"][:5] for suite in root if suite.find(".//failure") is not None]
    assert failed == sorted(code for code, count in report.totals.get("error", {}).items() if count)
    assert len(root.findall(".//failure")) == int(root.attrib["failures"])
    assert len(root.findall(".//testcase")) == int(root.attrib["tests"])


def test_a_rule_and_file_is_one_case_with_all_its_findings() -> None:
    root = parsed(issue(line=1), issue(line=2), issue(file="b.jsonl"), issue("PV201"))
    suite = root.find("testsuite[@name='PV101 missing-image']")
    assert suite is not None
    assert [case.attrib["name"] for case in suite] == ["a.jsonl", "b.jsonl"]
    failure = suite[0].find("failure")
    assert failure is not None
    assert failure.attrib == {"type": "PV101", "message": "2 errors: a.jsonl:1: is wrong"}
    assert failure.text == "a.jsonl:1: is wrong\na.jsonl:2: is wrong"


def test_every_rule_is_there_and_passes_when_it_was_kept() -> None:
    root = parsed()
    assert [suite.attrib["name"] for suite in root] == [f"{code} {name}" for code, name in sorted(CODES.items())]
    assert root.attrib["failures"] == "0"
    assert root.find(".//failure") is None


def test_what_the_report_does_not_list_is_counted() -> None:
    totals: dict[Severity, dict[str, int]] = {"error": {"PV101": 5}, "warning": {"PV401": 2}}
    report = ValidationReport(path="out", rows=3, images=2, issues=[issue()], totals=totals)
    root = ET.fromstring(junit.render(report))
    messages = [failure.attrib["message"] for failure in root.iter("failure")]
    assert messages == ["1 error: a.jsonl:1: is wrong", "4 more errors beyond the limit of the report"]
    assert root.findtext(".//system-out") == "2 more warnings beyond the limit of the report"


def test_warnings_pass_and_are_in_system_out() -> None:
    root = parsed(issue("PV401", severity="warning"))
    assert root.attrib["failures"] == "0"
    assert root.findtext(".//system-out") == "a.jsonl:1: is wrong"


def test_what_xml_cannot_hold_is_shown_escaped() -> None:
    root = parsed(*(issue(message=text, file=f"f{n}") for n, text in enumerate(HOSTILE)))
    texts = "\n".join(failure.text or "" for failure in root.iter("failure"))
    assert "NUL \\x00 bell \\x07 delete \\x7f escape \\x1b[31m" in texts
    assert HOSTILE[0] in texts
