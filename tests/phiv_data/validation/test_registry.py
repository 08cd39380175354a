"""One list of rules: a rule entered as CONTRIBUTING says fires on ordinary lines, and the fast path misses nothing."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from phiv_data.storage.jsonl import parse_line
from phiv_data.validation.inputs.fast_parse import quick
from phiv_data.validation.rules.registry import RECORD_RULES, record_finders
from phiv_schemas import RULES

ROOT = Path(__file__).parents[3]
RULES_FILE, REGISTRY_FILE = "schemas/phiv_schemas/rules.py", "phiv_data/validation/rules/registry.py"

ROW = '        Rule("PV219", "long-answer", "warning", "an answer is long for a class", "Shorten it"),\n'
RULE = """
def find_long_answers(record):
    for t, turn in enumerate(record.turns):
        if turn.assistant is not None and len(turn.assistant) > 200:
            yield Finding("PV219", f"$.conversations[{t}].assistant", f"is {len(turn.assistant)} characters long")
"""


def test_a_rule_entered_as_contributing_says_fires_on_ordinary_lines(tmp_path: Path) -> None:
    """The procedure is followed in a copy of the package: a row in one file, a function and its entry in the other."""
    section = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").split("## Add a rule\n")[1].split("\n## ")[0]
    assert {RULES_FILE, REGISTRY_FILE} <= set(re.findall(r"[\w./]+\.py", section))
    for package in ("phiv_data", "schemas/phiv_schemas"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    insert(tmp_path / RULES_FILE, before='        Rule("PV220"', text=ROW)
    insert(tmp_path / REGISTRY_FILE, before="RECORD_RULES:", text=RULE + "\n\n")
    insert(tmp_path / REGISTRY_FILE, before="    RecordRule(", text='    RecordRule(find_long_answers, ("PV219",)),\n')

    answer = "An ordinary answer in ASCII." * 10
    turns = [{"images": [], "user": user, "assistant": answer} for user in ("Tell it.", "Tell it <now>.")]
    lines = [json.dumps({"id": str(i), "source": "mine", "conversations": [turn]}) for i, turn in enumerate(turns)]
    assert [quick(line.encode())[2] for line in lines] == [True, False]  # type: ignore[index]  # both are good records
    (tmp_path / "val.jsonl").write_text("\n".join(lines) + "\n")

    code = "from phiv_data.cli.validate import main; raise SystemExit(main())"
    command = [sys.executable, "-c", code, "val.jsonl", "--format", "json", "--num_workers", "0"]
    paths = os.pathsep.join([str(tmp_path), str(tmp_path / "schemas")])
    done = subprocess.run(
        command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found = [(one["code"], one["line"], one["message"]) for one in json.loads(done.stdout)["issues"]]
    assert found == [("PV219", line, f"is {len(answer)} characters long") for line in (1, 2)]


def insert(file: Path, *, before: str, text: str) -> None:
    """Put `text` before the first place where `before` stands."""
    head, mark, tail = file.read_text(encoding="utf-8").partition(before)
    assert mark, f"{file} has no {before!r}"
    file.write_text(head + text + mark + tail, encoding="utf-8")


words = st.sampled_from(
    [
        "a",
        "cat",
        "is",
        "it",
        "What",
        "yes.",
        "No",
        "human:",
        "Assistant:",
        "user",
        "(1)",
        "25%",
        "--",
        "  ",
        "\t",
        "it's",
    ]
)
texts = st.one_of(
    st.lists(words, max_size=120).map(" ".join),
    st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=400),
)
turns = st.builds(
    lambda user, answer, images: {"images": images, "user": user, "assistant": answer},
    texts,
    texts,
    st.lists(st.sampled_from(["a.jpg", "val/b.png"]), max_size=3),
)


@settings(max_examples=400, deadline=None)
@given(st.lists(turns, min_size=1, max_size=3))
def test_plain_lines_give_the_same_findings_on_the_fast_path_and_on_the_full_one(conversations: list[object]) -> None:
    raw = json.dumps({"id": "val-1", "source": "mine", "conversations": conversations}).encode()
    fast = quick(raw)
    if fast is None:
        return
    record, _, is_plain = fast
    full = parse_line(raw, "val.jsonl", 1).conversation
    assert full is not None
    expected = [one for find in record_finders() for one in find(full)]
    assert [one for find in record_finders(is_plain=is_plain) for one in find(record)] == expected


def test_rules_are_called_on_plain_lines_unless_they_say_otherwise() -> None:
    assert record_finders() == tuple(rule.find for rule in RECORD_RULES)
    skipped = [rule.find for rule in RECORD_RULES if rule.needs_unusual_text]
    assert record_finders(is_plain=True) == tuple(find for find in record_finders() if find not in skipped)


def test_every_code_of_a_record_rule_is_in_the_table_of_rules_and_has_one_rule() -> None:
    codes = [code for rule in RECORD_RULES for code in rule.codes]
    assert set(codes) <= RULES.keys()
    assert len(codes) == len(set(codes))
