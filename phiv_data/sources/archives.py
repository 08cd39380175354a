"""Unpack a dataset's archive without trusting it: whole, inside its folder, of a bounded size, or not at all.

>>> extract(Path("UCF101_subset.tar.gz"), work_dir / "unpacked")    # a plain tar, despite its name

Tar of any compression and zip are detected by their content. Everything is written to a folder beside `target` that
takes its name at the very end. Refused: members that leave the target (`..`, absolute paths, links), devices, two names
that differ in case only, sizes and names beyond `Limits`, archives that are cut, encrypted or damaged. Memory is
bounded whatever an archive declares: headers are limited before they are read.
"""

from __future__ import annotations

import codecs
import lzma
import os
import shutil
import stat
import struct
import tarfile
import unicodedata
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, NamedTuple

from phiv_data.media.video.containers import is_known_video
from phiv_data.utils.atomic import atomic_folder, environment_problems
from phiv_schemas.errors import EnvironmentProblem, SourceError, UsageError


@dataclass(frozen=True, slots=True)
class Limits:
    """What an archive may hold. UCF-101 unpacks to 7 GB and 13,320 files, at a ratio near 1."""

    max_bytes: int = 256 << 30
    max_members: int = 5_000_000
    max_ratio: float = 100.0
    """Unpacked size over archive size; text reaches 20. The first 100 MB are free of it."""
    max_name_bytes: int = 1 << 30
    """Of the names of all members and their folders, which are kept in memory. 5,000,000 usual ones take half of it."""


_FREE_OF_RATIO = 100_000_000
_AES = 99  # a zip member's compression method where WinZip's AES hides the real one
_MAX_HEADER_BYTES = 1 << 18
"""Of a tar header that holds a long name or attributes; file systems keep up to 64 KiB of attributes."""
_MAX_NAME, _MAX_DEPTH = 255, 64
_HEADS = {b"PK\x03\x04": "zip", b"PK\x05\x06": "zip", b"Rar!": "rar", b"7z\xbc\xaf": "7z"}
_HEADS |= {b"\x28\xb5\x2f\xfd": "zstd", b"\x04\x22\x4d\x18": "lz4"}
_PROGRAMS = {"rar": "unar (or unrar)", "7z": "7z", "zstd": "tar --zstd -xf", "lz4": "lz4 -d and tar -xf"}
_AGAIN, _FOLDER = "Download it again", "Pass the folder that holds it"
_DAMAGE = (
    *(tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error),
    *(EOFError, ValueError, IndexError, NotImplementedError, RecursionError, OSError),
    # ValueError and IndexError: zipfile and tarfile trust names and numbers
)


def extract(archive: Path, target: Path, *, limits: Limits | None = None, password: str | None = None) -> Path:
    """Unpack `archive` into the new folder `target` and return it; on any error nothing of that name appears.

    `password` opens a zip of the old encryption (ZipCrypto); AES needs another program.

    Raises SourceError for an archive that cannot be trusted or read, EnvironmentProblem for a full disk or a missing
    permission.
    """
    if target.exists():
        raise UsageError(str(target), "already exists", "Remove it, or choose another folder")
    where = str(archive)
    with environment_problems(archive):
        with archive.open("rb") as file:
            head = file.read(256)
        kind = next((kind for magic, kind in _HEADS.items() if head.startswith(magic)), "")
        kind = kind or ("tar" if _is_tar(archive) else "")
    if kind in _PROGRAMS:
        hint = f"Unpack it with {_PROGRAMS[kind]} first, then pass the folder"
        raise SourceError(where, f"is a {kind} archive, which phiv does not read", hint)
    if not kind:
        found, hint = _describe_impostor(head)
        raise SourceError(where, f"is not a tar or zip archive ({found})", hint)
    with _damage_as_source_error(archive), atomic_folder(target) as folder:
        check = _MemberCheck(archive, folder, limits or Limits(), password)
        (_unzip if kind == "zip" else _untar)(archive, check)
        if not check.files:
            raise SourceError(where, "the archive holds no files", _AGAIN)
    return target


class TarMember(NamedTuple):
    """A file in a tar that is not compressed: the `size` bytes at `offset`."""

    name: str
    offset: int
    size: int


def tar_members(archive: Path) -> Iterator[TarMember]:
    """The files in a plain tar, one at a time, to be read in place. SourceError for links, and where it is damaged."""
    with environment_problems(archive), archive.open("rb") as file:
        head = file.read(tarfile.BLOCKSIZE)
    if head[257:262] != b"ustar" and head != bytes(tarfile.BLOCKSIZE):  # which is one without members
        found, hint = _describe_impostor(head)
        is_packed = head.startswith(_IMPOSTORS[0][0])
        what, hint = ("it is compressed", "Decompress it first") if is_packed else (found, hint)
        raise SourceError(str(archive), f"is no tar ({what})", hint)
    with (
        _damage_as_source_error(archive),
        environment_problems(archive),
        tarfile.open(archive, "r:", tarinfo=_StrictTarInfo) as source,
    ):
        while (member := source.next()) is not None:
            if not member.isreg():
                raise _UntrustedHeaderError(f"member {member.name[:80]!r} is no file")
            if member.offset_data + member.size > archive.stat().st_size:
                raise tarfile.ReadError("unexpected end of data")
            yield TarMember(member.name, member.offset_data, member.size)
            source.members.clear()  # type: ignore[attr-defined]  # as in _untar


def _is_tar(archive: Path) -> bool:
    """Whether a file begins as a tar archive of any compression does, sound or not."""
    try:
        with tarfile.open(archive, "r:*", tarinfo=_StrictTarInfo):
            return True
    except tarfile.ReadError:
        return False
    except (_UntrustedHeaderError, RecursionError, ValueError, EOFError, zlib.error, lzma.LZMAError):
        return True  # it is one that asks for too much, or is cut before its first member ends


_IMPOSTORS: tuple[tuple[tuple[bytes, ...], str, str], ...] = (
    ((b"\x1f\x8b", b"BZh", b"\xfd7zXZ"), "a compressed file that holds no tar, or is cut or damaged", _AGAIN),
    ((b"PAR1",), "it is a Parquet table", "Converters that read tables take it under a name that ends in .parquet"),
    ((b"ARROW1",), "it is an Arrow table", "Converters that read tables take it under a name that ends in .arrow"),
    ((b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"BM", b"II*\0", b"MM\0*"), "it is an image", _FOLDER),
    ((b"\x89HDF", b"SQLite format 3\0", b"%PDF"), "it is a file of another kind", _FOLDER),
)


def _describe_impostor(head: bytes) -> tuple[str, str]:
    """What was found in the place of an archive, and what to do."""
    if not head:
        return "the file is empty", _AGAIN
    if head.lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        return "found a web page: a login, licence or error page was saved under its name", _AGAIN
    if head.startswith(b"version https://git-lfs"):
        return "found a Git LFS pointer: fetch the file itself with git lfs pull", _AGAIN
    for magics, found, hint in _IMPOSTORS:
        if head.startswith(magics):
            return found, hint
    if is_known_video(head[:12]) or head[:4] == b"RIFF":
        return "it is a clip or an image", _FOLDER
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if text.startswith((b"{", b"[")):
        return "it is JSON", "Converters that read rows take it under a name that ends in .json or .jsonl"
    try:
        line = codecs.getincrementaldecoder("utf-8")().decode(text).partition("\n")[0].rstrip("\r")
    except UnicodeDecodeError:
        line = ""
    if not line.replace("\t", "").isprintable() or not line:
        return f"it starts with {head[:16]!r}", _AGAIN
    what = "a table of text" if "\t" in line or "," in line else "text"
    return f"it is {what}, which begins with {line[:40]!r}", "Pass the archive, or the folder of the dataset's files"


@contextmanager
def _damage_as_source_error(archive: Path) -> Iterator[None]:
    """Whatever the readers raise for a cut or damaged archive, or one whose names clash, as one SourceError."""
    try:
        yield
    except _UntrustedHeaderError as error:
        raise SourceError(str(archive), str(error), "Nothing was unpacked; check the archive") from error
    except _DAMAGE as error:
        if not archive.exists():  # while it was read: that says nothing of what is in it
            raise EnvironmentProblem(
                str(archive), "is away now", "Put it back, then run the same command again"
            ) from error
        text = " ".join(str(error).split()) or type(error).__name__
        raise SourceError(str(archive), f"the archive is cut or damaged ({text[:200]})", _AGAIN) from error


@dataclass(slots=True)
class _MemberCheck:
    """Every member passes here before it is written below `folder`."""

    archive: Path
    folder: Path
    limits: Limits
    password: str | None = field(default=None, repr=False)
    members: int = 0
    size_bytes: int = 0
    name_bytes: int = 0
    spelled: dict[str, str] = field(default_factory=dict)
    files: set[str] = field(default_factory=set)

    def refuse(self, name: str, what: str) -> SourceError:
        """The error for one member."""
        shown = name if len(name) <= 80 else f"{name[:77]}..."
        return SourceError(str(self.archive), f"member {shown!r} {what}", "Nothing was unpacked; check the archive")

    def admit(self, name: str, size_bytes: int = 0, *, folder: bool = False) -> Path:
        """Where the member may be written. Raises SourceError if nowhere."""
        path = self._path_inside(name)
        self._add_size(size_bytes)
        if not folder:
            if path in self.files:
                raise self.refuse(name, "appears twice")
            self.files.add(path)
        destination = self.folder / path
        (destination if folder else destination.parent).mkdir(parents=True, exist_ok=True)
        return destination

    def _path_inside(self, name: str) -> str:
        """The member's path, clean and relative; each of its folders spelled as before."""
        parts = [part for part in name.split("/") if part not in ("", ".")]
        if name.startswith("/") or ".." in parts or "\0" in name or name[1:3] == ":/":
            raise self.refuse(name, "leaves the target folder")
        if "\\" in name:
            raise self.refuse(name, "has a backslash in its name")
        longest = max((len(os.fsencode(part)) for part in parts), default=0)
        if longest > _MAX_NAME or len(parts) > _MAX_DEPTH:
            what = f"has a name of {longest} bytes" if longest > _MAX_NAME else f"lies in {len(parts)} folders"
            raise self.refuse(name, f"{what}, over the {_MAX_NAME if longest > _MAX_NAME else _MAX_DEPTH} allowed")
        for end in range(1, len(parts) + 1):
            path = "/".join(parts[:end])
            num_before = len(self.spelled)
            before = self.spelled.setdefault(unicodedata.normalize("NFC", path).casefold(), path)
            if before != path:
                raise self.refuse(name, f"and {before!r} differ in case or Unicode form only")
            self.name_bytes += len(path) * (len(self.spelled) - num_before)
        return "/".join(parts)

    def _add_size(self, size_bytes: int) -> None:
        self.members += 1
        self.size_bytes += size_bytes
        free = max(_FREE_OF_RATIO, self.limits.max_ratio * self.archive.stat().st_size)
        allowed = min(self.limits.max_bytes, free)
        is_over = self.members > self.limits.max_members or self.name_bytes > self.limits.max_name_bytes
        if is_over or self.size_bytes > allowed:
            found = f"{self.members} members, {self.size_bytes} bytes, {self.name_bytes} in names so far"
            raise SourceError(str(self.archive), f"unpacks to more than is believable ({found})", "Is it a bomb?")


def _unzip(archive: Path, check: _MemberCheck) -> None:
    with zipfile.ZipFile(archive) as source:
        for info in source.infolist():
            is_encrypted = bool(info.flag_bits & 1)
            if is_encrypted and check.password is None:
                hint = "Unpack it with its password first (unzip -P), then pass the folder"
                raise SourceError(str(archive), "the zip is encrypted", hint)
            if is_encrypted and info.compress_type == _AES:
                what = "the zip is encrypted with AES, which phiv does not read"
                hint = "Unpack it first (7z x, which asks for the password), then pass the folder"
                raise SourceError(str(archive), what, hint)
            kind = stat.S_IFMT(info.external_attr >> 16)
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise check.refuse(info.filename, "is a link or a device")
            name = info.filename.replace("\\", "/")  # .NET before 4.6.1 wrote the separator of Windows
            path = check.admit(name, info.file_size, folder=name.endswith("/"))
            if name.endswith("/"):
                continue
            try:
                pwd = check.password.encode() if check.password is not None and is_encrypted else None
                with source.open(info, pwd=pwd) as content:
                    _write(content, path)
            except (RuntimeError, zlib.error, zipfile.BadZipFile) as error:
                if not is_encrypted or isinstance(error, NotImplementedError):
                    raise
                # One wrong password of 256 passes the format's own check and shows in the data only.
                what = f"member {info.filename!r} does not open with this password ({error})"
                hint = "Check the password; if it is right, download the zip again"
                raise SourceError(str(archive), what, hint) from error


def _untar(archive: Path, check: _MemberCheck) -> None:
    links: list[tuple[str, Path]] = []
    with tarfile.open(archive, "r:*", tarinfo=_StrictTarInfo) as source:
        while (member := source.next()) is not None:
            if sum(len(key) + len(value) for key, value in source.pax_headers.items()) > _MAX_HEADER_BYTES:
                raise _UntrustedHeaderError("its global headers are over the limit")
            path = check.admit(member.name, member.size if member.isreg() else 0, folder=member.isdir())
            if member.isreg():
                content = source.extractfile(member)
                assert content is not None, "a regular member has content"
                _write(content, path)
            elif member.islnk():  # a hard link becomes a second copy of the earlier member it names
                linked = check.folder / check._path_inside(member.linkname)
                if not linked.is_file():
                    raise check.refuse(member.name, f"links to {member.linkname!r}, which is not an earlier member")
                check._add_size(linked.stat().st_size)
                shutil.copyfile(linked, path)
            elif member.issym():
                links.append((member.linkname, path))
            elif not member.isdir():
                raise check.refuse(member.name, "is a device")
            source.members.clear()  # type: ignore[attr-defined]  # typeshed omits it; or every header stays in memory
        while source.fileobj is not None and source.fileobj.read(1 << 20):
            pass  # to the end of the file: gzip's checksum is there
    _make_links(links, check)


class _UntrustedHeaderError(Exception):
    """A tar header that asks for more than is believable. `tarfile` lets it pass, where it tries on after its own."""


class _StrictTarInfo(tarfile.TarInfo):
    """`tarfile` reads headers of any declared size, and ends quietly at a damaged one, as if no more were there."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> _StrictTarInfo:
        try:
            info = super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as error:
            if len(buf) == tarfile.BLOCKSIZE and not any(buf):  # the end mark
                raise
            raise tarfile.ReadError(str(error)) from error
        if info.size < 0:
            raise _UntrustedHeaderError(f"a member has the size {info.size}")
        if info.type == tarfile.GNUTYPE_SPARSE:
            raise _UntrustedHeaderError(_SPARSE)
        if info.type in _HEADER_TYPES and info.size > _MAX_HEADER_BYTES:
            raise _UntrustedHeaderError(f"a header of {info.size} bytes is over the limit of {_MAX_HEADER_BYTES}")
        return info

    def _proc_gnusparse_10(self, *_: object) -> None:  # called by tarfile, whose own reads a list of any length
        raise _UntrustedHeaderError(_SPARSE)


_SPARSE = "a member is a sparse file, which phiv does not read: pack it without --sparse"
_HEADER_TYPES = (
    *(tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK),
    *(tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE),
)


def _make_links(links: list[tuple[str, Path]], check: _MemberCheck) -> None:
    """Symbolic links come last, so that nothing is written through one; each must end inside the target."""
    for target, path in links:
        path.symlink_to(target)
    root = check.folder.resolve()
    for target, path in links:
        name = path.relative_to(check.folder).as_posix()
        try:
            inside = path.resolve(strict=True).is_relative_to(root)
        except (OSError, RuntimeError) as error:
            raise check.refuse(name, f"is a link to {target!r}, which is not there") from error
        if not inside:
            raise check.refuse(name, f"links to {target!r}, outside the target folder")


def _write(content: IO[bytes], path: Path) -> None:
    with path.open("xb") as file:
        shutil.copyfileobj(content, file, 1 << 20)
