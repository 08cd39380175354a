"""The docs name everything there is: commands, flags, converters, families, codes."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.metadata import entry_points
from itertools import pairwise
from pathlib import Path

import pytest

from phiv_schemas import RULES

REPO = Path(__file__).resolve().parents[1]
DOCS = "\n".join(path.read_text() for path in [*sorted((REPO / "docs").glob("*.md")), REPO / "README.md"])
SECTIONS = ["## Why it matters", "## Example", "## What to do", "## When it does not fire"]
COMMANDS = sorted(p.name for p in entry_points(group="console_scripts") if p.value.startswith("phiv_"))


def help_of(*command: str) -> str:
    code = f"import sys; sys.argv = {list(command)!r}; from {module_of(command[0])} import main; main()"
    wide = os.environ | {"COLUMNS": "240"}  # no flag broken over two lines
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=wide).stdout


def module_of(command: str) -> str:
    (point,) = entry_points(group="console_scripts", name=command)
    return point.value.split(":")[0]


def flags_of(text: str) -> set[str]:
    flags = set(re.findall(r"(?<![\w-])--[a-z][a-z0-9_-]*", text)) - {"--help"}
    return {
        flag for flag in flags if flag.replace("--no-", "--", 1) == flag or flag.replace("--no-", "--", 1) not in flags
    }


def is_documented(flag: str) -> bool:
    spelled = re.sub(r"(?<=\w)[-_]", "[-_]", flag)
    return re.search(rf"{spelled}(?![\w-])", DOCS) is not None


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_and_flag_is_documented(command: str) -> None:
    assert f"## {command}" in DOCS
    text = help_of(command, "--help")
    assert "usage:" in text
    missing = sorted(flag for flag in flags_of(text) if not is_documented(flag))
    assert not missing, f"{command}: not in docs/: {missing}"


OWN_CONVERTERS = sorted(p.name for p in entry_points(group="phiv.converters") if p.value.startswith("phiv_converters."))


@pytest.mark.parametrize("name", OWN_CONVERTERS)
def test_every_converter_and_its_flags_are_documented(name: str) -> None:
    assert f"`{name}`" in DOCS
    text = help_of("phiv-convert", name, "--help")
    assert "--out-dir" in text
    missing = sorted(flag for flag in flags_of(text) if not is_documented(flag))
    assert not missing, f"phiv-convert {name}: not in docs/: {missing}"


@pytest.mark.parametrize("code", sorted(RULES))
def test_every_rule_has_a_row_in_the_index_and_a_page(code: str) -> None:
    rule = RULES[code]
    row = f"| {code} | {rule.name} | {rule.severity} | [{rule.summary}](rules/{code}.md) |"
    assert row in (REPO / "docs" / "rules.md").read_text().splitlines()
    title, severity, *rest = (REPO / "docs" / "rules" / f"{code}.md").read_text().split("\n\n")
    assert title == f"# {code} {rule.name}"
    assert severity.lower().startswith(rule.severity)
    assert [block.strip() for block in rest if block.startswith("## ")] == SECTIONS
    assert not any(a.startswith("## ") and b.startswith("## ") for a, b in pairwise([*rest, "## "])), "empty section"
    example = "\n\n".join(rest).split("## What to do")[0]
    assert "```" in example


def test_the_index_of_rules_is_sorted_and_names_no_rule_that_is_gone() -> None:
    rows = re.findall(r"^\| (PV\d{3}) \|", (REPO / "docs" / "rules.md").read_text(), re.MULTILINE)
    assert rows == sorted(RULES)
    assert sorted(path.stem for path in (REPO / "docs" / "rules").iterdir()) == sorted(RULES)


def test_every_reject_code_in_the_code_is_documented() -> None:
    sources = [p for folder in ("phiv_data", "converters") for p in (REPO / folder).rglob("*.py")]
    found = {c for p in sources for c in re.findall(r'RejectInput\([^"]*?, "([a-z-]+)"', p.read_text())}
    assert "crashed" in found
    assert not {code for code in found if f"`{code}`" not in DOCS}


def test_every_family_is_documented() -> None:
    assert all(f"`{point.name}`" in DOCS for point in entry_points(group="phiv.families"))


def test_links_between_documents_lead_somewhere() -> None:
    for path in [*REPO.glob("*.md"), *REPO.glob("*/*.md"), *REPO.glob("docs/*/*.md")]:
        for target in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", path.read_text()):
            assert target.startswith("http") or (path.parent / target).exists(), f"{path.name}: {target}"
