"""The plan of a conversion: which row comes from which input, and which task makes it.

A plan is a pure function of the inputs and the options, so the output's bytes cannot depend on the number of workers,
on rejects or on retries. Rows come in the order in which the converter lists its inputs, split by split.

Inputs may be millions: they are read once, and written to disk task by task, from where `load_items` reads those of one
task back in whichever process does it.
"""

from __future__ import annotations

import hashlib
import json
import pickle
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import IO

from phiv_data.convert.base import Converter, Inputs, Item
from phiv_data.convert.fingerprint import FileVersion, SourceState, file_reader, spell
from phiv_data.sources.folders import output_finder
from phiv_data.storage.record_errors import truncated_repr
from phiv_data.utils.atomic import environment_problems
from phiv_data.utils.seen_index import open_seen_index
from phiv_schemas import SourceError
from phiv_schemas.conversation import check_image_path, check_name

# Rows of a task: 32 of any size, more of small ones, so that a report's two syncs to disk are shared by enough work.
MIN_TASK_ROWS = 32
MAX_TASK_ROWS = 256
TASK_BYTES = 2**20
MAX_SPLIT_BYTES = 100  # of a file's 255, which also holds the dataset's name
SPLIT_ORDER = ("train", "val", "test")
DIGEST_BYTES = 16


@dataclass(frozen=True, slots=True)
class ConversionTask:
    """A run of rows of one split: the unit of work, of resume and of retry. Its items are at `offset` of `file`."""

    index: int
    split: str
    first: int
    stop: int
    file: Path
    offset: int


@dataclass(frozen=True, slots=True)
class ConversionPlan:
    """The tasks that cover all inputs, in the order of the ids.

    `sha256` covers the options, the converter's version and the inputs with their contents; of files only the sizes.
    `source` covers the rest of these files.
    """

    converter: Converter
    splits: tuple[str, ...]
    tasks: tuple[ConversionTask, ...]
    sha256: str
    source: SourceState

    @property
    def num_items(self) -> int:
        """How many inputs there are."""
        return self.tasks[-1].stop

    def items(self) -> Iterator[Item]:
        """All inputs, in the order of the ids."""
        for task in self.tasks:
            yield from load_items(task)


def list_inputs(converter: Converter, source: object = None) -> Inputs:
    """What the converter lists, be it items alone, without files of outputs of phiv below the folder `source`.

    A converter that looks for `**/*.jpg` finds the images of its own output there when it runs again.
    """
    _check_utf8(converter)
    listed = converter.inputs()
    inputs = listed if isinstance(listed, Inputs) else Inputs(listed)
    if not isinstance(source, Path) or not source.is_dir():
        return inputs
    is_in_output = output_finder(source)

    def is_input(item: Item) -> bool:
        content = item.content if isinstance(item.content, tuple) else (item.content,)
        return not any(isinstance(part, Path) and is_in_output(part) for part in content)

    return replace(inputs, items=filter(is_input, inputs.items))


def _check_utf8(converter: Converter) -> None:
    """SourceError where a name that goes to the manifest cannot be written: names on disk need not be UTF-8."""
    for text in (converter.name, converter.describe(), json.dumps(converter.options(), ensure_ascii=False)):
        try:
            text.encode()
        except UnicodeEncodeError as error:
            shown = text[max(error.start - 20, 0) : error.end + 20]
            raise SourceError("--source", f"a name in it is not UTF-8 (found {shown!r})", "Rename that file") from error


def make_plan(
    converter: Converter,
    inputs: Inputs,
    items_dir: Path,
    work_dir: Path,
    *,
    verify: bool = False,
    roots: Sequence[Path] = (),
) -> ConversionPlan:
    """The plan for what `inputs` lists, its items written to new files in `items_dir`.

    `verify` reads the contents of all files of the source; `roots` are its folders. Raises SourceError where there is
    no input, a key is there twice, or a split's name would lead out of the output.
    """
    version_of = file_reader(work_dir, verify=verify)
    listed: dict[str, _ListedSplit] = {}
    with environment_problems(items_dir), ExitStack() as stack:
        shutil.rmtree(items_dir, ignore_errors=True)
        items_dir.mkdir(parents=True)
        for item in inputs.items:
            if (split := listed.get(item.split)) is None:
                path = items_dir / f"{len(listed):04d}"
                file = stack.enter_context(path.open("wb"))
                split = listed[item.split] = _ListedSplit(item.split, path, file, verify)
            split.add(item, version_of, spell(converter.draft_depends_on(item), roots), roots)
        for split in listed.values():
            split.end_task()
    for name in listed:
        _check_split(converter, name)
    if not listed:
        raise SourceError(converter.name, f"no inputs found ({converter.describe()})", "Check --source")
    for split in listed.values():
        if not split.keys_ascend:
            _check_keys(converter.name, split, items_dir)
    by_standard = sorted(listed, key=lambda n: (SPLIT_ORDER.index(n) if n in SPLIT_ORDER else len(SPLIT_ORDER), n))
    splits = tuple(converter.splits) or tuple(by_standard)
    if unknown := sorted(listed.keys() - set(splits)):
        raise SourceError(converter.name, f"lists an input of {unknown[0]!r}, which is none of its splits ({splits})")
    ordered = [listed[name] for name in splits if name in listed]
    tasks: list[ConversionTask] = []
    first = 0
    head = [converter.name, converter.version, converter.options(), list(splits), sorted(inputs.duplicates)]
    sha256 = hashlib.sha256(json.dumps(head, sort_keys=True).encode())
    times, contents = hashlib.sha256(), hashlib.sha256()
    for split in ordered:
        for rows, offset in split.tasks:
            tasks.append(ConversionTask(len(tasks), split.name, first, first + rows, split.path, offset))
            first += rows
        sha256.update(json.dumps([split.name, split.plan.hexdigest()]).encode())
        times.update(split.times.digest())
        contents.update(split.contents.digest())
    source = SourceState(times.hexdigest(), contents.hexdigest() if verify else None)
    return ConversionPlan(converter, splits, tuple(tasks), sha256.hexdigest(), source)


def load_items(task: ConversionTask) -> list[Item]:
    """The items of a task."""
    with task.file.open("rb") as file:
        file.seek(task.offset)
        pickle.load(file)
        return [Item(*values) for values in pickle.load(file)]  # plain tuples: half the time of pickled items


def load_digests(task: ConversionTask) -> tuple[bytes, bytes]:
    """Of each input DIGEST_BYTES over all that its draft depends on: with the times of its files, with their sha256.

    None of the latter where the files were not read.
    """
    with task.file.open("rb") as file:
        file.seek(task.offset)
        times, contents = pickle.load(file)
        return times, contents


def load_absent_files(task: ConversionTask) -> frozenset[Path]:
    """The files of a task's items that were not there when the source was listed."""
    return _load_absent(task.file, task.offset, task.file.stat().st_mtime_ns)


@lru_cache(maxsize=2)  # asked for each reject of a task
def _load_absent(path: Path, offset: int, written_ns: int) -> frozenset[Path]:
    with path.open("rb") as file:
        file.seek(offset)
        for _ in range(2):
            pickle.load(file)
        return frozenset(pickle.load(file))


def row_id(item: Item, index: int) -> str:
    """The id the engine gives the row at `index` over all splits: `val-0000000300`."""
    return f"{item.split}-{index:010d}"


@dataclass(slots=True)
class _ListedSplit:
    """The inputs of one split as they are listed: items on disk by task, and their fingerprints."""

    name: str
    path: Path
    file: IO[bytes]
    has_contents: bool
    tasks: list[tuple[int, int]] = field(default_factory=list)  # (rows, offset in the file)
    keys_ascend: bool = True
    plan: hashlib._Hash = field(default_factory=hashlib.sha256)
    times: hashlib._Hash = field(default_factory=hashlib.sha256)
    contents: hashlib._Hash = field(default_factory=hashlib.sha256)
    _last_key: tuple[str, int, str] | None = None
    _pending: list[tuple[object, ...]] = field(default_factory=list)
    _pending_bytes: int = 0
    _absent: list[Path] = field(default_factory=list)  # files of the pending items that are not there
    _digests: tuple[bytearray, bytearray] = field(default_factory=lambda: (bytearray(), bytearray()))

    def add(
        self, item: Item, version_of: Callable[[Path], FileVersion], depends_on: str, roots: Sequence[Path]
    ) -> None:
        """Take the next input. `depends_on`: what its draft depends on beside its content, spelled."""
        size, parts, absent = 0, list[str | int | None](), list[Path]()
        times, contents = [item.split, depends_on], [item.split, depends_on]
        for part in item.content if isinstance(item.content, tuple) else (item.content,):
            if isinstance(part, bytes):
                size += len(part)
                parts.append(digest := hashlib.sha256(part).hexdigest())
                times.append(digest)
                contents.append(digest)
                continue
            found = version_of(part)
            if found.size_bytes is None:
                absent.append(part)
            size += found.size_bytes or 0
            parts.append(found.size_bytes)
            self.times.update(f"{found.size_bytes} {found.stamp};".encode())
            self.contents.update(f"{found.size_bytes} {found.sha256};".encode())
            place = spell(part, roots)
            times.append(f"{place} {found.size_bytes} {found.stamp}")
            contents.append(f"{place} {found.size_bytes} {found.sha256}")
        size = size if item.size_bytes is None else item.size_bytes
        self.plan.update(json.dumps([item.key, size, parts]).encode())
        # An order in which "a.jsonl:9" comes before "a.jsonl:10": keys that ascend in it differ.
        name, _, number = item.key.rpartition(":")
        key = name, len(number), number
        self.keys_ascend = self.keys_ascend and (self._last_key is None or self._last_key < key)
        self._last_key = key
        rows = len(self._pending)
        if rows >= MAX_TASK_ROWS or (rows >= MIN_TASK_ROWS and self._pending_bytes + size > TASK_BYTES):
            self.end_task()
        self._pending.append((item.split, item.key, item.content, item.payload, item.size_bytes))
        self._pending_bytes += size
        self._absent += absent
        for digests, words in zip(self._digests, (times, contents) if self.has_contents else (times,), strict=False):
            digests += hashlib.sha256(repr(words).encode()).digest()[:DIGEST_BYTES]

    def end_task(self) -> None:
        """Write the items that wait, as one task: their digests, the items, the files of theirs that are not there."""
        if self._pending:
            self.tasks.append((len(self._pending), self.file.tell()))
            for values in (tuple(map(bytes, self._digests)), self._pending, self._absent):
                pickle.dump(values, self.file)
            self._pending, self._pending_bytes, self._absent = [], 0, []
            self._digests = bytearray(), bytearray()


def _check_split(converter: Converter, split: str) -> None:
    """SourceError for a split that cannot be a part of a path: it names files and folders, also outside of OUT."""
    try:
        check_image_path(split)
        check_name(split)
        if "/" in split or len(split.encode()) > MAX_SPLIT_BYTES:
            raise ValueError(f"must hold no '/' and at most {MAX_SPLIT_BYTES} bytes")
    except ValueError as error:
        what = f"a split is called {truncated_repr(split)}, which can name no files ({error})"
        raise SourceError("--source", what, "Rename the split in the source") from error


def _check_keys(name: str, split: _ListedSplit, items_dir: Path) -> None:
    """SourceError where a key of the split is there twice."""
    with open_seen_index(items_dir / "keys.sqlite") as seen:
        for _, offset in split.tasks:
            for item in load_items(ConversionTask(0, split.name, 0, 0, split.path, offset)):
                if not seen.register_id(item.key.encode("utf-8", "surrogatepass")):  # a name on disk need not be UTF-8
                    raise SourceError(name, f"input {item.key!r} is listed twice in {split.name!r}")
