"""Conversions from and to object stores: `convert`, for sources and outputs that may be addresses.

    convert_anywhere(options, "s3://bucket/ucf101")

A source at an address is copied to the cache first (stores/folder_copy.py). An output at an address is made in a work
folder of the cache, named by the address, and then published:

    0. an empty `.phiv-converting`, before the work: where nothing can be written is found then
    1. a claim, `.phiv-publishing`, with the manifest's sha256: another conversion that publishes there is refused
    2. an older `manifest.json` is removed: from here on readers say "not finished"
    3. every file, several at a time; what an earlier run has sent already is not sent again
    4. objects of the older output that the new one does not have are removed
    5. one listing: every file is there, of the right size; then `manifest.json`, and the two marks are removed

So who finds a manifest finds every file that it names, and a run that was stopped is resumed by the same command. The
work folder keeps the manifest and what `.phiv` holds, without the images and shards.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from phiv_data.convert.base import ConverterOptions
from phiv_data.convert.engine import Outcome, convert
from phiv_data.convert.running import ProgressFactory
from phiv_data.convert.staging import MANIFEST
from phiv_data.storage.dataset import read_manifest
from phiv_data.stores.address import Address, resolve_place
from phiv_data.stores.base import Store
from phiv_data.stores.cache import Cache, folder_name
from phiv_data.stores.folder_copy import local_copy, named_by
from phiv_data.stores.opening import open_store
from phiv_data.stores.threads import request_pool
from phiv_data.utils.atomic import atomic_write, environment_problems
from phiv_data.utils.progress import Progress
from phiv_schemas import EnvironmentProblem, Manifest, ShardError, UsageError

_REPLACES = ("overwrite", "update", "retry_failed")
CLAIM, _BEGUN = ".phiv-publishing", ".phiv-converting"
T = TypeVar("T")


def convert_anywhere(
    options: ConverterOptions, out_dir: Path | str, *, verify: bool = False, **how: Any
) -> tuple[Outcome, Path]:
    """As `engine.convert`, with paths of the options and `out_dir` that may be addresses; the outcome, and a folder
    that has at least the manifest and the rejects of the output.

    EnvironmentProblem where a store does not answer: the same command resumes.
    """
    with ExitStack() as stack:
        options = _with_local_sources(options, stack, verify)
        place = resolve_place(out_dir)
        if isinstance(place, Path):
            return convert(options, place, verify=verify, **how), place
        work = stack.enter_context(_locked_work(place))
        work.take_over()
        with named_by(place, work.out):
            outcome = _convert_unless_pending(options, work, verify=verify, **how)
        work.publish(how.get("progress", Progress), may_replace=any(how.get(name) for name in _REPLACES))
        return outcome, work.out


def _convert_unless_pending(options: ConverterOptions, work: _Work, *, overwrite: bool = False, **how: Any) -> Outcome:
    """`engine.convert`; an output that is made but not published yet is not made again to replace itself."""
    if overwrite and work.is_pending():
        with suppress(UsageError):
            return convert(options, work.out, is_partial=True, **how)
    return convert(options, work.out, overwrite=overwrite, is_partial=True, **how)


def _with_local_sources(options: ConverterOptions, stack: ExitStack, verify: bool) -> ConverterOptions:
    """The options with a local copy in place of every path that is an address."""

    def localize(value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(localize(one) for one in value)
        place = resolve_place(value) if isinstance(value, Path) else value
        return stack.enter_context(local_copy(value, verify=verify)) if isinstance(place, Address) else place

    if not dataclasses.is_dataclass(options):
        return options
    values = {field.name: getattr(options, field.name) for field in dataclasses.fields(options) if field.init}
    changed = {name: new for name, value in values.items() if (new := localize(value)) != value}
    return dataclasses.replace(options, **changed) if changed else options


@dataclasses.dataclass(frozen=True)
class _Work:
    """The work folder of an output at an address: `out/` as a local output, `sent` the files that are published."""

    root: Path
    store: Store

    @property
    def out(self) -> Path:
        return self.root / "out"

    def is_pending(self) -> bool:
        """Whether a whole output is in `out` that is not at the address."""
        path = self.out / MANIFEST
        return path.is_file() and self.store.read(MANIFEST) != path.read_bytes() and _is_whole(self.out)

    def take_over(self) -> None:
        """Have in `out` the small files of the output that is at the address, so that the engine compares with it.

        An output that is pending stays: it is newer. UsageError where others have objects at the address.
        """
        remote = self.store.read(MANIFEST)
        local = (self.out / MANIFEST).read_bytes() if (self.out / MANIFEST).is_file() else None
        if local is not None and (local == remote or _is_whole(self.out)):
            return
        if local is not None:  # what was published from here is gone, or another output has its place
            self._trim(keep={".phiv"})
        names = [entry.name for entry in self.store.list()] if remote is None else []
        if names and not {CLAIM, _BEGUN} & set(names):
            what = f"'{self.store.address}' is not empty and holds no phiv output (found {names[0]!r})"
            raise UsageError("--out_dir", what, "Pass a new or empty address, or remove that")
        _in_thread(lambda: self.store.put(_BEGUN, b""))  # where nothing can be written is found before the work
        if remote is None:
            return
        copied = self.root / "remote"
        with atomic_write(copied / MANIFEST) as file:
            file.write(remote)
        try:
            manifest = read_manifest(copied)
        except ShardError as error:
            hint = "Remove it, then run the same command again"
            raise ShardError(str(self.store.address / MANIFEST), error.what, hint) from error
        for info in (manifest.image_hashes, manifest.rejects):
            with atomic_write(self.out / info.path) as file:
                file.write(self.store.read(info.path) or b"")
        (copied / MANIFEST).replace(self.out / MANIFEST)  # last: with it, `out` is an output

    def publish(self, progress: ProgressFactory, *, may_replace: bool) -> None:
        """Bring what is complete in `out` to the address. Safe to repeat after any interruption."""
        raw = (self.out / MANIFEST).read_bytes()
        manifest, remote = read_manifest(self.out), self.store.read(MANIFEST)
        if remote != raw:
            self._claim(hashlib.sha256(raw).hexdigest(), is_free=remote is None or may_replace, may_replace=may_replace)
            files = _files_of(manifest, (self.out / manifest.image_hashes.path).read_bytes())
            if remote is not None:
                self._record_older(remote)
                self.store.delete(MANIFEST)
            self._send(files, progress)
            self._check_all_there(files)
            _in_thread(lambda: self.store.put(MANIFEST, raw))
        for name in (CLAIM, _BEGUN):
            if self.store.stat(name) is not None:
                self.store.delete(name)
        self._trim(keep={MANIFEST, ".phiv", manifest.image_hashes.path, manifest.rejects.path})
        for name in ("sent", "older"):
            (self.root / name).unlink(missing_ok=True)

    def _claim(self, sha256: str, *, is_free: bool, may_replace: bool) -> None:
        """Mark the address as one that this output is published to. UsageError where another output is, or is to be.

        What was sent before counts only where the mark is there from then.
        """
        mine = json.dumps({"manifest_sha256": sha256}).encode()
        found = self.store.read(CLAIM)
        if found == mine:
            return
        if not is_free:  # it came there while this one was made
            what = "holds another finished output, which was published meanwhile"
            raise UsageError(str(self.store.address), what, "Pass --overwrite to replace it, or another --out_dir")
        (self.root / "sent").unlink(missing_ok=True)
        if found is not None and may_replace:
            self.store.delete(CLAIM)
            found = None
        if found is not None or not self._put_claim(mine):
            what = "another conversion is being published there, or was stopped"
            hint = "Repeat its command to finish it, or pass --overwrite to replace it"
            raise UsageError(str(self.store.address), what, hint)

    def _put_claim(self, mine: bytes) -> bool:
        """False where another process was faster, as far as the store can know."""
        if self.store.has_conditional_put:
            return _in_thread(lambda: self.store.put_if_absent(CLAIM, mine)) or self.store.read(CLAIM) == mine
        _in_thread(lambda: self.store.put(CLAIM, mine))
        return True

    def _record_older(self, remote: bytes) -> None:
        """Write down which objects the output has that is about to be replaced: they are removed when it is."""
        with suppress(ValidationError):  # of a damaged one nothing is known, and its objects stay
            manifest = Manifest.model_validate_json(remote)
            names = set(_files_of(manifest, self.store.read(manifest.image_hashes.path) or b""))
            with atomic_write(self.root / "older") as file:
                file.write("\n".join(sorted(names | self._read_names("older"))).encode())

    def _send(self, files: dict[str, str], progress: ProgressFactory) -> None:
        """Put every file that is not there yet, and remove what the older output had besides."""
        sent = self._read_names("sent")
        there = {entry.name: entry.size_bytes for entry in self.store.list()}
        missing = [
            name for name, sha256 in files.items()
            if f"{sha256}  {name}" not in sent or there.get(name) != (self.out / name).stat().st_size
        ]  # fmt: skip

        with (
            progress("publish", len(missing)) as bar,
            (self.root / "sent").open("ab", buffering=0) as record,  # each line by one call, from any thread
            request_pool() as pool,
        ):

            def put(name: str) -> None:
                self.store.put(name, self.out / name)
                record.write(f"{files[name]}  {name}\n".encode())

            for _ in pool.map(put, missing):
                bar.add(1)
            others = [name for name in self._read_names("older") if name in there and name not in files]
            list(pool.map(self.store.delete, others))

    def _read_names(self, file: str) -> set[str]:
        """The lines of a record: `sent`, hashes and names of objects put from here; `older`, names to be removed."""
        path = self.root / file
        return set(path.read_bytes().decode().split("\n")) - {""} if path.exists() else set()

    def _check_all_there(self, files: dict[str, str]) -> None:
        there = {entry.name: entry.size_bytes for entry in self.store.list()}
        for name in files:
            if there.get(name) != (self.out / name).stat().st_size:
                what = f"holds {there.get(name, 0)} bytes, which are not those that were sent"
                raise EnvironmentProblem(str(self.store.address / name), what, "Run the same command again")

    def _trim(self, keep: set[str]) -> None:
        """Remove everything from `out` but what the next run compares with."""
        for path in self.out.iterdir() if self.out.is_dir() else ():
            if path.name in keep:
                continue
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()


@contextmanager
def _locked_work(address: Address) -> Iterator[_Work]:
    """The work folder of an address. UsageError where another process of this machine works there."""
    from filelock import FileLock, Timeout

    root = Cache.from_environment().root / "work" / folder_name(address)
    with environment_problems(root):
        root.mkdir(parents=True, exist_ok=True)
        lock = FileLock(root / "lock", timeout=0)
        try:
            lock.acquire()
        except Timeout:
            raise UsageError(str(address), "another conversion is writing here", "Wait for it to end") from None
        try:
            yield _Work(root, open_store(address))
        finally:
            lock.release()


def _is_whole(out: Path) -> bool:
    """Whether all files of the output are there, not the small ones alone."""
    manifest = read_manifest(out)
    return all((out / info.path).is_file() for info in manifest.files)


def _files_of(manifest: Manifest, hashes: bytes) -> dict[str, str]:
    """The sha256 of every file of an output by name, but for the manifest; `hashes` is its list of images."""
    files = {info.path: info.sha256 for info in manifest.files}
    for line in hashes.decode().split("\n"):
        sha256, found, name = line.partition("  ")
        files |= {name: sha256} if found else {}
    return files


def _in_thread(operation: Callable[[], T]) -> T:
    """Run a put to its end: a stop signal, raised in the main thread, would close its stream half-written."""
    with request_pool() as pool:
        return pool.submit(operation).result()
