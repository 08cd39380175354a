"""`Partial`: what a validation knows of some rows. Partials of parts merge into that of the whole.

    merge(check(A), check(B)) == check(A + B), as reports: however the rows are divided, in any order
    merge(Partial(), p) == p,  merge(merge(a, b), c) == merge(a, merge(b, c))

So parts can be checked anywhere (threads, processes, machines), pickled, and merged as they come. A Partial is small:
true counts of every rule, its first findings, fixed histograms, tallies of bounded size. Only `keys` grow with the
rows; the walk hands them to a `KeyIndex`, which keeps them on disk.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from itertools import count as numbers
from typing import Any

from phiv_data.storage.record_errors import shown, shown_path
from phiv_data.validation.core.aggregators import AggregatingRule, Aggregator, MissingImagesFolder, StatsAggregator
from phiv_data.validation.core.finding import RowContext, Settings
from phiv_data.validation.core.image_stats import IMAGE_KEYS, image_stats
from phiv_data.validation.core.key_index import QUOTED, Key, KeyBlock, KeyIndex, pack
from phiv_data.validation.core.row_stats import RowStats, with_fields
from phiv_data.validation.inputs.image_checks import image_key
from phiv_data.validation.rules.registry import AGGREGATORS, GROUP_RULES, INDEX_RULES
from phiv_schemas import Conversation, Issue, ValidationReport
from phiv_schemas.rules import Severity

Place = tuple[str, int]
_STEP = re.compile(r"\.(\w+)|\[(\d+)\]")
FindRows = Callable[[set[Place]], Mapping[Place, Conversation]]
"""Reads the records at (file, line); those it cannot read are left out."""

_Kept = tuple[int, Issue]
_LATE = 2**32  # numbers of what is found in the end begin here


@dataclass(slots=True)
class Findings:
    """Issues: how many of each severity and code, and the first `limit` of each, by file, line and order of adding.

    `next_number` numbers them as they are added, which orders those of one line.
    """

    limit: int = 0
    ignore: frozenset[str] = frozenset()
    next_number: int = 0
    totals: Counter[tuple[Severity, str]] = field(default_factory=Counter)
    first: dict[tuple[Severity, str], list[_Kept]] = field(default_factory=dict)

    @classmethod
    def of(cls, settings: Settings) -> Findings:
        """An empty one."""
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

    def merge(self, other: Findings) -> Findings:
        """The findings of both."""
        limit, ignore = max(self.limit, other.limit), self.ignore | other.ignore
        number = max(self.next_number, other.next_number)
        first = {
            key: _in_order(self.first.get(key, []) + other.first.get(key, []))[:limit]
            for key in self.first.keys() | other.first.keys()
        }
        return Findings(limit, ignore, number, self.totals + other.totals, first)

    def listed(self) -> list[Issue]:
        """At most `limit` issues by file and line: errors first, and the first of each code before its second."""
        ranked = [
            (severity, rank, code, one)
            for (severity, code), kept in self.first.items()
            for rank, one in enumerate(_in_order(kept))
        ]
        ranked.sort(key=lambda found: found[:3])  # "error" comes before "warning"
        return [issue for _, issue in _in_order(one for *_, one in ranked[: self.limit])]

    def by_severity(self) -> dict[Severity, dict[str, int]]:
        """Severity to code to count; both severities are always there."""
        found: dict[Severity, dict[str, int]] = {"error": {}, "warning": {}}
        for (severity, code), count in sorted(self.totals.items()):
            found[severity][code] = count
        return found


def _in_order(kept: Iterable[_Kept]) -> list[_Kept]:
    """By file and line. Files as such are looked at in several places: there the code decides, not who came first."""
    return sorted(kept, key=_order)


def _order(one: _Kept) -> tuple[str, int, int, str, str]:
    number, issue = one
    return issue.file, issue.line or 0, number if issue.line else 0, issue.code, issue.message


@dataclass(slots=True)
class Partial:
    """What is known of some rows; `Partial()` is that of none. `rows` counts good and bad rows by file."""

    findings: Findings = field(default_factory=Findings)
    rows: Counter[str] = field(default_factory=Counter)
    stats: RowStats = field(default_factory=RowStats)
    aggregators: dict[str, Aggregator] = field(default_factory=dict)
    keys: tuple[KeyBlock, ...] = ()


def merge(a: Partial, b: Partial) -> Partial:
    """The Partial of the rows of both. Neither is changed."""
    aggregators = dict(a.aggregators)
    for name, aggregator in b.aggregators.items():
        aggregators[name] = aggregators[name].merge(aggregator) if name in aggregators else aggregator
    return Partial(a.findings.merge(b.findings), a.rows + b.rows, a.stats.merge(b.stats), aggregators, a.keys + b.keys)


class Builder:
    """Makes the Partial of consecutive rows of one file. `more` are new tallies beside the usual ones."""

    def __init__(self, file: str, split: str, settings: Settings, more: Mapping[str, Aggregator] | None = None) -> None:
        self.file, self.split, self.settings = file, split, settings
        self.findings = Findings.of(settings)
        self.num_rows = 0
        self._stats = RowStats()
        self._aggregators: dict[str, Aggregator] = {name: new() for name, new in AGGREGATORS.items()} | dict(more or {})
        counting = (rule for rule in settings.row_rules if isinstance(rule, AggregatingRule))
        self._aggregators |= {f"row rule {i}": rule.aggregator() for i, rule in enumerate(counting)}
        self._keys = {name: bytearray() for name in (*GROUP_RULES, IMAGE_KEYS)}

    def observe(self, rows: Sequence[RowContext], num_rows: int, *, no_folder: bool = False) -> None:
        """Show good rows, of `num_rows` in all, to everything that counts rows or wants keys.

        `no_folder`: their images could not be looked at, for there is no folder of images.
        """
        self.num_rows += num_rows
        self._stats.observe(self.split, rows)
        if no_folder:
            self._aggregators.setdefault("", MissingImagesFolder())
        for aggregator in self._aggregators.values():
            for row in rows:
                aggregator.observe(row)
        seen = [row for row in rows if row.images]
        for name, rule in GROUP_RULES.items():
            self._keys[name] += pack(rule.keys, seen if rule.of_images else rows)
        self._keys[IMAGE_KEYS] += pack(_image_keys, seen)

    def partial(self) -> Partial:
        """What was built."""
        blocks = tuple(KeyBlock(name, self.file, self.split, bytes(data)) for name, data in self._keys.items() if data)
        rows = Counter({self.file: self.num_rows} if self.num_rows else {})
        return Partial(self.findings, rows, self._stats, self._aggregators, blocks)


def _image_keys(row: RowContext) -> Iterable[Key]:
    return map(image_key, row.conversation.image_paths, row.images, numbers())


def finish(whole: Partial, index: KeyIndex, path: str, find_rows: FindRows, *, num_images: int = 0) -> ValidationReport:
    """The report: what the rules over many rows find is added now. `index` takes the keys that `whole` still holds.

    `num_images` are images checked beside those of rows.
    """
    index.add(whole.keys)
    findings = whole.findings.merge(_of_keys(index, whole.findings, find_rows))
    findings.extend(chain.from_iterable(aggregator.findings() for aggregator in whole.aggregators.values()))
    issues = findings.listed()
    stats = with_fields(whole.stats.report(), image_stats(index))
    for aggregator in whole.aggregators.values():
        stats = with_fields(stats, aggregator.stats() if isinstance(aggregator, StatsAggregator) else {})
    return ValidationReport(
        path=path,
        rows=sum(whole.rows.values()),
        images=sum(len(entries) for entries in index.first_entries(IMAGE_KEYS)) + num_images,
        totals=findings.by_severity(),
        stats=stats,
        issues=issues,
        truncated=len(issues) < sum(findings.totals.values()),
    )


def _of_keys(index: KeyIndex, like: Findings, find_rows: FindRows) -> Findings:
    """What the rules over equal keys find, with their quotes filled in where they are kept."""
    findings = Findings(like.limit, like.ignore, _LATE)
    for name, rule in GROUP_RULES.items():
        if check_group := rule.check_group:
            findings.extend(
                one.at(seen.file, seen.line) for group in index.groups(name) for seen, one in check_group(group)
            )
    for index_rule in INDEX_RULES:
        findings.extend(one.at(seen.file, seen.line) for seen, one in index_rule(index))
    findings = findings.merge(Findings())  # cuts what is kept to the limit
    kept = [issue for some in findings.first.values() for _, issue in some if QUOTED in issue.message]
    rows = find_rows({(issue.file, issue.line) for issue in kept if issue.line}) if kept else {}
    for key, some in findings.first.items():
        findings.first[key] = [(number, _quoted(issue, rows)) for number, issue in some]
    return findings


def _quoted(issue: Issue, rows: Mapping[Place, Conversation]) -> Issue:
    if QUOTED not in issue.message:
        return issue
    row = rows.get((issue.file, issue.line or 0))
    quote = _quote(value_at(row.to_wire(), issue.json_path or "$"), issue) if row else "(no longer there)"
    return issue.model_copy(update={"message": issue.message.replace(QUOTED, quote)})


def _quote(value: Any, issue: Issue) -> str:
    is_path = isinstance(value, str) and ".images[" in (issue.json_path or "")
    return quote_path(value) if is_path else short_repr(value)


def value_at(record: Any, json_path: str) -> Any:
    """What stands at a path such as `$.conversations[0].user`; None where there is nothing."""
    for name, number in _STEP.findall(json_path):
        try:
            record = record[name] if name else record[int(number)]
        except (KeyError, IndexError, TypeError):
            return None
    return record
