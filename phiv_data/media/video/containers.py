"""Truncation check: does a file hold all the bytes its container declares? A cut clip often decodes without an error.

Checked for the containers that state their own length: AVI (RIFF), MP4/MOV (ISO-BMFF boxes) and Matroska/WebM.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from typing import BinaryIO

_BOXES = {b"ftyp", b"styp", b"moov", b"moof", b"mdat", b"free", b"skip", b"wide", b"pnot", b"sidx", b"uuid"}
_EBML, _SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"


def missing_tail(file: BinaryIO) -> str | None:
    """Why the file is shorter than it should be, in one clause; None where it is complete or states no length."""
    size, head = file.seek(0, io.SEEK_END), _at(file, 0, 12)
    parts: Iterable[tuple[str, int]] = ()  # (what, byte where it ends) of each at the top that states its length
    if head[:4] == b"RIFF" and head[8:] == b"AVI ":
        parts = _riff(file)
    elif head[4:8] in _BOXES:
        parts = _iso_bmff(file)
    elif head[:4] == _EBML:
        parts = _matroska(file)
    for name, end in parts:
        if end > size:
            return f"the file is cut: its {name} ends at byte {end}, the file at {size}"
    return None


def is_known_video(head: bytes) -> bool:
    """True where the first 12 bytes are those of an AVI, MP4/MOV or Matroska/WebM file."""
    return (head[:4] == b"RIFF" and head[8:12] == b"AVI ") or head[4:8] in _BOXES or head[:4] == _EBML


def _riff(file: BinaryIO) -> Iterator[tuple[str, int]]:
    """An AVI is one `RIFF` chunk, then more of them in files beyond 1 GiB (OpenDML)."""
    start = 0
    while (head := _at(file, start, 8))[:4] == b"RIFF" and len(head) == 8:
        length = int.from_bytes(head[4:], "little")
        if length in (0, 0xFFFFFFFF):  # a live recording, its length never filled in
            return
        yield "RIFF chunk", start + 8 + length
        start += 8 + length + length % 2


def _iso_bmff(file: BinaryIO) -> Iterator[tuple[str, int]]:
    """A chain of boxes, each with its length in front (ISO/IEC 14496-12, 4.2)."""
    start = 0
    while len(head := _at(file, start, 16)) >= 8:
        length, name = int.from_bytes(head[:4], "big"), head[4:8]
        if length == 1:
            length = int.from_bytes(head[8:16], "big")
        if length < 8:  # 0: the box runs to the end of the file
            return
        if name in _BOXES:  # others may be bytes that some tool left behind the last box
            yield f"{name.decode()!r} box", start + length
        start += length


def _matroska(file: BinaryIO) -> Iterator[tuple[str, int]]:
    """An EBML header, then one Segment; its length may be left open (RFC 8794)."""
    header = _vint(_at(file, 4, 8))
    if header is None:
        return
    start = 4 + header[0] + header[1]
    if _at(file, start, 4) == _SEGMENT and (segment := _vint(_at(file, start + 4, 8))):
        yield "Segment", start + 4 + segment[0] + segment[1]


def _vint(data: bytes) -> tuple[int, int] | None:
    """(bytes it takes, value) of an EBML variable-length integer; None for "unknown"."""
    if not data or not data[0]:
        return None
    width = 9 - data[0].bit_length()
    value = int.from_bytes(data[:width], "big") & ((1 << 7 * width) - 1)
    return None if value == (1 << 7 * width) - 1 else (width, value)


def _at(file: BinaryIO, offset: int, count: int) -> bytes:
    file.seek(offset)
    return file.read(count)
