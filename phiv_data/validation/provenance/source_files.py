"""Finds the files of a raw source by the names that converters recorded for them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from phiv_data.sources.image_index import ImageIndex, index_images
from phiv_data.storage.record_errors import short_repr
from phiv_data.utils.atomic import raise_if_of_machine, sha256_of
from phiv_data.validation.core.finding import Finding

MAX_NAMESAKES = 16
IN_ROW = "it was part of its row, not a file"
OUTSIDE = "it lies outside of the folder of the rows"
SEVERAL = f"more than {MAX_NAMESAKES} files have its name"

_HOLDERS = (".zip", ".tar", ".tgz", ".tbz2", ".txz", ".gz", ".bz2", ".xz", ".rar", ".7z", ".parquet", ".arrow")
_EMBEDDED = re.compile(r"data/([0-9a-f]{32})\.\w+")  # the name phiv-convert gives an image that its row holds
_MAX_CACHED = 2**16


@dataclass
class SourceFiles:
    """Files below `root`. The whole tree is listed when a name does not lead to a file, once in a process."""

    root: Path
    _cache: dict[tuple[str, str], Path | Finding | str] = field(default_factory=dict)

    def find(self, source: str, sha256: str) -> Path | Finding | str:
        """The file of this name and hash; what is wrong with it; or the reason why that cannot be decided.

        Converters name files as they found them, so a name may lack the folders above it: of files of one base name,
        those whose folders agree most are tried.
        """
        key = (source, sha256)
        if key not in self._cache:
            if len(self._cache) >= _MAX_CACHED:
                self._cache.clear()
            self._cache[key] = self._find(source, sha256)
        return self._cache[key]

    def _find(self, source: str, sha256: str) -> Path | Finding | str:
        namesakes = []
        for file in self._candidates(source):
            try:
                with file.open("rb") as open_source:
                    if sha256_of(open_source) == sha256:
                        return file
            except OSError as error:
                raise_if_of_machine(error, source)
                return Finding("PV311", None, f"its source {short_repr(source)} cannot be read: {error.strerror}")
            namesakes.append(file)
        if len(namesakes) > MAX_NAMESAKES:
            return SEVERAL
        if source.partition("/")[0] in ("_up", "_root"):
            return OUTSIDE
        if namesakes:
            return Finding("PV312", None, f"its source {short_repr(source)} has changed: it has another sha256")
        if (match := _EMBEDDED.fullmatch(source)) and sha256.startswith(match[1]):
            return IN_ROW
        if self._holder is not None:
            return f"it is no file below the source, and may be in {short_repr(self._holder)}"
        return Finding("PV311", None, f"its source {short_repr(source)} is not there")

    def _candidates(self, source: str) -> Iterator[Path]:
        """The file of exactly this name, then those of its base name."""
        is_outside = ".." in source.split("/") or source.startswith("/") or "\0" in source or "\\" in source
        is_file = False
        with suppress(OSError):  # a name that is too long
            is_file = not is_outside and (self.root / source).is_file()  # the data never lead outside the source
        if is_file:
            yield self.root / source
        yield from self._images.candidates(source)[: MAX_NAMESAKES + 1]

    @cached_property
    def _images(self) -> ImageIndex:
        return index_images(self.root)

    @cached_property
    def _holder(self) -> str | None:
        """An archive or a table below the source, where there is one: what it holds is not searched."""
        return min((name for name in self._images.folders if name.lower().endswith(_HOLDERS)), default=None)

    def __getstate__(self) -> dict[str, Any]:
        return {"root": self.root, "_cache": {}}
