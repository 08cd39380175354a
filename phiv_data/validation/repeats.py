"""Rules over rows that share something: one id, and what else must not stand twice."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from phiv_data.validation.found import Found, RowContext
from phiv_data.validation.keys import QUOTED, Key, KeyRule, Seen, digest


def _ids(row: RowContext) -> Iterable[Key]:
    return ((digest(row.conversation.id), b"", 0),)


def _judge_ids(group: Sequence[Seen]) -> Iterator[tuple[Seen, Found]]:
    """PV201: the second and every later row of an id."""
    first = group[0]
    for seen in group[1:]:
        where = f"on line {first.line}" if first.file == seen.file else f"at {first.file}:{first.line}"
        yield seen, Found("PV201", "$.id", f"duplicate id {QUOTED}, first seen {where}")


IDS = KeyRule(_ids, _judge_ids)
