"""Validation inside a loop of yours: records in, good records out, and a report of the rest.

    >>> checked = iter_validated(lines, "collect")       # lines, dicts, Conversations, mixed as they come
    >>> for conversation in checked: ...
    >>> checked.report().counts(), checked.num_skipped
    ({'PV002': 3}, 3)

Every record is checked against the format and every rule about a single record; ids are unique in the stream.
Warnings leave no record out. Image files and rules over many rows are for `phiv_data.validate`; batches of Arrow for
`phiv_data.integrations.arrow`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any, Literal, get_args

from pydantic import ValidationError

from phiv_data.storage.jsonl import Line, parse_line, record_error
from phiv_data.storage.record_errors import schema_issues, short_repr
from phiv_data.utils.lines import BOM
from phiv_data.utils.seen_index import open_seen_index
from phiv_data.validation.core.finding import Finding
from phiv_data.validation.partial_result import IssueCollector
from phiv_data.validation.rules.registry import record_finders
from phiv_schemas import RULES, Conversation, Issue, UsageError, ValidationReport

Record = str | bytes | Mapping[str, Any] | Conversation
OnIssue = Callable[[Issue], object]
Policy = Literal["raise", "skip", "collect"]
_SHARD_COLUMNS = {"images", "media"}


def iter_validated(
    records: Iterable[Record],
    policy: Policy | OnIssue = "raise",
    *,
    name: str = "record",
    ignore: Collection[str] = (),
    max_issues: int = 1000,
) -> Validated:
    """The good ones of `records` as conversations, one by one; `report()` and `num_skipped` are about the others.

    `policy` decides what happens on a bad record:

        "raise"      RecordError
        "skip"       it is left out; a Python warning shows the first, and another at the end how many there were
        "collect"    it is left out, and the report is yours to read
        a function   it is left out; the function is called with every issue, warnings too, as it is found

    A record is a jsonl line (str or bytes; blank ones hold no record), a dict, a Conversation, or one of these as an
    Arrow scalar; a dict may be a row of a phiv shard, whose images are not checked. Issues name it `name` with its
    number, from 1, as `line`. `ignore`: codes of rules whose findings in readable records are left out. At most
    `max_issues` issues are kept, errors first. The ids seen are kept in a temporary file of SQLite's: 16 MB of memory
    for any number.
    """
    if not callable(policy) and policy not in get_args(Policy):
        raise UsageError("policy", f"must be one of {', '.join(get_args(Policy))} or a function (found {policy!r})")
    if max_issues < 1:
        raise UsageError("max_issues", f"must be at least 1 (found {max_issues})")
    if unknown := sorted(set(ignore) - RULES.keys()):
        raise UsageError("ignore", f"no such rule {unknown[0]!r}", "docs/rules.md lists them")
    return Validated(records, policy, name, frozenset(ignore), IssueCollector(max_issues))


class Validated(Iterator[Conversation]):
    """The good records of a stream; what is known of it so far can be asked at any time."""

    def __init__(
        self,
        records: Iterable[Record],
        policy: Policy | OnIssue,
        name: str,
        ignore: frozenset[str],
        issues: IssueCollector,
    ) -> None:
        self.num_records = self.num_skipped = 0
        self._policy, self._name, self._issues = policy, name, issues
        self._lines = _check_all(records, name, ignore)  # knows nothing of self: dropped with it, not by the collector

    def __next__(self) -> Conversation:
        for line in self._lines:
            is_bad = line.conversation is None or has_error(line.issues)
            self.num_records += 1
            self.num_skipped += is_bad
            self._issues.extend(line.issues)
            if callable(self._policy):
                for issue in line.issues:
                    self._policy(issue)
            if line.conversation is not None and not is_bad:
                return line.conversation
            if self._policy == "raise":
                raise record_error(line.issues)
            if self._policy == "skip" and self.num_skipped == 1:
                self._warn(f"bad records are left out; the first: {record_error(line.issues)}")
        if self._policy == "skip" and self.num_skipped:
            self._warn(f"{self.num_skipped} of {self.num_records} records were left out")
        raise StopIteration

    def report(self) -> ValidationReport:
        """All that was found so far, in phiv's usual form: render it with `phiv_data.reports`."""
        issues, totals = self._issues.listed(), self._issues.by_severity()
        truncated = len(issues) < self._issues.totals.total()
        return ValidationReport(
            path=self._name, rows=self.num_records, images=0, totals=totals, issues=issues, truncated=truncated
        )

    def _warn(self, what: str) -> None:
        warnings.warn(f"{self._name}: {what}", stacklevel=3)  # at the loop over the records


def _check_all(records: Iterable[Record], name: str, ignore: frozenset[str]) -> Iterator[Line]:
    """Every record that is not a blank line; one whose id was seen before has PV201."""
    with open_seen_index() as seen:
        for number, record in enumerate(records, start=1):
            line = check_record(record, name, number, ignore)
            if line.conversation is not None and "PV201" not in ignore:
                record_id = line.conversation.id
                if (first := seen.register(record_id, "", str(number))) is not None:
                    message = f"duplicate id {short_repr(record_id)}, first seen at {name}:{first[1]}"
                    line.issues += (Finding("PV201", "$.id", message).at(name, number),)
            if line.conversation is not None or line.issues:
                yield line


def check_record(record: object, name: str, number: int | None = None, ignore: Collection[str] = ()) -> Line:
    """One record as a checked line, asked every rule about a single record; a blank line has no record and no issue."""
    if hasattr(record, "as_py"):
        record = record.as_py()
    if isinstance(record, str):
        record = record.encode("utf-8", "surrogatepass")  # a lone surrogate becomes PV005, as in a file
    if isinstance(record, bytes | bytearray):
        # any line may be the first of its file, so a byte order mark is that of a file
        text = bytes(record).removeprefix(BOM).rstrip(b"\r\n")
        line = parse_line(text, name, number) if text and not text.isspace() else Line(number or 0, 0, None)
        if record.startswith(BOM) and (line.issues or line.conversation):
            line.issues = (Finding("PV006", None, "begins with a byte order mark").at(name, number), *line.issues)
    elif isinstance(record, Conversation):
        line = Line(number or 0, 0, record)
    else:
        if isinstance(record, Mapping):
            beside = _SHARD_COLUMNS if record.keys() >= _SHARD_COLUMNS else ()
            record = {key: value for key, value in record.items() if key not in beside}
        try:
            line = Line(number or 0, 0, Conversation.model_validate(record))
        except ValidationError as error:
            line = Line(number or 0, 0, None, tuple(schema_issues(error, name, number)))
    return ask_rules(line, name, number, ignore) if line.conversation is not None else line


def ask_rules(
    line: Line, name: str, number: int | None, ignore: Collection[str] = (), *, is_plain: bool = False
) -> Line:
    """`line`, which holds a record, with what the record rules find in it."""
    assert line.conversation is not None
    found = [one.at(name, number) for find in record_finders(is_plain=is_plain) for one in find(line.conversation)]
    line.issues = tuple(issue for issue in (*line.issues, *found) if issue.code not in ignore)
    return line


def has_error(issues: Iterable[Issue]) -> bool:
    """True when one is more than a warning."""
    return any(issue.severity == "error" for issue in issues)
