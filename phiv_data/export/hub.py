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
from typing import TYPE_CHECKING, Any, ClassVar

from phiv_data.export.base import ExportedDataset, ExportReport, file_info, hub_splits
from phiv_data.export.croissant import croissant
from phiv_data.export.parquet import parquet_name, write_parquet
from phiv_data.utils.atomic import atomic_write
from phiv_schemas.errors import UsageError

if TYPE_CHECKING:
    from phiv_schemas import FileInfo, SplitInfo

_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"), (10**7, "1M<n<10M"))


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
        from phiv_data.storage.shards import schema

        dataset = replace(dataset, splits=hub_splits(dataset, report))
        files: dict[str, list[FileInfo]] = {split.name: [] for split in dataset.splits}
        for split in dataset.splits:
            for index, shard in enumerate(split.shards):
                path = out / parquet_name(split.name, index, len(split.shards))
                files[split.name].append(write_parquet(path, schema(), dataset.batches(shard), out))
            yield from files[split.name]
        given = {"license": self.license, "url": self.url, "creator": self.creator, "date": self.date_published}
        metadata = croissant(dataset.manifest, files, given)
        yield _write(out / "croissant.json", json.dumps(metadata, indent=2) + "\n")
        yield _write(out / "README.md", card(dataset, files, self.license))
        flags = {"license": "--license", "url": "--url", "creator": "--creator", "date": "--date_published"}
        if missing := [flag for key, flag in flags.items() if given[key] in (None, "unknown")]:
            what = f"README.md and croissant.json lack what phiv cannot know: pass {', '.join(missing)}"
            report.warnings.append(f"{what} before you publish")


def card(dataset: ExportedDataset, files: dict[str, list[FileInfo]], license: str) -> str:
    """The dataset card: YAML front matter for the hub and `datasets`, then text for people."""
    return "\n".join([*_front_matter(dataset, files, license), "", *_about(dataset, license), *_use(dataset.splits)])


def features_yaml(features: dict[str, Any], indent: str = "") -> list[str]:
    """`datasets` features as the card's YAML lists them: `list: string`, `list: image`, nested columns below."""
    lines = []
    for name, kind in features.items():
        lines.append(f"{indent}- name: {name}")
        if kind["_type"] == "Value":
            lines.append(f"{indent}  dtype: {kind['dtype']}")
        elif (inner := kind["feature"]).get("_type") == "Value":
            lines.append(f"{indent}  list: {inner['dtype']}")
        elif inner.get("_type") == "Image":
            lines.append(f"{indent}  list: image")
        else:
            lines += [f"{indent}  list:", *features_yaml(inner, f"{indent}  ")]
    return lines


def _front_matter(dataset: ExportedDataset, files: dict[str, list[FileInfo]], license: str) -> list[str]:
    from phiv_data.storage.shards import hf_features

    rows = sum(split.rows for split in dataset.splits)
    download = sum(info.size_bytes for infos in files.values() for info in infos)
    size = next((name for limit, name in _SIZES if rows < limit), "n>10M")
    return [
        "---",
        f"pretty_name: {_quoted(dataset.manifest.name)}",
        f"license: {_quoted(license)}",
        "task_categories: [image-text-to-text]",
        "tags: [phiv, vision-language, conversations]",
        f"size_categories: [{_quoted(size)}]",
        "configs:",
        "- config_name: default",
        "  data_files:",
        *(
            line
            for split in dataset.splits
            for line in (
                f"  - split: {_quoted(split.name)}",
                f"    path: {_quoted(f'data/{split.name}-*-of-*.parquet')}",
            )
        ),
        "dataset_info:",
        "  features:",
        *features_yaml(hf_features(), "  "),
        "  splits:",
        *(
            line
            for split in dataset.splits
            for line in (
                f"  - name: {_quoted(split.name)}",
                f"    num_bytes: {_num_bytes(split)}",
                f"    num_examples: {split.rows}",
            )
        ),
        f"  download_size: {download}",
        f"  dataset_size: {sum(_num_bytes(split) for split in dataset.splits)}",
        "---",
    ]


def _num_bytes(split: SplitInfo) -> int:
    """Size as Arrow, which is what `datasets` means by it."""
    return sum(shard.size_bytes for shard in split.shards)


def _about(dataset: ExportedDataset, license: str) -> list[str]:
    manifest = dataset.manifest
    a = manifest.accounting
    return [
        f"# {manifest.name}, as conversations",
        "",
        f"Made by [phiv](https://pypi.org/project/phiv/) from: {manifest.source}.",
        "",
        *(["**Synthetic data**: every image was generated by a program.", ""] if manifest.synthetic else []),
        "Licence: unknown. That of the source dataset applies to its images and texts; phiv adds none."
        if license == "unknown"
        else f"Licence: {license}, as stated by whoever exported it; phiv adds none.",
        "",
        "| split | rows | images | files |",
        "|---|---|---|---|",
        *(f"| {s.name} | {s.rows} | {s.num_images} | {len(s.shards)} |" for s in dataset.splits),
        "",
        f"Of the whole conversion: {a.inputs} inputs = {a.written} written + {sum(a.rejected.values())} rejected"
        f" + {a.unlabeled} unlabeled + {a.duplicates} duplicates.",
    ]


def _use(splits: tuple[SplitInfo, ...]) -> list[str]:
    return [
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


def _quoted(text: str) -> str:
    """A YAML scalar; JSON strings are YAML."""
    return json.dumps(text, ensure_ascii=False)


def _write(path: Path, text: str) -> FileInfo:
    with atomic_write(path) as file:
        file.write(text.encode())
    return file_info(path, path.parent, file)
