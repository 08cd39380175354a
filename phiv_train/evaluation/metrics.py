"""Scores of generated answers, each in 0..1, and the table and confusion matrix of a classification.

    >>> METRICS["accuracy"](" archery.", ["Archery"]), METRICS["anls"]("archery", ["Archery"])
    (1.0, 0.8571428571428572)
    >>> mean_score("anls", [("1998", ["1998", "in 1998"]), ("", ["yes"])])
    0.5
    >>> table = class_table([("dog", "dog"), ("cat", "dog"), ("a bird", "cat")])
    >>> table.labels, table.confusion.tolist()               # last column: an answer that is no class
    (('cat', 'dog'), [[0, 0, 1], [1, 1, 0]])

The rules of Microsoft's recipe, and the official ones where they differ, so that numbers can be compared with either:

| name | a question's score, the best over its accepted answers |
|---|---|
| accuracy | recipe: 1 if equal after `.strip().strip(".").lower()` on both sides |
| accuracy_official | NLVR2 (lil-lab/nlvr, nlvr2/eval/metrics.py): 1 if equal but for case, nothing stripped |
| anls | recipe: 1 - d/n if d/n < 0.5 else 0, n the longer length; prediction `.strip().strip(".")`, case counts |
| anls_official | SP-DocVQA: 1 - d/n if d/n <= 0.5 else 0; d but for case and runs of blanks, n of the whole texts |

d is the Levenshtein distance in code points. Formula of ANLS: Biten et al. 2019, https://arxiv.org/abs/1905.13648
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np
from numpy.typing import NDArray
from rapidfuzz.distance import Levenshtein

from phiv_schemas.errors import UsageError

Score = Callable[[str, Sequence[str]], float]
THRESHOLD = 0.5


def accuracy(prediction: str, answers: Sequence[str]) -> float:
    """1.0 if the prediction is one of `answers` by the recipe's rule, else 0.0."""
    return float(normalize(prediction) in map(normalize, answers))


def accuracy_official(prediction: str, answers: Sequence[str]) -> float:
    """1.0 if the prediction is one of `answers` but for case, else 0.0."""
    return float(prediction.lower() in [answer.lower() for answer in answers])


def anls(prediction: str, answers: Sequence[str]) -> float:
    """The recipe's ANLS of one question; an empty prediction is 0. Case counts."""
    text = prediction.strip().strip(".")
    if not text:
        return 0.0
    distance = min(Levenshtein.distance(text, answer) / max(len(text), len(answer)) for answer in answers)
    return 1 - distance if distance < THRESHOLD else 0.0


def anls_official(prediction: str, answers: Sequence[str]) -> float:
    """ANLS of one question as the SP-DocVQA server computes it, its lengths of unstripped texts included."""
    distances = []
    for answer in answers:
        pred, gold = (" ".join(text.lower().split()) for text in (prediction, answer))
        length = max(len(prediction.upper()), len(answer.upper()))
        distances.append(Levenshtein.distance(pred, gold) / length if length else 0.0)
    similarity = 1 - min(distances)
    return 0.0 if similarity < THRESHOLD else similarity


METRICS: dict[str, Score] = {
    "accuracy": accuracy,
    "accuracy_official": accuracy_official,
    "anls": anls,
    "anls_official": anls_official,
}


def mean_score(metric: str, questions: Sequence[tuple[str, Sequence[str]]]) -> float:
    """Mean of a metric over (prediction, accepted answers) pairs; there must be one."""
    score = get_metric(metric)
    return fmean(score(prediction, answers) for prediction, answers in questions)


def get_metric(name: str) -> Score:
    """The function called `name`. UsageError, with the names there are, for any other."""
    if name not in METRICS:
        raise UsageError("--metric", f"no metric {name!r}", f"Choose from {', '.join(METRICS)}")
    return METRICS[name]


def normalize(text: str) -> str:
    """A short answer as the recipe compares it."""
    return text.strip().strip(".").lower()


@dataclass(frozen=True, slots=True)
class ClassScore:
    """One class. `precision` is None when it was never predicted; `support` counts its questions (at least 1)."""

    label: str
    precision: float | None
    recall: float
    support: int


@dataclass(frozen=True, slots=True)
class ClassTable:
    """`confusion` int64 [C, C + 1]: row the true class, column the predicted one, the last one any other text."""

    labels: tuple[str, ...]
    confusion: NDArray[np.int64]

    def scores(self) -> list[ClassScore]:
        """Precision, recall and support of every class, in the order of `labels`."""
        hits, predicted, support = self.confusion.diagonal(), self.confusion.sum(0), self.confusion.sum(1)
        return [
            ClassScore(
                label, float(hits[i] / n) if (n := predicted[i]) else None, float(hits[i] / support[i]), int(support[i])
            )
            for i, label in enumerate(self.labels)
        ]


def class_table(pairs: Sequence[tuple[str, str]]) -> ClassTable:
    """The table of (prediction, answer) pairs. Classes are the distinct answers by `accuracy`'s rule, sorted, each
    labelled as its first answer is written."""
    spelled: dict[str, str] = {}
    for _, answer in pairs:
        spelled.setdefault(normalize(answer), answer)
    keys = sorted(spelled)
    column = {key: i for i, key in enumerate(keys)}
    confusion = np.zeros((len(keys), len(keys) + 1), np.int64)
    for prediction, answer in pairs:
        confusion[column[normalize(answer)], column.get(normalize(prediction), len(keys))] += 1
    return ClassTable(tuple(spelled[key] for key in keys), confusion)
