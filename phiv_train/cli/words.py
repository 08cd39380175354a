"""Words of a command line as other trainers take them: one line that says how phiv does, before tyro sees them.

read_words(["--num_train_epochs", "2.0"], types, "phiv-train")     # ["--num_train_epochs", "2"]
read_words(["--lr", "1e-4"], types, "phiv-train")                  # UsageError: ... Use --learning_rate X
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, get_args, get_origin

from phiv_schemas.errors import UsageError
from phiv_train.spellings import find_setting

_SWITCH_WORDS = dict.fromkeys(("true", "1", "yes", "on"), True) | dict.fromkeys(("false", "0", "no", "off"), False)


def read_words(words: Sequence[str], types: Mapping[str, Any], program: str) -> list[str]:
    """`words` for flags of these `types` by name. UsageError for another trainer's flag, a switch with a value, and
    where a number is needed for what is none."""
    read: list[str] = []
    for i, word in enumerate(words):
        if word.startswith("--"):
            flag, equals, value = word.partition("=")
            name, given = _name(flag), value or "".join(words[i + 1 : i + 2])
            if setting := find_setting(name, types):
                raise UsageError(flag, f"is no flag of {program}", f"Use {setting}")
            if types.get(name) is bool and (wanted := _SWITCH_WORDS.get(given.lower())) is not None:
                off = f", or pass --no_{name}" if f"no_{name}" in types else ""
                hint = f"Pass {flag} alone" if wanted else f"Leave it out{off}"
                raise UsageError(flag, f"is a switch and takes no value (found {given!r})", hint)
            read.append(flag + equals + (_number(flag, value, types) if value else ""))
        else:
            read.append(_number(words[i - 1], word, types) if i else word)
    return read


def _number(flag: str, value: str, types: Mapping[str, Any]) -> str:
    """`value` as the flag's type reads it, 2.0 as 2. UsageError for what is no number where one is needed."""
    kind = types.get(_name(flag))  # here without `| None` and without what annotates it
    if type(None) in get_args(kind):
        kind = next(one for one in get_args(kind) if one is not type(None))
    kind = get_args(kind)[0] if get_origin(kind) is Annotated else kind
    if kind not in (int, float) or value == "None":
        return value
    what = "a whole number" if kind is int else "a number"
    try:
        number = float(value)
    except ValueError as error:
        raise UsageError(flag, f"must be {what} (found {value!r})") from error
    if kind is float or value.lstrip("+-").isdecimal():
        return value
    if not number.is_integer():
        hint = "For a part of an epoch use --max_steps" if "epochs" in flag else ""
        raise UsageError(flag, f"must be {what} (found {value!r})", hint)
    return str(int(number))


def _name(flag: str) -> str:
    return flag.removeprefix("--").replace("-", "_")
