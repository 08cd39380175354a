"""Sizes and times as people write them.

>>> parse_bytes("--task_memory", "2GiB"), parse_seconds("--task_timeout", "30m")
(2147483648, 1800.0)
"""

from __future__ import annotations

import re

from phiv_schemas.errors import UsageError

_BYTES = {"": 1, "b": 1} | {
    f"{letter}{end}": base**power
    for power, letter in enumerate("kmgt", start=1)
    for end, base in (("", 1000), ("b", 1000), ("ib", 1024))
}
_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}
_NUMBER = re.compile(r"(\d+(?:\.\d+)?)\s*([a-z]*)", re.IGNORECASE)


def parse_bytes(flag: str, text: str | int | None) -> int | None:
    """A number of bytes. UsageError for what is none, or not above 0."""
    value = _parse(flag, text, _BYTES, "size", "2GiB")
    return None if value is None else int(value)


def parse_seconds(flag: str, text: str | float | None) -> float | None:
    """A number of seconds. UsageError for what is none, or not above 0."""
    return _parse(flag, text, _SECONDS, "time", "90s, 30m or 2h")


def _parse(flag: str, text: str | float | None, units: dict[str, int], kind: str, example: str) -> float | None:
    if text is None:
        return None
    match = _NUMBER.fullmatch(str(text).strip())
    unit = units.get(match[2].lower()) if match else None
    if match is None or unit is None or not (value := float(match[1]) * unit):
        raise UsageError(flag, f"{text!r} is no {kind} above 0", f"Pass one such as {example}")
    return value
