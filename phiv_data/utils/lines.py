"""Lines of a binary file with their true numbers and byte offsets; a byte order mark is no part of the first.

>>> import io
>>> list(numbered_lines(io.BytesIO(b"\\xef\\xbb\\xbfone\\n\\ntwo")))
[(1, 3, b'one\\n'), (2, 7, b'\\n'), (3, 8, b'two')]
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from math import inf
from typing import BinaryIO

BOM = b"\xef\xbb\xbf"
UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")
LFS_MARK = b"version https://git-lfs.github.com/spec/"
"""How a file begins that stands for one kept elsewhere."""


def numbered_lines(
    file: BinaryIO, *, first: int = 1, end: float = inf, max_bytes: int | None = None
) -> Iterator[tuple[int, int, bytes]]:
    """(number, offset, bytes) of each line from where `file` is to byte `end`, blank ones too, line ends included.

    Lines end at `\\n` only. `first` is the number of the first. A line longer than `max_bytes` comes in pieces, so that
    one that is known to be broken need not fit into memory.
    """
    offset = file.tell()
    lines: Iterable[bytes] = file if max_bytes is None else iter(partial(file.readline, max_bytes), b"")
    for number, raw in enumerate(lines, first):
        if offset >= end:
            return
        if number == 1 and raw.startswith(BOM):
            yield number, offset + len(BOM), raw.removeprefix(BOM)
        else:
            yield number, offset, raw
        offset += len(raw)
