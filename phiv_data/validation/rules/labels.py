"""Rules about class labels: their balance, and whether splits and spellings have the same classes.

PV230 class-imbalance, PV231 class-unseen-in-train, PV232 class-missing-in-split, PV233 class-spelling-variant.

Free text must never be mistaken for classes. The answers of a `source` are classes if all of this holds:

- each row has one turn with one accepted answer, of at most MAX_LENGTH characters in one line;
- there are 2 to MAX_CLASSES different answers, spellings aside, with 10 rows each on average; where all rows ask one of
  a few questions, as a classification does, 3 rows are enough;
- those with few rows (fewer than 5, or than half the average) are few themselves: they have at most a twentieth of the
  rows, and are at most one more than a tenth of the others, or than one in 150 rows. Short answers to open questions
  have a long tail of rare ones; classes do not;
- at most 10 are numbers (2 where rows are few): more are counts, years and amounts.

Two answers are spellings of one class when they differ in case, blanks, `_`, `-` or punctuation at the edges, or by
one typing error in a word of 5 letters or more, and one has at most a tenth of the rows of the other (a third, where
it has one or two). Single letters and grades (`a`, `A`, `A-`) are classes of their own.
Splits are compared by kind (`leakage.split_kind`), so the files of a train set in parts count together.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain
from operator import itemgetter
from zlib import crc32

from phiv_data.storage.jsonl import NO_ID, NO_SOURCE
from phiv_data.storage.record_errors import short_repr
from phiv_data.validation.core.finding import Finding, RowContext
from phiv_data.validation.rules.leakage import split_label
from phiv_schemas import Issue, Turn

MAX_SOURCES = 100
MAX_CLASSES = 1000
MAX_LENGTH = 64
MAX_USES = 5 * MAX_CLASSES
MAX_QUESTIONS = 4
_MAX_NUMBERS = 10
_MIN_TYPO = 5  # letters
_ROWS_OF_A_CLASS = 5
_IMBALANCE = 20  # PV230: the most frequent class over the rarest
_EXPECTED = 10  # PV232: rows of a class in a split with train's shares; by chance there are none with e**-10
_TRAIN = "train"
_ANSWER = "$.conversations[0].assistant"

Location = tuple[str, int]


@dataclass(slots=True)
class UnlabeledRows:
    """PV403: rows without an answer, counted by file."""

    rows: Counter[str] = field(default_factory=Counter)

    def observe(self, row: RowContext) -> None:
        """Count it when it has no answer: turns with answers come first, so the last turn decides."""
        if row.conversation.conversations[-1].assistant is None:
            self.rows[row.file] += 1

    def merge(self, other: UnlabeledRows) -> UnlabeledRows:
        """The counts of both."""
        return UnlabeledRows(self.rows + other.rows)

    def findings(self) -> Iterator[Issue]:
        """One for each file that has such rows."""
        for file, count in sorted(self.rows.items()):
            what = "1 row has no answer" if count == 1 else f"{count} rows have no answer"
            yield Finding("PV403", None, what).at(file)


@dataclass(slots=True)
class UnnamedRows:
    """PV404: rows without `id` or `source`, counted by file."""

    rows: Counter[str] = field(default_factory=Counter)

    def observe(self, row: RowContext) -> None:
        """Count it where it lacks one."""
        record = row.conversation
        if record.source == NO_SOURCE or record.id.endswith(NO_ID):
            self.rows[row.file] += 1

    def merge(self, other: UnnamedRows) -> UnnamedRows:
        """The counts of both."""
        return UnnamedRows(self.rows + other.rows)

    def findings(self) -> Iterator[Issue]:
        """One for each file that has such rows."""
        for file, count in sorted(self.rows.items()):
            what = "1 row has no id or no source" if count == 1 else f"{count} rows have no id or no source"
            yield Finding("PV404", None, f"{what}, which phiv-convert jsonl gives them; so does --fix").at(file)


@dataclass(slots=True)
class AnswerUses:
    """How often one split has an answer, and where first."""

    count: int
    first: Location


Answers = dict[tuple[str, str], AnswerUses]
"""(answer, split) to its uses."""


@dataclass(slots=True)
class LabelCounts:
    """The aggregator of PV230 to PV233. A source whose answers cannot be classes is None; beyond MAX_SOURCES all are.

    None is final, so the same sources end as None however rows are divided. `questions` are checksums of what a source
    asks, None beyond MAX_QUESTIONS.
    """

    sources: dict[str, Answers | None] | None = field(default_factory=dict)
    questions: dict[str, frozenset[int] | None] = field(default_factory=dict)

    def observe(self, row: RowContext) -> None:
        """Count its answer. Rows without one do not count."""
        if self.sources is None:
            return
        source, turns = row.conversation.source, row.conversation.conversations
        if (answers := self.sources.get(source, _NEW)) is None:
            return
        answer = turns[0].assistant
        if answer is not None:
            self._ask(source, frozenset((crc32(turns[0].user.encode()),)))
        if len(turns) > 1 or (turns[0].answers and not may_be_class(turns[0])):
            self._set(source, None)
        elif answer is not None and (uses := answers.get((answer, split_label(row.split)))):
            uses.count += 1
            if row.line < uses.first[1] or row.file < uses.first[0]:
                uses.first = min(uses.first, (row.file, row.line))
        elif not may_be_class(turns[0]):
            self._set(source, None)
        elif answer is not None:
            answers = answers if answers is not _NEW else {}
            answers[answer, split_label(row.split)] = AnswerUses(1, (row.file, row.line))
            self._set(source, answers if len(answers) <= MAX_USES else None)

    def _set(self, source: str, answers: Answers | None) -> None:
        if self.sources is not None:
            self.sources[source] = answers
            if len(self.sources) > MAX_SOURCES:
                self.sources, self.questions = None, {}
            elif answers is None:
                self.questions.pop(source, None)

    def _ask(self, source: str, more: frozenset[int] | None) -> None:
        known = self.questions.setdefault(source, frozenset())
        if known is not None and (more is None or not more <= known):
            both = None if more is None else known | more
            self.questions[source] = both if both is not None and len(both) <= MAX_QUESTIONS else None

    def merge(self, other: LabelCounts) -> LabelCounts:
        """The counts of both."""
        merged = LabelCounts()
        if self.sources is None or other.sources is None:
            return LabelCounts(None)
        for source in self.sources.keys() | other.sources.keys():
            a, b = self.sources.get(source, _NEW), other.sources.get(source, _NEW)
            if a is None or b is None:
                merged._set(source, None)
                continue
            answers = {key: AnswerUses(uses.count, uses.first) for key, uses in a.items()}
            for key, uses in b.items():
                known = answers.setdefault(key, AnswerUses(0, uses.first))
                known.count, known.first = known.count + uses.count, min(known.first, uses.first)
            for questions in (self.questions, other.questions):
                if source in questions:
                    merged._ask(source, questions[source])
            merged._set(source, answers if len(answers) <= MAX_USES else None)
        return merged

    def findings(self) -> Iterator[Issue]:
        """By source."""
        for source, answers in sorted((self.sources or {}).items()):
            classes = group_spellings(answers or {})
            if not self._why_no_classes(source, classes):
                yield from _report_variants(classes)
                yield from _report_unseen(classes)
                yield from _report_missing(classes)
                yield from _report_imbalance(classes)

    def not_applied(self) -> str:
        """Why the answers of no source are classes; "" where those of one are, or there are none."""
        if self.sources is None:
            return f"more than {MAX_SOURCES} sources"
        by_source = sorted(self.sources.items(), key=itemgetter(0))  # of as many, the same one, however merged
        reasons = [self._why_no_classes(name, group_spellings(one or {})) for name, one in by_source]
        return "" if "" in reasons else max(reasons, key=reasons.count, default="")

    def _why_no_classes(self, source: str, classes: list[AnswerClass]) -> str:
        """Why answers are free text, by the criteria of this module; "" where they are classes."""
        rows = [one.rows() for one in classes]
        if len(rows) < 2 or len(rows) > MAX_CLASSES:
            return "all answers are the same" if len(rows) == 1 else "the answers are free text"
        average, total = sum(rows) / len(rows), sum(rows)
        asks_few = self.questions.get(source) is not None
        if average < (3 if asks_few else 10):
            return f"{total} rows have {len(rows)} different answers: too few rows of each to be classes"
        rare = [count for count in rows if count < min(_ROWS_OF_A_CLASS, average / 2)]
        common = len(rows) - len(rare)
        bare = [one.name.strip("$€£%+-.,() ").replace(".", "").replace(",", "") for one in classes]
        if sum(map(str.isdecimal, bare)) > (_MAX_NUMBERS if average >= 10 else 2):
            return "the answers are numbers"
        has_tail = len(rare) > 1 + max(common // 10, total // 150) or sum(rare) > max(1, total // 20)
        return "the answers are free text: many are rare" if has_tail or common < 2 else ""


_NEW: Answers = {}


def may_be_class(turn: Turn) -> bool:
    """Whether the answer of a row's one turn is short and the only one, as a class is; a row may have none yet."""
    answer, accepted = turn.assistant, turn.answers
    if accepted is not None and len(accepted) > 1:
        return False
    return answer is None or (len(answer) <= MAX_LENGTH and "\n" not in answer.strip())


# Classes -----------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class AnswerClass:
    """One class, by its most frequent spelling: its uses by split, and its other spellings."""

    name: str
    uses: dict[str, AnswerUses]
    variants: list[AnswerClass] = field(default_factory=list)

    def rows(self, split: str | None = None) -> int:
        """How many rows have it, in one split or in all, in any spelling."""
        mine = sum(uses.count for name, uses in self.uses.items() if split in (None, name))
        return mine + sum(variant.rows(split) for variant in self.variants)

    def first(self, split: str | None = None) -> Location:
        """Where it is first used, in any spelling. The split must have it."""
        spellings = (self, *self.variants)
        return min(uses.first for one in spellings for name, uses in one.uses.items() if split in (None, name))


def group_spellings(answers: Answers) -> list[AnswerClass]:
    """The different answers by name, each with its other spellings."""
    by_answer: defaultdict[str, dict[str, AnswerUses]] = defaultdict(dict)
    for (answer, split), uses in answers.items():
        by_answer[answer][split] = uses
    by_form: defaultdict[str, list[AnswerClass]] = defaultdict(list)
    common: list[str] = []  # forms of answers that typing errors can be of
    for one in sorted((AnswerClass(*item) for item in by_answer.items()), key=lambda one: (-one.rows(), one.name)):
        form = one.name  # what spellings of one class share; of grades, letters and signs nothing: A and a, A- and A+
        if len(form.strip("-+")) >= 2:
            words = form.casefold().replace("_", " ").replace("-", " ").split()
            form = " ".join(words).strip(".,;:!?\"'`()[]{} ") or form  # punctuation alone is its own form
        if one.rows() > 2:
            common.append(form)
        elif form not in by_form:
            form = next((known for known in common if _is_typo(form, known)), form)
        same = by_form[form]
        rows, others = one.rows(), sum(uses.count for uses in same[0].uses.values()) if same else 0
        is_variant = same and (10 * rows <= others or (rows <= 2 and 3 * rows <= others))  # rare beside the other
        (same[0].variants if is_variant else same).append(one)
    return sorted(chain.from_iterable(by_form.values()), key=lambda one: one.name)


def _is_typo(word: str, known: str) -> bool:
    """Whether one letter is missing, too many or another, or two are in the wrong order. Digits mean something."""
    if abs(len(word) - len(known)) > 1 or min(len(word), len(known)) < _MIN_TYPO:
        return False
    if not (word + known).replace(" ", "").isalpha():
        return False
    same = next((i for i, (a, b) in enumerate(zip(word, known, strict=False)) if a != b), min(len(word), len(known)))
    a, b = word[same:], known[same:]
    return a[1:] == b[1:] or a == b[1:] or a[1:] == b or (a[:2] == b[:2][::-1] and a[2:] == b[2:])


def _splits(classes: list[AnswerClass]) -> list[str]:
    return sorted({split for one in classes for spelling in (one, *one.variants) for split in spelling.uses})


# Findings ----------------------------------------------------------------------------------------------------------


def _report_variants(classes: list[AnswerClass]) -> Iterator[Issue]:
    """PV233: an answer that is a class in another spelling."""
    for one in classes:
        for variant in one.variants:
            what = f"answer {short_repr(variant.name)} ({_rows(variant.rows())}) is class {short_repr(one.name)}"
            what += f" ({_rows(one.rows() - sum(v.rows() for v in one.variants))}) in another spelling"
            yield Finding("PV233", _ANSWER, what).at(*variant.first())


def _report_unseen(classes: list[AnswerClass]) -> Iterator[Issue]:
    """PV231: a class in another split that train lacks, if there is a train."""
    splits = _splits(classes)
    if _TRAIN not in splits:
        return
    for one in classes:
        for split in splits:
            if not one.rows(_TRAIN) and one.rows(split):
                what = f"class {short_repr(one.name)} ({_rows(one.rows(split))} of {split}) is in no row of train"
                yield Finding("PV231", _ANSWER, what).at(*one.first(split))


def _report_missing(classes: list[AnswerClass]) -> Iterator[Issue]:
    """PV232: a class of train that none of many rows of another split has."""
    totals = {split: sum(one.rows(split) for one in classes) for split in _splits(classes)}
    train = totals.pop(_TRAIN, 0)
    for split, total in totals.items():
        file, _ = min(one.first(split) for one in classes if one.rows(split))
        for one in classes:
            if not one.rows(split) and one.rows(_TRAIN) * total >= _EXPECTED * train > 0:
                what = f"none of {_rows(total)} of {split} has class {short_repr(one.name)}"
                yield Finding("PV232", None, f"{what}, which {_rows(one.rows(_TRAIN))} of {train} of train have").at(
                    file
                )


def _report_imbalance(classes: list[AnswerClass]) -> Iterator[Issue]:
    """PV230: of train, or of every split where there is no train."""
    splits = _splits(classes)
    for split in [_TRAIN] if _TRAIN in splits else splits:
        there = sorted((one for one in classes if one.rows(split)), key=lambda one: (one.rows(split), one.name))
        rarest, top = there[0], there[-1]
        rare = sum(_IMBALANCE * one.rows(split) <= top.rows(split) for one in there)
        if rare:
            what = f"class {short_repr(rarest.name)} has {_rows(rarest.rows(split))} of {split}, "
            what += f"class {short_repr(top.name)} {top.rows(split)}"
            more = f" ({rare - 1} more classes are as rare)" if rare > 1 else ""
            yield Finding("PV230", None, what + more).at(rarest.first(split)[0])


def _rows(count: int) -> str:
    return f"{count} row{'s' if count != 1 else ''}"
