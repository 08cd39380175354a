"""What the conformance kit is made of: read drafts and outputs, and report in one line what is wrong with them."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal
from unittest.mock import patch

from phiv_data.convert.base import Converter, Item
from phiv_data.convert.plan import ConversionPlan
from phiv_data.media.reject import RejectInput
from phiv_data.storage.sample import Draft
from phiv_data.utils.atomic import sha256_file
from phiv_data.validation import validate


def demand(holds: bool, what: str, hint: str = "") -> None:
    """AssertionError with `what` is wrong and what to do (`hint`), unless it `holds`."""
    if not holds:
        raise AssertionError(f"{what}. {hint}" if hint else what)


def drafts_of(converter: Converter, items: Sequence[Item]) -> list[Draft | str]:
    """The draft of each item, or the code it is rejected with."""
    drafts: list[Draft | str] = []
    for item in items:
        try:
            drafts.append(converter.draft(item))
        except RejectInput as reject:
            drafts.append(reject.code)
    return drafts


def sound_drafts(plan: ConversionPlan) -> list[tuple[Item, Draft]]:
    """The items of a plan that are not rejected, in its order, with their drafts."""
    items = list(plan.items())
    drafts = zip(items, drafts_of(plan.converter, items), strict=True)
    return [(item, draft) for item, draft in drafts if isinstance(draft, Draft)]


def demand_same_drafts(plan: ConversionPlan, a: list[Draft | str], b: list[Draft | str], how: str, hint: str) -> None:
    """AssertionError where the drafts `a` and `b` of the plan's items differ."""
    other = [item.key for item, one, two in zip(plan.items(), a, b, strict=True) if one != two]
    demand(not other, f"{len(other)} items give another draft when {how} (first: {other[:1]})", hint)


def demand_same_files(one: Path, two: Path, how: str, hint: str) -> None:
    """AssertionError where the files below `one` and `two` differ in name or bytes."""
    other = sorted(path for path, _ in hashes(one).items() ^ hashes(two).items())
    demand(not other, f"other files when converted {how} (first: {other[:1]})", hint)


def demand_valid(out: Path) -> None:
    """AssertionError where `phiv-validate` finds an error in an output."""
    report = validate(out)
    errors = [str(issue) for issue in report.issues if issue.severity == "error"]
    demand(report.ok, f"phiv-validate finds {len(errors)} errors (first: {errors[:1]})", "Run it on the output")


def hashes(root: Path) -> dict[str, str]:
    """Every file below `root` by its relative path, or `root` itself where it is a file; none of `.phiv/`."""
    files = sorted(p for p in root.rglob("*") if p.is_file()) if root.is_dir() else [root]
    names = {path.relative_to(root).as_posix(): path for path in files}
    return {name: sha256_file(path) for name, path in names.items() if not name.startswith(".phiv/")}


def data_of(out: Path) -> dict[str, str]:
    """The hashes of an output's jsonl files (rejects among them) and images."""
    return {name: sha for name, sha in hashes(out).items() if name.endswith(".jsonl") or name.startswith("images/")}


@dataclass(frozen=True)
class SourceChange:
    """A change of a source file that keeps its size: a letter of a text, or some bytes of another file."""

    name: str
    """Of the file, relative to the source; `.` where the source is a file."""
    kind: Literal["text", "bytes"]
    offset: int

    def apply(self, source: Path, *, keep_time: bool = False) -> None:
        """Make the change in `source`. The file is a second younger then, unless it is to keep its time."""
        path = source / self.name
        data, stat = bytearray(path.read_bytes()), path.stat()
        if self.kind == "text":
            data[self.offset] = data[self.offset] + 1 if data[self.offset] in b"aA02468" else ord("a")
        else:
            data[self.offset : self.offset + 16] = bytes(b ^ 0x55 for b in data[self.offset : self.offset + 16])
        path.write_bytes(data)
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + (0 if keep_time else 10**9)))


def find_changes(source: Path) -> Iterator[SourceChange]:
    """Changes to try, a few in each of the first files of either kind."""
    left = {"text": 4, "bytes": 4}
    for name in hashes(source):
        data = (source / name).read_bytes()
        is_text = b"\0" not in data[:4096] and data[:4096].isascii()
        kind: Literal["text", "bytes"] = "text" if is_text else "bytes"
        if not data or not left[kind]:
            continue
        left[kind] -= 1
        places: Sequence[int] = range(len(data))
        shares: tuple[float, ...] = (0.5, 0.3, 0.9, 0.1)
        if kind == "text":  # of each word one letter, so that long words do not take all changes
            places = [match.start() for match in re.finditer(rb"[A-Za-z0-9]+", data)]
            shares = (0.5, 0.3, 0.9, 0.1, 0.95, 0.99)
        for share in shares:
            if places:
                yield SourceChange(name, kind, places[int(share * len(places))])


@dataclass(frozen=True)
class Removal:
    """A file of the source that is removed, or one line of it."""

    name: str
    line: int | None = None

    def apply(self, source: Path, *, keep_time: bool = False) -> None:
        """Remove it from `source`; a file that lost a line may keep its time."""
        path = source / self.name
        stat = path.stat()
        if self.line is None:
            path.unlink()
        else:
            lines = path.read_bytes().splitlines(keepends=True)
            path.write_bytes(b"".join(lines[: self.line] + lines[self.line + 1 :]))
            if keep_time:
                os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def find_removals(source: Path) -> Iterator[Removal]:
    """Removals to try: the first and the middle one of all files, and the second line of the first text files."""
    names = sorted(hashes(source))
    if source.is_dir():
        yield from (Removal(name) for name in dict.fromkeys((names[0], names[len(names) // 2])))
    texts = [name for name in names if b"\0" not in (source / name).read_bytes()]
    yield from (Removal(name, 1) for name in texts[:2])


def record_lines(out: Path) -> list[str]:
    """The records of an output, as its jsonl files hold them."""
    return [line for path in sorted(out.glob("*_*.jsonl")) for line in path.read_text("utf-8").splitlines()]


def copy_source(source: Path, folder: Path, *, keep_times: bool = False) -> Path:
    """A copy under the same name, by default with other times."""
    folder.mkdir(parents=True, exist_ok=True)
    copy: Callable[..., Any] = shutil.copy2 if keep_times else shutil.copyfile
    if source.is_dir():
        return Path(shutil.copytree(source, folder / source.name, copy_function=copy))
    return Path(copy(source, folder / source.name))


@contextmanager
def list_by_name(*, reverse: bool) -> Iterator[None]:
    """While this lasts, folders list their entries by name, forwards or backwards."""
    listdir, scandir = os.listdir, os.scandir

    def names(path: Any = ".") -> list[Any]:
        return sorted(listdir(path), reverse=reverse)

    def entries(path: Any = ".") -> _Entries:
        with scandir(path) as found:
            return _Entries(sorted(found, key=lambda entry: entry.name, reverse=reverse))

    with patch.object(os, "listdir", names), patch.object(os, "scandir", entries):
        yield


class _Entries:
    """What os.scandir returns: an iterator and a context manager."""

    def __init__(self, entries: list[Any]) -> None:
        self._entries = iter(entries)

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        return next(self._entries)

    def __enter__(self) -> _Entries:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._entries = iter(())
