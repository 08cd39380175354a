"""Images of rows: each is looked at once; rules about a decoded image are asked as it is."""

from __future__ import annotations

import hashlib
import os
import stat
import struct
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from phiv_data.media.images import MAX_PIXELS
from phiv_data.media.reject import RejectInput
from phiv_data.storage.record_errors import shown_path
from phiv_data.validation.core.finding import DecodedImage, Finding, ImageFacts
from phiv_data.validation.core.key_index import Key, digest
from phiv_data.validation.inputs.checksums import Listing
from phiv_data.validation.rules.registry import IMAGE_RULES

MAX_REMEMBERED = 2**15  # images whose facts are kept, for rows that share them
_VALUE = struct.Struct("<II8s")


def decode(
    data: bytes, path: str, sha256: bytes = b"", *, phash: bool = False, max_pixels: int = MAX_PIXELS
) -> ImageFacts:
    """Decode an image to its last byte, ask every rule about it, and keep what it looks like where that is wanted."""
    from phiv_data.media.images import decode_whole
    from phiv_data.validation.imaging.perceptual_hash import perceptual_hash

    sha256 = sha256 or hashlib.sha256(data).digest()
    try:
        whole = decode_whole(data, where=path, max_pixels=max_pixels)
    except RejectInput as error:
        return _refused(path, sha256, error)
    opened = DecodedImage(path, data, whole)
    found = tuple([one for rule in IMAGE_RULES for one in rule(opened)])
    detail, seen = perceptual_hash(whole) if phash else (0, b"")
    return ImageFacts(whole.size, whole.format, sha256, found, detail=detail, phash=seen)


def broken(code: str, message: str, sha256: bytes = b"") -> ImageFacts:
    """The facts of an image there is no image of."""
    return ImageFacts(None, "", sha256, (Finding(code, None, message),))


def _refused(path: str, sha256: bytes, error: RejectInput) -> ImageFacts:
    """PV102; PV111 and PV113 where it was not decoded for its size."""
    from PIL.Image import DecompressionBombError

    if error.code != "too-large":
        return broken("PV102", f"broken image {quote_path(path)}: {error.reason}", sha256)
    code = "PV113" if isinstance(error.__cause__, DecompressionBombError) else "PV111"
    return broken(code, f"{quote_path(path)} was not decoded: {error.reason.rstrip('.')}", sha256)


def image_key(path: str, facts: ImageFacts, item: int) -> Key:
    """What `image_stats.IMAGE_KEYS` keeps of an image."""
    width, height = facts.size or (0, 0)
    return digest(path), _VALUE.pack(width, height, facts.format.encode()[:8]), item


class ImageChecks:
    """Images below `root`. `listing` is what a dataset says of their bytes. `threads` decode side by side.

    With `look`, what they look like is kept too.
    """

    phash = False

    def __init__(
        self,
        root: Path,
        *,
        deep: bool,
        listing: Listing | None = None,
        threads: int = 0,
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        self._root, self._deep, self.listing, self._max_pixels = root, deep, listing, max_pixels
        self._real_root = os.path.realpath(root)
        self._facts: dict[str, ImageFacts] = {}
        self._leaving: dict[str, bool] = {}
        self._pool = ThreadPoolExecutor(threads) if threads > 1 else None  # Pillow and hashlib release the GIL

    def look_at(self, paths: Iterable[str]) -> dict[str, ImageFacts]:
        """The facts of each of `paths`, perhaps of others. What was looked at is remembered, up to a limit."""
        if len(self._facts) > MAX_REMEMBERED:
            self._facts, self._leaving = {}, {}
        new = [path for path in dict.fromkeys(paths) if path not in self._facts]
        self._facts.update(zip(new, self._map(self._check, new), strict=True))
        return self._facts

    def get(self, path: str) -> ImageFacts | None:
        """The facts of an image that was looked at and is remembered."""
        return self._facts.get(path)

    def close(self) -> None:
        """End the threads; what they have not begun is dropped."""
        if self._pool:
            self._pool.shutdown(wait=True, cancel_futures=True)

    def _map(self, check: Callable[[str], ImageFacts], paths: list[str]) -> Iterator[ImageFacts]:
        return self._pool.map(check, paths) if self._pool else map(check, paths)

    def _check(self, path: str) -> ImageFacts:
        full = f"{self._root}{os.sep}{path}"  # joining with pathlib takes as long as the system calls
        if self._folder_leaves(full.rpartition(os.sep)[0]):
            return broken("PV103", f"leaves images/ through a symbolic link ({quote_path(path)})")
        try:
            status = os.lstat(full)
            if stat.S_ISLNK(status.st_mode):
                if not os.path.realpath(full).startswith(self._real_root + os.sep):
                    return broken("PV103", f"leaves images/ through a symbolic link ({quote_path(path)})")
                status = os.stat(full)  # noqa: PTH116  # see above
        except PermissionError as error:
            return broken("PV007", f"cannot be read ({quote_path(path)}: {error.strerror})")
        except OSError:
            return broken("PV101", f"no such image {quote_path(path)} under {self._root.name}/")
        if not stat.S_ISREG(status.st_mode):  # opening a pipe would wait for ever
            return broken("PV101", f"is not a file ({quote_path(path)})")
        return self._read(path, full) if self._deep else ImageFacts()

    def _folder_leaves(self, folder: str) -> bool:
        """True when a symbolic link leads out of the root. Folders are resolved once, not per image."""
        if (leaves := self._leaving.get(folder)) is None:
            real = os.path.realpath(folder)
            leaves = self._leaving[folder] = not f"{real}{os.sep}".startswith(self._real_root + os.sep)
        return leaves

    def _read(self, path: str, full: Path | str) -> ImageFacts:
        try:
            with open(full, "rb", buffering=0) as file:  # noqa: PTH123  # Path.open takes as long as the system calls
                data = file.read()
        except OSError as error:
            return broken("PV007", f"cannot be read ({quote_path(path)}: {error.strerror})")
        sha256 = hashlib.sha256(data).digest()
        if self.listing is not None and (listed := self.listing.get(path)) != sha256:
            what = "bytes differ from those converted: not the sha256 of images.sha256"
            return broken(
                "PV104", f"{what if listed else 'is not listed in images.sha256'} ({quote_path(path)})", sha256
            )
        return decode(data, path, sha256, phash=self.phash, max_pixels=self._max_pixels)
