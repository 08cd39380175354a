"""The inputs of NLVR2: sentences by identifier or pair, each once, and the directories of train that become val."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from phiv_converters.base import row_digest
from phiv_converters.nlvr2.layouts import Nlvr2Layout, Nlvr2Row, SentenceLocation
from phiv_data.convert.base import Duplicate, Inputs, Item
from phiv_data.media.reject import RejectInput
from phiv_schemas import SourceError, UsageError


def list_sentences(layout: Nlvr2Layout, *, by_pair: bool, val_directories: int, source: str) -> Inputs:
    """Items by identifier or pair; a row that cannot be used is one of its own, with the reason as payload."""
    listing = SentenceListing(layout, by_pair)
    for row in layout.rows():
        listing.add(row)
    if not listing.num_with_images:
        found = f"{len(listing.locations) + len(listing.rejects)} rows in {layout.description}"
        hint = "Pass the folders or archives with the images as --images"
        raise SourceError(source, f"no row has its images ({found})", hint)
    val, warnings = listing.choose_val(val_directories)
    items = []
    for (name, key), locations in listing.locations.items():
        image_set = "-".join(key.split("-")[:2])  # train-10171 of train-10171-0 and train-10171-0-1
        split = "val" if name == "train" and image_set in val else name
        items.append(Item(split, key, tuple(listing.contents[name, key]), tuple(locations), listing.sizes[name, key]))
    items += [Item(name, key, str(reject).encode(), reject, size) for name, key, size, reject in listing.rejects]
    items.sort(key=lambda item: item.key)
    return Inputs(items, warnings=tuple(warnings), duplicates=tuple(listing.duplicates))


@dataclass
class SentenceListing:
    """Rows in the order of the files: `locations` of usable ones, by set and key; `rejects` of the others."""

    layout: Nlvr2Layout
    by_pair: bool
    num_with_images: int = 0
    locations: dict[tuple[str, str], list[SentenceLocation]] = field(default_factory=dict)
    contents: dict[tuple[str, str], list[bytes | Path]] = field(default_factory=dict)
    sizes: dict[tuple[str, str], int] = field(default_factory=dict)
    rejects: list[tuple[str, str, int, RejectInput]] = field(default_factory=list)
    duplicates: list[Duplicate] = field(default_factory=list)
    directories: dict[str, set[str]] = field(default_factory=dict)
    first_rows: dict[tuple[str, str], tuple[SentenceLocation, bytes]] = field(default_factory=dict)

    def add(self, row: Nlvr2Row) -> None:
        """Add one row: to the inputs, to the duplicates or to the rejects."""
        example, where = row.example, self.layout.where
        if not isinstance(example, RejectInput) and example.identifier:
            content = row_digest(example.sentence, example.label)
            first, before = self.first_rows.setdefault((row.set_name, example.identifier), (row.location, content))
            if first != row.location and before == content:
                self.duplicates.append(Duplicate(where(first), where(row.location)))
                return
            if first != row.location:
                what = f"{example.identifier!r} is on {where(first)} too, with another sentence or label"
                example = RejectInput(where(row.location), "bad-row", what)
        if isinstance(example, RejectInput):
            self.rejects.append((row.set_name, row.key, row.location.length, example))
            return
        own = (example.pair or row.group) if self.by_pair else (example.identifier or row.key)
        key = (row.set_name, own)
        self.locations.setdefault(key, []).append(row.location)
        content = self.contents.setdefault(key, [*self.layout.image_files(row.location, example)])
        content.append(row_digest(example))
        self.sizes[key] = self.sizes.get(key, 0) + self.layout.size_bytes(row.location, example)
        self.num_with_images += self.layout.has_images(example)
        if row.set_name == "train":
            directories = self.directories.setdefault(example.image_set, set())
            directories |= {example.directory} if example.directory else set()

    def choose_val(self, count: int) -> tuple[set[str], list[str]]:
        """The image sets of the `count` highest directories of train, each set in val as a whole; and warnings."""
        found = {name for directories in self.directories.values() for name in directories}
        names = sorted(found, key=lambda name: (int(name) if name.isdecimal() else -1, name))
        if not count or not self.directories:
            return set(), []
        if not names:
            return set(), ["train has no `directory` buckets: no val split was made of it"]
        if count >= len(names):
            what = f"{count} would leave nothing to train on (found {len(names)} directories)"
            raise UsageError("--val_directories", what, "Pass fewer; 0 makes no val split")
        val = set(names[len(names) - count :])
        return {image_set for image_set, directories in self.directories.items() if directories & val}, []
