"""phiv's own rows in tars: what `phiv-export webdataset` wrote, to a dataset again.

    phiv-convert webdataset --source ucf101_tars --out_dir out

A row is a run of members of one key: `train-0000000000.json` (the record, `media` and `files`), then the `files`,
`train-0000000000.0.jpg`. Tars are read in place. Nothing is lost (own_rows.py).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

from phiv_converters.base import refuse_exports
from phiv_converters.own_rows import export_of, files_sha256, ordered_splits, row_to_draft, warn_of_other_counts
from phiv_converters.webdataset.options import WebDatasetOptions
from phiv_data.convert.base import Converter, Inputs, Item
from phiv_data.export.record import ExportRecord
from phiv_data.export.webdataset import RECORD_NAME, stem_of
from phiv_data.media.reject import RejectInput
from phiv_data.sources.archives import TarMember, tar_members
from phiv_data.sources.folders import entries
from phiv_data.sources.hf_tables import missing_shards
from phiv_data.sources.json_stream import read_value, value_of
from phiv_data.storage.sample import Draft
from phiv_data.utils.atomic import environment_problems
from phiv_schemas.errors import SourceError

_KEYS = ("id", "source", "conversations", "system", "media", "files")
_TAR = re.compile(r"(.+)-\d{5}-of-\d{5}\.tar")


class Tar(NamedTuple):
    """A file of rows."""

    path: Path
    split: str
    num_rows: int


def open_webdataset(flags: WebDatasetOptions, work_dir: Path) -> Tars:
    """Find the tars and count their rows. SourceError where there is none, or one of other rows."""
    source = flags.source
    if not source.exists():
        raise SourceError("--source", f"no such file or folder {str(source)!r}", "Check the path")
    refuse_exports(source, "webdataset")
    paths = [source / entry.name for entry in entries(source)] if source.is_dir() else [source]
    export = export_of(source, "webdataset")
    split_names = {stem_of(split): split for split in export.rows}
    tars = []
    for path, match in ((path, _TAR.fullmatch(path.name)) for path in paths):
        if match:
            has_record = [any(member.name == RECORD_NAME for member in members) for _, members in _runs(path)]
            if has_record and not any(has_record):
                what = f"holds no member KEY.{RECORD_NAME}, so no row of phiv"
                raise SourceError(str(path), what, "This converter reads what phiv-export webdataset wrote")
            tars.append(Tar(path, split_names.get(match[1], match[1]), len(has_record)))
    if not tars:
        what = f"no tars called SPLIT-00000-of-00001.tar in {str(source)!r}"
        raise SourceError("--source", what, "Pass a folder that phiv-export webdataset wrote")
    return Tars(flags, tuple(tars), export)


def _runs(path: Path) -> Iterator[tuple[str, list[TarMember]]]:
    """The key of each row, and its members, whose names become what follows the key: `json`, `0.jpg`."""
    for key, members in groupby(tar_members(path), lambda member: member.name.partition(".")[0]):
        yield key, [member._replace(name=member.name.partition(".")[2]) for member in members]


@dataclass(frozen=True)
class Tars(Converter):
    """Opened tars: lists their rows, and takes one as it is."""

    flags: WebDatasetOptions
    tars: tuple[Tar, ...]
    export: ExportRecord

    @property
    def name(self) -> str:
        """That of the exported dataset."""
        return self.export.dataset

    @property
    def splits(self) -> tuple[str, ...]:
        """Those of the tars, and exported ones without rows."""
        empty = [split for split, rows in self.export.rows.items() if not rows]
        return ordered_splits([*(tar.split for tar in self.tars), *empty])

    def describe(self) -> str:
        """How many files there are."""
        return f"phiv's own rows in {len(self.tars)} tars of {', '.join(self.splits)}"

    def options(self) -> dict[str, Any]:
        """The names, sizes and rows of the files."""
        return {"tars_sha256": files_sha256([(tar.path, tar.num_rows) for tar in self.tars])}

    def inputs(self) -> Inputs:
        """Every row of every tar, in the order of the splits and files."""
        if missing := missing_shards(tar.path for tar in self.tars):
            what = f"{len(missing)} files are not there, the first is {missing[0]}"
            raise SourceError(str(self.flags.source), what, "Download or export it again")
        rows = Counter[str]()
        for tar in self.tars:
            rows[tar.split] += tar.num_rows
        return Inputs(self._items(), warnings=warn_of_other_counts(self.export, rows, self.flags.source))

    def _items(self) -> Iterator[Item]:
        rank = {split: i for i, split in enumerate(self.splits)}
        for tar in sorted(self.tars, key=lambda tar: (rank[tar.split], tar.path.name)):
            for key, members in _runs(tar.path):
                size = sum(member.size for member in members)
                yield Item(tar.split, f"{tar.path.name}:{key}", tar.path, tuple(map(tuple, members)), size)

    def draft(self, item: Item) -> Draft:
        """One row as it is. RejectInput where its members are not those that its record lists."""
        members = [TarMember(*member) for member in item.payload]
        by_name = {member.name: member for member in members}
        if len(by_name) != len(members):
            raise RejectInput(item.key, "bad-row", "the tar has one of its members twice")
        if (record := by_name.pop(RECORD_NAME, None)) is None:
            raise RejectInput(item.key, "bad-row", f"no member .{RECORD_NAME} beside {members[0].name!r}")
        row = read_value(item.path, record.offset, record.size, where=item.key)
        files = value_of(row, "files", list, item.key)
        for name in files:
            if not isinstance(name, str) or name not in by_name:
                raise RejectInput(item.key, "missing-image", f"no member {name!r} in the tar")
        if unread := [*(name for name in by_name if name not in files), *(key for key in row if key not in _KEYS)]:
            raise RejectInput(item.key, "bad-row", f"{unread[0]!r} is no part of a row of phiv")
        images = []
        with environment_problems(item.path), item.path.open("rb") as tar:
            for name in files:
                tar.seek(by_name[name].offset)
                images.append({"bytes": tar.read(by_name[name].size)})
        return row_to_draft({"system": None} | row | {"images": images}, item.key)
