"""The length a container promises, against the length it has."""

from __future__ import annotations

import io
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phiv_data.media.video.containers import is_known_video, missing_tail


def riff(kind: bytes, size: int, promised: int | None = None) -> bytes:
    return b"RIFF" + struct.pack("<I", size + 4 if promised is None else promised) + kind + bytes(size)


def box(name: bytes, size: int) -> bytes:
    return struct.pack(">I", 8 + size) + name + bytes(size)


def large_box(name: bytes, size: int) -> bytes:
    return struct.pack(">I", 1) + name + struct.pack(">Q", 16 + size) + bytes(size)


EBML = b"\x1a\x45\xdf\xa3\x81\x00"
WHOLE = {
    "avi": riff(b"AVI ", 100),
    "avi beyond 1 GiB": riff(b"AVI ", 101) + b"\0" + riff(b"AVIX", 50),
    "mp4": box(b"ftyp", 12) + box(b"free", 0) + box(b"mdat", 70) + box(b"moov", 40),
    "mp4 beyond 4 GiB": box(b"ftyp", 12) + large_box(b"mdat", 70) + box(b"moov", 40),
    "matroska": EBML + b"\x18\x53\x80\x67" + b"\x40\x64" + bytes(100),
}
OPEN_ENDED = {
    "live avi": riff(b"AVI ", 100, promised=0),
    "live avi, all ones": riff(b"AVI ", 100, promised=0xFFFFFFFF),
    "mp4 whose last box runs to the end": box(b"ftyp", 12) + struct.pack(">I", 0) + b"mdat" + bytes(9),
    "live matroska": EBML + b"\x18\x53\x80\x67" + b"\x01" + b"\xff" * 7 + bytes(10),
    "no container": b"plain text that promises nothing",
    "empty": b"",
}


@pytest.mark.parametrize("name", WHOLE)
def test_a_whole_file_misses_nothing_with_or_without_bytes_behind_it(name: str) -> None:
    for tail in (b"", b"\0", b"trailing junk of a careless tool"):
        assert missing_tail(io.BytesIO(WHOLE[name] + tail)) is None


@given(name=st.sampled_from(sorted(WHOLE)), lost=st.integers(1, 40))
def test_every_cut_inside_the_last_part_is_noticed(name: str, lost: int) -> None:
    cut = WHOLE[name][:-lost]
    assert "the file is cut" in (missing_tail(io.BytesIO(cut)) or "")


@pytest.mark.parametrize("name", OPEN_ENDED)
def test_a_file_that_states_no_length_is_left_to_the_decoder(name: str) -> None:
    assert missing_tail(io.BytesIO(OPEN_ENDED[name])) is None


@given(data=st.binary(max_size=64), prefix=st.sampled_from([b"", b"RIFF....AVI ", b"\0\0\0\x10ftyp", EBML]))
def test_no_bytes_raise(data: bytes, prefix: bytes) -> None:
    missing_tail(io.BytesIO(prefix + data))


@pytest.mark.parametrize(("name", "known"), [(n, True) for n in WHOLE] + [("no container", False), ("empty", False)])
def test_containers_are_recognised_by_their_first_bytes(name: str, known: bool) -> None:
    assert is_known_video((WHOLE | OPEN_ENDED)[name][:12]) is known
