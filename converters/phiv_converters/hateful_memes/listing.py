"""The inputs of Hateful Memes: memes by id, each once, although the official dev and test files overlap."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

from phiv_converters.base import row_digest
from phiv_converters.hateful_memes.layouts import Meme, MemeLayout, MemeLocation
from phiv_converters.val_split import Shares, val_warning
from phiv_data.convert.base import Duplicate, Inputs, Item
from phiv_data.media.reject import RejectInput
from phiv_schemas import SourceError


def list_memes(layout: MemeLayout, shares: Shares) -> Inputs:
    """Items by id; a row that cannot be used is one of its own, with the reason as payload."""
    listing = MemeListing(layout)
    for location, meme in layout.rows():
        if isinstance(meme, RejectInput):
            listing.rejects.append((layout.splits[location.file], location, meme))
        else:
            listing.add(location, meme)
    if not any(layout.has_image(location, meme) for location, meme in listing.memes.values()):
        found = f"{len(listing.memes) + len(listing.rejects)} rows in {layout.description}"
        hint = "Pass the official img/ folder or its archive as --images"
        raise SourceError(layout.name, f"no row has its image ({found})", hint)
    split_of, warnings = listing.choose_splits(shares)
    items = []
    for (split, key), (location, meme) in listing.memes.items():
        split = split_of.get(key, split) if split == "train" else split
        content: tuple[bytes | Path, ...] = (row_digest(meme), *layout.image_files(location, meme))
        items.append(Item(split, key, content, location, layout.size_bytes(location, meme)))
    for split, location, reject in listing.rejects:
        items.append(Item(split, layout.fallback_key(location), str(reject).encode(), reject, location.length))
    items.sort(key=lambda item: item.key)
    return Inputs(items, warnings=(*layout.warnings, *warnings), duplicates=tuple(listing.duplicates))


@dataclass
class MemeListing:
    """Memes by split and key, in the order of the files; `rejects` are rows that cannot be used."""

    layout: MemeLayout
    memes: dict[tuple[str, str], tuple[MemeLocation, Meme]] = field(default_factory=dict)
    rejects: list[tuple[str, MemeLocation, RejectInput]] = field(default_factory=list)
    duplicates: list[Duplicate] = field(default_factory=list)
    split_of: dict[str, tuple[str, MemeLocation]] = field(default_factory=dict)

    def add(self, location: MemeLocation, meme: Meme) -> None:
        """Add one row. Of a meme given twice, the row with a label is kept."""
        split, where = self.layout.splits[location.file], self.layout.where
        other, before = self.split_of.setdefault(meme.key, (split, location))
        if other != split:
            what = f"meme {meme.key} is in {other} ({where(before)}) and in {split} ({where(location)})"
            raise SourceError(self.layout.name, what, "Give the files that share memes to one split")
        first, kept = self.memes.setdefault((split, meme.key), (location, meme))
        if first == location:
            return
        if meme.text != kept.text or (None not in (meme.label, kept.label) and meme.label != kept.label):
            what = f"meme {meme.key} is on {where(first)} too, with another text or label"
            self.rejects.append((split, location, RejectInput(where(location), "bad-row", what)))
        elif kept.label is None and meme.label is not None:
            self.memes[split, meme.key] = (location, meme)
            self.duplicates.append(Duplicate(where(location), where(first)))
        else:
            self.duplicates.append(Duplicate(where(first), where(location)))

    def choose_splits(self, shares: Shares) -> tuple[dict[str, str], list[str]]:
        """The split of each meme of train, by its image; and a warning about that."""
        shares.check_source(self.layout.splits)
        train = [(key, *found) for (split, key), found in self.memes.items() if split == "train"]
        if "val" in self.layout.splits or not shares.splits_made() or not train:
            return {}, []
        positions = {}
        for key, location, meme in train:
            try:
                group = hashlib.sha256(self.layout.image(location, meme)[1]).hexdigest()
            except RejectInput:  # `draft` rejects it too
                group = meme.key
            positions[key] = shares.position(group)
        limits = shares.limits(positions.values())
        split_of = {key: limits.split_of(position) for key, position in positions.items()}
        return split_of, [val_warning(split_of.values(), "images")]
