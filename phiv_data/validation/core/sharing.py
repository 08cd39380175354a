"""What the splits of a dataset share on purpose, by the `source` of its records: `Sharing`, looked up.

    >>> table = SharingTable(manifest.sharing)
    >>> table.of("ucf101").group_of("val/Archery/v_Archery_g21_c04.0.jpg")
    'archery_g21'

A manifest speaks for all records of its dataset. Without one, or where it declares nothing, the installed converter
with the source's name is asked: the attribute `sharing` of its options class (entry point group `phiv.converters`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import entry_points

from phiv_data.utils.plugins import CONVERTERS, load_plugins
from phiv_schemas import Sharing

_MAX_SOURCES = 4096


@dataclass(frozen=True, slots=True)
class KnownSharing:
    """A `Sharing`, ready for the rules: what a group is called, as bytes, and the compiled pattern of its names."""

    shares_images: bool = False
    shares_similar: bool = False
    group: bytes = b""
    pattern: re.Pattern[str] | None = None

    def group_of(self, image_path: str) -> str:
        """The group of an image; "" where it has none."""
        match = self.pattern.search(image_path) if self.pattern else None
        return (match[1] or "").lower() if match else ""


@dataclass(frozen=True, slots=True)
class SharingTable:
    """Source to `KnownSharing`; `declared` is the manifest's, for every source."""

    declared: Sharing | None = None
    _known: dict[str, KnownSharing] = field(default_factory=dict, compare=False, repr=False)

    def of(self, source: str) -> KnownSharing:
        """What records of this source share."""
        if (known := self._known.get(source)) is not None:
            return known
        known = _NOTHING
        name = source.removesuffix("-synthetic")
        if sharing := self.declared or (_load(name) if name in _names() else None):
            pattern = re.compile(sharing.group_pattern) if sharing.group_pattern else None
            shares_similar = bool(sharing.shares)  # images that are shared are similar ones too
            known = KnownSharing("images" in sharing.shares, shares_similar, sharing.group.encode(), pattern)
        if len(self._known) >= _MAX_SOURCES:
            self._known.clear()
        self._known[source] = known
        return known


_NOTHING = KnownSharing()


@cache
def _names() -> frozenset[str]:
    """Read once: each time takes as long as checking a thousand records."""
    return frozenset(entry_points(group=CONVERTERS).names)


@cache
def _load(name: str) -> Sharing | None:
    """What the installed converter of this name declares; None where it is broken."""
    sharing = getattr(load_plugins(CONVERTERS, name).loaded.get(name), "sharing", None)
    return sharing if isinstance(sharing, Sharing) else None
