"""Broken jsonl files beside the exact reports they give: tests/golden/broken_jsonl.

After a wanted change of wording, run this file with PHIV_UPDATE_GOLDEN=1 and read the diff.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from phiv_data.reports.text import render
from phiv_data.validation import validate

GOLDEN = Path(__file__).parents[2] / "golden" / "broken_jsonl"
FILES = sorted(GOLDEN.glob("*.jsonl"))


def test_there_are_golden_files() -> None:
    assert len(FILES) >= 18


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_report_is_exactly_the_golden_one(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(GOLDEN)
    if path.stem == "missing_images":
        text = render(validate(path.name, images_root=GOLDEN))
    else:
        text = render(validate(path.name))
    expected = path.with_suffix(".txt")
    if os.environ.get("PHIV_UPDATE_GOLDEN"):
        expected.write_text(text, encoding="utf-8", newline="\n")
    assert text == expected.read_text(encoding="utf-8")
