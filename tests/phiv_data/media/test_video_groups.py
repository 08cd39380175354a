"""Sampling from groups of frames: the same frames as full decoding, byte for byte, or full decoding itself.

The clips are generated: every codec that is sampled so, with B-frames, open groups, uneven times, edit lists, rotation,
fields, cuts. A few of each are tested by default, 200 by `scripts/soak`.
"""

from __future__ import annotations

import random
import struct
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from media_tools import number_image, numbered_clip, read_number

from phiv_data.media.reject import RejectInput
from phiv_data.media.video import VideoInfo, bitstream, sample_frames
from phiv_data.media.video.groups import Packets

COUNTS = (1, 2, 8, 16)
SIDE = 64
ENCODERS = {
    "h264": "libx264",
    "hevc": "libx265",
    "vp9": "libvpx-vp9",
    "av1": "libsvtav1",
    "mpeg4": "mpeg4",
    "mpeg2": "mpeg2video",
}
FEATURES = ("plain", "B-frames", "open groups", "uneven times", "edit list", "rotated", "fields", "cut")


@dataclass(frozen=True)
class Variant:
    """One generated clip."""

    codec: str
    feature: str
    suffix: str
    num_frames: int
    group: int
    seed: int

    def __str__(self) -> str:
        return f"{self.codec}-{self.feature}{self.suffix}-{self.num_frames}-{self.group}".replace(" ", "-")


def variants(count: int) -> list[Variant]:
    """Every codec with every feature in turn; lengths and containers by a fixed seed."""
    dice, made = random.Random(5), []
    pairs = [(codec, feature) for feature in FEATURES for codec in ENCODERS]
    for i in range(count):
        codec, feature = pairs[i % len(pairs)]
        suffix = ".mp4" if feature in ("edit list", "rotated") else dice.choice((".mp4", ".mkv", ".mov", ".mp4"))
        suffix = ".mkv" if suffix == ".mov" and codec in ("vp9", "av1") else suffix
        made.append(Variant(codec, feature, suffix, dice.randint(20, 150), dice.choice((5, 9, 12, 30)), i))
    return made


def make(variant: Variant, path: Path) -> Path:
    """Write the clip: its frames show their numbers over noise that moves."""
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(ENCODERS[variant.codec], rate=25)
        stream.width, stream.height, stream.pix_fmt = SIDE, SIDE, "yuv420p"
        if variant.feature == "rotated":
            stream.set_display_rotation(90)
        configure(stream.codec_context, variant)
        for frame in frames_of(variant):
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    if variant.feature == "edit list":
        path.write_bytes(trimmed(path.read_bytes()))
    if variant.feature == "cut":
        data = path.read_bytes()
        path.write_bytes(data[: len(data) * 3 // 4])
    return path


def configure(context: Any, variant: Variant) -> None:
    has_b = variant.feature not in ("plain", "cut") or variant.seed % 2
    is_mpeg = variant.codec in ("mpeg4", "mpeg2")
    context.thread_count, context.gop_size = 1, variant.group
    if variant.codec not in ("vp9", "av1"):
        context.max_b_frames = (1 if variant.codec == "mpeg4" else 2) if has_b else 0
    options = {
        "h264": {"preset": "veryfast", "x264-params": f"open-gop={int(variant.feature == 'open groups')}:log-level=0"},
        "hevc": {
            "preset": "ultrafast",
            "x265-params": f"open-gop={int(variant.feature == 'open groups')}:log-level=none:pools=1",
        },
        "vp9": {"deadline": "realtime", "cpu-used": "8", "auto-alt-ref": str(int(has_b)), "lag-in-frames": "12"},
        "av1": {
            "preset": "13",
            "svtav1-params": f"irefresh-type={1 if variant.feature == 'open groups' else 2}:lp=1",
        },
    }.get(variant.codec, {"b": "400k"})
    if variant.feature == "fields" and variant.codec == "h264":
        options["x264-params"] += ":tff=1"
    if variant.feature == "fields" and variant.codec == "mpeg2":
        options["flags"] = "+ildct+ilme"
    if variant.feature != "open groups" and is_mpeg:
        options["flags"] = options.get("flags", "") + "+cgop"
        options["sc_threshold"] = "1000000000"  # closed groups need it
    if variant.feature == "uneven times":
        context.time_base = Fraction(1, 1000)
    if variant.codec == "mpeg2" or (variant.codec == "mpeg4" and variant.feature == "uneven times"):
        context.time_base = Fraction(1, 25)  # these know few rates
    context.options = options


def frames_of(variant: Variant) -> Iterator[av.VideoFrame]:
    noise = np.random.default_rng(variant.seed).integers(0, 60, (SIDE, SIDE * 2, 3), np.uint8)
    step, time = random.Random(variant.seed), 0
    for number in range(variant.num_frames):
        image = number_image(number, SIDE) // 2 + noise[:, number % SIDE : number % SIDE + SIDE]
        frame = av.VideoFrame.from_ndarray(image.astype(np.uint8), format="rgb24")
        if variant.feature == "uneven times":
            is_coarse = variant.codec in ("mpeg2", "mpeg4")
            frame.pts, frame.time_base = time, Fraction(1, 25 if is_coarse else 1000)
            time += step.randint(1, 3) if is_coarse else step.randint(10, 90)
        yield frame


def trimmed(mp4: bytes) -> bytes:
    """The MP4 with an edit list that leaves out some frames at its start."""
    data, at = bytearray(mp4), mp4.index(b"elst")
    (entries,) = struct.unpack_from(">I", data, at + 8)
    (media_time,) = struct.unpack_from(">i", data, at + 12 + (entries - 1) * 12 + 4)
    scale = struct.unpack_from(">I", mp4, mp4.index(b"mdhd") + 16)[0]
    struct.pack_into(">i", data, at + 12 + (entries - 1) * 12 + 4, media_time + scale * 7 // 25)
    return bytes(data)


Sampled = tuple[VideoInfo | None, list[tuple[int, float | None, bytes]], str]


def sampled(clip: Path, num_frames: int, check: str) -> Sampled:
    """(info, frames, code of the reject)."""
    try:
        info, frames = sample_frames(clip, num_frames, check=check)  # type: ignore[arg-type]
    except RejectInput as reject:
        return None, [], reject.code
    return info, [(frame.index, frame.timestamp, frame.image.tobytes()) for frame in frames], ""


def check_clip(clip: Path) -> Counter[str]:
    """Compare both ways for all counts; how often groups were enough."""
    ways = Counter[str]()
    for num_frames in COUNTS:
        fast, slow = sampled(clip, num_frames, "used"), sampled(clip, num_frames, "full")
        assert fast[1:] == slow[1:], f"{clip.name}, {num_frames} frames"
        if fast[0] and slow[0]:
            assert (fast[0].decoded, fast[0].width, fast[0].height) == (
                slow[0].decoded,
                slow[0].width,
                slow[0].height,
            )
        ways["rejected" if not fast[0] else "groups" if fast[0].decoded_groups_only else "full"] += 1
    return ways


@pytest.mark.parametrize("variant", variants(len(ENCODERS) * len(FEATURES)), ids=str)
def test_frames_are_those_of_full_decoding(variant: Variant, tmp_path: Path) -> None:
    check_clip(make(variant, tmp_path / f"clip{variant.suffix}"))


@pytest.mark.soak
def test_frames_of_200_clips_are_those_of_full_decoding(tmp_path: Path) -> None:
    ways: dict[str, Counter[str]] = {}
    for variant in variants(200):
        clip = make(variant, tmp_path / f"{variant.seed}{variant.suffix}")
        ways.setdefault(variant.codec, Counter()).update(check_clip(clip))
    print(ways)  # noqa: T201  how often groups were enough
    assert all(ways[codec]["groups"] > 0 for codec in ENCODERS)


@pytest.mark.parametrize("codec", ENCODERS)
def test_a_packet_that_was_lost_is_a_doubt(codec: str, tmp_path: Path) -> None:
    """Decoding drops what refers to a lost frame: how many frames there are cannot be known from the packets."""
    clip = make(Variant(codec, "B-frames", ".mkv", 60, 12, 3), tmp_path / "clip.mkv")
    for lost in (13, 24, 37):
        path = tmp_path / f"lost{lost}.mkv"
        with av.open(str(clip)) as source, av.open(str(path), "w") as target:
            stream = target.add_stream_from_template(source.streams.video[0], opaque=True)
            for i, packet in enumerate(packet for packet in source.demux(video=0) if packet.size):
                if i != lost:
                    packet.stream = stream
                    target.mux(packet)
        assert not check_clip(path)["groups"]


# --- what is a doubt, and what is not found ---


@pytest.mark.parametrize(
    "options",
    [
        {"suffix": ".avi"},
        {"suffix": ".avi", "b_frames": 1, "packed": True},
        {"suffix": ".mkv", "codec": "libvpx"},
        {"suffix": ".h264", "codec": "libx264"},
        {"suffix": ".ts", "codec": "libx264"},
    ],
    ids=["no times", "packed B-frames", "another codec", "no container", "another container"],
)
def test_a_clip_without_a_proof_is_decoded_from_its_start(tmp_path: Path, options: dict[str, Any]) -> None:
    clip = numbered_clip(tmp_path / f"a{options.pop('suffix')}", 40, **options)
    info, frames = sample_frames(clip, 4, check="used")
    assert not info.decoded_groups_only
    assert [read_number(frame.image) for frame in frames] == [0, 10, 20, 30]


def test_full_decoding_is_the_default_and_salvaging_is_always_full(tmp_path: Path) -> None:
    clip = numbered_clip(tmp_path / "a.mp4", 40)
    assert sample_frames(clip, 1, check="used")[0].decoded_groups_only
    assert not sample_frames(clip, 1)[0].decoded_groups_only
    assert not sample_frames(clip, 1, check="used", on_corrupt="salvage")[0].decoded_groups_only


def damaged(clip: Path, number: int) -> bytes:
    """The clip with the data of its packet `number` overwritten."""
    with av.open(str(clip)) as container:
        packet = [packet for packet in container.demux(video=0) if packet.size][number]
    data = bytearray(clip.read_bytes())
    assert packet.pos is not None
    data[packet.pos + 8 : packet.pos + packet.size] = b"\x55" * (packet.size - 8)
    return bytes(data)


def test_damage_is_found_in_the_groups_that_are_used_or_everywhere(tmp_path: Path) -> None:
    clip = numbered_clip(tmp_path / "a.mp4", 60)  # groups of 12 frames; two frames are 0 and 30
    (tmp_path / "unused.mp4").write_bytes(damaged(clip, 14))
    (tmp_path / "used.mp4").write_bytes(damaged(clip, 26))
    assert sampled(tmp_path / "unused.mp4", 2, "full")[2] == "undecodable"
    assert sampled(tmp_path / "unused.mp4", 2, "used") == sampled(clip, 2, "used")
    assert sampled(tmp_path / "used.mp4", 2, "used") == sampled(tmp_path / "used.mp4", 2, "full") == (
        None, [], "undecodable",
    )  # fmt: skip


@given(codec=st.sampled_from(["h264", "hevc", "vp9", "av1", "mpeg4", "mpeg2video"]), data=st.binary(), more=st.binary())
def test_any_bytes_are_read_or_doubted(codec: str, data: bytes, more: bytes) -> None:
    with suppress(bitstream.Doubt):
        assert bitstream.packet_reader(codec, data)(more) in (True, False)


@given(groups=st.lists(st.tuples(st.integers(1, 9), st.integers(0, 3)), min_size=1, max_size=8), data=st.data())
def test_every_wanted_frame_is_in_the_span_of_a_key_at_or_before_it(groups: Any, data: st.DataObject) -> None:
    pts, keys = list[int](), list[int]()
    for i, (size, leading) in enumerate(groups):  # a key, what is shown before it, then the rest
        first, leading = len(pts), leading if i else 0
        keys.append(first)
        pts += [first + leading, *range(first, first + leading), *range(first + leading + 1, first + leading + size)]
    packets = Packets(pts, keys)
    wanted = data.draw(st.sets(st.sampled_from(pts), min_size=1))
    spans = packets.spans(wanted)
    for time in wanted:
        (span,) = (span for span in spans if span.holds(time))
        assert span.start in keys
        assert time in pts[span.start : span.stop]
        assert time in span.times_of(packets.shown)
    assert all(a.stop <= b.start for a, b in pairwise(spans))
