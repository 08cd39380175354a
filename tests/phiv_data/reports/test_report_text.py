"""The report for a terminal: findings of one cause on one line, each hint once, long values cut."""

from __future__ import annotations

from phiv_data.reports import render
from phiv_schemas import Issue, ValidationReport


def report_of(*issues: Issue, **more: object) -> ValidationReport:
    return ValidationReport.model_validate({"path": "x", "rows": 50, "images": 9, "issues": list(issues)} | more)


def missing(line: int, name: str = "", file: str = "a.jsonl", hint: str = "Pass it") -> Issue:
    message = f"no such image {name or f'{line}.png'!r} under images/"
    return Issue(
        code="PV101", file=file, line=line, json_path="$.conversations[0].images[0]", message=message, hint=hint
    )


def test_many_findings_of_one_cause_are_one_line_with_their_count_and_lines() -> None:
    text = render(report_of(*[missing(line) for line in (1, 2, 3, 7, 9, 10)]), "text")
    first, *rest = text.splitlines()
    where = "a.jsonl:1: $.conversations[0].images[0]: no such image '1.png' under images/"
    assert first == f"{where} (and 5 more like it: lines 2-3, 7, 9-10) [PV101 missing-image]"
    assert rest[:2] == ["what to do:", "  PV101: Pass it"]


def test_three_findings_and_findings_of_other_causes_or_files_have_a_line_each() -> None:
    few = [missing(line) for line in (1, 2, 3)]
    others = [missing(1, file="b.jsonl"), missing(5, hint="Another way")]
    lines = render(report_of(*few, *others), "text").splitlines()
    assert sum("[PV101 missing-image]" in line for line in lines) == 5
    assert "  PV101: Pass it; Another way" in lines


def test_line_numbers_are_cut() -> None:
    first = render(report_of(*[missing(2 * line + 1) for line in range(300)]), "text").splitlines()[0]
    assert "299 more" in first
    assert first.endswith(", ...) [PV101 missing-image]")
    assert len(first) < 250


def test_long_values_keep_their_ends() -> None:
    path = f"{'deep/' * 60}name.png"
    first = render(report_of(missing(1, path)), "text").splitlines()[0]
    assert len(first) < 250
    assert "..." in first
    assert "/name.png'" in first


def test_the_rules_own_hint_is_printed_where_a_finding_has_none() -> None:
    assert "  PV101: Copy it, or drop the row" in render(report_of(missing(1, hint="")), "text").splitlines()


def test_a_hint_about_one_finding_stays_with_it() -> None:
    text = render(report_of(missing(1, hint="Did you mean '2.png'?")), "text")
    assert "Did you mean '2.png'? [PV101" in text
    assert "what to do" not in text


def test_what_did_not_apply_and_the_verdict_come_last() -> None:
    text = render(report_of(not_applied={"PV230-PV233 (classes)": "the answers are free text"}), "text")
    assert text.splitlines() == [
        "not applied: PV230-PV233 (classes): the answers are free text",
        "x: 50 rows, 9 images: valid",
    ]
