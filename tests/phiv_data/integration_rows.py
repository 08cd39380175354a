"""Rows good and bad for the tests of batches and integrations, and how to compare what is said of them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from random import Random
from typing import Any

from data_builders import samples, write_dataset
from validation.line_mutations import good_line, mutated
from validation.line_oracle import STRUCTURE

from phiv_schemas import Issue

OF_ONE_RECORD = STRUCTURE | {
    *("PV006", "PV117", "PV210", "PV211", "PV212", "PV215", "PV401"),
    *("PV220", "PV221", "PV222", "PV223", "PV224", "PV225"),
}
"""The rules about a single record: all that can be said of a row by itself."""

PAGE = (Path(__file__).resolve().parents[2] / "docs/pipelines.md").read_text(encoding="utf-8")

FIELDS = ("code", "severity", "json_path", "message", "hint")


def record(record_id: str = "a", **turn: Any) -> dict[str, Any]:
    """A good record of one turn; `turn` are other fields of it."""
    return {
        "id": record_id,
        "source": "mine",
        "conversations": [{"images": ["a.png"], "user": "q", "assistant": "b", **turn}],
    }


def line(record_id: str = "a", **turn: Any) -> str:
    """`record` as a line."""
    return json.dumps(record(record_id, **turn))


def mutated_lines(random: Random, count: int) -> list[bytes]:
    """Lines of a file, half of them good."""
    lines = [good_line(random, n) for n in range(count)]
    return [mutated(line, random).replace(b"\n", b" ") if random.random() < 0.5 else line for line in lines]


def as_rows(issues: list[Issue]) -> list[dict[str, str | None]]:
    """Issues about single records as a batch has them."""
    return [{name: escaped(getattr(issue, name)) for name in FIELDS} for issue in issues if issue.code in OF_ONE_RECORD]


def escaped(text: str | None) -> str | None:
    """Text as Arrow can hold it."""
    return text and text.encode("utf-8", "backslashreplace").decode()


LINES = [line("a"), "{", line("b"), line("c", answers=["x"]), line("d", user="\x07"), line("b")]
"""What the integrations are given: four good lines, of which one has a warning and two one id."""

GOOD = [LINES[0], LINES[2], LINES[4], LINES[5]]


def write_place(folder: Path) -> Path:
    """What the examples of docs/pipelines.md work on: LINES in mine.jsonl, and a converted data set in out."""
    (folder / "mine.jsonl").write_text("".join(f"{line}\n" for line in LINES), encoding="utf-8")
    write_dataset(folder / "out", {"val": samples("val", 3)})
    return folder


def examples(heading: str, language: str = "python") -> list[str]:
    """The code below a heading of docs/pipelines.md."""
    section = PAGE.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    return re.findall(rf"```{language}\n(.*?)```", section, re.DOTALL)
