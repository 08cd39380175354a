"""Partial results of a validation: what is known of some rows. They merge into the result of all rows.

    merge(check(A), check(B)) == check(A + B), as reports: however the rows are divided, in any order
    merge(PartialResult(), p) == p,  merge(merge(a, b), c) == merge(a, merge(b, c))

So rows can be checked anywhere (threads, processes, machines), and their results pickled and merged as they come. A
partial result is small: exact counts of every rule, its first issues, fixed histograms, aggregators of bounded size.
Only `keys` grow with the rows; `validate` moves them into a `KeyIndex`, which keeps them on disk.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count, repeat
from typing import Any

from phiv_data.storage.jsonl import Line
from phiv_data.storage.record_errors import quote_path, short_repr
from phiv_data.validation.core.aggregators import AggregatingRule, Aggregator, MissingImagesFolder, StatsAggregator
from phiv_data.validation.core.finding import ImageFacts, RowContext, Settings, value_at
from phiv_data.validation.core.image_stats import IMAGE_KEYS, image_stats
from phiv_data.validation.core.key_index import QUOTED, KeyBlock, KeyIndex, pack
from phiv_data.validation.core.row_stats import RowStats, with_fields
from phiv_data.validation.inputs.image_checks import image_key
from phiv_data.validation.rules.registry import AGGREGATORS, GROUP_RULES, INDEX_RULES, record_finders
from phiv_schemas import Conversation, Issue, ValidationReport
from phiv_schemas.rules import Severity

FileLine = tuple[str, int]
FindRecords = Callable[[set[FileLine]], Mapping[FileLine, Conversation]]
"""Reads the records at (file, line) again; those it cannot read are left out."""

_Numbered = tuple[int, Issue]
_FINDERS = {is_plain: record_finders(is_plain=is_plain) for is_plain in (False, True)}
_AFTER_ROWS = 2**32  # issues of rules over many rows are numbered from here: they come last in their line


@dataclass(slots=True)
class IssueCollector:
    """Issues: how many of each severity and code, and the first `limit` of each, by file, line and order of adding.

    `next_number` numbers them as they are added, which orders those of one line.
    """

    limit: int = 0
    ignore: frozenset[str] = frozenset()
    next_number: int = 0
    totals: Counter[tuple[Severity, str]] = field(default_factory=Counter)
    first: dict[tuple[Severity, str], list[_Numbered]] = field(default_factory=dict)

    @classmethod
    def of(cls, settings: Settings) -> IssueCollector:
        """An empty collector, with the limit and the ignored codes of `settings`."""
        return cls(settings.max_issues, settings.ignore)

    def add(self, code: str, file: str, message: str, **rest: Any) -> None:
        """One more; `rest` are the other fields of Issue."""
        self.extend([Issue(code=code, file=file, message=message, **rest)])

    def extend(self, issues: Iterable[Issue]) -> None:
        """Several more, in any order."""
        for issue in issues:
            if issue.code in self.ignore:
                continue
            key = (issue.severity, issue.code)
            self.totals[key] += 1
            kept = self.first.setdefault(key, [])
            kept.append((self.next_number, issue))
            self.next_number += 1
            if len(kept) > 2 * self.limit:
                self.first[key] = _in_order(kept)[: self.limit]

    def merge(self, other: IssueCollector) -> IssueCollector:
        """The issues of both."""
        limit, ignore = max(self.limit, other.limit), self.ignore | other.ignore
        number = max(self.next_number, other.next_number)
        first = {
            key: _in_order(self.first.get(key, []) + other.first.get(key, []))[:limit]
            for key in self.first.keys() | other.first.keys()
        }
        return IssueCollector(limit, ignore, number, self.totals + other.totals, first)

    def listed(self) -> list[Issue]:
        """At most `limit` issues by file and line: errors first, and the first of each code before its second."""
        ranked = [
            (severity, rank, code, one)
            for (severity, code), kept in self.first.items()
            for rank, one in enumerate(_in_order(kept))
        ]
        ranked.sort(key=lambda one: one[:3])  # "error" comes before "warning"
        return [issue for _, issue in _in_order(one for *_, one in ranked[: self.limit])]

    def by_severity(self) -> dict[Severity, dict[str, int]]:
        """Severity to code to count; both severities are always there."""
        counts: dict[Severity, dict[str, int]] = {"error": {}, "warning": {}}
        for (severity, code), number in sorted(self.totals.items()):
            counts[severity][code] = number
        return counts


def _in_order(kept: Iterable[_Numbered]) -> list[_Numbered]:
    """By file, line and number. Issues without a line come from several places: there code and message decide."""

    def order(one: _Numbered) -> tuple[str, int, int, str, str]:
        number, issue = one
        return issue.file, issue.line or 0, number if issue.line else 0, issue.code, issue.message

    return sorted(kept, key=order)


@dataclass(slots=True)
class PartialResult:
    """What is known of some rows; `PartialResult()` is that of none. `rows` counts good and bad rows by file."""

    issues: IssueCollector = field(default_factory=IssueCollector)
    rows: Counter[str] = field(default_factory=Counter)
    stats: RowStats = field(default_factory=RowStats)
    aggregators: dict[str, Aggregator] = field(default_factory=dict)
    keys: tuple[KeyBlock, ...] = ()


def merge(a: PartialResult, b: PartialResult) -> PartialResult:
    """The result of the rows of both. Neither is changed."""
    both = dict(a.aggregators)
    for name, aggregator in b.aggregators.items():
        both[name] = both[name].merge(aggregator) if name in both else aggregator
    return PartialResult(a.issues.merge(b.issues), a.rows + b.rows, a.stats.merge(b.stats), both, a.keys + b.keys)


class ResultBuilder:
    """Checks consecutive rows of one file, and makes their partial result. `more` are aggregators beside the usual."""

    def __init__(self, file: str, split: str, settings: Settings, more: Mapping[str, Aggregator] | None = None) -> None:
        self.file, self.split, self.settings = file, split, settings
        self.issues = IssueCollector.of(settings)
        self._num_rows = 0
        self._stats = RowStats()
        self._aggregators: dict[str, Aggregator] = {name: new() for name, new in AGGREGATORS.items()} | dict(more or {})
        for i, rule in enumerate(rule for rule in settings.row_rules if isinstance(rule, AggregatingRule)):
            self._aggregators[f"row rule {i}"] = rule.aggregator()
        self._keys: dict[str, bytearray] = {}

    def add(
        self,
        lines: Sequence[Line],
        images: Sequence[tuple[ImageFacts, ...]] | None = None,
        *,
        report_images: bool = False,
    ) -> None:
        """Check lines by every rule about single rows, and let those over many rows count them.

        `images` are the facts of each line's images; None where there is no folder of images. With `report_images`,
        what is wrong with an image is an issue at every use.
        """
        rows, file, issues, sharing = [], self.file, self.issues, self.settings.sharing
        for line, facts in zip(lines, repeat(()) if images is None else images, strict=False):
            if line.issues:
                issues.extend(line.issues)
            if (record := line.conversation) is not None:
                row = RowContext(file, line.number, self.split, record, facts, sharing)
                rows.append(row)
                for find in _FINDERS[line.is_plain]:
                    for finding in find(record):
                        issues.extend((finding.at(file, line.number),))
                for row_rule in self.settings.row_rules:
                    issues.extend(finding.at(file, line.number) for finding in row_rule(row))
        self._num_rows += len(lines)
        # everything that counts good rows, or wants keys of them, sees them
        self._stats.observe(self.split, rows)
        if images is None and self.settings.images:
            self._aggregators.setdefault("", MissingImagesFolder())
        for aggregator in self._aggregators.values():
            for row in rows:
                aggregator.observe(row)
        with_images = [row for row in rows if row.images]
        for name, rule in GROUP_RULES.items():
            if seen := with_images if rule.of_images else rows:
                self._keys.setdefault(name, bytearray()).extend(pack(rule.keys, seen))
        if with_images:
            keys = pack(lambda row: map(image_key, row.conversation.image_paths, row.images, count()), with_images)
            self._keys.setdefault(IMAGE_KEYS, bytearray()).extend(keys)
        for row in rows if report_images else ():
            if any(facts.found for facts in row.images):
                turns = enumerate(row.conversation.conversations)
                places = [f"$.conversations[{t}].images[{i}]" for t, turn in turns for i in range(len(turn.images))]
                for place, image in zip(places, row.images, strict=True):
                    issues.extend(finding.at(file, row.line, place) for finding in image.found)

    def result(self) -> PartialResult:
        """The result of all rows so far."""
        blocks = tuple(KeyBlock(name, self.file, self.split, bytes(data)) for name, data in self._keys.items() if data)
        rows = Counter({self.file: self._num_rows} if self._num_rows else {})
        return PartialResult(self.issues, rows, self._stats, self._aggregators, blocks)


# The report ---------------------------------------------------------------------------------------------------------


def finalize(
    merged: PartialResult, index: KeyIndex, path: str, find_records: FindRecords, *, num_images: int = 0
) -> ValidationReport:
    """The report: the rules over many rows are asked now. `index` takes the keys that `merged` still holds.

    `num_images` are images checked beside those of rows.
    """
    index.add(merged.keys)
    collected = merged.issues.merge(_issues_of_keys(index, merged.issues, find_records))
    stats = merged.stats.report()
    if index.has(IMAGE_KEYS):
        stats = with_fields(stats, image_stats(index))
        num_images += sum(len(entries) for entries in index.first_entries(IMAGE_KEYS))
    for aggregator in merged.aggregators.values():
        collected.extend(aggregator.findings())
        if isinstance(aggregator, StatsAggregator):
            stats = with_fields(stats, aggregator.stats())
    issues = collected.listed()
    return ValidationReport(
        path=path,
        rows=merged.rows.total(),
        images=num_images,
        totals=collected.by_severity(),
        stats=stats,
        issues=issues,
        truncated=len(issues) < collected.totals.total(),
    )


def _issues_of_keys(index: KeyIndex, like: IssueCollector, find_records: FindRecords) -> IssueCollector:
    """What the rules over equal and over similar keys find, with the quotes filled in of those that are kept."""
    issues = IssueCollector(like.limit, like.ignore, _AFTER_ROWS)
    for name, rule in GROUP_RULES.items():
        if rule.check_group and index.has(name):
            for group in index.groups(name):
                issues.extend(finding.at(seen.file, seen.line) for seen, finding in rule.check_group(group))
    if index.has(IMAGE_KEYS):
        for index_rule in INDEX_RULES:
            issues.extend(finding.at(seen.file, seen.line) for seen, finding in index_rule(index))
    if not issues.totals:
        return issues
    issues = issues.merge(IssueCollector())  # cuts what is kept to the limit
    quoting = [issue for kept in issues.first.values() for _, issue in kept if QUOTED in issue.message]
    records = find_records({(issue.file, issue.line) for issue in quoting if issue.line}) if quoting else {}
    for kept in issues.first.values():
        for i, (number, issue) in enumerate(kept):
            if QUOTED not in issue.message:
                continue
            quote, path = "(no longer there)", issue.json_path or "$"
            if record := records.get((issue.file, issue.line or 0)):
                value = value_at(record.to_wire(), path)
                quote = quote_path(value) if isinstance(value, str) and ".images[" in path else short_repr(value)
            kept[i] = number, issue.model_copy(update={"message": issue.message.replace(QUOTED, quote)})
    return issues
