"""Fields of a row of an external format, taken one by one; the parsed row; the reject of a row.

Codes: `bad-row` (a field missing or of a wrong type), `unsupported-media` (video, audio, tools), `unsupported-row` (a
kind of row that phiv has no place for: an answer marked as bad, plain text to continue).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from phiv_data.media.reject import RejectInput
from phiv_data.storage.record_errors import truncated_repr
from phiv_schemas.conversation import check_name

MEDIA = {"video", "videos", "audio", "audios", "tools", "functions", "tool_calls", "function_call", "tool_call_id"}


class RejectRow(RejectInput):
    """A row that phiv cannot use. `path` is where in it, such as `messages[2].content`; "" for the whole row."""

    def __init__(self, where: str, code: str, reason: str, path: str = "") -> None:
        super().__init__(where, code, reason)
        self.args, self.path = (where, code, reason, path), path

    @property
    def message(self) -> str:
        """The reason without its path."""
        return self.reason.removeprefix(f"{self.path} ")


@dataclass(frozen=True, slots=True)
class TurnPaths:
    """JSON paths of the parts of a turn in its row, such as `messages[2].content[0]`; "" where not known."""

    user: str = ""
    assistant: str = ""
    images: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ParsedTurn:
    """A turn as another format has it; `images` are its references: paths, URLs, `data:` URIs."""

    images: tuple[str, ...]
    user: str
    assistant: str | None
    image_offsets: tuple[int, ...] | None = None
    paths: TurnPaths = field(default=TurnPaths(), compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class ParsedRow:
    """A row as turns. `unread` names the keys that hold something phiv has no place for.

    `system_path` is the path of the system prompt, as in `TurnPaths`.
    """

    turns: tuple[ParsedTurn, ...]
    system: str | None = None
    id: str | None = None
    source: str | None = None
    unread: tuple[str, ...] = ()
    system_path: str = field(default="", compare=False, repr=False)

    @property
    def image_refs(self) -> tuple[str, ...]:
        """Every image of the row, in order, repeats included."""
        return tuple(ref for turn in self.turns for ref in turn.images)


@dataclass(slots=True)
class Fields:
    """The keys of a row that are not taken yet, or of the object at `path` in it."""

    left: dict[str, Any]
    where: str
    path: str = ""
    unread: set[str] = field(default_factory=set)

    def take(self, *names: str) -> Any:
        """The value of the one of `names` that holds something; None where none does."""
        left = self.left
        found = [name for name in names if name in left]
        values = [left.pop(name) for name in found]
        if len(found) < 2:
            return values[0] if values else None
        full = [i for i, value in enumerate(values) if not is_empty(value)]
        if len(full) > 1:
            raise self.bad(f"both {found[full[0]]!r} and {found[full[1]]!r} hold something")
        return values[full[0]] if full else next((value for value in values if value is not None), None)

    def key(self, *names: str) -> str:
        """The one of `names` that `take` would give the value of; the first one where none is there."""
        left = self.left
        found = [name for name in names if name in left]
        if len(found) < 2:
            return found[0] if found else names[0]
        return next((name for name in found if not is_empty(left[name])), found[0])

    def text(self, value: Any, path: str) -> str:
        """`value` if it is text that can be written as UTF-8."""
        if not isinstance(value, str):
            raise self.bad(f"{path} is not text (found {truncated_repr(value)})", path)
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise self.bad(f"{path} holds half a surrogate pair at {error.start}", path) from error
        return value

    def take_id(self, *names: str) -> str | None:
        """An id, text or integer, as text; any other value is left, and so counted as unread."""
        for name in names:
            value = self.left.get(name)
            if type(value) in (str, int) and value != "":
                return self.text(str(self.left.pop(name)), name)
        return None

    def take_source(self) -> str | None:
        """`source`, where it can be the source of a record."""
        value = self.left.get("source")
        try:
            name = check_name(value) if isinstance(value, str) else None
        except ValueError:
            return None
        if name is not None:
            del self.left["source"]
        return name

    def refuse_media(self) -> None:
        """RejectInput for keys that hold video, audio or tools; empty ones are nothing."""
        if MEDIA.isdisjoint(self.left):
            return
        for name in sorted(self.left.keys() & MEDIA):
            if not is_empty(self.left.pop(name)):
                what = f"has {name!r}: phiv reads text and images only"
                raise RejectRow(self.where, "unsupported-media", what, f"{self.path}.{name}".lstrip("."))

    def all_unread(self) -> tuple[str, ...]:
        """What was left out: keys of messages and images, and keys of the row that nobody took."""
        if not self.left and not self.unread:
            return ()
        return tuple(sorted(self.unread | {name for name, value in self.left.items() if not is_empty(value)}))

    def bad(self, reason: str, path: str = "") -> RejectRow:
        """The error of the field at `path` that is not what it should be."""
        return RejectRow(self.where, "bad-row", reason, path)


def fields_of(record: Any, where: str) -> Fields:
    """The fields of a row. RejectInput `bad-row` where it is no object."""
    if not isinstance(record, dict):
        raise RejectRow(where, "bad-row", f"not an object (found {truncated_repr(record)})")
    return Fields(dict(record), where)


def is_empty(value: Any) -> bool:
    """None, and empty text, lists and objects (and lists of nothing else): as tables fill a missing cell."""
    if isinstance(value, list):
        return all(is_empty(item) for item in value)
    return value is None or value in ("", {})
