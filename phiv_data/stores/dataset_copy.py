"""The copy of a converted dataset that lies in an object store: files are fetched to the cache when they are asked for.

    copy = open_copy(Address.parse("s3://bucket/ucf101"))       # reads the manifest only
    copy.fetch(shard)                                           # a file, compared with the manifest on arrival

The folder is `<cache>/datasets/<address>-<manifest>/`, so that another dataset at the same address has another one.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from phiv_data.stores.address import Address
from phiv_data.stores.base import Store
from phiv_data.stores.cache import MANIFEST, Cache, Stopping, folder_name
from phiv_data.stores.opening import open_store
from phiv_data.stores.threads import request_pool
from phiv_data.utils.atomic import atomic_write
from phiv_schemas import FileInfo, PhivError, ShardError


@dataclass(frozen=True)
class DatasetCopy:
    """A converted dataset of an object store, and the folder that its files are fetched to."""

    address: Address
    folder: Path
    cache: Cache
    manifest_sha256: str

    @property
    def store(self) -> Store:
        """Opened when first asked for, in every process."""
        return open_store(self.address)

    def fetch(self, info: FileInfo) -> Path:
        """The local file of one that the manifest names. ShardError where it is not there, or not as it says."""
        try:
            self.cache.fetch(self.store, info.path, self.folder / info.path, sha256=info.sha256)
        except FileNotFoundError:
            what = "is in the manifest but not there"
            raise ShardError(str(self.address / info.path), what, "Run the same phiv-convert command again") from None
        return self.folder / info.path

    def fetch_again(self, info: FileInfo) -> Path:
        """The same for a local file that was found damaged."""
        (self.folder / info.path).unlink(missing_ok=True)
        return self.fetch(info)

    def prefetch(self, infos: Sequence[FileInfo]) -> None:
        """Fetch files in the background, one after the other. What fails there is reported when it is asked for."""
        missing = [info for info in infos if not (self.folder / info.path).exists()]
        # In a small cache they would take the place of what is in use.
        if missing and 4 * sum(info.size_bytes for info in infos) <= self.cache.limit_bytes:
            threading.Thread(target=self._fetch_quietly, args=(missing,), name="phiv-prefetch").start()

    def _fetch_quietly(self, infos: Sequence[FileInfo]) -> None:
        with suppress(PhivError, OSError, Stopping):
            for info in infos:
                self.fetch(info)


def open_copy(address: Address) -> DatasetCopy:
    """The dataset at `address`. ShardError where it has no manifest: unfinished, or none."""
    raw = open_store(address).read(MANIFEST)
    if raw is None:
        what = "has no manifest.json: not a converted dataset, or not finished"
        raise ShardError(str(address), what, "Run the same phiv-convert command again")
    copy = _copy_of(address, hashlib.sha256(raw).hexdigest())
    if not (copy.folder / MANIFEST).is_file():
        with atomic_write(copy.folder / MANIFEST) as out:
            out.write(raw)
    return copy


def open_same_copy(address: Address, manifest_sha256: str) -> DatasetCopy:
    """The dataset that was opened before. Nothing is asked of the store where its manifest is in the cache.

    ShardError where another one is there by now.
    """
    copy = _copy_of(address, manifest_sha256)
    if not (copy.folder / MANIFEST).is_file() and open_copy(address) != copy:
        raise ShardError(str(address), "another dataset is there now than was opened", "Open it again")
    return copy


def _copy_of(address: Address, manifest_sha256: str) -> DatasetCopy:
    cache = Cache.from_environment()
    folder = cache.root / "datasets" / f"{folder_name(address)}-{manifest_sha256[:16]}"
    return DatasetCopy(address, folder, cache, manifest_sha256)


def fetch_all(copy: DatasetCopy, infos: Iterable[FileInfo]) -> None:
    """Fetch files, several at a time."""
    with request_pool() as pool:
        for _ in pool.map(copy.fetch, infos):
            pass
