"""phiv's own rows in tables: the Parquet of `phiv-export hub`, as it is or downloaded from the hub, to a dataset again.

    phiv-convert hub --source ucf101_hub --out_dir out

Nothing is lost: ids, sources, turns, the names of images and where they come from are those of the rows. Every image is
decoded once, and its size, format and hash are taken from its bytes.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from phiv_converters.hub.options import HubOptions
from phiv_data.convert.base import Converter, Inputs, Item
from phiv_data.export.engine import RECORD
from phiv_data.media.reject import RejectInput
from phiv_data.sources.hf_tables import Table, find_tables, missing_shards, read_row
from phiv_data.sources.image_index import checked_image
from phiv_data.storage.record_errors import schema_issues
from phiv_data.storage.sample import Draft, EncodedImage
from phiv_data.storage.shards import hf_features, to_sample
from phiv_schemas import ImageMeta
from phiv_schemas.conversation import check_name
from phiv_schemas.errors import SourceError


def open_hub(flags: HubOptions, work_dir: Path) -> HubTables:
    """Find the tables and check their columns. SourceError where there is none, or one of other rows."""
    if not flags.source.exists():
        raise SourceError("--source", f"no such file or folder {str(flags.source)!r}", "Check the path")
    tables = find_tables(flags.source)
    if not tables:
        raise SourceError("--source", f"no tables in {str(flags.source)!r}", "Pass a folder that phiv-export hub wrote")
    for table in tables:
        if missing := [name for name in hf_features() if name not in table.columns]:
            what = f"has no column {' and '.join(missing)} (found: {', '.join(table.columns)[:200]})"
            raise SourceError(str(table.path), what, "This converter reads what phiv-export hub wrote")
    try:
        name = check_name(json.loads((flags.source / RECORD).read_bytes())["dataset"])
    except (OSError, ValueError, TypeError, LookupError):  # a download, or one of the files
        name = "hub"
    return HubTables(flags, tables, name)


@dataclass(frozen=True)
class HubTables(Converter):
    """Opened tables: lists their rows, and takes one as it is."""

    flags: HubOptions
    tables: tuple[Table, ...]
    name: str
    splits: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        found = {table.split for table in self.tables}
        first = [name for name in ("train", "val", "test") if name in found]
        object.__setattr__(self, "splits", (*first, *sorted(found - set(first))))

    def describe(self) -> str:
        """How many files there are."""
        return f"phiv's own rows in {len(self.tables)} tables of {', '.join(self.splits)}"

    def options(self) -> dict[str, Any]:
        """The names, sizes and rows of the files."""
        files = [[table.path.name, table.path.stat().st_size, table.num_rows] for table in self.tables]
        return {"tables_sha256": hashlib.sha256(json.dumps(files).encode()).hexdigest()}

    def versions(self) -> dict[str, str]:
        """None but the core's: bytes are copied."""
        return {}

    def inputs(self) -> Inputs:
        """Every row of every table, in the order of the splits and files."""
        if missing := missing_shards(self.tables):
            what = f"{len(missing)} files are not there, the first is {missing[0]}"
            raise SourceError(str(self.flags.source), what, "Download or export it again")
        rank = {split: i for i, split in enumerate(self.splits)}
        order = sorted(range(len(self.tables)), key=lambda i: (rank[self.tables[i].split], self.tables[i].path.name))
        return Inputs(
            Item(table.split, f"{table.path.name}:{row:08d}", table.path, (number, row), size)
            for number, table in ((number, self.tables[number]) for number in order)
            for size in [table.path.stat().st_size // max(table.num_rows, 1)]
            for row in range(table.num_rows)
        )

    def draft(self, item: Item) -> Draft:
        """One row as it is."""
        number, row = item.payload
        try:
            sample = to_sample(read_row(self.tables[number], row, tuple(hf_features())))
        except ValidationError as error:
            first = schema_issues(error, item.key)[0]
            raise RejectInput(item.key, "bad-row", f"{first.json_path}: {first.message}") from error
        except (ValueError, TypeError) as error:  # not as many images as facts about them; a column that is null
            raise RejectInput(item.key, "bad-row", f"images and media do not agree ({error})") from error
        images = tuple(_checked(image, item.key) for image in sample.images)
        c = sample.conversation
        return Draft(c.turns, images, c.system, source=c.source, id=c.id)


def _checked(image: EncodedImage, where: str) -> EncodedImage:
    """The image with what its bytes say, and where it comes from as the row has it."""
    checked = checked_image(image.meta.path, image.data, where)
    own = dict(checked.meta)
    provenance = {key: value for key, value in dict(image.meta).items() if own[key] is None}
    return EncodedImage(ImageMeta(**(own | provenance)), image.data)
