"""Image files that rows name: each is checked once, and decoded images are asked every image rule."""

from __future__ import annotations

import hashlib
import os
import stat
import struct
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from phiv_data.media.images import MAX_PIXELS, decode_whole
from phiv_data.media.reject import RejectInput
from phiv_data.sources.nearby import suggest_image
from phiv_data.storage.record_errors import quote_path
from phiv_data.utils.atomic import raise_if_of_machine
from phiv_data.utils.lines import LFS_MARK
from phiv_data.validation.core.finding import DecodedImage, Finding, ImageFacts
from phiv_data.validation.core.key_index import Key, digest
from phiv_data.validation.imaging.perceptual_hash import perceptual_hash
from phiv_data.validation.inputs.checksums import ChecksumTable
from phiv_data.validation.rules.registry import IMAGE_RULES

MAX_CACHED = 2**15  # images whose facts are kept, for rows that share them
_VALUE = struct.Struct("<II8s")


def decode(
    data: bytes, path: str, sha256: bytes = b"", *, phash: bool = False, max_pixels: int = MAX_PIXELS
) -> ImageFacts:
    """Decode an image to its last byte and ask every image rule about it; with `phash`, add its perceptual hash."""
    sha256 = sha256 or hashlib.sha256(data).digest()
    if data.startswith(LFS_MARK):
        what = f"{quote_path(path)} is a Git LFS pointer: the image was not downloaded"
        return ImageFacts(None, "", sha256, (Finding("PV102", None, what, "Run git lfs pull"),))
    try:
        whole = decode_whole(data, where=path, max_pixels=max_pixels)
    except RejectInput as error:
        if error.code != "too-large":
            return broken_image("PV102", f"broken image {quote_path(path)}: {error.reason}", sha256)
        from PIL.Image import DecompressionBombError

        code = "PV113" if isinstance(error.__cause__, DecompressionBombError) else "PV111"
        return broken_image(code, f"{quote_path(path)} was not decoded: {error.reason.rstrip('.')}", sha256)
    opened = DecodedImage(path, data, whole)
    found = tuple([one for rule in IMAGE_RULES for one in rule(opened)])
    detail, seen = perceptual_hash(whole) if phash else (0, b"")
    return ImageFacts(whole.size, whole.format, sha256, found, detail=detail, phash=seen)


def broken_image(code: str, message: str, sha256: bytes = b"") -> ImageFacts:
    """The facts of an image that could not be decoded or found."""
    return ImageFacts(None, "", sha256, (Finding(code, None, message),))


def missing_image(root: Path, path: str) -> Finding:
    """PV101, with where the image is, if that is near."""
    what = f"no such image {quote_path(path)} under {root.name}/"
    return Finding("PV101", None, what, suggest_image(path, [root], "--images_root"))


def image_key(path: str, facts: ImageFacts, item: int) -> Key:
    """What `image_stats.IMAGE_KEYS` keeps of an image."""
    width, height = facts.size or (0, 0)
    return digest(path), _VALUE.pack(width, height, facts.format.encode()[:8]), item


class ImageChecks:
    """Images below `root`. `checksums` are what a dataset declares of their bytes. `threads` decode side by side.

    With `phash`, perceptual hashes are kept too. Pickle it before its first check: what it knows and its threads stay.
    """

    def __init__(
        self,
        root: Path,
        *,
        deep: bool,
        checksums: ChecksumTable | None = None,
        threads: int = 0,
        max_pixels: int = MAX_PIXELS,
        phash: bool = False,
    ) -> None:
        self._root, self._deep, self._max_pixels = root, deep, max_pixels
        self.checksums, self.threads, self.phash = checksums, threads, phash
        self._real_root = os.path.realpath(root)
        self._facts: dict[str, ImageFacts] = {}
        self._leaves_root: dict[str, bool] = {}  # by folder
        self._pool: ThreadPoolExecutor | None = None

    def check(self, paths: Iterable[str]) -> dict[str, ImageFacts]:
        """The facts of each of `paths`, perhaps of others. Up to a limit, facts are kept for the next rows."""
        if len(self._facts) > MAX_CACHED:
            self._facts, self._leaves_root = {}, {}
        new = [path for path in dict.fromkeys(paths) if path not in self._facts]
        self._facts.update(zip(new, self._map(self._check_file, new), strict=True))
        return self._facts

    def get(self, path: str) -> ImageFacts | None:
        """The facts of an image that was checked lately."""
        return self._facts.get(path)

    def close(self) -> None:
        """End the threads; work they have not begun is dropped."""
        if self._pool:
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._pool = None

    def _map(self, check: Callable[[str], ImageFacts], paths: list[str]) -> Iterator[ImageFacts]:
        if self.threads < 2:
            return map(check, paths)
        self._pool = self._pool or ThreadPoolExecutor(self.threads)  # Pillow and hashlib release the GIL
        return self._pool.map(check, paths)

    def _check_file(self, path: str) -> ImageFacts:
        full = f"{self._root}{os.sep}{path}"  # joining with pathlib takes as long as the system calls
        folder = full.rpartition(os.sep)[0]
        if (leaves := self._leaves_root.get(folder)) is None:  # symbolic links of folders are resolved once
            real = os.path.realpath(folder)
            leaves = self._leaves_root[folder] = not f"{real}{os.sep}".startswith(self._real_root + os.sep)
        if leaves:
            return broken_image("PV103", f"leaves images/ through a symbolic link ({quote_path(path)})")
        try:
            status = os.lstat(full)
            if stat.S_ISLNK(status.st_mode):
                if not os.path.realpath(full).startswith(self._real_root + os.sep):
                    return broken_image("PV103", f"leaves images/ through a symbolic link ({quote_path(path)})")
                status = os.stat(full)  # noqa: PTH116  # see above
                if self.checksums is not None:
                    return broken_image(
                        "PV104", f"is a symbolic link, not the file that was converted ({quote_path(path)})"
                    )
        except PermissionError as error:
            return broken_image("PV007", f"cannot be read ({quote_path(path)}: {error.strerror})")
        except OSError as error:
            raise_if_of_machine(error, path)
            return ImageFacts(found=(missing_image(self._root, path),))
        if not stat.S_ISREG(status.st_mode):  # opening a pipe would wait for ever
            return broken_image("PV101", f"is not a file ({quote_path(path)})")
        return self._read(path, full) if self._deep else ImageFacts()

    def _read(self, path: str, full: Path | str) -> ImageFacts:
        try:
            with open(full, "rb", buffering=0) as file:  # noqa: PTH123  # Path.open takes as long as the system calls
                data = file.read()
        except OSError as error:
            raise_if_of_machine(error, path)
            return broken_image("PV007", f"cannot be read ({quote_path(path)}: {error.strerror})")
        sha256 = hashlib.sha256(data).digest()
        if self.checksums is not None and (listed := self.checksums.get(path)) != sha256:
            what = "bytes differ from those converted: not the sha256 of images.sha256"
            return broken_image(
                "PV104", f"{what if listed else 'is not listed in images.sha256'} ({quote_path(path)})", sha256
            )
        return decode(data, path, sha256, phash=self.phash, max_pixels=self._max_pixels)
