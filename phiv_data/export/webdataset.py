"""Export as WebDataset: tar files in which a row is a run of members that share a key.

    train-00000-of-00002.tar
        train-0000000000.json      the record, `media` (what is known of each image) and `files`
        train-0000000000.0.jpg     image 0, in the order in which the turns name them
        train-0000000000.1.png     image 1, with the suffix of its real format

    README.md                      the splits and columns, for `datasets`

Nothing is lost. Keys are the split and the row's number, since WebDataset cuts names at the first dot and ids may hold
any. Member headers hold no clock, user or machine.
"""

from __future__ import annotations

import io
import json
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from phiv_data.export.base import ExportReport, file_info, suffix
from phiv_data.export.card import IMAGE, TEXT, check_distinct, list_of, write_card
from phiv_data.utils.atomic import atomic_write

if TYPE_CHECKING:
    from phiv_data.export.dataset import ExportedDataset
    from phiv_schemas import FileInfo, SplitInfo

_USE = (
    "`webdataset.WebDataset('OUT/train-00000-of-00001.tar')` reads the tars, and so does `load_dataset('OUT')`, by the "
    "columns named above. Without this file, `datasets` takes the columns of the first rows of one split for all."
)


RECORD_NAME = "json"
"""What follows the key in the name of a row's record."""


def stem_of(split: str) -> str:
    """The names of a split's tars and keys begin with it: keys end at the first dot."""
    return re.sub(r"[^A-Za-z0-9_-]", "_", split)


@dataclass(frozen=True)
class WebDataset:
    """Tar shards for the webdataset library: key.json, key.0.jpg, ..."""

    name: ClassVar[str] = "webdataset"

    def write(self, dataset: ExportedDataset, out: Path, report: ExportReport) -> Iterator[FileInfo]:
        """One tar per shard, and a card with every column that any row has."""
        stems = {split.name: stem_of(split.name) for split in dataset.splits}
        check_distinct(dataset, stems)
        columns = set[str]()
        for split in dataset.splits:
            yield from _write_split(dataset, split, stems[split.name], out, columns)
        of_record = {key: kind for key, kind in dataset.features.items() if key != "images"} | {"files": list_of(TEXT)}
        images = sorted(columns, key=lambda column: (int(column.split(".")[0]), column))
        features = {RECORD_NAME: of_record} | dict.fromkeys(images, IMAGE)
        data_files = {name: f"{stem}-?????-of-?????.tar" for name, stem in stems.items()}
        yield write_card(dataset, out, data_files, features, _USE)


def _write_split(
    dataset: ExportedDataset, split: SplitInfo, stem: str, out: Path, columns: set[str]
) -> Iterator[FileInfo]:
    """The tars of a split; `columns` gets the names of the images."""
    row = 0
    for index, shard in enumerate(split.shards):
        path = out / f"{stem}-{index:05d}-of-{len(split.shards):05d}.tar"
        with (
            atomic_write(path, durable=False) as file,
            tarfile.open(fileobj=file, mode="w|", format=tarfile.USTAR_FORMAT) as tar,
        ):
            for sample in dataset.samples(shard):
                files = [f"{k}.{suffix(image.meta.format)}" for k, image in enumerate(sample.images)]
                record: dict[str, Any] = {
                    **sample.conversation.to_wire(),
                    "media": [image.meta.model_dump(mode="json", exclude_none=True) for image in sample.images],
                    "files": files,
                }
                key = f"{stem}-{row:010d}"
                _add(tar, f"{key}.{RECORD_NAME}", json.dumps(record).encode())
                for name, image in zip(files, sample.images, strict=True):
                    _add(tar, f"{key}.{name}", image.data)
                columns.update(files)
                row += 1
        yield file_info(path, out, file)


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)  # mtime, uid and gid are 0 and the owner's name empty by default
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))
