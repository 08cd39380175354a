"""The copy of a folder in an object store with all its files, for whatever reads files: converters, checks, exports.

    with local_copy("s3://bucket/raw") as folder: ...           # a local path is given back as it is

It is in `<cache>/sources/` and stays there: the next time, files whose size and time are those of the listing
are not fetched again. Each has the time of its object, with the etag in the nanoseconds, so that a conversion finds it
changed where the object has. Why not on demand: docs/adr/0010-object-stores.md.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from phiv_data.stores.address import Address, resolve_place
from phiv_data.stores.base import Entry, Store
from phiv_data.stores.cache import Cache, folder_name, spell_size
from phiv_data.stores.opening import open_store
from phiv_data.stores.threads import request_pool
from phiv_schemas.errors import EnvironmentProblem, PhivError, SourceError


@contextmanager
def local_copy(place: Path | str, *, verify: bool = False, leave_out: str = "") -> Iterator[Path]:
    """What is at an address with all its files, kept until the end: a folder, or a file where an object has that name.

    `verify` asks for the etag of each file that is there already. Objects whose names begin with `leave_out` are not
    fetched. SourceError where nothing is there. Errors from inside name the address in place of the folder.
    """
    address = resolve_place(place)
    if isinstance(address, Path):
        yield address
        return
    cache, above, name = Cache.from_environment(), *_split(address)
    root = cache.root / "sources" / folder_name(address)
    folder = root / name  # a converter may name the dataset as its folder
    with cache.pinned(root), named_by(address, folder):
        if entries := [entry for entry in open_store(address).list() if not entry.name.endswith("/")]:
            _check_names(address, entries)
            wanted = [entry for entry in entries if not (leave_out and entry.name.startswith(leave_out))]
            _Copy(open_store(address), cache, folder, verify).update(wanted)
            yield folder
        elif above is not None and (found := open_store(above).stat(name)):
            folder = root / _split(above)[1]
            _Copy(open_store(above), cache, folder, verify=True).update([Entry(name, found.size_bytes, 0)])
            with named_by(above, folder):
                yield folder / name
        else:
            raise SourceError(str(address), "no such folder or object", "Check the address")


def _split(address: Address) -> tuple[Address | None, str]:
    """The folder around an address, None for a bucket; and the last part of it."""
    above, _, name = address.path.rpartition("/")
    return Address(address.scheme, above) if above else None, name


@dataclass(frozen=True)
class _Copy:
    """The files below `folder`, made what a listing says."""

    store: Store
    cache: Cache
    folder: Path
    verify: bool

    def update(self, entries: list[Entry]) -> None:
        self._remove_others({entry.name for entry in entries})
        total = sum(entry.size_bytes for entry in entries)
        if total > self.cache.limit_bytes:
            what = f"{spell_size(self.cache.limit_bytes)} are too few for {self.store.address} ({spell_size(total)})"
            raise EnvironmentProblem("PHIV_CACHE_SIZE", what, "Raise it, or copy the files yourself")
        with request_pool() as pool:
            missing = [
                entry
                for entry, is_there in zip(entries, pool.map(self._is_current, entries), strict=True)
                if not is_there
            ]
            self.cache.make_room(sum(entry.size_bytes for entry in missing))
            list(pool.map(self._fetch, missing))

    def _fetch(self, entry: Entry) -> None:
        path = self.folder / entry.name
        path.unlink(missing_ok=True)
        try:
            found = self.cache.fetch(self.store, entry.name, path, has_room=True)
        except FileNotFoundError:
            what = "was listed, and is not there any more"
            raise EnvironmentProblem(str(self.store.address / entry.name), what, "Run the same command again") from None
        if found is not None:
            os.utime(path, ns=(path.stat().st_atime_ns, _stamp(entry, found.etag)))

    def _is_current(self, entry: Entry) -> bool:
        path = self.folder / entry.name
        try:
            stat = path.stat()
        except (FileNotFoundError, NotADirectoryError):
            return False
        same = stat.st_size == entry.size_bytes and stat.st_mtime_ns // 10**9 == entry.mtime_ns // 10**9
        if not same or not (self.verify or entry.mtime_ns == 0):
            return same
        found = self.store.stat(entry.name)
        return found is not None and stat.st_mtime_ns == _stamp(entry, found.etag)

    def _remove_others(self, names: set[str]) -> None:
        """Files that are not at the address any more, and the folders that are empty then."""
        for folder, _, files in os.walk(self.folder, topdown=False):
            for file in files:
                path = Path(folder, file)
                if path.relative_to(self.folder).as_posix() not in names:
                    path.unlink()
            if not any(Path(folder).iterdir()):
                Path(folder).rmdir()


def _stamp(entry: Entry, etag: str) -> int:
    """A time in nanoseconds: the second is the object's, the rest is from its etag."""
    return entry.mtime_ns // 10**9 * 10**9 + int(hashlib.sha256(etag.encode()).hexdigest()[:12], 16) % 10**9


def _check_names(address: Address, entries: list[Entry]) -> None:
    """SourceError for an object that cannot be a file, or is a file and a folder of others."""
    names = {entry.name for entry in entries}
    for name in names:
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or str(path) != name or "\0" in name:
            raise SourceError(str(address), f"the object {name!r} cannot be a file", "Rename it")
        if parent := next((str(above) for above in path.parents if str(above) in names), None):
            raise SourceError(str(address), f"{parent!r} is an object and a folder of others", "Rename one of them")


@contextmanager
def named_by(address: Address, folder: Path) -> Iterator[None]:
    """Errors from inside, with the address where they name the folder."""
    try:
        yield
    except PhivError as error:
        local, remote = str(folder), str(address)
        error.where, error.what, error.hint = (
            text.replace(local, remote) for text in (error.where, error.what, error.hint)
        )
        raise
