"""`ConversationDataset`: one split of a converted dataset, a memory-mapped sequence of samples.

    >>> data = ConversationDataset("out", "val")            # checks the manifest and every shard's size
    >>> len(data), data[0].id, data[-1].images[0].open().size
    (30, 'val-0000000300', (320, 240))

Opening reads the manifest only; shards are mapped when first touched, images decoded when `open()` is called.
Only files that `manifest.json` names are read: a shard that was cut or comes from another run can look complete.

A path may be the address of an object store (`s3://bucket/out`): shards are fetched to the cache when first touched
(docs/object_stores.md), compared with the manifest as they arrive, and then read as local ones.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args, overload

from pydantic import ValidationError

from phiv_data.storage.record_errors import schema_issues
from phiv_data.storage.sample import Sample
from phiv_data.storage.shards import ShardRow, open_shard, to_conversation, to_sample, update_rows_digest
from phiv_data.stores.address import Address, resolve_place
from phiv_data.stores.dataset_copy import DatasetCopy, fetch_all, open_copy, open_same_copy
from phiv_data.utils.atomic import environment_problems, sha256_file
from phiv_schemas import Conversation, Manifest, ShardError, ShardInfo, check_image_path
from phiv_schemas.errors import UsageError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import pyarrow as pa

Verify = Literal["size", "sha256", "none"]
MANIFEST = "manifest.json"
CARD = "README.md"
FIXES = "phiv-fixes.jsonl"
"""The log that phiv-validate --fix leaves beside what it fixed."""
NON_RECORD_FILES = frozenset({"rejects.jsonl", FIXES})
"""The jsonl files of a dataset that hold none of its records."""
_TEXT_COLUMNS = ["id", "source", "system", "conversations"]
_NUM_PREFETCHED = 2
"""Shards of an object store that are fetched ahead, in the background."""
MANIFEST_CHANGED = "was changed, or is of an older phiv: its bytes are not those of its manifest_sha256"
_AGAIN = "Run the same phiv-convert command with --overwrite"


class ImageSizes(NamedTuple):
    """Sizes of all images of a split; sample i has images `offsets[i]:offsets[i + 1]`."""

    widths: npt.NDArray[np.int32]  # [images], pixels, after EXIF orientation
    heights: npt.NDArray[np.int32]  # [images]
    offsets: npt.NDArray[np.int64]  # [samples + 1]


class ConversationDataset(Sequence[Sample]):
    """The samples of one split, in the order of its jsonl file.

    Indexing with an int (negative too) gives a Sample, with a slice a light view. Reads are thread-safe, and a
    pickle holds the path and the manifest's sha256, so spawned workers reopen the same dataset cheaply.

    `verify="size"` compares sizes at once, the rows of a shard with the manifest when it is first touched, and the
    bytes of an image with its sha256 when it is read; "sha256" reads every shard at once; "none" trusts the files.

    ShardError when the conversion is unfinished, or a shard missing, cut or changed; UsageError for an unknown split.
    """

    def __init__(self, path: Path | str, split: str, *, verify: Verify = "size") -> None:
        if verify not in get_args(Verify):
            raise ValueError(f"verify must be one of {get_args(Verify)} (found {verify!r})")
        place = resolve_place(path)
        self._begin(place if isinstance(place, Path) else open_copy(place), split, verify)

    def _begin(self, place: Path | DatasetCopy, split: str, verify: Verify) -> None:
        self._copy = None if isinstance(place, Path) else place
        self.path = place.absolute() if isinstance(place, Path) else place.folder
        self.split, self.verify = split, verify
        self.manifest = read_manifest(self.path)
        self._manifest_sha256 = sha256_file(self.path / MANIFEST)
        if (found := self.manifest.split(split)) is None:
            there = ", ".join(one.name for one in self.manifest.splits) or "none"
            raise UsageError(self.place, f"no split {split!r} (found: {there})", "Pass one (--split)")
        if found.rows and not found.shards:
            raise ShardError(self.place, f"split {split!r} has no shards", "Convert it without --no_arrow")
        if self._copy is None:
            for shard in found.shards:
                check_shard(self.path, shard, verify)
        elif verify == "sha256":
            fetch_all(self._copy, found.shards)
        self._shards = found.shards
        self._starts = [0, *accumulate(shard.rows for shard in found.shards)]
        self._open: dict[int, _OpenShard] = {}
        self._lock = Lock()

    def __len__(self) -> int:
        return self._starts[-1]

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> SampleView: ...
    def __getitem__(self, index: int | slice) -> Sample | SampleView:
        if isinstance(index, slice):
            return SampleView(self, range(len(self))[index])
        shard, row = self._locate(index)
        return shard.sample(row, check_images=self.verify != "none")

    def conversation(self, index: int) -> Conversation:
        """The record alone; no image bytes are touched."""
        shard, row = self._locate(index)
        return shard.conversation(row)

    def sizes(self) -> ImageSizes:
        """The sizes of every image, without touching image bytes: what token counts are planned from."""
        return self._sizes

    def sizes_of(self, index: int) -> tuple[tuple[int, int], ...]:
        """(width, height) of each image of one sample, in order; no image bytes are touched."""
        widths, heights, offsets = self._sizes
        row = range(len(self))[index]
        images = slice(int(offsets[row]), int(offsets[row + 1]))
        return tuple(zip(widths[images].tolist(), heights[images].tolist(), strict=True))

    def __reduce__(self) -> tuple[Any, ...]:
        verify: Verify = "none" if self.verify == "none" else "size"
        place = str(self._copy.address) if self._copy else self.path
        return _reopen, (place, self.split, verify, self._manifest_sha256)

    def __repr__(self) -> str:
        return f"ConversationDataset({self.place!r}, {self.split!r}, rows={len(self)})"

    @property
    def place(self) -> str:
        """The folder, or the address of an object store, as one would type it."""
        return str(self._copy.address if self._copy else self.path)

    def _locate(self, index: int) -> tuple[_OpenShard, int]:
        row = range(len(self))[index]  # negative indices, IndexError and numpy integers, as a list has them
        number = bisect_right(self._starts, row) - 1
        return self._shard(number), row - self._starts[number]

    def _shard(self, number: int) -> _OpenShard:
        if (shard := self._open.get(number)) is None:
            with self._lock:
                if (shard := self._open.get(number)) is None:
                    shard = self._open_fetched(self._copy, number) if self._copy else self._open_shard(number)
                    self._open[number] = shard
        return shard

    def _open_shard(self, number: int) -> _OpenShard:
        _check_manifest(self.path, self._manifest_sha256)
        return _OpenShard.open(self.path, self._shards[number], check_rows=self.verify != "none")

    def _open_fetched(self, copy: DatasetCopy, number: int) -> _OpenShard:
        """A shard of an object store, with the next ones on their way. Those the cache has removed are let go."""
        for other in [n for n in self._open if not (self.path / self._shards[n].path).exists()]:
            del self._open[other]
        copy.fetch(self._shards[number])
        try:
            shard = self._open_shard(number)
        except ShardError:  # the cache's disk has changed it since it was fetched
            copy.fetch_again(self._shards[number])
            shard = self._open_shard(number)
        copy.prefetch(self._shards[number + 1 : number + 1 + _NUM_PREFETCHED])
        return shard

    @cached_property
    def _sizes(self) -> ImageSizes:
        import numpy as np

        batches = [batch for n in range(len(self._shards)) for batch in self._shard(n).batches]
        media: list[Any] = [batch.column("media") for batch in batches]
        values = [column.flatten() for column in media]
        counts = [column.value_lengths().to_numpy(zero_copy_only=False) for column in media]
        empty = np.zeros(0, np.int32)
        widths, heights = (
            np.concatenate([empty, *(v.field(name).to_numpy(zero_copy_only=False) for v in values)])
            for name in ("width", "height")
        )
        offsets = np.concatenate([[0], np.cumsum(np.concatenate([empty, *counts]), dtype=np.int64)])
        return ImageSizes(widths, heights, offsets)


def _reopen(place: Path | str, split: str, verify: Verify, manifest_sha256: str) -> ConversationDataset:
    """The dataset of a pickle. ShardError where another one is there by now; of a copy, nothing is asked again."""
    if isinstance(place, Path):
        _check_manifest(place, manifest_sha256)
        return ConversationDataset(place, split, verify=verify)
    dataset = ConversationDataset.__new__(ConversationDataset)
    dataset._begin(open_same_copy(Address.parse(place), manifest_sha256), split, verify)
    return dataset


def _check_manifest(folder: Path, sha256: str) -> None:
    """ShardError where another dataset has taken the place of the one with this manifest."""
    path = folder / MANIFEST
    if not path.is_file() or sha256_file(path) != sha256:
        raise ShardError(str(folder), "another dataset is there now than was opened", "Open it again")


class SampleView(Sequence[Sample]):
    """Some samples of a dataset, by number; holds no data."""

    def __init__(self, dataset: ConversationDataset, rows: range) -> None:
        self.dataset, self.rows = dataset, rows

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> SampleView: ...
    def __getitem__(self, index: int | slice) -> Sample | SampleView:
        if isinstance(index, slice):
            return SampleView(self.dataset, self.rows[index])
        return self.dataset[self.rows[index]]


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a converted dataset. ShardError when there is none (unfinished), or it was changed.

    `folder` may be the address of an object store.
    """
    place = resolve_place(folder)
    folder = place if isinstance(place, Path) else open_copy(place).folder
    manifest, is_whole = parse_manifest(folder)
    if not is_whole:
        raise ShardError(str(folder / MANIFEST), MANIFEST_CHANGED, _AGAIN)
    return manifest


def parse_manifest(folder: Path) -> tuple[Manifest, bool]:
    """The manifest, and whether no bit of it has changed. ShardError when there is none or it is invalid.

    UsageError where `folder` is none: it was misspelt, nothing is damaged.
    """
    path = folder / MANIFEST
    if not path.is_file():
        if not folder.is_dir():
            raise UsageError(
                str(folder), "is a file, not a folder" if folder.exists() else "no such folder", "Check it"
            )
        what = "has no manifest.json: not a converted dataset, or unfinished"
        raise ShardError(str(folder), what, "Run the same phiv-convert command again")
    try:
        with environment_problems(path):
            raw = path.read_bytes()
        manifest = Manifest.model_validate_json(raw)
        for file in manifest_files(manifest):
            check_image_path(file)
    except ValidationError as error:
        issue = schema_issues(error, str(path))[0]
        raise ShardError(f"{path}: {issue.json_path}", issue.message, _AGAIN) from error
    except ValueError as error:
        raise ShardError(str(path), f"names a file outside its folder ({error})", _AGAIN) from error
    return manifest, manifest.is_whole(raw)


def manifest_files(manifest: Manifest) -> list[str]:
    """Every file a manifest names, relative to its folder."""
    return [file.path for file in manifest.files]


def check_shard(folder: Path, shard: ShardInfo, verify: Verify) -> None:
    """ShardError when the file is not the one the manifest names."""
    if verify == "none":
        return
    path = folder / shard.path
    if not path.is_file():
        raise ShardError(str(path), "is in the manifest but not there", _AGAIN)
    if (size := path.stat().st_size) != shard.size_bytes:
        what = f"was cut or changed: {size} bytes (the manifest says {shard.size_bytes})"
        raise ShardError(str(path), what, _AGAIN)
    if verify == "sha256" and sha256_file(path) != shard.sha256:
        raise ShardError(str(path), "was changed: its sha256 is not the manifest's", _AGAIN)


@dataclass(frozen=True, slots=True)
class _OpenShard:
    """A mapped shard: its batches, and the row each begins at."""

    path: str
    batches: list[pa.RecordBatch]
    texts: list[pa.RecordBatch]
    starts: list[int]

    @classmethod
    def open(cls, folder: Path, info: ShardInfo, *, check_rows: bool) -> _OpenShard:
        path = str(folder / info.path)
        batches = open_shard(folder / info.path)
        starts = [0, *accumulate(batch.num_rows for batch in batches)]
        if starts[-1] != info.rows:
            raise ShardError(path, f"holds {starts[-1]} rows (the manifest says {info.rows})", _AGAIN)
        if check_rows and info.rows_sha256 is not None:
            digest = hashlib.sha256()
            for batch in batches:
                update_rows_digest(digest, batch)
            if digest.hexdigest() != info.rows_sha256:
                raise ShardError(path, "was changed: its rows are not those of the manifest's sha256", _AGAIN)
        return cls(path, batches, [batch.select(_TEXT_COLUMNS) for batch in batches], starts)

    def sample(self, row: int, *, check_images: bool) -> Sample:
        where = f"{self.path}: row {row}"
        try:
            sample = to_sample(self._row(self.batches, row))
            sums = [hashlib.sha256(image.data).hexdigest() for image in sample.images] if check_images else []
        except (ValueError, TypeError) as error:  # pydantic's is a ValueError
            raise ShardError(where, _first_line(error), _AGAIN) from error
        for image, sha256 in zip(sample.images, sums, strict=False):
            if image.meta.sha256 != sha256:
                raise ShardError(where, f"image {image.meta.path!r} was changed: it has another sha256", _AGAIN)
        return sample

    def conversation(self, row: int) -> Conversation:
        try:
            return to_conversation(self._row(self.texts, row))
        except ValueError as error:
            raise ShardError(f"{self.path}: row {row}", _first_line(error), _AGAIN) from error

    def _row(self, batches: list[pa.RecordBatch], row: int) -> ShardRow:
        number = bisect_right(self.starts, row) - 1
        values: ShardRow = batches[number].slice(row - self.starts[number], 1).to_pylist()[0]
        return values


def _first_line(error: Exception) -> str:
    if isinstance(error, ValidationError):
        issue = schema_issues(error, "")[0]
        return f"{issue.json_path}: {issue.message}"
    return f"breaks the contract ({error})"
