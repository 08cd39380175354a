"""The inputs of NLVR2: sentences by identifier or pair, each once, and the directories of train that become val."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from pathlib import Path

from phiv_converters.base import row_digest
from phiv_converters.nlvr2.layouts import Nlvr2Layout, Nlvr2Row, SentenceLocation
from phiv_converters.val_split import Shares, val_warning
from phiv_data.convert.base import Duplicate, Inputs, Item
from phiv_data.media.reject import RejectInput
from phiv_data.utils.groups import JoinedGroups
from phiv_schemas import SourceError, UsageError

# The official set in an image's name; the names that phiv gives to images without one have a number of eight digits.
_IMAGE_SET = re.compile(r"([A-Za-z0-9]+-\d+)-\d{1,7}-img[01]\.\w+")


def list_sentences(layout: Nlvr2Layout, *, by_pair: bool, val_directories: int, shares: Shares) -> Inputs:
    """Items by identifier or pair; a row that cannot be used is one of its own, with the reason as payload."""
    listing = SentenceListing(layout, by_pair)
    for row in layout.rows():
        listing.add(row)
    if not listing.num_with_images:
        found = f"{len(listing.locations) + len(listing.rejects)} rows in {layout.description}"
        hint = "Pass the folders or archives with the images as --images"
        raise SourceError(layout.name, f"no row has its images ({found})", hint)
    split_of, warnings = listing.choose_splits(val_directories, shares)
    items = []
    for (name, key), locations in listing.locations.items():
        split = split_of.get(key, name) if name == "train" else name
        items.append(Item(split, key, tuple(listing.contents[name, key]), tuple(locations), listing.sizes[name, key]))
    items += [Item(name, key, str(reject).encode(), reject, size) for name, key, size, reject in listing.rejects]
    items.sort(key=lambda item: item.key)
    return Inputs(items, warnings=(*layout.warnings, *warnings), duplicates=tuple(listing.duplicates))


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
        contents = self.contents.setdefault(key, [*self.layout.image_files(row.location, example)])
        contents.append(row_digest(example))
        self.sizes[key] = self.sizes.get(key, 0) + self.layout.size_bytes(row.location, example)
        self.num_with_images += self.layout.has_images(example)
        if row.set_name == "train":
            directories = self.directories.setdefault(example.image_set, set())
            directories |= {example.directory} if example.directory else set()

    def choose_splits(self, num_directories: int, shares: Shares) -> tuple[dict[str, str], list[str]]:
        """The split of each key of train, by directories or else by groups; and a warning about that."""
        keys = [key for name, key in self.locations if name == "train"]
        found = {name for directories in self.directories.values() for name in directories}
        # Of the official sets dev is a val, test1 and test2 are tests; directories are what makes a val of train.
        own = {name.rstrip("12").replace("dev", "val") for name in self.layout.sets}
        shares.check_source(own | {"val"} if found else own)
        if not num_directories:
            shares = shares._replace(val=0.0)
        if not keys or not shares.splits_made():
            return {}, []
        if not found:
            groups = self._find_groups(keys)
            positions = {group: shares.position(group) for group in groups.values()}
            limits = shares.limits(positions.values())
            split_of = {key: limits.split_of(positions[group]) for key, group in groups.items()}
            return split_of, [val_warning(split_of.values(), "image sets")]
        if num_directories >= len(found):
            what = f"{num_directories} would leave nothing to train on (found {len(found)} directories)"
            raise UsageError("--val_directories", what, "Pass fewer; 0 makes no val split")
        names = sorted(found, key=lambda name: (int(name) if name.isdecimal() else -1, name))
        highest = set(names[len(names) - num_directories :])
        # An image set is in val as a whole: train-10171 of train-10171-0 and train-10171-0-1.
        val_sets = {image_set for image_set, directories in self.directories.items() if directories & highest}
        return {key: "val" for key in keys if "-".join(key.split("-")[:2]) in val_sets}, []

    def _find_groups(self, keys: list[str]) -> dict[str, str]:
        """The group of each key of train: rows with an image in common, or of one official image set."""
        joined, first_names, row = JoinedGroups[str](), dict[str, str](), None
        names: list[str] = []
        for key in keys:
            location = self.locations["train", key][0]
            if row != (row := (location.file, location.at)):  # the texts of one row follow each other
                names = self._name_groups(location) or [key]
                joined.join(names)
            first_names[key] = names[0]
        return {key: joined.name(name) for key, name in first_names.items()}

    def _name_groups(self, location: SentenceLocation) -> list[str]:
        """The image set of a row, by its identifier or the names of its images, else the hashes of its images."""
        example = self.layout.read(location)
        if example.identifier:
            return [example.image_set]
        try:
            images = self.layout.images(location, example)
        except RejectInput:  # `draft` rejects the row too
            return []
        sets = [match[1] for name, _ in images if (match := _IMAGE_SET.fullmatch(name))]
        return sets or [hashlib.sha256(data).hexdigest() for _, data in images]
