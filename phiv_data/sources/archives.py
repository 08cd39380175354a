"""Unpack a dataset's archive without trusting it: whole, inside its folder, of a bounded size, or not at all.

>>> extract(Path("UCF101_subset.tar.gz"), work_dir / "unpacked")    # a plain tar, despite its name

Tar of any compression and zip are detected by their content. Everything is written to a folder beside `target` that
takes its name at the very end. Refused: members that leave the target (`..`, absolute paths, links), devices, two names
that differ in case only, sizes beyond `Limits`, archives that are cut, encrypted or damaged.
"""

from __future__ import annotations

import lzma
import os
import secrets
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
from typing import IO

from phiv_data.utils.atomic import TMP_PREFIX, environment_problems
from phiv_schemas.errors import EnvironmentProblem, SourceError, UsageError


@dataclass(frozen=True, slots=True)
class Limits:
    """What an archive may hold. UCF-101 unpacks to 7 GB and 13,320 files, at a ratio near 1."""

    max_bytes: int = 256 << 30
    max_members: int = 5_000_000
    max_ratio: float = 100.0
    """Unpacked size over archive size; text reaches 20. The first 100 MB are free of it."""


_FREE_OF_RATIO = 100_000_000
_AES = 99  # a zip member's compression method where WinZip's AES hides the real one
_HEADS = {b"PK\x03\x04": "zip", b"PK\x05\x06": "zip", b"Rar!": "rar", b"7z\xbc\xaf": "7z"}
_DAMAGE = (
    *(tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error),
    *(EOFError, UnicodeError, NotImplementedError, OSError),
)


def extract(archive: Path, target: Path, *, limits: Limits | None = None, password: str | None = None) -> Path:
    """Unpack `archive` into the new folder `target` and return it; on any error nothing of that name appears.

    `password` opens a zip of the old encryption (ZipCrypto); AES needs another program.

    Raises SourceError for an archive that cannot be trusted or read, EnvironmentProblem for a full disk, a missing
    permission, or a format that needs another program.
    """
    if target.exists():
        raise UsageError(str(target), "already exists", "Remove it, or choose another folder")
    where = str(archive)
    with environment_problems(archive):
        with archive.open("rb") as file:
            head = file.read(64)
        kind = next((kind for magic, kind in _HEADS.items() if head.startswith(magic)), "")
        try:
            kind = kind or ("tar" if tarfile.is_tarfile(archive) else "")
        except (EOFError, zlib.error, lzma.LZMAError):  # compressed, and cut before its first member ends
            kind = "tar"
    if kind in ("rar", "7z"):
        tool = "unar (or unrar)" if kind == "rar" else "7z"
        hint = f"Unpack it with {tool} first, then pass the folder"
        raise EnvironmentProblem(where, f"is a {kind.upper()} archive, which phiv does not read", hint)
    if not kind:
        raise SourceError(where, f"is not a tar or zip archive ({_describe_impostor(head)})", "Download it again")
    with _damage_as_source_error(archive), environment_problems(target), _appear_when_complete(target) as folder:
        check = _MemberCheck(archive, folder, limits or Limits(), password)
        (_unzip if kind == "zip" else _untar)(archive, check)
        if not check.files:
            raise SourceError(where, "the archive holds no files", "Download it again")
    return target


def _describe_impostor(head: bytes) -> str:
    if head.lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        return "found a web page: a login, licence or error page was saved under its name"
    if head.startswith(b"version https://git-lfs"):
        return "found a Git LFS pointer: fetch the file itself with git lfs pull"
    if head.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ")):
        return "a compressed file that holds no tar, or is cut or damaged"
    return f"it starts with {head[:16]!r}" if head else "the file is empty"


@contextmanager
def _damage_as_source_error(archive: Path) -> Iterator[None]:
    """Whatever the readers raise for a cut or damaged archive, or one whose names clash, as one SourceError."""
    try:
        yield
    except _DAMAGE as error:
        text = " ".join(str(error).split()) or type(error).__name__
        raise SourceError(str(archive), f"the archive is cut or damaged ({text})", "Download it again") from error


@contextmanager
def _appear_when_complete(target: Path) -> Iterator[Path]:
    """A new folder beside `target` that takes its name when all went well."""
    target.parent.mkdir(parents=True, exist_ok=True)
    folder = target.parent / f"{TMP_PREFIX}{secrets.token_hex(8)}"
    folder.mkdir()
    try:
        yield folder
        if hasattr(os, "sync"):
            os.sync()  # otherwise a power cut could leave the name with empty files below it
        folder.rename(target)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


@dataclass(slots=True)
class _MemberCheck:
    """Every member passes here before it is written below `folder`."""

    archive: Path
    folder: Path
    limits: Limits
    password: str | None = field(default=None, repr=False)
    members: int = 0
    size_bytes: int = 0
    spelled: dict[str, str] = field(default_factory=dict)
    files: set[str] = field(default_factory=set)

    def refuse(self, name: str, what: str) -> SourceError:
        """The error for one member."""
        return SourceError(str(self.archive), f"member {name!r} {what}", "Nothing was unpacked; check the archive")

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
        bad = name.startswith("/") or ".." in parts or any(c in name for c in "\\\0") or name[1:3] == ":/"
        if bad:
            raise self.refuse(name, "leaves the target folder")
        for end in range(1, len(parts) + 1):
            path = "/".join(parts[:end])
            before = self.spelled.setdefault(unicodedata.normalize("NFC", path).casefold(), path)
            if before != path:
                raise self.refuse(name, f"and {before!r} differ in case or Unicode form only")
        return "/".join(parts)

    def _add_size(self, size_bytes: int) -> None:
        self.members += 1
        self.size_bytes += size_bytes
        free = max(_FREE_OF_RATIO, self.limits.max_ratio * self.archive.stat().st_size)
        allowed = min(self.limits.max_bytes, free)
        if self.size_bytes > allowed or self.members > self.limits.max_members:
            found = f"{self.members} members, {self.size_bytes} bytes so far"
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
                raise EnvironmentProblem(str(archive), what, hint)
            kind = stat.S_IFMT(info.external_attr >> 16)
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise check.refuse(info.filename, "is a link or a device")
            path = check.admit(info.filename, info.file_size, folder=info.is_dir())
            if info.is_dir():
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


class _StrictTarInfo(tarfile.TarInfo):
    """`tarfile` ends quietly at a damaged header or a missing end mark, as if the rest were not there."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> _StrictTarInfo:
        try:
            return super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as error:
            if len(buf) == tarfile.BLOCKSIZE and not any(buf):  # the end mark
                raise
            raise tarfile.ReadError(str(error)) from error


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
