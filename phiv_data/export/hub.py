"""Export for the Hugging Face hub: Parquet of phiv's own rows, a dataset card, Croissant metadata. Nothing is lost.

    README.md                              card: configs, features, splits, sizes; what `load_dataset` reads first
    croissant.json                         Croissant 1.0: files with their sha256, and the fields of a row
    data/train-00000-of-00002.parquet      the rows of arrow shard 0 of 2

Upload the folder as it is. What phiv cannot know (licence, web address, creator, date) is given by flags; without them
the card has `unknown`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from phiv_data.export.base import ExportReport, hub_splits
from phiv_data.export.card import about, front_matter, quote_yaml, write_text
from phiv_data.export.croissant import croissant
from phiv_data.export.parquet import parquet_name, write_parquet
from phiv_schemas.errors import UsageError

if TYPE_CHECKING:
    from phiv_data.export.dataset import ExportedDataset
    from phiv_schemas import FileInfo


@dataclass(frozen=True)
class Hub:
    """Parquet of phiv's own rows for the Hugging Face hub, with dataset card and Croissant metadata."""

    license: str = "unknown"
    """Licence of the data, as the hub names it: cc-by-4.0, mit, other, ..."""
    url: str | None = None
    """Web page of the dataset, for Croissant."""
    creator: str | None = None
    """Who made the dataset, for Croissant."""
    date_published: str | None = None
    """When it was published, as 2026-01-31, for Croissant."""

    name: ClassVar[str] = "hub"

    def __post_init__(self) -> None:
        if self.date_published is not None and not re.fullmatch(r"\d{4}-\d\d-\d\d", self.date_published):
            raise UsageError("--date_published", f"is no date (found {self.date_published!r})", "Write 2026-01-31")

    def write(self, dataset: ExportedDataset, out: Path, report: ExportReport) -> Iterator[FileInfo]:
        """A Parquet file per shard, the card and `croissant.json`."""
        dataset = replace(dataset, splits=hub_splits(dataset, report))
        files: dict[str, list[FileInfo]] = {split.name: [] for split in dataset.splits}
        for split in dataset.splits:
            for index, shard in enumerate(split.shards):
                path = out / parquet_name(split.name, index, len(split.shards))
                files[split.name].append(write_parquet(path, dataset.schema, dataset.batches(shard), out))
            yield from files[split.name]
        given = {"license": self.license, "url": self.url, "creator": self.creator, "date": self.date_published}
        metadata = croissant(dataset.manifest, files, given, dataset.features)
        yield write_text(out / "croissant.json", json.dumps(metadata, indent=2) + "\n")
        yield write_text(out / "README.md", card(dataset, files, self.license))
        flags = {"license": "--license", "url": "--url", "creator": "--creator", "date": "--date_published"}
        if missing := [flag for key, flag in flags.items() if given[key] in (None, "unknown")]:
            what = f"README.md and croissant.json lack what phiv cannot know: pass {', '.join(missing)}"
            report.warnings.append(f"{what} before you publish")


def card(dataset: ExportedDataset, files: dict[str, list[FileInfo]], license: str) -> str:
    """The dataset card: YAML front matter for the hub and `datasets`, then text for people."""
    splits, a = dataset.splits, dataset.manifest.accounting
    text = [
        *about(dataset),
        "",
        "Licence: unknown. That of the source dataset applies to its images and texts; phiv adds none."
        if license == "unknown"
        else f"Licence: {license}, as stated by whoever exported it; phiv adds none.",
        "",
        "| split | rows | images | files |",
        "|---|---|---|---|",
        *(f"| {s.name} | {s.rows} | {s.num_images} | {len(s.shards)} |" for s in splits),
        "",
        f"Of the whole conversion: {a.inputs} inputs = {a.written} written + {sum(a.rejected.values())} rejected"
        f" + {a.unlabeled} unlabeled + {a.duplicates} duplicates.",
        "",
        "A row is a conversation: `conversations` are its turns, and `images` its images in the order in which the"
        " turns name them (`media` has what is known of each).",
        "",
        "```python",
        "from datasets import load_dataset",
        "",
        f'dataset = load_dataset("<this repository>", split="{splits[0].name if splits else "train"}")',
        'image = dataset[0]["images"][0]',
        "```",
        "",
    ]
    sizes = {s.name: sum(shard.size_bytes for shard in s.shards) for s in splits}  # as Arrow, as `datasets` counts
    info = ["  splits:"] if splits else []
    for split in splits:
        info += [f"  - name: {quote_yaml(split.name)}", f"    num_bytes: {sizes[split.name]}"]
        info += [f"    num_examples: {split.rows}"]
    info += [f"  download_size: {sum(info.size_bytes for infos in files.values() for info in infos)}"]
    info += [f"  dataset_size: {sum(sizes.values())}"]
    data_files = {split.name: f"data/{split.name}-*-of-*.parquet" for split in splits}
    return "\n".join([*front_matter(dataset, license, data_files, dataset.features, info), "", *text])
