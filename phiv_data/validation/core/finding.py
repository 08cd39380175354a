"""What rules are given and what they say: the seams of a validation.

A record rule is a pure function of a record, an image rule of a decoded image, a row rule of a record with what is
known of its images; rules over many rows are `keys.KeyRule` and `tallies.Tally`. All are listed in `rule_set`. A rule
says what is wrong and where in the record; the walker adds file and line.

    >>> def no_question(conversation):
    ...     for t, turn in enumerate(conversation.turns):
    ...         if not turn.user.strip():
    ...             yield Found("PV210", f"$.conversations[{t}].user", "asks nothing")
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from phiv_data.media.images import MAX_PIXELS
from phiv_schemas import RULES, Conversation, Issue
from phiv_schemas.rules import Severity

if TYPE_CHECKING:
    from phiv_data.media.images import Whole


@dataclass(frozen=True, slots=True)
class Found:
    """One finding of the rule `code`; `json_path` is None where it is about a whole record, file or image.

    Codes PV900 to PV999 are for rules of your own. `severity` is the rule's usual one by default, else "error".
    """

    code: str
    json_path: str | None
    message: str
    hint: str = ""
    severity: Severity | None = None

    def at(self, file: str, line: int | None = None, json_path: str | None = None) -> Issue:
        """The finding as an issue. `json_path` stands in where it has none."""
        rule = RULES.get(self.code)
        severity = self.severity or (rule.severity if rule else "error")
        return Issue(
            code=self.code, severity=severity, file=file, line=line,
            json_path=self.json_path or json_path, message=self.message, hint=self.hint,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Opened:
    """An image as image rules see it: its path, its bytes, and what they decode to."""

    path: str
    data: bytes
    whole: Whole


@dataclass(slots=True)
class ImageFacts:
    """What is known of one image. Without `deep` nothing is: all fields are empty, but for what a shard says.

    `size` is that of the upright image, None where it is broken; `sha256` the 32 bytes of the file's digest;
    `found` what is wrong with it, told at every use. `declared`: the size that its shard says it has. `strength` and
    `look` are what it looks like (`looks.look_of`), where splits are compared.
    """

    size: tuple[int, int] | None = None
    format: str = ""
    sha256: bytes = b""
    found: tuple[Found, ...] = ()
    declared: tuple[int, int] | None = None
    strength: int = 0
    look: bytes = b""


class RowContext(msgspec.Struct, gc=False):  # made for every row: a third of the time of a dataclass
    """A good record and where it stands. `images` are in the order of `conversation.image_paths`, or empty.

    Empty: images were not looked at, since there is no folder of images.
    """

    file: str
    line: int
    split: str
    conversation: Conversation
    images: tuple[ImageFacts, ...] = ()


RecordRule = Callable[[Conversation], Iterable[Found]]
ImageRule = Callable[[Opened], Iterable[Found]]
RowRule = Callable[[RowContext], Iterable[Found]]
"""Asked on demand (`Settings.row_rules`); it goes to worker processes, so it can be pickled. One that also counts over
all rows is a `tallies.CountingRule`."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What a validation looks at. `ignore` are codes that are not told; `row_rules` are asked beside the usual ones.

    Images of more than `max_pixels` are not decoded, but told.
    """

    deep: bool = True
    images: bool = True
    ignore: frozenset[str] = frozenset()
    row_rules: tuple[RowRule, ...] = ()
    max_issues: int = 1000
    max_pixels: int = MAX_PIXELS
