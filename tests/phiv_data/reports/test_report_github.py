"""The report as workflow commands, read back as GitHub's runner reads a line."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from hypothesis import example, given
from report_strategies import HOSTILE, reports

from phiv_data.reports import github
from phiv_schemas import Issue, ValidationReport

Command = tuple[str, dict[str, str], str]


def parsed(line: str) -> Command | None:
    """A line as `TryParseV2` of actions/runner reads it: (command, properties, message), or None for plain text."""
    line = line.lstrip()
    if not line.startswith("::") or (end := line.find("::", 2)) < 0:
        return None
    name, _, rest = line[2:end].partition(" ")
    pairs = (pair.split("=", 1) for pair in rest.split(",") if "=" in pair)
    return name, {key: unescaped(value) for key, value in pairs}, unescaped(line[end + 2 :])


def unescaped(value: str) -> str:
    for code, plain in (("%0D", "\r"), ("%0A", "\n"), ("%3A", ":"), ("%2C", ","), ("%25", "%")):
        value = value.replace(code, plain)
    return value


def issue(code: str = "PV101", line: int | None = 1, **rest: object) -> Issue:
    return Issue.model_validate({"code": code, "file": "a.jsonl", "line": line, "message": "is wrong", **rest})


def lines_of(*issues: Issue, path: str = "data") -> list[str]:
    return github.render(ValidationReport(path=path, rows=3, images=2, issues=list(issues))).split("\n")[:-1]


@given(reports())
@example(ValidationReport(path="::error::x\n::add-mask::y ##[add-mask]z", rows=0, images=0))
@example(ValidationReport(path="a", rows=0, images=0, issues=[issue(message="%\r\n::add-mask::secret", hint="a:b,c")]))
def test_no_text_makes_a_command_and_every_issue_is_one(report: ValidationReport) -> None:
    lines = github.render(report).replace("\r\n", "\n").replace("\r", "\n").split("\n")
    assert lines.pop() == ""
    commands = [parsed(line) for line in lines]
    assert commands.pop() is None, "the verdict is plain text"
    assert "##[" not in lines[-1]  # the older form may stand anywhere in a line that is not a newer command
    assert len(commands) == len(report.issues)
    names = {(i.severity, f.as_posix()) for i in report.issues for f in (Path(report.path), Path(report.path) / i.file)}
    assert {(name, properties["file"]) for name, properties, _ in filter(None, commands)} <= names
    assert Counter(c[0] for c in commands if c) == Counter(i.severity for i in report.issues)


def test_an_annotation_says_where_what_and_which_rule() -> None:
    one = issue(line=17, json_path="$.id", hint="Do this", message="holds 100%, a:b")
    first, last = lines_of(one, path="data/train")
    assert parsed(first) == (
        "error",
        {"file": "data/train/a.jsonl", "line": "17", "title": "PV101 missing-image"},
        "$.id: holds 100%, a:b. Do this",
    )
    assert last == "phiv-validate: data/train: 3 rows, 2 images: 1 error (1 PV101 missing-image)"


def test_a_finding_about_a_file_has_no_line_and_a_file_alone_is_named_once() -> None:
    assert lines_of(issue(line=None), path="data/a.jsonl")[0] == (
        "::error file=data/a.jsonl,title=PV101 missing-image::is wrong"
    )


def test_the_first_of_every_rule_comes_before_the_second_of_any() -> None:
    many = [issue(line=n) for n in range(1, 4)]
    lines = lines_of(*many, issue("PV201", line=4), issue("PV401", line=5, severity="warning"))
    assert [parsed(line)[1]["line"] for line in lines[:-1]] == ["1", "4", "5", "2", "3"]  # type: ignore[index]  # commands


def test_hostile_text_is_read_back_as_it_was() -> None:
    for text in HOSTILE:
        command = parsed(lines_of(issue(message=text))[0])
        assert command is not None
        assert command[2] == text
