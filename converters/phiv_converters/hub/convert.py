"""phiv's own rows in tables: the Parquet of `phiv-export hub`, as it is or downloaded from the hub, to a dataset again.

    phiv-convert hub --source ucf101_hub --out_dir out

Nothing is lost (own_rows.py).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from phiv_converters.base import refuse_exports
from phiv_converters.hub.options import HubOptions
from phiv_converters.own_rows import export_of, files_sha256, ordered_splits, row_to_draft, warn_of_other_counts
from phiv_data.convert.base import Converter, Inputs, Item
from phiv_data.export.record import ExportRecord
from phiv_data.sources.hf_tables import Table, find_tables, missing_shards, read_row
from phiv_data.storage.sample import Draft
from phiv_data.storage.shards import hf_features
from phiv_schemas.errors import SourceError


def open_hub(flags: HubOptions, work_dir: Path) -> HubTables:
    """Find the tables and check their columns. SourceError where there is none, or one of other rows."""
    if not flags.source.exists():
        raise SourceError("--source", f"no such file or folder {str(flags.source)!r}", "Check the path")
    refuse_exports(flags.source, "hub")
    tables = find_tables(flags.source)
    if not tables:
        raise SourceError("--source", f"no tables in {str(flags.source)!r}", "Pass a folder that phiv-export hub wrote")
    for table in tables:
        if missing := [name for name in hf_features() if name not in table.columns]:
            what = f"has no column {' and '.join(missing)} (found: {', '.join(table.columns)[:200]})"
            raise SourceError(str(table.path), what, "This converter reads what phiv-export hub wrote")
    return HubTables(flags, tables, export_of(flags.source, "hub"))


@dataclass(frozen=True)
class HubTables(Converter):
    """Opened tables: lists their rows, and takes one as it is."""

    flags: HubOptions
    tables: tuple[Table, ...]
    export: ExportRecord

    @property
    def name(self) -> str:
        """That of the exported dataset."""
        return self.export.dataset

    @property
    def splits(self) -> tuple[str, ...]:
        """Those of the tables, and exported ones without rows."""
        empty = [split for split, rows in self.export.rows.items() if not rows]
        return ordered_splits([*(table.split for table in self.tables), *empty])

    def describe(self) -> str:
        """How many files there are."""
        return f"phiv's own rows in {len(self.tables)} tables of {', '.join(self.splits)}"

    def options(self) -> dict[str, Any]:
        """The names, sizes and rows of the files."""
        return {"tables_sha256": files_sha256([(table.path, table.num_rows) for table in self.tables])}

    def versions(self) -> dict[str, str]:
        """None but the core's: bytes are copied."""
        return {}

    def inputs(self) -> Inputs:
        """Every row of every table, in the order of the splits and files."""
        if missing := missing_shards(table.path for table in self.tables):
            what = f"{len(missing)} files are not there, the first is {missing[0]}"
            raise SourceError(str(self.flags.source), what, "Download or export it again")
        rank = {split: i for i, split in enumerate(self.splits)}
        order = sorted(range(len(self.tables)), key=lambda i: (rank[self.tables[i].split], self.tables[i].path.name))
        items = (
            Item(table.split, f"{table.path.name}:{row:08d}", table.path, (number, row), size)
            for number, table in ((number, self.tables[number]) for number in order)
            for size in [table.path.stat().st_size // max(table.num_rows, 1)]
            for row in range(table.num_rows)
        )
        rows = Counter[str]()
        for table in self.tables:
            rows[table.split] += table.num_rows
        return Inputs(items, warnings=warn_of_other_counts(self.export, rows, self.flags.source))

    def draft(self, item: Item) -> Draft:
        """One row as it is."""
        number, row = item.payload
        return row_to_draft(read_row(self.tables[number], row, tuple(hf_features())), item.key)
