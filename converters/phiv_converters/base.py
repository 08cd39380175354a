"""What the converters of published datasets share: how a source is opened, and how an opened one describes itself.

    root = open_source(options.source, work_dir, HubFolder("nielsr/docvqa_1200_examples", "data"), hint="Pass --source")

    @dataclass(frozen=True)
    class Docvqa(Release):
        flags: DocvqaOptions
        layout: DocvqaLayout

`ucf101/convert.py` shows one that is complete.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Protocol

from phiv_data.convert.base import Converter
from phiv_data.export.record import read_export
from phiv_data.sources.folders import find_files, is_output
from phiv_data.sources.hf_tables import Table, missing_shards
from phiv_data.sources.hub import download_folder
from phiv_data.sources.image_index import is_archive, open_source
from phiv_schemas.errors import SourceError

DIGEST_BYTES = 16


class HubFolder(NamedTuple):
    """A folder of a dataset repository on the Hugging Face hub."""

    repo: str
    folder: str


def open_release(
    source: Path | None, work_dir: Path, hub: HubFolder, *, hint: str, password: str | None = None
) -> Path:
    """The folder or file of rows to read: `source` itself, its archive unpacked below `work_dir`, or a download."""
    if source is None:
        return download_folder(hub.repo, hub.folder, hint=hint)
    refuse_exports(source)
    is_row_file = source.is_file() and not is_archive(source)
    return source if is_row_file else open_source(source, work_dir, password=password)


def refuse_exports(source: Path, *formats: str) -> None:
    """SourceError where `source` is what phiv-export wrote in another format than these.

    Most converters could read some of it, but only its own one gives the same splits, ids and sources again.
    """
    export = read_export(source)
    if export is not None and export.format not in formats:
        hint = f"phiv-convert {export.format} --source {source} --out_dir NEW makes a dataset of it again"
        raise SourceError("--source", f"{str(source)!r} is an export of phiv in another format", hint)


def hint_for_converted(root: Path, name: str) -> str:
    """What to do with a folder that is no raw dataset, but was converted by phiv or by the recipe; else ""."""
    is_recipe = (root / "images").is_dir() and bool(find_files(root, "*_train.jsonl"))
    if not is_recipe and not is_output(root):
        return ""
    return f"It is a converted dataset: phiv-convert jsonl --source {name} --out_dir NEW makes it whole"


def warn_of_missing_shards(tables: Sequence[Table]) -> tuple[str, ...]:
    """A warning where names of tables announce files that are not there: `train-00000-of-00017.parquet` alone."""
    lost = missing_shards(table.path for table in tables)
    return (f"{len(lost)} files of the dataset are not here (first: {lost[0]})",) if lost else ()


class ReleaseFlags(Protocol):
    """What the options of every published dataset have."""

    @property
    def demo(self) -> bool:
        """True for the synthetic demo set."""
        ...

    def output_options(self) -> dict[str, Any]:
        """The options that affect the output, as plain JSON values."""
        ...


class ReleaseLayout(Protocol):
    """Where the rows of a source are."""

    @property
    def description(self) -> str:
        """The layout and why it was recognised, in one line."""
        ...


def file_stamp(file: Path) -> tuple[int, ...] | None:
    """Times and size of a file, for caches of what it holds; None where it cannot be read."""
    try:
        stat = file.stat()
    except OSError:
        return None
    return stat.st_mtime_ns, stat.st_ctime_ns, stat.st_size


def row_digest(*values: object) -> bytes:
    """A hash of 16 bytes over the values of a parsed row."""
    return hashlib.sha256(repr(values).encode()).digest()[:DIGEST_BYTES]


@dataclass(frozen=True)
class Release(Converter):
    """An opened published dataset. `fixed` are the options of a source that cannot change, else None."""

    demo_content: ClassVar[str]
    """What the demo set consists of: `clips`."""

    flags: ReleaseFlags
    layout: ReleaseLayout
    fixed: dict[str, Any] | None

    @property
    def synthetic(self) -> bool:
        """True for the demo set."""
        return self.flags.demo

    def describe(self) -> str:
        """The layout found and why."""
        return (f"synthetic demo {self.demo_content}, " if self.synthetic else "") + self.layout.description

    def options(self) -> dict[str, Any]:
        """Everything that affects the output."""
        return self.fixed or self.flags.output_options()

    def versions(self) -> dict[str, str]:
        """Images are copied, so only Pillow, which checks them, matters."""
        return {"pillow": version("pillow")}
