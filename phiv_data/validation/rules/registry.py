"""Every built-in rule of a validation, in one list of each kind.

RECORD_RULES   one record: `RecordRule`, called on every record unless it says otherwise
IMAGE_RULES    one decoded image: DecodedImage -> Iterable[Finding]
GROUP_RULES    equal things in rows far apart: `GroupRule`
INDEX_RULES    similar things in rows far apart: functions of the whole `KeyIndex`
AGGREGATORS    counts over all rows: `Aggregator`
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from phiv_data.validation.core.aggregators import Aggregator
from phiv_data.validation.core.finding import Finding, ImageRule, RecordRule
from phiv_data.validation.core.key_index import GroupRule, IndexRule
from phiv_data.validation.rules import duplicates, image, labels, leakage, near_copies, near_duplicates, text
from phiv_schemas import Conversation

RECORD_RULES: tuple[RecordRule, ...] = (
    RecordRule(text.find_blank_text, ("PV210", "PV211", "PV212")),
    RecordRule(text.find_unusual_text, tuple(text.TEXT_RULES), needs_unusual_text=True),
    RecordRule(duplicates.find_repeated_images, ("PV117",)),
)

RecordFinder = Callable[[Conversation], Iterable[Finding]]
_EVERY_RECORD: tuple[RecordFinder, ...] = tuple(rule.find for rule in RECORD_RULES)
_PLAIN_RECORDS: tuple[RecordFinder, ...] = tuple(rule.find for rule in RECORD_RULES if not rule.needs_unusual_text)


def record_finders(*, is_plain: bool = False) -> tuple[RecordFinder, ...]:
    """The functions to call on a record; `is_plain`: its line contains no unusual text (`fast_parse.is_plain`)."""
    return _PLAIN_RECORDS if is_plain else _EVERY_RECORD


IMAGE_RULES: tuple[ImageRule, ...] = (
    image.check_suffix,  # PV110
    image.check_size,  # PV112
    image.check_orientation,  # PV114
    image.check_frames,  # PV115
    image.check_color_mode,  # PV116
)

GROUP_RULES: dict[str, GroupRule] = {
    "id": duplicates.IDS,  # PV201
    "content": duplicates.CONTENT,  # PV203, PV214
    "image_bytes": leakage.IMAGES,  # PV240
    "record": leakage.RECORDS,  # PV242
    "group": leakage.GROUPS,  # PV243
    **near_duplicates.KEYS,
    **near_copies.KEYS,
}
"""Name to rule. A name is also that of a file of keys on disk."""

INDEX_RULES: tuple[IndexRule, ...] = (
    near_duplicates.find_near_duplicates,  # PV241
    near_copies.find_near_copies,  # PV244
)

AGGREGATORS: dict[str, Callable[[], Aggregator]] = {
    "unlabeled": labels.UnlabeledRows,  # PV403
    "unnamed": labels.UnnamedRows,  # PV404
    "labels": labels.LabelCounts,  # PV230 to PV233
}
"""Name to how a new one is made."""
