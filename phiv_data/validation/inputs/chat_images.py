"""Images as rows of external chat formats name them: paths from one of several folders, addresses, `data:` URIs."""

from __future__ import annotations

import stat
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from phiv_data.formats.files import (
    decode_data_uri,
    is_absolute,
    is_data_uri,
    is_url,
    locate_image,
    shorten,
    strip_folders,
)
from phiv_data.media.images import MAX_PIXELS
from phiv_data.media.reject import RejectInput
from phiv_data.sources.nearby import suggest_image
from phiv_data.storage.record_errors import quote_path
from phiv_data.utils.atomic import raise_if_of_machine
from phiv_data.validation.core.finding import Finding, ImageFacts, RowContext
from phiv_data.validation.inputs.image_checks import ImageChecks, broken_image, decode
from phiv_schemas import Issue

MAX_IMAGE_BYTES = 2**26


class ChatImageChecks(ImageChecks):
    """Images below the first of `roots` that has them; absolute paths as they are."""

    def __init__(self, roots: Sequence[Path], *, deep: bool, threads: int = 0, max_pixels: int = MAX_PIXELS) -> None:
        super().__init__(roots[0], deep=deep, threads=threads, max_pixels=max_pixels)
        self._roots = [(root, "") for root in roots]

    def check(self, paths: Iterable[str]) -> dict[str, ImageFacts]:
        """The facts of each of `paths`. Those of `data:` URIs, which may be megabytes each, are not kept."""
        wanted = list(dict.fromkeys(paths))
        embedded = [path for path in wanted if is_data_uri(path)]
        facts = super().check(path for path in wanted if not is_data_uri(path))
        if not embedded:
            return facts
        found = dict(zip(embedded, self._map(self._check_data, embedded), strict=True))
        return found | {path: facts[path] for path in wanted if path not in found}

    def _check_file(self, path: str) -> ImageFacts:
        if is_url(path):
            return ImageFacts()  # counted, and reported once for each file: AddressCounts
        try:
            located = locate_image(path, self._roots, 0)
            is_file = located is not None and stat.S_ISREG(located[0].stat().st_mode)
        except (OSError, ValueError) as error:
            if isinstance(error, OSError):
                raise_if_of_machine(error, path)
            reason = error.strerror if isinstance(error, OSError) and error.strerror else "no name of a file"
            return broken_image("PV101", f"no such image {shorten(path)!r} ({reason})")
        if located is None:
            hint = suggest_image(strip_folders(path, 0), [root for root, _ in self._roots], "--images_root")
            if not hint and not is_absolute(path):
                hint = "Pass the folder that its path starts from as --images_root"
            return ImageFacts(found=(Finding("PV101", None, f"no such image {quote_path(path)}", hint),))
        if not is_file:
            return broken_image("PV101", f"is not a file ({quote_path(path)})")
        return self._read(path, located[0]) if self._deep else ImageFacts()

    def _check_data(self, path: str) -> ImageFacts:
        if not self._deep:
            return ImageFacts()
        try:
            return decode(decode_data_uri(path, ""), path, max_pixels=self._max_pixels)
        except RejectInput as error:
            return broken_image("PV102", f"broken image {shorten(path, 40)!r}: {error.reason}")


@dataclass(slots=True)
class AddressCounts:
    """PV505: images that are addresses, counted by file."""

    images: Counter[str] = field(default_factory=Counter)

    def observe(self, row: RowContext) -> None:
        """Count those of a row."""
        if count := sum(map(is_url, row.conversation.image_paths)):
            self.images[row.file] += count

    def merge(self, other: AddressCounts) -> AddressCounts:
        """The counts of both."""
        return AddressCounts(self.images + other.images)

    def findings(self) -> Iterator[Issue]:
        """One for each file that has some."""
        for file, count in sorted(self.images.items()):
            what = "1 image is an address" if count == 1 else f"{count} images are addresses"
            yield Finding("PV505", None, f"{what}, and not checked").at(file)


def read_image(path: str, roots: Sequence[Path]) -> bytes | None:
    """The bytes of an image; None where there is no file of a bounded size."""
    try:
        if is_data_uri(path):
            return decode_data_uri(path, "")
        located = None if is_url(path) else locate_image(path, [(root, "") for root in roots], 0)
        if located is None:
            return None
        status = located[0].stat()
        is_small = stat.S_ISREG(status.st_mode) and status.st_size <= MAX_IMAGE_BYTES
        return located[0].read_bytes() if is_small else None
    except (OSError, ValueError, RejectInput) as error:
        raise_if_of_machine(error, path)
        return None
