"""docs/architecture.md is true: its packages are those of the tree, and every place it names exists."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[1]
PAGE = (REPO / "docs/architecture.md").read_text(encoding="utf-8")
PLACE = re.compile(r"`([\w/]+\.py) (\w+(?:\.\w+)?)`")


@cache
def defined(file: Path) -> frozenset[str]:
    """Functions, classes, `Class.method`s and module variables of a file."""
    names: set[str] = set()
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        if isinstance(node, ast.ClassDef):
            names.update(f"{node.name}.{inner.name}" for inner in node.body if isinstance(inner, ast.FunctionDef))
        if isinstance(node, ast.Assign):
            names.update(target.id for target in node.targets if isinstance(target, ast.Name))
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names.add(node.target.id)
    return frozenset(names)


@pytest.mark.parametrize(("file", "name"), sorted(set(PLACE.findall(PAGE))))
def test_every_place_exists(file: str, name: str) -> None:
    assert name in defined(REPO / file)


def test_every_question_has_a_place() -> None:
    table = PAGE.split("## Where is … decided?")[1].split("\n## ")[0]
    rows = [
        line for line in table.splitlines() if line.startswith("| ") and not line.startswith(("| question", "| ---"))
    ]
    assert len(rows) >= 20
    assert [row for row in rows if not PLACE.search(row)] == []


@pytest.mark.parametrize("package", ["phiv_data", "phiv_train"])
def test_every_package_is_on_the_page(package: str) -> None:
    folders = {path.parent.name for path in (REPO / package).glob("*/__init__.py")}
    tree = PAGE.split(f"{package}/\n")[1].split("```")[0]
    listed = re.findall(r"^  (\w+)/", tree, re.MULTILINE)
    assert sorted(set(listed) & folders) == sorted(folders)


def test_every_module_in_the_diagram_exists() -> None:
    diagram = PAGE.split("## The way of the data")[1].split("\n## ")[0]
    files = re.findall(r"(?:phiv_data|phiv_train|converters)/[\w/]+\.py", diagram)
    assert len(files) >= 8
    assert [name for name in files if not (REPO / name).exists()] == []
