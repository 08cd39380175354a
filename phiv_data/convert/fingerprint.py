"""Fingerprints of what a conversion is made from: the contents of its inputs, its source files, its converter's code.

An input's bytes and sizes go into the plan's hash, which the manifest holds. The times of files do not: a copy of the
source elsewhere gives the same output. They are compared by a second fingerprint, `SourceState`, which stays on this
machine, below `<out>/.phiv/`.
"""

from __future__ import annotations

import ast
import dataclasses
import hashlib
import os
import pickle
import platform
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache, lru_cache
from importlib.util import find_spec
from pathlib import Path
from stat import S_ISREG
from typing import NamedTuple

from phiv_data.utils.atomic import find_environment_problem, sha256_file
from phiv_schemas.errors import EnvironmentProblem

Content = bytes | Path | tuple[bytes | Path, ...]
"""What an input is: its bytes (or a digest of them), a file that the draft reads, or several of these."""


@dataclass(frozen=True, slots=True)
class SourceState:
    """Of all files that the inputs name: a hash of sizes and times; of their contents too where it was asked for."""

    times: str
    sha256: str | None = None

    def is_same(self, now: SourceState) -> bool:
        """True when the files are `now` as they were: by their contents where these were read now, else by their times.

        False too where they were not read before: what is asked for cannot be answered.
        """
        return self.times == now.times if now.sha256 is None else self.sha256 == now.sha256


class FileVersion(NamedTuple):
    """One file, as it was found: `size_bytes` is None for one that is not there, `sha256` empty where not read."""

    size_bytes: int | None
    stamp: str = "missing"
    sha256: str = ""


def file_reader(work_dir: Path, *, verify: bool) -> Callable[[Path], FileVersion]:
    """`version(path)` of a file, asked of the disk once for rows that follow each other.

    `verify` reads the contents too. Of files below `work_dir`, which the conversion itself has made, the time has
    no meaning: their contents are read in its place.
    """
    ours = tuple(f"{folder}{os.sep}" for folder in {str(work_dir), str(work_dir.absolute())})

    @lru_cache(maxsize=4096)
    def version(path: Path) -> FileVersion:
        is_ours = str(path).startswith(ours)
        if (stat := _stat_of(path)) is None:
            return FileVersion(None)
        # A device or a pipe could be read without end: the draft rejects it.
        sha256 = sha256_file(path) if (verify or is_ours) and S_ISREG(stat.st_mode) else ""
        return FileVersion(stat.st_size, sha256 if is_ours else str(stat.st_mtime_ns), sha256)

    return version


@dataclass(frozen=True, slots=True)
class SourceRoots:
    """The files and folders that a converter's options name, as they were when it was opened: (path, device, inode).

    What an input lacks says nothing of it while its source is away: unmounted, moved, on a disk that does not answer.
    The device of a shared disk has another number on another `machine`.
    """

    roots: tuple[tuple[Path, int, int], ...] = ()
    machine: str = field(default_factory=platform.node)

    @classmethod
    def of(cls, options: object) -> SourceRoots:
        """Those of a dataclass's fields that are paths, or tuples of them."""
        fields = dataclasses.fields(options) if dataclasses.is_dataclass(options) else ()
        values = [getattr(options, field.name) for field in fields]
        paths = [path for value in values for path in (value if isinstance(value, tuple) else (value,))]
        found = [(path.absolute(), _stat_of(path)) for path in paths if isinstance(path, Path)]
        return cls(tuple((path, stat.st_dev, stat.st_ino) for path, stat in found if stat))

    def folders(self) -> tuple[Path, ...]:
        """The folders that are roots, and those around the files that are."""
        return tuple(path if path.is_dir() else path.parent for path, _, _ in self.roots)

    def check(self, files: Iterable[Path] = ()) -> None:
        """EnvironmentProblem where a root is gone or another than before, or one of `files` is not there."""
        for path, device, inode in self.roots:
            stat = _stat_of(path)
            is_same_device = stat is not None and (stat.st_dev == device or self.machine != platform.node())
            if stat is None or stat.st_ino != inode or not is_same_device:
                raise _source_away(path)
        for path in files:
            if _stat_of(path) is None:
                raise _source_away(path)


def _stat_of(path: Path) -> os.stat_result | None:
    """None where nothing is there. EnvironmentProblem where a disk does not answer."""
    try:
        return path.stat()
    except (OSError, ValueError) as error:
        if problem := find_environment_problem(error, path):
            raise problem from error
        return None


def _source_away(path: Path) -> EnvironmentProblem:
    what = "was there when the source was listed, and is away or another one now"
    return EnvironmentProblem(str(path), what, "Put it back, then run the same command again")


_PLAIN = (str, bytes, int, float, bool, type(None))


def spell(value: object, roots: Sequence[Path] = ()) -> str:
    """`value` in words that are the same in every process: equal words mean equal values.

    Plain values, containers and dataclasses are spelled out, anything else pickled. Absolute `roots` are named by their
    numbers, so that a source that was moved as a whole is spelled as before.

    >>> spell((Path("/data/a/1.jpg"), "cat"), [Path("/data")])
    "tuple(<0:'/a/1.jpg'>,'cat')"
    """
    if type(value) in _PLAIN:
        return repr(value)
    kind = type(value).__qualname__
    if isinstance(value, Path):
        return _spell_path(value, roots)
    if isinstance(value, dict):
        return f"{kind}{{{','.join(f'{spell(key, roots)}:{spell(one, roots)}' for key, one in value.items())}}}"
    if isinstance(value, tuple | list):
        return f"{kind}({','.join([spell(one, roots) for one in value])})"
    if isinstance(value, set | frozenset):
        return f"{kind}({','.join(sorted(spell(one, roots) for one in value))})"
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return f"{kind}({','.join([spell(getattr(value, one.name), roots) for one in dataclasses.fields(value)])})"
    return f"{kind}:{pickle.dumps(value).hex()}"


def _spell_path(path: Path, roots: Sequence[Path]) -> str:
    text = str(path if path.is_absolute() else path.absolute())
    for number, root in enumerate(map(str, roots)):
        if text == root or text.startswith(f"{root}{os.sep}"):
            return f"<{number}:{text[len(root) :]!r}>"
    return f"<{text!r}>"


def code_version(of: type, opener: str = "") -> str:
    """A hash of the source code that turns inputs into records: of a class, of its package, of what these import.

    Counted are the files beside the class's module where it is in a package (those below it too in a sub-package such
    as `phiv_converters.ucf101`), the module of `opener`, and, followed from there, every import of the same top-level
    package, of a module beside it, or of phiv's row formats. Empty for a class that was typed in.
    """
    module = sys.modules[of.__module__]
    if not (file := getattr(module, "__file__", None)) or not Path(file).is_file():
        return ""
    home, package = Path(file).parent, module.__package__ or ""
    pending = {of.__module__, opener.partition(":")[0]} - {""}
    if package:
        for path in home.rglob("*.py") if "." in package else home.glob("*.py"):
            parts = path.relative_to(home).with_suffix("").parts
            pending.add(".".join([package, *(parts[:-1] if parts[-1] == "__init__" else parts)]))
    top, files = of.__module__.partition(".")[0], dict[str, Path]()
    while pending:
        name = pending.pop()
        is_near = name.partition(".")[0] == top or f"{name}.".startswith("phiv_data.formats.")
        may_be_beside = not package and "." not in name
        if name in files or not (is_near or may_be_beside) or (source := _source_of(name)) is None:
            continue
        if is_near or source.parent == home:
            files[name] = source
            pending |= _imports(name, source, source.stat().st_mtime_ns)
    digest = hashlib.sha256()
    for name, source in sorted(files.items()):
        digest.update(f"{name}\0".encode() + hashlib.sha256(source.read_bytes()).digest())
    return digest.hexdigest()[:16]


@cache
def _source_of(name: str) -> Path | None:
    """The file of a module that can be imported; None for what is no Python file. Imports the packages around it."""
    try:
        spec = find_spec(name)
    except (ImportError, AttributeError, ValueError):
        return None
    origin = spec.origin if spec else None
    return Path(origin) if origin and origin.endswith(".py") else None


@cache
def _imports(name: str, file: Path, mtime_ns: int) -> frozenset[str]:
    """The modules that a file may import, anywhere in it; some are names of other things."""
    package = name if file.name == "__init__.py" else name.rpartition(".")[0]
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_bytes())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*parents, *([node.module] if node.module else [])])
            found.update((base, *(f"{base}.{alias.name}" for alias in node.names)))
    return frozenset(found)
