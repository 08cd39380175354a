"""Rows that show, ask and answer the same are found, and so are short answers that contradict each other."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from data_builders import conversations
from hypothesis import given

from phiv_data.validation import validate
from phiv_data.validation.core.finding import RowContext
from phiv_data.validation.inputs.fast_parse import fast_record
from phiv_data.validation.rules.duplicates import CONTENT, IDS, MAX_ANSWERS
from phiv_schemas import Conversation


def row(id_: str, assistant: str | None, user: str = "What is it?", **more: Any) -> dict[str, Any]:
    """A row; `more` are fields of its turn, but for `then` (more turns) and `system`."""
    then, system = more.pop("then", []), {"system": more.pop("system")} if "system" in more else {}
    turn = {"images": ["a.png"], "user": user, "assistant": assistant, **more}
    return {"id": id_, "source": "s", "conversations": [turn, *then], **system}


def reported(folder: Path, **files: list[Any]) -> list[tuple[str, str, int | None]]:
    """What these rules find in files of these rows."""
    for name, rows in files.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows))
    report = validate(folder, images=False, max_issues=10_000)
    return [(issue.code, issue.file, issue.line) for issue in report.issues if issue.code in (DUPLICATE, CONFLICT)]


DUPLICATE, CONFLICT = "PV203", "PV214"


def test_a_row_that_is_again_under_another_id_is_found_at_every_later_place(tmp_path: Path) -> None:
    long = "It is a fox that sleeps in the snow under a tree."
    rows = [row("a", long), row("b", "cat"), row("c", long), row("d", long), row("e", "cat")]
    assert reported(tmp_path, train=rows) == [(DUPLICATE, "train.jsonl", line) for line in (3, 4, 5)]
    (first, *_) = validate(tmp_path, images=False, ignore=["PV303"]).issues
    assert str(first) == "train.jsonl:3: the same images, questions and answers as on line 1, under another id"


def test_rows_of_text_alone_are_compared_too(tmp_path: Path) -> None:
    assert reported(tmp_path, train=[row("a", "4", images=[]), row("b", "4", images=[])]) == [
        (DUPLICATE, "train.jsonl", 2)
    ]


def test_what_differs_in_anything_is_no_duplicate(tmp_path: Path) -> None:
    then = [{"images": [], "user": "Why?", "assistant": "It has a tail of a fox, which is red."}]
    long = "It is a fox that sleeps in the snow under a tree."
    rows = [
        row("a", long),
        row("b", long, user="What is that?"),
        row("c", long, images=["b.png"]),
        row("d", long, images=["a.png", "a.png"]),
        row("e", long + "."),
        row("f", long, then=then),
        row("g", long, system="Be brief."),
        row("h", long, image_offsets=[4]),
        row("i", None),
    ]
    assert reported(tmp_path, train=rows) == []


def test_splits_are_compared_within_themselves_and_one_id_is_left_to_its_own_rule(tmp_path: Path) -> None:
    rows = [row("a", "cat"), row("a", "cat")]
    assert reported(tmp_path, train=rows, val=[row("b", "cat")], test=[row("c", "dog")]) == []


def test_another_short_answer_to_the_same_question_is_found(tmp_path: Path) -> None:
    rows = [row("a", "Yes."), row("b", "no"), row("c", "yes"), row("d", "Maybe"), row("e", "no")]
    assert reported(tmp_path, train=rows) == [
        *((CONFLICT, "train.jsonl", 2), (DUPLICATE, "train.jsonl", 3)),
        *((CONFLICT, "train.jsonl", 4), (DUPLICATE, "train.jsonl", 5)),
    ]
    issue = validate(tmp_path, images=False, ignore=["PV303"]).issues[0]
    assert str(issue) == (
        "train.jsonl:2: $.conversations[0].assistant: answers 'no', but the same question about the same images has "
        "another answer on line 1"
    )


def test_accepted_answers_that_overlap_do_not_conflict(tmp_path: Path) -> None:
    """DocVQA's annotators: two rows of one question, each with answers of its own."""
    rows = [
        row("a", "ITC Limited", answers=["ITC Limited", "itc"]),
        row("b", "ITC", answers=["ITC", "ITC Ltd"]),
        row("c", "ITC Ltd.", answers=["ITC Ltd."]),
    ]
    assert reported(tmp_path, train=rows) == [(CONFLICT, "train.jsonl", 3)]


def test_answers_that_may_both_be_right_are_not_compared(tmp_path: Path) -> None:
    rows = [
        row("a", "a red fox in the snow"),  # captions
        row("b", "an animal under a tree"),
        row("c", "一只红狐狸在雪地里", user="这是什么？"),
        row("d", "雪地里有一只狐狸", user="这是什么？"),
        row("e", "cat", images=[]),  # without an image a question has many answers
        row("f", "dog", images=[]),
        row("g", None, user="Which?"),
        row("h", "cat", user="Which?"),
    ]
    assert reported(tmp_path, train=rows) == []


def test_a_question_with_very_many_answers_takes_bounded_memory(tmp_path: Path) -> None:
    rows = [row(f"a{i}", str(i)) for i in range(MAX_ANSWERS + 50)] + [row("b", "7"), row("c", str(MAX_ANSWERS + 20))]
    report = reported(tmp_path, train=rows)
    assert report[-2:] == [(DUPLICATE, "train.jsonl", len(rows) - 1), (CONFLICT, "train.jsonl", len(rows))]


@given(conversations(), conversations())
def test_keys_are_equal_for_equal_content_only(a: Conversation, b: Conversation) -> None:
    def asked(one: Conversation) -> Any:
        return [(t.images, t.user, t.image_offsets or ()) for t in one.turns], one.system or ""

    def keys(one: Conversation) -> Any:
        return [(key, value[:12]) for key, value, item in CONTENT.keys(RowContext("f", 1, "s", one)) if not item]

    assert keys(a.model_copy(update={"id": b.id, "source": b.source})) == keys(a)
    if asked(a) != asked(b):
        assert keys(a)[0][0] != keys(b)[0][0]
    elif [t.assistant for t in a.turns] != [t.assistant for t in b.turns] and len(a.turns) > 1:
        assert keys(a) != keys(b)


@given(conversations())
def test_fast_records_give_the_same_keys(conversation: Conversation) -> None:
    if fast := fast_record(conversation.to_line().encode()):
        for rule in (IDS, CONTENT):
            slow, quick = (list(rule.keys(RowContext("f", 1, "s", one))) for one in (conversation, fast))
            assert quick == slow
