"""Validation errors of one record: pydantic's errors as issues in phiv's error grammar.

    conversations -> 0 -> images -> 3    becomes    $.conversations[0].images[3]
    "Input should be a valid string"     becomes    must be a string (found 3)

Every error of a record is reported once. Values are cut to a short form: a record may be hostile, and is never echoed
whole.
"""

from __future__ import annotations

import difflib
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from pathlib import PureWindowsPath
from typing import TYPE_CHECKING, Any

from phiv_schemas import Conversation, Issue, Turn

if TYPE_CHECKING:
    from pydantic import ValidationError
    from pydantic_core import ErrorDetails

_PLAIN_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_KEYS = (*Conversation.model_fields, *Turn.model_fields)
_MAX_SHOWN = 60
_MAX_PATH = 400


def schema_issues(error: ValidationError, file: str, line: int | None = None) -> list[Issue]:
    """Every error of a record that broke the contract, as PV002, PV005 or PV103, in pydantic's order."""
    issues: list[Issue] = []
    for one in error.errors(include_url=False, include_context=True):
        kind, loc, value = one["type"], one["loc"], one["input"]
        if kind == "too_short" and len(value) >= one["ctx"]["min_length"]:
            continue  # pydantic adds it where the items are there but broken: an echo of their own errors
        code = "PV005" if kind == "string_unicode" else "PV002"
        if kind == "value_error" and "images" in loc and isinstance(value, str):
            path = PureWindowsPath(value)  # knows drives and both kinds of slash
            code = "PV103" if path.anchor or ".." in path.parts else code
        if to_message := _MESSAGES.get(kind):
            message, hint = to_message(one)
        else:
            message, hint = f"{one['msg'][:1].lower()}{one['msg'][1:]}{_found(value)}", ""
        issues.append(Issue(code=code, file=file, line=line, json_path=json_path(loc), message=message, hint=hint))
    return issues


def json_path(loc: tuple[int | str, ...]) -> str:
    """`("conversations", 0, "images", 3)` as `$.conversations[0].images[3]`; odd keys are quoted."""
    return "$" + "".join(_path_step(step) for step in loc)


def short_repr(value: object) -> str:
    """A short, one-line, `repr`-like form of any JSON value: long text is cut, containers are only named."""
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list | tuple):
        return "a list"
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, int) and value.bit_length() > 200:
        return "a huge number"
    text = repr(value[: _MAX_SHOWN + 1] if isinstance(value, str) else value)
    return text if len(text) <= _MAX_SHOWN else text[: _MAX_SHOWN - 3] + "..."


def truncated_repr(value: object) -> str:
    """A value for an error message, cut at 60 characters."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def list_keys(keys: Iterable[object]) -> str:
    """The first 12 keys of an object for an error message, sorted, long and unprintable ones quoted and cut."""
    names = sorted(map(str, keys))[:12]
    return ", ".join(name if name.isprintable() and len(name) <= 60 else truncated_repr(name) for name in names)


def quote_path(path: str) -> str:
    """A path on one line, whole up to 400 characters: a person has to find the file. An image in it is cut."""
    longest = _MAX_SHOWN if path.startswith("data:") else _MAX_PATH
    text = repr(path[:longest])
    return text if len(text) <= longest else text[: longest - 3] + "..."


def duplicate_key_paths(raw: bytes) -> Iterator[tuple[str, str]]:
    """`(path of the object, key)` of each key that occurs twice in one object of valid JSON.

    JSON readers keep the last one silently, so a record could lose half of its answer.
    """
    try:
        yield from _walk_repeated("$", json.loads(raw, object_pairs_hook=_Object))
    except (ValueError, RecursionError):
        return  # not JSON, or deeper than any record: reported elsewhere


def _found(value: object) -> str:
    return f" (found {short_repr(value)})"


def _must_be(what: str) -> Callable[[ErrorDetails], tuple[str, str]]:
    return lambda one: (f"must be {what}{_found(one['input'])}", "")


def _missing(one: ErrorDetails) -> tuple[str, str]:
    has = ", ".join(short_repr(key) for key in list(one["input"])[:8]) if isinstance(one["input"], dict) else ""
    null = "Write null where there is no answer" if one["loc"][-1] == "assistant" else ""
    return f"required key is missing (found {has or 'no keys'})", null


def _unknown_key(one: ErrorDetails) -> tuple[str, str]:
    if (key := str(one["loc"][-1])) in _KEYS:
        return "unknown key", f"It belongs in {'the record itself' if len(one['loc']) > 1 else 'a turn'}"
    close = _close_key(key)
    return "unknown key", f"Did you mean {close!r}?" if close else "Remove it"


@lru_cache(1024)  # a misspelt key is misspelt in every row
def _close_key(key: str) -> str | None:
    return next(iter(difflib.get_close_matches(key[:_MAX_SHOWN], _KEYS, n=1)), None)


def _rule(one: ErrorDetails) -> tuple[str, str]:
    value, rule = one["input"], str(one["ctx"]["error"])[:200]  # a rule may quote text of any length
    return rule + (_found(value) if isinstance(value, str) else ""), ""


_MESSAGES: dict[str, Callable[[ErrorDetails], tuple[str, str]]] = {
    "missing": _missing,
    "extra_forbidden": _unknown_key,
    "too_short": lambda one: (f"must hold at least {one['ctx']['min_length']} item (found an empty list)", ""),
    "value_error": _rule,
    "string_type": _must_be("a string"),
    "string_unicode": lambda one: ("text holds a lone surrogate, which is not valid Unicode", ""),
    "int_type": _must_be("a whole number"),
    "greater_than_equal": _must_be("0 or more"),
    "tuple_type": _must_be("a list"),
    "model_type": _must_be("an object"),
}


def _path_step(step: int | str) -> str:
    if isinstance(step, int):
        return f"[{step}]"
    if len(step) > _MAX_SHOWN:
        step = f"{step[:_MAX_SHOWN]}..."
    return f".{step}" if _PLAIN_KEY.fullmatch(step) else f"[{json.dumps(step)}]"


class _Object(dict[str, Any]):
    """A JSON object that remembers the keys it was given twice."""

    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        super().__init__(pairs)
        counts = Counter(key for key, _ in pairs) if len(self) < len(pairs) else {}
        self.repeated = [key for key, count in counts.items() if count > 1]


def _walk_repeated(path: str, value: object) -> Iterator[tuple[str, str]]:
    if isinstance(value, _Object):
        yield from ((path, key) for key in value.repeated)
        for key, inner in value.items():
            yield from _walk_repeated(path + _path_step(key), inner)
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _walk_repeated(f"{path}[{index}]", inner)
