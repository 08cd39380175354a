"""Clips and images for tests: real encoders, and the frame's number encoded in its pixels.

The number is 16 black or white blocks, large enough to survive mpeg4: `read_number(frame)` gives it back.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

BLOCK = 16
SIZE = 4 * BLOCK  # 4x4 blocks: 64x64 pixels


def numbered_clip(
    path: Path,
    num_frames: int,
    *,
    codec: str = "mpeg4",
    b_frames: int = 0,
    packed: bool = False,
    variable_rate: bool = False,
    declared: int | None = None,
    side: int = SIZE,
    **container_options: str,
) -> Path:
    """Write a clip whose frame i shows the number i. The suffix of `path` is the container.

    `packed` puts each B-frame into the chunk of the frame it follows, as DivX and XviD did (b_frames must be 1).
    `variable_rate` spaces the frames unevenly (mp4, mkv). `declared` overwrites the frame counts of an AVI header.
    """
    with av.open(str(path), "w", options=container_options) as container:
        stream = container.add_stream(codec, rate=25)
        stream.width = stream.height = side
        stream.pix_fmt = "yuv420p"
        context = stream.codec_context
        context.thread_count, context.max_b_frames, context.gop_size = 1, b_frames, 12
        context.options = {"qscale": "3", "flags": "+qscale", "b_strategy": "0"}
        if variable_rate:
            context.time_base = Fraction(1, 1000)
        packets = list(_packets(stream, num_frames, side, variable_rate))
        for packet in _packed(packets, stream) if packed else packets:
            container.mux(packet)
    if declared is not None:
        path.write_bytes(with_declared_frames(path.read_bytes(), declared))
    return path


def _packets(stream: Any, num_frames: int, side: int, variable_rate: bool) -> Iterator[Any]:
    for number in range(num_frames):
        frame = av.VideoFrame.from_ndarray(number_image(number, side), format="rgb24")
        if variable_rate:
            frame.pts, frame.time_base = 40 * number + (number % 3) * 13, Fraction(1, 1000)
        yield from stream.encode(frame)
    yield from stream.encode(None)


def _packed(packets: list[Any], stream: Any) -> Iterator[Any]:
    """Coded order I P B P B ... becomes chunks I, P+B, skip, P+B, skip: as many chunks as frames."""
    mark = b"\x00\x00\x01\xb2DivX503b1393p"  # marks packed chunks
    skip = b"\x00\x00\x01\xb6\x50\x9f"  # a VOP that codes nothing
    chunks: list[bytes] = []
    for packet in packets:
        if not is_b_frame(data := bytes(packet)):
            chunks.append(data)
        else:
            chunks[-1] += data
            chunks.append(skip)
    chunks[0] = _before_first_image(chunks[0], mark)
    for index, chunk in enumerate(chunks):
        packet = av.Packet(chunk)
        packet.stream, packet.time_base = stream, Fraction(1, 25)
        packet.pts = packet.dts = index
        packet.is_keyframe = index == 0
        yield packet


def is_b_frame(data: bytes) -> bool:
    """True when the (only) mpeg4 image in `data` is bidirectional."""
    start = data.index(b"\x00\x00\x01\xb6")
    return data[start + 4] >> 6 == 2


def _before_first_image(data: bytes, insert: bytes) -> bytes:
    start = data.index(b"\x00\x00\x01\xb6")
    return data[:start] + insert + data[start:]


def number_image(number: int, side: int = SIZE) -> np.ndarray:
    """RGB uint8 [side, side, 3]: block i is white where bit i of `number` is set."""
    bits = np.array([(number >> i) & 1 for i in range(16)], np.uint8).reshape(4, 4)
    gray = np.kron(bits * 255, np.ones((side // 4, side // 4), np.uint8))
    return np.repeat(gray[:, :, None], 3, axis=2)


def read_number(image: np.ndarray) -> int:
    """The number that `number_image` encoded, after lossy coding."""
    side = image.shape[0] // 4
    means = image.mean(axis=2).reshape(4, side, 4, side).mean(axis=(1, 3)).ravel()
    return sum(1 << i for i, mean in enumerate(means) if mean > 127)


def with_declared_frames(avi: bytes, count: int) -> bytes:
    """The AVI with both frame counts of its header (main and video stream) set to `count`."""
    data = bytearray(avi)
    main, stream = data.index(b"avih") + 8, data.index(b"strh") + 8
    assert data[stream : stream + 4] == b"vids"
    struct.pack_into("<I", data, main + 16, count)
    struct.pack_into("<I", data, stream + 32, count)
    return bytes(data)


def audio_clip(path: Path, codec: str = "aac") -> Path:
    """A tenth of a second of silence without any image."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=44100)
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 4410), np.float32), format="fltp", layout="mono")
        silence.sample_rate = 44100
        for frame in (silence, None):
            container.mux(stream.encode(frame))
    return path
