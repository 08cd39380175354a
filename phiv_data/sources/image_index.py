"""Files of a release: an index of its images by file name, images loaded as they are, archives unpacked once.

    root = open_source(source, work_dir)               # a folder as it is; archives unpacked below `work_dir`
    images = index_images(root)
    file = images.find("img/01235.png", where="train.jsonl:7")
    image = load_image(file, "train/01235.png", where="train.jsonl:7", source="img/01235.png")

`ImageIndex` finds by base name, because releases unpack to other folders than their lists name. References of external
chat formats are paths from known folders, and may be absolute, URLs or `data:` URIs: formats/files.py finds those.

Codes of rejects here: `missing-image` (no file of that name in the source), `ambiguous-image` (several, and nothing
decides which), `unreadable`, and those of images. Rows of JSON are read by json_stream.py.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path, PurePosixPath

from phiv_data.media.images import image_size, open_image
from phiv_data.media.reject import RejectInput, open_input
from phiv_data.sources.archives import extract
from phiv_data.sources.folders import raise_error, walk
from phiv_data.storage.sample import EncodedImage, encoded_image
from phiv_data.utils.atomic import atomic_write, sha256_file, sha256_of
from phiv_schemas.errors import SourceError


@dataclass(frozen=True, slots=True)
class ImageIndex:
    """Files below `root` by base name: `folders[name]` is where, relative to `root` (tuples where several).

    `starts` are the indexed folders, from which paths may start. About 150 bytes an image; folder names are shared.
    """

    root: Path
    folders: dict[str, str | tuple[str, ...]] = field(repr=False)
    starts: tuple[str, ...] = (".",)

    def __len__(self) -> int:
        return len(self.folders)

    def __contains__(self, name: str) -> bool:
        return name.rpartition("/")[2] in self.folders

    def find(self, name: str, *, where: str = "") -> Path:
        """The one file called `name`, a path or a base name, as `candidates` finds it.

        RejectInput `missing-image` where there is none, `ambiguous-image` where several agree equally.
        """
        files = self.candidates(name)
        if len(files) == 1:
            return files[0]
        if not files:
            raise RejectInput(where or name, "missing-image", f"no file {name!r} in the source")
        folders = sorted(file.parent.relative_to(self.root).as_posix() for file in files)
        shown = ", ".join(repr(f"{folder}/") for folder in folders[:3])
        raise RejectInput(where or name, "ambiguous-image", f"{len(files)} files called {name!r} (in {shown})")

    def candidates(self, name: str) -> list[Path]:
        """The files of exactly the path `name` from an indexed folder; where there are none, those of its base name
        whose folders agree most with those in `name`, counted from the last.

        Nothing outside `root` is found, whatever `name` holds.
        """
        folder, _, base = name.rpartition("/")
        folders = self.folders.get(base, ())
        if isinstance(folders, str):
            return [self.root / folders / base]
        named = {(PurePosixPath(start) / folder).as_posix() for start in self.starts}
        if exact := [other for other in folders if other in named]:
            return [self.root / other / base for other in exact]
        agreement = [_common_tail(other, folder) for other in folders]
        best = max(agreement, default=0)
        return [self.root / other / base for other, length in zip(folders, agreement, strict=True) if length == best]


def index_images(*folders: Path) -> ImageIndex:
    """Every regular file below `folders` (hidden ones and outputs of phiv left out, links followed), whatever its
    suffix.

    `root` is the folder around them all. EnvironmentProblem for a folder that cannot be read.
    """
    root = Path(os.path.commonpath([str(folder.absolute()) for folder in folders]))
    found: dict[str, str | tuple[str, ...]] = {}
    seen: set[tuple[int, int]] = set()
    for folder in folders:
        for where, files in walk(folder.absolute(), seen):
            relative = where.relative_to(root).as_posix()
            for name in (file.name for file in files if file.is_file()):
                before = found.get(name)
                several = (before,) if isinstance(before, str) else before or ()
                found[name] = (*several, relative) if several else relative
    return ImageIndex(root, found, tuple(folder.absolute().relative_to(root).as_posix() for folder in folders))


def checked_image(path: str, data: bytes, where: str, *, source: str | None = None) -> EncodedImage:
    """An encoded image, its bytes as they are: decoded once to be sure, its format read from the header.

    `path` is its place under images/; `source`, where given, the input's name, whose hash is that of `data`.
    RejectInput for an image that does not decode or a path the format cannot hold.
    """
    size = image_size(data, where=where)
    open_image(data, where=where)
    hashes = {} if source is None else {"source": source, "source_sha256": hashlib.sha256(data).hexdigest()}
    return encoded_image(path, data, size=(size.width, size.height), format=size.format, **hashes)


def load_image(file: Path, path: str, *, where: str | None = None, source: str | None = None) -> EncodedImage:
    """The image in `file` for a draft, its bytes as they are: read, decoded once to be sure, with its source's hash.

    `path` is its place under images/; `source` the name of the input (default `path`), `where` what a reject is
    reported at (default `source`). RejectInput where the file cannot be read or does not decode.
    """
    source = source or path
    where = where or source
    return checked_image(path, read_image(file, where), where, source=source)


def read_image(file: Path, where: str) -> bytes:
    """The bytes of a file. RejectInput `unreadable` where it is no regular file or cannot be read."""
    with open_input(file, where) as opened:
        return opened.read()


def _common_tail(one: str, other: str) -> int:
    """How many folders two paths share, counted from the last."""
    pairs = zip(reversed(one.split("/")), reversed(other.split("/")), strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


# Archives --------------------------------------------------------------------------------------------------------


_ROWS_SUFFIXES = (".json", ".jsonl", ".ndjson", ".parquet", ".arrow", ".csv", ".tsv", ".xlsx")


def is_archive(path: Path) -> bool:
    """A file whose suffix is not that of rows; whether it can be unpacked is for `unpack` to decide."""
    return path.is_file() and path.suffix.lower() not in _ROWS_SUFFIXES


def open_source(
    source: Path | Sequence[Path],
    work_dir: Path,
    *,
    sha256: str | None = None,
    flag: str = "--source",
    password: str | None = None,
) -> Path:
    """The folder of a source: itself, or the one below `work_dir` that its archive (or each of several) is unpacked in.

    What is unpacked is named by its hash, and complete or not there. Of several archives the folder holds one folder
    each. `sha256` is what `sources_sha256` gave, where it is known already. SourceError for what is not there.
    """
    files = [source] if isinstance(source, Path) else list(source)
    for file in files:
        if not file.exists():
            raise SourceError(flag, f"no such file or folder {str(file)!r}", "Check the path")
    if len(files) == 1:
        return files[0] if files[0].is_dir() else unpack(files[0], work_dir, sha256=sha256, password=password)
    if folders := [file for file in files if file.is_dir()]:
        raise SourceError(flag, f"{str(folders[0])!r} is a folder among archives", "Pass one folder, or archives")
    root = work_dir / f"archives-{(sha256 or sources_sha256(files) or '')[:16]}"
    for file in files:
        unpack(file, root, password=password)
    return root


def unpack(archive: Path, work_dir: Path, *, sha256: str | None = None, password: str | None = None) -> Path:
    """`archive` unpacked below `work_dir`, once: the folder is named by its hash, and complete or not there.

    A folder that has lost or changed a file since is unpacked again: rows would be missing, or wrong, without a word.
    """
    target = work_dir / f"unpacked-{(sha256 or sha256_file(archive))[:16]}"
    record = target.with_name(f".{target.name}.sha256")  # hidden: several archives lie in one source folder
    if target.is_dir():
        if record.is_file() and record.read_text() == _digest_of_files(target):
            return target
        shutil.rmtree(target)
    extract(archive, target, password=password)
    with atomic_write(record) as file:
        file.write(_digest_of_files(target).encode())
    return target


def _digest_of_files(folder: Path) -> str:
    """A sha256 over the names (of any bytes) and the contents of all files below a folder."""
    root, digest = os.fsencode(folder), hashlib.sha256()
    for path, folders, files in os.walk(root, onerror=raise_error):
        folders.sort()
        for name in sorted(files):
            file = os.path.join(path, name)  # noqa: PTH118  # pathlib takes no bytes
            with open(file, "rb") as content:  # noqa: PTH123  # as above
                digest.update(b"%s %s;" % (os.path.relpath(file, root), sha256_of(content).encode()))
    return digest.hexdigest()


def sources_sha256(source: Path | Sequence[Path]) -> str | None:
    """A hash that proves which archives these are: one's own sha256, of several that of their sorted hashes.

    None where there is none, or one is no archive: a folder and files of rows can change.
    """
    files = [source] if isinstance(source, Path) else list(source)
    if not files or not all(is_archive(file) for file in files):
        return None
    hashes = sorted(sha256_file(file) for file in files)
    return hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest()
