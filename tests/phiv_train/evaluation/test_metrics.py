"""Metrics against slow oracles, and the recipe's and the official rules on examples."""

from __future__ import annotations

from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phiv_schemas.errors import UsageError
from phiv_train.evaluation.metrics import METRICS, class_table, get_metric, mean_score

TEXT = st.text(alphabet="abAB .é\n", max_size=6)
ANSWERS = st.lists(TEXT, min_size=1, max_size=3)


@cache
def slow_distance(a: str, b: str) -> int:
    """Levenshtein by its definition."""
    if not a or not b:
        return len(a) + len(b)
    swap = slow_distance(a[1:], b[1:]) + (a[0] != b[0])
    return min(swap, slow_distance(a[1:], b) + 1, slow_distance(a, b[1:]) + 1)


@given(TEXT, ANSWERS)
def test_accuracy_is_the_recipes_rule(prediction: str, answers: list[str]) -> None:
    expected = any(prediction.strip().strip(".").lower() == a.strip().strip(".").lower() for a in answers)
    assert METRICS["accuracy"](prediction, answers) == float(expected)


@given(TEXT, ANSWERS)
def test_anls_is_the_recipes_rule(prediction: str, answers: list[str]) -> None:
    text = prediction.strip().strip(".")
    distances = [slow_distance(text, a) / max(len(text), len(a)) for a in answers if text]
    expected = max((1 - d if d < 0.5 else 0.0 for d in distances), default=0.0)
    assert METRICS["anls"](prediction, answers) == expected


@given(TEXT, ANSWERS)
def test_anls_official_is_the_servers_rule(prediction: str, answers: list[str]) -> None:
    def clean(text: str) -> str:
        return " ".join(text.strip().lower().split())

    lengths = [max(len(a.upper()), len(prediction.upper())) for a in answers]
    values = [
        slow_distance(clean(a), clean(prediction)) / n if n else 0.0 for a, n in zip(answers, lengths, strict=True)
    ]
    best = 1 - min(values)
    assert METRICS["anls_official"](prediction, answers) == (0 if best < 0.5 else best)


@pytest.mark.parametrize(
    ("metric", "prediction", "answers", "score"),
    [
        ("accuracy", "BabyCrawling \n", ["BabyCrawling"], 1.0),
        ("accuracy", "yes", ["Yes."], 1.0),
        ("accuracy", "Yes. ", ["no", "yes"], 1.0),
        ("accuracy", "", ["yes"], 0.0),
        ("accuracy", "Yes it is", ["Yes"], 0.0),
        ("accuracy_official", "true", ["True"], 1.0),
        ("accuracy_official", "True.", ["True"], 0.0),
        ("anls", "0.28.", ["0.28"], 1.0),
        ("anls", "itc limited", ["ITC Limited"], 7 / 11),  # four capitals of eleven characters
        ("anls", "ab", ["cb"], 0.0),  # a distance of exactly 0.5 is cut by the recipe
        ("anls_official", "ab", ["cb"], 0.5),  # and kept by the server
        ("anls_official", "itc  limited", ["ITC Limited"], 1.0),
        ("anls", "  ", ["x"], 0.0),
    ],
)
def test_known_scores(metric: str, prediction: str, answers: list[str], score: float) -> None:
    assert METRICS[metric](prediction, answers) == pytest.approx(score)


@given(st.sampled_from(sorted(METRICS)), st.lists(st.tuples(TEXT, ANSWERS), min_size=1, max_size=5))
def test_a_mean_is_within_its_scores_and_more_answers_never_hurt(
    metric: str, questions: list[tuple[str, list[str]]]
) -> None:
    scores = [METRICS[metric](p, a) for p, a in questions]
    assert all(0 <= score <= 1 for score in scores)
    assert min(scores) - 1e-12 <= mean_score(metric, questions) <= max(scores) + 1e-12
    assert all(METRICS[metric](p, [*a, "b"]) >= METRICS[metric](p, a) for p, a in questions)


@given(st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=30))
def test_the_table_counts_every_pair_once_and_agrees_with_accuracy(pairs: list[tuple[str, str]]) -> None:
    table = class_table(pairs)
    assert table.confusion.sum() == len(pairs)
    hits = sum(METRICS["accuracy"](p, [a]) for p, a in pairs)
    assert table.confusion.diagonal().sum() == hits
    for i, row in enumerate(table.scores()):
        mine = [p for p, a in pairs if METRICS["accuracy"](row.label, [a])]
        named = [a for p, a in pairs if METRICS["accuracy"](p, [row.label])]
        true = sum(METRICS["accuracy"](p, [row.label]) for p in mine)
        assert (row.support, row.recall) == (len(mine), true / len(mine))
        assert row.precision == (true / len(named) if named else None)
        assert table.confusion[i].sum() == row.support


def test_classes_are_sorted_and_spelled_as_their_first_answer() -> None:
    assert class_table([("", "Yes."), ("", "no"), ("", "yes")]).labels == ("no", "Yes.")


def test_an_unknown_metric_names_those_there_are() -> None:
    with pytest.raises(
        UsageError, match=r"no metric 'f1'. Choose from accuracy, accuracy_official, anls, anls_official"
    ):
        get_metric("f1")
