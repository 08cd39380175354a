"""What rules are given and what they report: findings, record rules, image rules, row rules, and the settings.

A record rule checks one record, an image rule one decoded image, a row rule one record with what is known of its
images; rules over many rows are `key_index.GroupRule` and `aggregators.Aggregator`. All built-in ones are listed in
`rules.registry`. A rule reports what is wrong and where in the record; its caller adds file and line.

    >>> def find_unasked(conversation):
    ...     for t, turn in enumerate(conversation.turns):
    ...         if not turn.user.strip():
    ...             yield Finding("PV210", f"$.conversations[{t}].user", "asks nothing")
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from phiv_data.media.images import MAX_PIXELS
from phiv_data.validation.core.sharing import SharingTable
from phiv_schemas import RULES, Conversation, Issue
from phiv_schemas.rules import Severity

if TYPE_CHECKING:
    from phiv_data.media.images import Whole


@dataclass(frozen=True, slots=True)
class Finding:
    """What the rule `code` found; `json_path` is None where it is about a whole record, file or image.

    Codes PV900 to PV999 are for rules of your own. `severity` is the rule's usual one by default, else "error".
    """

    code: str
    json_path: str | None
    message: str
    hint: str = ""
    severity: Severity | None = None

    def at(self, file: str, line: int | None = None, json_path: str | None = None) -> Issue:
        """The finding as an issue at a line of a file. `json_path` is used where the finding has none."""
        rule = RULES.get(self.code)
        severity = self.severity or (rule.severity if rule else "error")
        return Issue(
            code=self.code, severity=severity, file=file, line=line,
            json_path=self.json_path or json_path, message=self.message, hint=self.hint,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class DecodedImage:
    """An image as image rules see it: its path, its bytes, and what they decode to."""

    path: str
    data: bytes
    whole: Whole


@dataclass(slots=True)
class ImageFacts:
    """What is known of one image. Without `deep` nothing is: all fields are empty, except what a shard declares.

    `size` is that of the upright image, None where it is broken; `sha256` the 32 bytes of the file's digest;
    `found` what is wrong with it, reported at every use. `declared_size` is the one in its shard. `detail` and `phash`
    are its perceptual hash (`imaging.perceptual_hash`), where splits are compared.
    """

    size: tuple[int, int] | None = None
    format: str = ""
    sha256: bytes = b""
    found: tuple[Finding, ...] = ()
    declared_size: tuple[int, int] | None = None
    detail: int = 0
    phash: bytes = b""


SHARING = SharingTable()
"""What installed converters declare: for records without a manifest."""


class RowContext(msgspec.Struct, gc=False):  # made for every row: a third of the time of a dataclass
    """A good record and its location. `images` are in the order of `conversation.image_paths`, or empty.

    Empty: images were not checked, since there is no folder of images. `sharing` says what its dataset shares between
    splits on purpose.
    """

    file: str
    line: int
    split: str
    conversation: Conversation
    images: tuple[ImageFacts, ...] = ()
    sharing: SharingTable = SHARING


@dataclass(frozen=True, slots=True)
class RecordRule:
    """A rule about one record: `find` reports findings of `codes`.

    `needs_unusual_text`: it can find nothing in a record whose texts are printable ASCII without markup, role names
    and escapes (`fast_parse.is_plain`), so it is not called for one. Such are most records.
    """

    find: Callable[[Conversation], Iterable[Finding]]
    codes: tuple[str, ...]
    needs_unusual_text: bool = False


ImageRule = Callable[[DecodedImage], Iterable[Finding]]
RowRule = Callable[[RowContext], Iterable[Finding]]
"""Called on demand (`Settings.row_rules`). It is sent to worker processes, so it must be picklable. One that also
counts over all rows is an `aggregators.AggregatingRule`."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What a validation checks. Findings of the codes in `ignore` are left out; `row_rules` are called beside the
    built-in ones.

    Images of more than `max_pixels` are reported and not decoded. `sharing` is what the dataset's splits share on
    purpose.
    """

    deep: bool = True
    images: bool = True
    ignore: frozenset[str] = frozenset()
    row_rules: tuple[RowRule, ...] = ()
    max_issues: int = 1000
    max_pixels: int = MAX_PIXELS
    sharing: SharingTable = SHARING


_STEP = re.compile(r"\.([^.\[\]]+)|\[(\d+)\]")


def value_at(record: Any, json_path: str) -> Any:
    """What a record holds at a path such as `$.conversations[0].user`; None where there is nothing."""
    for name, number in _STEP.findall(json_path):
        try:
            record = record[name] if name else record[int(number)]
        except (KeyError, IndexError, TypeError):
            return None
    return record
