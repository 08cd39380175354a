"""Classes are distinguished from free text, and their faults found; counts do not depend on how rows are divided."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable
from functools import reduce
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phiv_data.validation import validate
from phiv_data.validation.core.finding import RowContext
from phiv_data.validation.rules import labels
from phiv_data.validation.rules.labels import MAX_CLASSES, LabelCounts, group_spellings
from phiv_schemas import Conversation, Issue


def context(answer: str | None, split: str = "train", line: int = 1, source: str = "s", **more: Any) -> RowContext:
    turn = {"images": [], "user": "Which class?", "assistant": answer, **more}
    record = Conversation.model_validate({"id": "x", "source": source, "conversations": [turn]})
    return RowContext(f"{split}.jsonl", line, split, record)


def count_labels(rows: Iterable[RowContext]) -> LabelCounts:
    found = LabelCounts()
    for row in rows:
        found.observe(row)
    return found


def issues(**splits: dict[str, int]) -> list[Issue]:
    """What is found where each split has so many rows of each answer."""
    answers = {split: [answer for answer, n in counts.items() for _ in range(n)] for split, counts in splits.items()}
    return list(
        count_labels(
            context(one, split, n) for split, some in answers.items() for n, one in enumerate(some, 1)
        ).findings()
    )


def reported(**splits: dict[str, int]) -> list[tuple[str, str, int | None]]:
    return [(issue.code, issue.file, issue.line) for issue in issues(**splits)]


EVEN = dict.fromkeys(["Archery", "Biking", "Diving"], 40)


def test_balanced_classes_in_every_split_are_fine() -> None:
    assert reported(train=EVEN, val=dict.fromkeys(EVEN, 8), test={"Archery": 3, "Biking": 2}) == []
    assert reported(train={"Yes.": 500, "No.": 300}, val={"No.": 10, "Yes.": 20}) == []


def test_one_answer_alone_is_no_set_of_classes() -> None:
    assert reported(train={"cat": 500}, val={"Cat": 3}) == []


def test_a_rare_class_is_reported_of_train() -> None:
    assert reported(train={"cat": 400, "dog": 300, "fox": 20}) == [("PV230", "train.jsonl", None)]
    assert reported(train={"cat": 399, "dog": 300, "fox": 20}) == []
    (issue,) = issues(
        train={"cat": 400, "dog": 300, "fox": 10, "owl": 20}, val={"cat": 2, "fox": 1, "owl": 1, "dog": 1}
    )
    assert issue.message == "class 'fox' has 10 rows of train, class 'cat' 400 (1 more classes are as rare)"
    assert reported(val={"cat": 400, "dog": 10}) == [("PV230", "val.jsonl", None)]


def test_a_class_that_train_lacks_is_reported_at_its_first_row() -> None:
    found = issues(train=EVEN, val={"Archery": 20, "Rowing": 3}, test={"Rowing": 2})
    assert [(issue.code, issue.file, issue.line) for issue in found] == [
        *(("PV231", "test.jsonl", 1), ("PV231", "val.jsonl", 21)),
    ]
    assert found[1].message == "class 'Rowing' (3 rows of val) is in no row of train"
    assert reported(val={"Archery": 20, "Rowing": 30}, test={"Archery": 20}) == [], "there is no train"


def test_a_class_that_a_large_split_lacks_is_reported_of_its_file() -> None:
    found = issues(train=EVEN, val={"Archery": 15, "Biking": 15})
    assert [(issue.code, issue.file, issue.line) for issue in found] == [("PV232", "val.jsonl", None)]
    assert found[0].message == "none of 30 rows of val has class 'Diving', which 40 rows of 120 of train have"
    assert reported(train=EVEN, val={"Archery": 15, "Biking": 14}) == [], "10 of 30 would be expected"


@pytest.mark.parametrize("spelling", ["archery", "Archery ", "ARCHERY.", '"Archery"', "Archery\t", "(archery)"])
def test_another_spelling_of_a_class_is_reported_where_it_is_first(spelling: str) -> None:
    found = issues(train={**EVEN, spelling: 3}, val={spelling: 1, "Biking": 1})
    assert [(issue.code, issue.file, issue.line) for issue in found] == [("PV233", "train.jsonl", 121)]
    assert found[0].message == f"answer {spelling!r} (4 rows) is class 'Archery' (40 rows) in another spelling"
    assert found[0].json_path == "$.conversations[0].assistant"


def test_blanks_underscores_and_hyphens_are_one() -> None:
    assert [code for code, *_ in reported(train={"ice cream": 90, "ice_cream": 3, "Ice-Cream": 2, "fox": 90})] == [
        "PV233"
    ] * 2


def test_names_that_differ_in_more_or_are_as_frequent_are_classes_of_their_own() -> None:
    assert reported(train={"a": 50, "A": 50, "b": 50, "B": 40}) == []
    assert reported(train={"C": 60, "C++": 60, "C#": 60, "F#": 6}) == []
    assert reported(train={"+": 60, "-": 60, "_": 5, "*": 60}) == []


FREE: dict[str, dict[str, int]] = {
    "sentences": {f"It is fox number {i}." + " It sleeps." * 5: 30 for i in range(5)},
    "no answer twice": {f"fox {i}": 1 for i in range(200)},
    "short answers with a long tail": {
        "yes": 300,
        "no": 280,
        "red": 40,
        "2": 30,
        **{f"thing {i}": 2 for i in range(60)},
    },
    "few rows": {"cat": 5, "dog": 4},
    "counts": {str(i): 60 - i for i in range(30)},
    "amounts": {f"$ {i},000.50": 20 for i in range(30)},
    "too many": {f"name {i}": 10 for i in range(MAX_CLASSES + 1)},
    "lines": {"cat\ndog": 100, "dog\ncat": 100, "fox": 100, "Fox": 1},
}


@pytest.mark.parametrize("answers", FREE.values(), ids=FREE)
def test_free_text_is_never_mistaken_for_classes(answers: dict[str, int]) -> None:
    assert reported(train=answers, val={"Cat": 3, "a new one": 30}) == []


def test_dialogues_and_questions_with_several_accepted_answers_are_free_text() -> None:
    good = [
        context(answer, line=n) for n, answer in enumerate(["cat", "dog", "Cat"] * 0 + ["cat", "dog"] * 50 + ["Cat"])
    ]
    assert [issue.code for issue in count_labels(good).findings()] == ["PV233"]
    several = context("cat", answers=["cat", "kitten"])
    assert list(count_labels([*good, several]).findings()) == []
    dialogue = context("cat")
    turns = dialogue.conversation.turns * 2
    dialogue.conversation = dialogue.conversation.model_copy(update={"conversations": turns})
    assert list(count_labels([dialogue, *good]).findings()) == []
    assert list(count_labels([*good, context(None)]).findings()) == list(count_labels(good).findings()), (
        "unlabeled rows do not count"
    )


def test_sources_are_judged_by_themselves() -> None:
    classes = [context(answer, line=n) for n, answer in enumerate(["cat", "dog"] * 50 + ["Cat"])]
    text = [context(f"It is number {n}.", line=n, source="docvqa") for n in range(200)]
    assert [issue.code for issue in count_labels([*classes, *text]).findings()] == ["PV233"]


SMALL = dict.fromkeys(["cat", "dog", "fox"], 4)


def test_few_rows_are_classes_where_all_ask_one_question() -> None:
    assert reported(train=SMALL, val={"owl": 1, "cat": 1}) == [("PV231", "val.jsonl", 1)]
    assert [code for code, *_ in reported(train={**SMALL, "Fox ": 1})] == ["PV233"]
    rows = [context(answer, line=n) for n, answer in enumerate([*SMALL] * 4 + ["Fox "])]
    for n, row in enumerate(rows):
        turns = (row.conversation.conversations[0].model_copy(update={"user": f"What is on page {n}?"}),)
        row.conversation = row.conversation.model_copy(update={"conversations": turns})
    assert list(count_labels(rows).findings()) == []
    assert count_labels(rows).not_applied() == "13 rows have 3 different answers: too few rows of each to be classes"


def test_two_misspelt_labels_among_300_are_reported_and_the_other_rules_still_apply() -> None:
    found = issues(train={"Archery": 149, "Biking": 149, "Archry": 1, "Bkiing": 1}, val={"Rowing": 5, "Biking": 5})
    assert [issue.code for issue in found] == ["PV233", "PV233", "PV231"]
    found = issues(train={"Archery": 149, "Biking": 149, "something": 1, "else": 1}, val={"Rowing": 5, "Biking": 5})
    assert "PV231" in [issue.code for issue in found]


@pytest.mark.parametrize(
    ("word", "known", "is_typo"),
    [
        *(("archry", "archery", True), ("archeryy", "archery", True), ("arhcery", "archery", True)),
        *(("archary", "archery", True), ("zrchery", "archery", True), ("archer", "archery", True)),
        *(("fog", "fox", False), ("male", "female", False), ("level 1", "level 2", False), ("warm", "worm", False)),
        *(("playing sitar", "playing guitar", False), ("basketball", "basketball dunk", False)),
    ],
)
def test_one_typing_error_is_a_spelling_of_a_long_word(word: str, known: str, is_typo: bool) -> None:
    answers = {(known, "train"): labels.AnswerUses(50, ("f", 1)), (word, "train"): labels.AnswerUses(1, ("f", 2))}
    assert len(group_spellings(answers)) == 2 - is_typo


def test_why_no_classes_were_found() -> None:
    assert not count_labels(context(answer) for answer in [*SMALL] * 4).not_applied()
    assert count_labels(context(f"It is fox number {n}.") for n in range(50)).not_applied()
    assert count_labels(context("x" * 65) for _ in range(50)).not_applied() == "the answers are free text"
    assert count_labels(context("cat") for _ in range(50)).not_applied() == "all answers are the same"
    assert not count_labels([context(None)]).not_applied()


# Division ----------------------------------------------------------------------------------------------------------

ROWS = st.builds(
    context,
    st.none() | st.sampled_from(["cat", "Cat", "dog", "fox", "x" * 65, "a\nb"]) | st.integers(0, 30).map(str),
    st.sampled_from(["train", "val"]),
    st.integers(1, 9),
    st.sampled_from(["a", "b", "c", "d"]),
)


@given(st.lists(st.lists(ROWS, max_size=8), max_size=5), st.randoms(use_true_random=False))
def test_the_aggregator_is_the_same_however_rows_are_divided(
    parts: list[list[RowContext]], shuffled: random.Random
) -> None:
    rows = [row for part in parts for row in part]
    patched = {"MAX_SOURCES": 3, "MAX_USES": 6}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in patched.items():
            patch.setattr(labels, name, value)
        counts = [count_labels(part) for part in parts]
        before = repr(counts)
        shuffled.shuffle(counts)
        shuffled.shuffle(rows)
        assert reduce(LabelCounts.merge, counts, LabelCounts()) == count_labels(rows)
        assert sorted(before) == sorted(repr([*map(count_labels, parts)])), "merging changes neither"


def test_it_is_bounded() -> None:
    many = count_labels(context(f"name {i}", source="many") for i in range(labels.MAX_USES + 5))
    assert many.sources == {"many": None}
    assert count_labels(context("cat", source=str(i)) for i in range(labels.MAX_SOURCES + 1)) == LabelCounts(None)
    assert LabelCounts(None).merge(LabelCounts()) == LabelCounts(None)


# Real labels -------------------------------------------------------------------------------------------------------


def test_the_lists_of_ucf101_are_classes_and_fine(shared: Path) -> None:
    folder = shared / "samples" / "ucf101" / "ucfTrainTestlist"
    rows = []
    for split, name in (("train", "trainlist01.txt"), ("test", "testlist01.txt")):
        lines = (folder / name).read_text().splitlines()
        rows += [context(line.split("/")[0], split, n, "ucf101") for n, line in enumerate(lines, 1) if "/" in line]
    found = count_labels(rows)
    assert found.sources
    assert len(group_spellings(found.sources["ucf101"] or {})) == 101
    assert not found.not_applied()
    assert list(found.findings()) == []


def test_real_answers_to_questions_about_documents_are_free_text(shared: Path) -> None:
    text = (shared / "samples/docvqa/squad/docvqa_val_squad_format.json").read_text(encoding="utf-8")
    answers: list[str] = []

    def walk(value: Any) -> None:
        if isinstance(value, dict):
            answers.extend([value["answers"][0]["text"]] if value.get("answers") else [])
        for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
            walk(inner)

    walk(json.loads(text))
    assert len(answers) > 500
    found = count_labels(context(answer, ["train", "val"][n % 2], n + 1) for n, answer in enumerate(answers))
    assert "free text" in found.not_applied() or "too few" in found.not_applied()


def test_a_validation_reports_it_with_file_and_line(tmp_path: Path) -> None:
    for split, names in (("train", ["cat", "dog"] * 50 + ["Dog "]), ("val", ["cat", "dog", "emu"])):
        rows = [
            {"id": f"{split}-{i}", "source": "s", "conversations": [{"images": [], "user": f"{i}?", "assistant": name}]}
            for i, name in enumerate(names)
        ]
        (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for workers in (0, 2):
        report = validate(tmp_path, images=False, ignore=["PV303"], num_workers=workers)
        assert [(issue.code, issue.file, issue.line) for issue in report.issues] == [
            *(("PV212", "train.jsonl", 101), ("PV233", "train.jsonl", 101), ("PV231", "val.jsonl", 3)),
        ]
