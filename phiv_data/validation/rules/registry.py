"""Every rule that a validation asks, in one list of each kind.

RECORD_RULES   Conversation -> Iterable[Found]     one record's text: text.py
IMAGE_RULES    Opened -> Iterable[Found]           one decoded image: image_rules.py
KEY_RULES      equal things in rows far apart: repeats.py, leakage.py
INDEX_RULES    things that are close to each other: near.py
TALLIES        counts over all rows: tallies.py, labels.py
"""

from __future__ import annotations

from collections.abc import Callable

from phiv_data.validation.core import aggregators as tallies
from phiv_data.validation.core.finding import ImageRule, RecordRule
from phiv_data.validation.core.key_index import IndexRule, KeyRule
from phiv_data.validation.rules import duplicates as repeats
from phiv_data.validation.rules import image as image_rules
from phiv_data.validation.rules import labels, leakage, text
from phiv_data.validation.rules import near_duplicates as near

RECORD_RULES: list[RecordRule] = [
    text.blanks,  # PV210 to PV212
    text.marks,  # PV215, PV220 to PV225, PV401
    image_rules.twice,  # PV117
]

PLAIN_RULES: list[RecordRule] = [text.blanks, image_rules.twice]
"""Those of RECORD_RULES that may find something in a record whose line is plain (`fast.quick`)."""

IMAGE_RULES: list[ImageRule] = [
    image_rules.suffix,  # PV110
    image_rules.too_small,  # PV112
    image_rules.turned,  # PV114
    image_rules.animated,  # PV115
    image_rules.mode,  # PV116
]

KEY_RULES: dict[str, KeyRule] = {
    "id": repeats.IDS,  # PV201
    "content": repeats.CONTENT,  # PV203, PV214
    "image_bytes": leakage.IMAGES,  # PV240
    "record": leakage.RECORDS,  # PV242
    "group": leakage.GROUPS,  # PV243
    **near.KEYS,
}
"""Name to rule. A name stands for a file of keys on disk."""

INDEX_RULES: list[IndexRule] = [near.near_leaks]  # PV241

TALLIES: dict[str, Callable[[], tallies.Tally]] = {
    "unlabeled": tallies.Unlabeled,  # PV403
    "labels": labels.Labels,  # PV230 to PV233
}
"""Name to how a new one is made."""
