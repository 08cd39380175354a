"""Fixes of one record that are safe and can be undone: pure functions of plain JSON values.

    >>> fixed, changes = fix({"id": "a", "source": "s", "conversations": [{"user": "Who?"}]})
    >>> [str(change) for change in changes]
    ['$.conversations[0].images: (absent) -> []', '$.conversations[0].assistant: (absent) -> null', ...]
    >>> undo(fixed, changes)                     # the record as it was, keys in their old order
    {'id': 'a', 'source': 's', 'conversations': [{'user': 'Who?'}]}

The fixes run one after the other, each on what the one before left:

    names     a row without `id` or `source` gets those that phiv-convert jsonl would give it
    missing   a turn without `images` gets `[]`, one without `assistant` gets `null` (no answer)
    offsets   images and their `image_offsets` in the order of the text
    nfc       a letter and its accent become the one character that Unicode has for them (PV224)
    suffix    an image's path gets the suffix of the file's real format (PV110): see `images`
    order     keys in the order of the format

No text is cut or guessed, no row moved or dropped: the order of rows can be data.
"""

from __future__ import annotations

import copy
import json
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise, zip_longest
from typing import Any, TypeGuard

from phiv_data.storage.record_errors import json_path
from phiv_data.validation.rules.text import COMPOSES, check_composition
from phiv_schemas import Conversation, Turn

Steps = tuple[str | int, ...]
Edit = tuple[Steps, Any]
"""Where in a record, and the new value there."""
RenamedPaths = Mapping[str, str]
"""The new path of each image that is renamed."""


_MAX_SHOWN = 60


class Absent:
    """The value of a key that is not there."""

    def __repr__(self) -> str:
        return "(absent)"


ABSENT = Absent()


@dataclass(frozen=True, slots=True)
class Change:
    """One edit: `before` is ABSENT where a key was added. Of `order`, both are the keys of the object."""

    fix: str
    steps: Steps
    before: Any
    after: Any

    @property
    def json_path(self) -> str:
        """Where, as in issues: `$.conversations[0].user`."""
        return json_path(self.steps)

    def __str__(self) -> str:
        """One line, with what is not ASCII escaped: composed and decomposed letters look the same.

        Long values are cut, and begin shortly before where they differ.
        """
        texts = [repr(value) if value is ABSENT else json.dumps(value) for value in (self.before, self.after)]
        first = next((i for i, chars in enumerate(zip_longest(*texts)) if len(set(chars)) > 1), 0)
        start = 0 if max(map(len, texts)) <= _MAX_SHOWN else max(0, first - _MAX_SHOWN // 3)
        before, after = (
            f"{'...' * bool(start)}{text[start : start + _MAX_SHOWN]}{'...' * (start + _MAX_SHOWN < len(text))}"
            for text in texts
        )
        return f"{self.json_path}: {before} -> {after}"


def fix(
    record: Any, renamed: RenamedPaths | None = None, names: Mapping[str, str] | None = None
) -> tuple[Any, list[Change]]:
    """A JSON value that should be a record, fixed in a copy, and what was changed. Odd values are left alone.

    `names` are the `id` and `source` that it gets where it has none.
    """
    fixed, changes = record, list[Change]()
    fixes = {"names": lambda record, _: _add_names(record, names or {})} | RECORD_FIXES
    for name, edits in fixes.items():
        found = list(edits(fixed, renamed or {}))
        if found and fixed is record:
            fixed = copy.deepcopy(record)
        changes += [Change(name, steps, _apply(fixed, name, steps, after), after) for steps, after in found]
    return fixed, changes


def undo(record: Any, changes: Sequence[Change]) -> Any:
    """The record as it was before `changes`; the one given is left as it is. Marks are before a record, not in it.

    ValueError where the record is not what the changes left: nothing that was edited since is overwritten.
    """
    record = copy.deepcopy(record)
    for change in reversed([change for change in changes if change.fix != "mark"]):
        try:
            replaced = _apply(record, change.fix, change.steps, change.before)
            fits = json.dumps(replaced) == json.dumps(change.after)  # as JSON: 1 is neither true nor 1.0
        except (LookupError, TypeError, AttributeError):  # another shape
            fits = False
        if not fits:
            raise ValueError(f"{change.json_path} is not what the fix {change.fix!r} wrote")
    return record


def _apply(record: Any, fix: str, steps: Steps, value: Any) -> Any:
    """Put the value there, and return what was there before."""
    if fix == "order":
        holder = _at(record, steps)
        before = list(holder)
        for key in value:
            holder[key] = holder.pop(key)
        return before
    holder, key = _at(record, steps[:-1]), steps[-1]
    before = holder.get(key, ABSENT) if isinstance(holder, dict) else holder[key]
    if value is ABSENT:
        del holder[key]
    else:
        holder[key] = copy.deepcopy(value)
    return before


def _at(record: Any, steps: Iterable[str | int]) -> Any:
    for step in steps:
        record = record[step]
    return record


# The fixes: each yields edits of the record it is given -------------------------------------------------------------


def _turns(record: Any) -> Iterator[tuple[Steps, dict[str, Any]]]:
    """The turns that are objects, and where."""
    turns = record.get("conversations") if isinstance(record, dict) else None
    for t, turn in enumerate(turns if isinstance(turns, list) else ()):
        if isinstance(turn, dict):
            yield ("conversations", t), turn


def _add_names(record: Any, names: Mapping[str, str]) -> Iterator[Edit]:
    if isinstance(record, dict) and "conversations" in record:  # else it is no row of this format
        yield from (((key,), value) for key, value in names.items() if key not in record)


def _add_missing_keys(record: Any, renamed: RenamedPaths) -> Iterator[Edit]:
    for at, turn in _turns(record):
        if "user" in turn:  # else it is no turn of this format
            yield from (((*at, key), value) for key, value in (("images", []), ("assistant", None)) if key not in turn)


def _sort_offsets(record: Any, renamed: RenamedPaths) -> Iterator[Edit]:
    for at, turn in _turns(record):
        offsets, images = _valid_offsets(turn), turn.get("images")
        if offsets and isinstance(images, list) and len(images) == len(offsets):
            order = sorted(range(len(offsets)), key=offsets.__getitem__)  # stable: equal offsets keep their order
            if order != list(range(len(offsets))):
                yield (*at, "images"), [images[i] for i in order]
                yield (*at, "image_offsets"), [offsets[i] for i in order]


def _valid_offsets(turn: dict[str, Any]) -> list[int] | None:
    """The image offsets of a turn, where they are positions in its text, in any order."""
    user, offsets = turn.get("user"), turn.get("image_offsets")
    if not isinstance(user, str) or not isinstance(offsets, list):
        return None
    return offsets if all(type(offset) is int and 0 <= offset <= len(user) for offset in offsets) else None


def _compose_texts(record: Any, renamed: RenamedPaths) -> Iterator[Edit]:
    if isinstance(record, dict) and _is_decomposed(record.get("system")):
        yield ("system",), compose(record["system"])
    for at, turn in _turns(record):
        user, offsets = turn.get("user"), _valid_offsets(turn)
        if _is_decomposed(user) and (offsets is not None or turn.get("image_offsets") is None):
            cuts = [0, *sorted(offsets or ()), len(user)]  # offsets stay at the same characters: nothing spans one
            parts = [compose(user[start:end]) for start, end in pairwise(cuts)]
            if (text := "".join(parts)) != user:
                yield (*at, "user"), text
                if offsets:
                    moved = {cut: len("".join(parts[:i])) for i, cut in enumerate(cuts)}
                    yield (*at, "image_offsets"), [moved[offset] for offset in offsets]
        if _is_decomposed(turn.get("assistant")):
            yield (*at, "assistant"), compose(turn["assistant"])
        answers = turn.get("answers")
        for i, answer in enumerate(answers if isinstance(answers, list) else ()):
            if _is_decomposed(answer):
                yield (*at, "answers", i), compose(answer)


def _is_decomposed(text: Any) -> TypeGuard[str]:
    return isinstance(text, str) and bool(check_composition(text))


def compose(text: str) -> str:
    """`text` with every letter and its accent as one character, where Unicode has one; nothing else is changed.

    So PV224 finds nothing more, and forms that NFC takes apart stay as they are.
    """
    done: list[str] = []
    for char in text:
        pair = unicodedata.normalize("NFC", done[-1] + char) if done and COMPOSES.match(char) else ""
        if len(pair) == 1:
            done[-1] = pair
        else:
            done.append(char)
    return "".join(done)


def _rename_images(record: Any, renamed: RenamedPaths) -> Iterator[Edit]:
    for at, turn in _turns(record):
        images = turn.get("images")
        for i, path in enumerate(images if isinstance(images, list) else ()):
            if isinstance(path, str) and path in renamed:
                yield (*at, "images", i), renamed[path]


def _sort_keys(record: Any, renamed: RenamedPaths) -> Iterator[Edit]:
    if isinstance(record, dict):
        yield from _key_order((), record, list(Conversation.model_fields))
    for at, turn in _turns(record):
        yield from _key_order(at, turn, list(Turn.model_fields))


def _key_order(at: Steps, holder: dict[str, Any], known: list[str]) -> Iterator[Edit]:
    """Nothing where there are keys that the format does not know: the line will be left as it is."""
    if holder.keys() <= set(known) and (keys := sorted(holder, key=known.index)) != list(holder):
        yield at, keys


RECORD_FIXES: dict[str, Callable[[Any, RenamedPaths], Iterator[Edit]]] = {
    "missing": _add_missing_keys,
    "offsets": _sort_offsets,
    "nfc": _compose_texts,
    "suffix": _rename_images,
    "order": _sort_keys,
}
"""Name to fix, in the order in which they run."""
