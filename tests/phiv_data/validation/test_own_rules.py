"""Rules of one's own: as docs/validation.md shows them, in any number of workers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from data_builders import samples, write_dataset

from phiv_data.validation import validate
from phiv_data.validation.core.finding import Finding, RowContext


def no_archery(row: RowContext) -> Iterator[Finding]:
    for t, turn in enumerate(row.conversation.turns):
        if turn.assistant == "Archery":
            yield Finding("PV901", f"$.conversations[{t}].assistant", f"{len(row.images)} images of archery")


def a_hint(row: RowContext) -> Iterator[Finding]:
    yield Finding("PV902", None, "was seen", severity="warning")


@pytest.mark.parametrize("num_workers", [0, 2])
def test_rules_of_ones_own_are_asked_about_every_row(tmp_path: Path, num_workers: int) -> None:
    out = write_dataset(tmp_path / "out", {"val": samples("val", 2)})
    report = validate(out, row_rules=[no_archery, a_hint], num_workers=num_workers)
    assert report.totals == {"error": {"PV901": 2}, "warning": {"PV902": 2}}
    assert str(report.errors[0]) == "ucf101_val.jsonl:1: $.conversations[0].assistant: 2 images of archery"


def test_the_example_of_the_docs_works(tmp_path: Path) -> None:
    out = write_dataset(tmp_path / "out", {"val": samples("val", 2)})
    page = (Path(__file__).parents[3] / "docs/validation.md").read_text()
    code = page.split("```python\n")[1].split("```")[0].replace('"out"', repr(str(out))).replace("None)", "0)")
    names: dict[str, object] = {}
    exec(code.replace("> 200", "> 2"), names)  # the answers here are short
    assert names["report"].counts()["PV900"] == 2  # type: ignore[attr-defined]  # a ValidationReport
