"""images.sha256 as a table on disk: path to sha256, 40 bytes an image, shared by all workers through the page cache.

table = write_table(read_checksums(out / "images.sha256"), empty_folder)
table.get("val/a.jpg")      # the 32 bytes of its sha256, or None
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from phiv_data.utils.atomic import atomic_write
from phiv_data.validation.core.key_index import digest
from phiv_schemas import check_image_path

if TYPE_CHECKING:
    from numpy.typing import NDArray

_LINE = re.compile(r"([0-9a-f]{64})  images/(.+)")


def read_checksums(path: Path, on_bad_line: Callable[[int], object] = lambda number: None) -> Iterator[tuple[str, str]]:
    """(path, sha256 in hex) of each line as sha256sum writes it; numbers of other lines go to `on_bad_line`."""
    with path.open(encoding="utf-8", errors="replace", newline="\n") as file:
        for number, line in enumerate(file, start=1):
            try:
                match = _LINE.fullmatch(line.rstrip("\n"))
                image = check_image_path(match[2]) if match else ""
            except ValueError:  # a name that no image can have
                image = ""
            if match and image:
                yield image, match[1]
            else:
                on_bad_line(number)


@dataclass(frozen=True)
class ChecksumTable:
    """An open table, in `folder`. Pickled as the folder's name."""

    folder: Path

    def __len__(self) -> int:
        return len(self._arrays[0])

    def __contains__(self, path: str) -> bool:
        return self.position(path) is not None

    def get(self, path: str) -> bytes | None:
        """The 32 bytes of the sha256 that is listed for an image."""
        position = self.position(path)
        return None if position is None else self._arrays[1][position].tobytes()

    def position(self, path: str) -> int | None:
        """The row of the table that an image has."""
        import numpy as np

        key, keys = np.frombuffer(digest(path), "<u8")[0], self._arrays[0]
        at = int(np.searchsorted(keys, key))
        return at if at < len(keys) and keys[at] == key else None

    def find_unseen(self, seen: Iterator[NDArray[Any]]) -> NDArray[Any]:
        """True for each row of the table whose key is in none of the entries `KeyIndex.firsts` gives."""
        import numpy as np

        keys = self._arrays[0]
        unseen = np.ones(len(keys), bool)
        for entries in seen:
            at = np.searchsorted(keys, entries["hi"]).clip(max=max(0, len(keys) - 1))
            if len(keys):
                unseen[at[keys[at] == entries["hi"]]] = False
        return unseen

    def __getstate__(self) -> dict[str, Path]:
        return {"folder": self.folder}

    @cached_property
    def _arrays(self) -> tuple[NDArray[Any], NDArray[Any]]:
        """Keys, ascending, and the hash of each. Large ones are mapped."""
        import numpy as np

        paths = (self.folder / "keys.npy", self.folder / "hashes.npy")
        keys, hashes = (np.load(path, mmap_mode="r" if path.stat().st_size > 2**20 else None) for path in paths)
        return keys, hashes


def write_table(lines: Iterator[tuple[str, str]], folder: Path) -> ChecksumTable:
    """Write the table of `lines` into an empty folder. A path listed twice keeps its first hash."""
    import numpy as np

    packed = b"".join(digest(path)[:8] + bytes.fromhex(sha256) for path, sha256 in lines)
    rows = np.frombuffer(packed, [("key", "<u8"), ("sha256", "V32")])
    keys, first = np.unique(rows["key"], return_index=True)
    for name, array in (("keys.npy", keys), ("hashes.npy", rows["sha256"][first])):
        # Through a writer of ours: into a file of its own numpy loses what a full disk does not take, saying nothing.
        with atomic_write(folder / name, durable=False) as file:
            np.save(file, array)
    return ChecksumTable(folder)
