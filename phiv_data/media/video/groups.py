"""Sampling that decodes only the groups of frames that hold wanted ones, where packets prove what all would give.

    packets = list_packets(container, stream)     # nothing is decoded; Doubt where the proof fails
    times = packets.shown                         # of frame i, in the order in which frames are shown
    packets.spans([times[0], times[4500]])        # what to decode for frames 0 and 4500

A packet that is one shown frame, with a time of its own, and in a group with all packets of its span of time: then
frame i of full decoding is the packet with the i-th time, and its pixels depend on its group alone. `bitstream` reads
that off the bytes; what is decoded is compared with it. Any doubt, and the clip is decoded from its start.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from phiv_data.media.video.bitstream import Doubt, packet_reader

_CONTAINERS = {"mov", "matroska"}  # with a time for every packet, and its codec's headers apart


@dataclass(frozen=True, slots=True)
class Span:
    """Packets `start` to `stop`, decoded in one go from a packet on that needs none before it."""

    start: int
    stop: int
    first_time: int
    """Frames shown before it may lack what they are made of, and are not used."""
    end_time: int | None

    def holds(self, time: int) -> bool:
        """Whether a frame of this time can be used."""
        return self.first_time <= time and (self.end_time is None or time < self.end_time)

    def times_of(self, shown: list[int]) -> list[int]:
        """Those of all frames, `shown`, that it holds."""
        stop = len(shown) if self.end_time is None else bisect_left(shown, self.end_time)
        return shown[bisect_left(shown, self.first_time) : stop]


@dataclass(frozen=True, slots=True)
class Packets:
    """The packets of a clip, by their times in the order in which they are decoded."""

    pts: list[int]
    """Presentation times in the units of the stream."""
    keys: list[int]
    """Numbers of the packets with which a group begins."""

    @property
    def shown(self) -> list[int]:
        """The times of all frames in the order in which they are shown."""
        return sorted(self.pts)

    @property
    def reorder_depth(self) -> int:
        """How many packets at most lie before one that is shown earlier than they are."""
        latest: list[int] = []  # times of the packets so far, ascending; only the last few are ever passed
        depth = 0
        for time in self.pts:
            place = bisect_left(latest, time)
            depth = max(depth, len(latest) - place)
            latest.insert(place, time)
        return depth

    def spans(self, times: Collection[int]) -> list[Span]:
        """What to decode for the frames at these times; groups that are neighbours are decoded together."""
        starts = [self.pts[key] for key in self.keys]
        spans: list[Span] = []
        for group in sorted({bisect_right(starts, time) - 1 for time in times}):
            span = self._span(group, starts)
            if spans and spans[-1].end_time == span.first_time:
                before = spans.pop()
                span = Span(before.start, span.stop, before.first_time, span.end_time)
            spans.append(span)
        return spans

    def _span(self, group: int, starts: list[int]) -> Span:
        """A group, with the packets behind the next key that are shown before it."""
        start = self.keys[group]
        if group + 1 == len(self.keys):
            return Span(start, len(self.pts), starts[group], None)
        end, key = starts[group + 1], self.keys[group + 1]
        stop = key + 1
        while stop < len(self.pts) and self.pts[stop] < end:
            stop += 1
        return Span(start, key if stop == key + 1 else stop, starts[group], end)


def list_packets(container: Any, stream: Any) -> Packets:
    """The packets of a stream, read and not decoded. Doubt where frames cannot be known from them."""
    if not _CONTAINERS & set(container.format.name.split(",")):
        raise Doubt(f"the container {container.format.name}")
    codec = stream.codec_context
    begins_group = packet_reader(codec.codec.canonical_name, codec.extradata or b"")
    pts, keys = list[int](), list[int]()
    for packet in _demux(container, stream):
        if packet.is_corrupt or packet.is_discard or packet.pts is None:
            raise Doubt("a packet that is cut, left out by an edit list, or without a time")
        if packet.has_sidedata("new_extradata") or packet.has_sidedata("param_change"):
            raise Doubt("headers that change")
        if begins_group(bytes(packet)):
            keys.append(len(pts))
        pts.append(packet.pts)
    if "mov" in container.format.name and len(stream.index_entries) != len(pts):
        raise Doubt(f"an index of {len(stream.index_entries)} packets, and {len(pts)} in the file")
    _check_order(pts, keys)
    return Packets(pts, keys)


def _demux(container: Any, stream: Any) -> Iterator[Any]:
    """The packets of a stream, without the empty one that flushes the decoder."""
    import av

    try:
        for packet in container.demux(stream):
            if packet.size or packet.dts is not None:
                yield packet
    except av.FFmpegError as error:
        raise Doubt("a file that cannot be read to its end") from error


def _check_order(pts: list[int], keys: list[int]) -> None:
    """Doubt unless times are unique and without a gap, and groups follow each other.

    Behind a key frame comes first what is shown before it.
    """
    if len(set(pts)) != len(pts) or keys[:1] != [0] or min(pts) != pts[0]:
        raise Doubt("times that repeat, or no key frame in front")
    steps = [after - before for before, after in pairwise(sorted(pts))]
    if steps and 2 * max(steps) > 3 * sorted(steps)[len(steps) // 2]:  # decoding drops what refers to a lost frame
        raise Doubt("a gap in its times, where a frame may be lost")
    for i, start in enumerate(keys):
        stop = keys[i + 1] if i + 1 < len(keys) else len(pts)
        end = pts[keys[i + 1]] if i + 1 < len(keys) else None
        before = pts[keys[i - 1]] if i else pts[start]
        is_leading = True
        for time in pts[start + 1 : stop]:
            is_leading = is_leading and time < pts[start]
            if time < before or (time < pts[start] and not is_leading) or (end is not None and time > end):
                raise Doubt("groups that overlap in time")
        if end is not None and end < pts[start]:
            raise Doubt("groups that overlap in time")
