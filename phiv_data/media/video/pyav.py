"""Decoding with PyAV: one pass over a clip keeps the wanted frames and counts all of them.

Every complaint of FFmpeg (an exception, a packet or a frame flagged as corrupt, a chunk of the index that is missing)
becomes one `RejectInput`; with `salvage` the first one is kept as `VideoInfo.damage`. PyAV keeps FFmpeg's own log off
stderr.
"""

from __future__ import annotations

import io
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import islice, pairwise
from pathlib import Path
from typing import Any, BinaryIO

from phiv_data.media.reject import RejectInput, open_input
from phiv_data.media.video.bitstream import Doubt
from phiv_data.media.video.containers import is_known_video, missing_tail
from phiv_data.media.video.frames import CheckVideo, OnCorrupt, Sampling, Source, VideoFrame, VideoInfo, frame_indices
from phiv_data.media.video.groups import Packets, Span, list_packets

MAX_FRAME_PIXELS = 1 << 26
"""Frames beyond this (8192x8192) are refused: a header of a few bytes could ask for gigabytes."""

# Demuxers of files that hold video. The rest of FFmpeg's list is dangerous here: playlists (hls, concat, dash) open
# other files and URLs, and images or plain text would pass as a one-frame video.
_FORMATS = (
    "avi,mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,mpeg,mpegts,mpegvideo,m4v,h264,hevc,av1,obu,ivf,flv,asf,ogg,gif,"
    "rm,mxf,nut,dv,yuv4mpegpipe"
)
_INDEXED = {"avi", "mov"}  # containers whose index names every packet


def sample_frames(
    source: Source, sampling: Sampling, on_corrupt: OnCorrupt, check: CheckVideo
) -> tuple[VideoInfo, list[VideoFrame]]:
    """See `phiv_data.media.video.sample_frames`."""
    with _open_source(source) as (file, where):
        complain = _Complaints(where, salvage=on_corrupt == "salvage")
        _check_bytes(file, complain)
        if check == "used" and not complain.salvage:
            with suppress(Doubt):
                return _sample_groups(file, where, sampling)
        decoded, total = dict[int, VideoFrame | None](), 0
        with _container(file, where) as (container, stream):
            about = _about(container, stream)
            if sampling.needs_times:
                times = [frame.time for frame in _decode(container, stream, complain)]
                total = len(times)
                wanted = _choose_frames(sampling, _in_order(times, about["fps"], where), where)
            else:
                guess = _guess_frames(container, stream)
                decoded = dict(_frames(container, stream, frame_indices(guess, sampling.num_frames), complain))
                total = len(decoded)
                wanted = frame_indices(total, sampling.num_frames)
        if not total:
            raise RejectInput(where, "no-frames", complain.first or "no frame decodes")
        if any(decoded.get(index) is None for index in wanted):
            with _container(file, where) as (container, stream):
                decoded = dict(_frames(container, stream, wanted, complain, stop=wanted[-1] + 1))
    frames = [frame for index in wanted if (frame := decoded[index]) is not None]
    assert len(frames) == len(wanted), "every wanted frame was kept"
    return VideoInfo(
        decoded=total, width=frames[0].width, height=frames[0].height, damage=complain.first, **about
    ), frames


def _guess_frames(container: Any, stream: Any) -> int:
    """How many frames a clip has according to its header; 0 where that says nothing."""
    import av

    if not stream.frames and container.duration and container.duration > 0 and stream.average_rate:
        guess: int = round(container.duration / av.time_base * stream.average_rate)
        return guess
    return int(stream.frames)


def _in_order(times: list[float | None], fps: float | None, where: str) -> list[float]:
    """Times that never run backwards: those of the file, else by the header's rate."""
    known = [time for time in times if time is not None]
    if len(known) == len(times) and all(a <= b for a, b in pairwise(known)):
        return known
    if fps is None:
        raise RejectInput(where, "no-timestamps", "its frames have no times that could be asked for, nor a frame rate")
    return [number / fps for number in range(len(times))]


def _choose_frames(sampling: Sampling, times: list[float], where: str) -> list[int]:
    """The numbers of the frames to sample. RejectInput where the part that is asked for holds none."""
    wanted = sampling.indices(times)
    if times and not wanted:
        end = "its end" if sampling.end is None else f"{sampling.end:g} s"
        what = f"no frame from {sampling.start or 0:g} s to {end}, of {times[-1] - times[0]:.3f} s"
        raise RejectInput(where, "no-frames", what)
    return wanted


def _sample_groups(file: BinaryIO, where: str, sampling: Sampling) -> tuple[VideoInfo, list[VideoFrame]]:
    """The same as all frames would give, from the groups that hold the wanted ones. Doubt where that is not certain."""
    with _container(file, where) as (container, stream):
        packets, about, time_base = list_packets(container, stream), _about(container, stream), stream.time_base
    shown = packets.shown
    wanted = _choose_frames(sampling, [float(time * time_base) for time in shown], where)
    if sum(span.stop - span.start for span in packets.spans({shown[index] for index in wanted})) >= len(shown):
        raise Doubt("every group holds a wanted frame")
    found = _frames_of_groups(file, where, packets, wanted)
    frames = [found[index] for index in wanted]
    info = VideoInfo(
        decoded=len(shown), width=frames[0].width, height=frames[0].height, decoded_groups_only=True, **about
    )
    return info, frames


def _frames_of_groups(file: BinaryIO, where: str, packets: Packets, wanted: Collection[int]) -> dict[int, VideoFrame]:
    """The wanted frames by their numbers. Doubt where what decodes is not what the packets promise."""
    shown = packets.shown
    numbers = {shown[index]: index for index in wanted}
    spans, found, scale = packets.spans(numbers), dict[int, VideoFrame](), _Scaler()
    with _container(file, where) as (container, stream):
        for span, frames in _decode_spans(container, stream, spans):
            times = list[int]()
            for frame in frames:
                if frame.is_corrupt or frame.pts is None:
                    raise Doubt("a damaged frame")
                if span.holds(frame.pts):
                    times.append(frame.pts)
                    if (index := numbers.get(frame.pts)) is not None:
                        found[index] = scale(frame, index)
            if times != span.times_of(shown):
                raise Doubt("frames that are not those of the packets")
            if stream.codec_context.reorder_depth < packets.reorder_depth:
                raise Doubt("frames that the decoder may put out too early")
    return found


def _decode_spans(container: Any, stream: Any, spans: list[Span]) -> Iterator[tuple[Span, Iterator[Any]]]:
    """Each span with its frames, which must be read before the next. Doubt for a complaint of FFmpeg."""
    import av

    packets, position, depth = container.demux(stream), 0, 0

    def decode(span: Span) -> Iterator[Any]:
        try:
            for packet in islice(packets, span.start - position, span.stop - position):
                yield from packet.decode()
            for frame in stream.decode(None):
                frame.time_base = stream.time_base
                yield frame
        except av.FFmpegError as error:
            raise Doubt("a complaint of the decoder") from error

    for span in spans:
        yield span, decode(span)
        position, depth = span.stop, max(depth, stream.codec_context.reorder_depth)
        stream.codec_context.flush_buffers()
        stream.codec_context.reorder_depth = depth  # flushing may forget it


def _about(container: Any, stream: Any) -> dict[str, Any]:
    """What the header says of a clip, as `VideoInfo` names it."""
    return {
        "declared": int(stream.frames) or None,
        "codec": str(stream.codec_context.name),
        "container": str(container.format.name),
        "fps": float(stream.average_rate) if stream.average_rate else None,
    }


def frames_at(source: Source, indices: Collection[int], groups_only: bool) -> Iterator[VideoFrame]:
    """See `phiv_data.media.video.frames_at`."""
    with _open_source(source) as (file, where):
        complain = _Complaints(where, salvage=True)
        _check_bytes(file, complain)
        with suppress(Doubt):
            if groups_only:
                with _container(file, where) as (container, stream):
                    packets = list_packets(container, stream)
                found = _frames_of_groups(file, where, packets, sorted({*indices} & {*range(len(packets.pts))}))
                yield from (found[index] for index in sorted(found))
                return
        with _container(file, where) as (container, stream):
            numbered = _frames(container, stream, indices, complain, stop=max(indices, default=-1) + 1)
            yield from (frame for _, frame in numbered if frame is not None)


@dataclass(slots=True)
class _Complaints:
    """Raises on the first complaint; when salvaging, remembers it instead."""

    where: str
    salvage: bool
    first: str | None = None

    def __call__(self, code: str, reason: str) -> None:
        if not self.salvage:
            raise RejectInput(self.where, code, reason)
        self.first = self.first or reason


def _frames(
    container: Any, stream: Any, wanted: Collection[int], complain: _Complaints, stop: int | None = None
) -> Iterator[tuple[int, VideoFrame | None]]:
    """The numbers of all (or the first `stop`) frames in decode order, each with its frame where it is `wanted`."""
    keep, scale = set(wanted), _Scaler()
    for index, frame in enumerate(islice(_decode(container, stream, complain), stop)):
        yield index, scale(frame, index) if index in keep else None


class _Scaler:
    """Makes RGB of frames, with the pixels of the recipe's `frame.to_ndarray("rgb24")`.

    One for all frames of a clip, on one thread: 8 of 320x240 take 0.6 ms, where one of two threads for each, PyAV's
    default, takes 3 ms and, on a busy machine, 12.
    """

    def __init__(self) -> None:
        from av.video.reformatter import VideoReformatter

        self._reformatter = VideoReformatter()

    def __call__(self, frame: Any, index: int) -> VideoFrame:
        import numpy as np

        image = np.asarray(self._reformatter.reformat(frame, format="rgb24", threads=1).to_ndarray(), np.uint8)
        if quarter_turns := round(frame.rotation / 90) % 4:
            image = np.ascontiguousarray(np.rot90(image, quarter_turns))
        return VideoFrame(index, None if frame.time is None else float(frame.time), image)


def _decode(container: Any, stream: Any, complain: _Complaints) -> Iterator[Any]:
    """The frames that decode without complaint, in decode order."""
    import av

    packets, count = container.demux(stream), 0
    while True:
        try:
            packet = next(packets)
        except StopIteration:
            break
        except av.FFmpegError as error:
            complain("undecodable", f"reading fails after {count} packets ({_one_line(error)})")
            break
        count += packet.dts is not None or packet.size > 0  # the last packet is empty and flushes the decoder
        if packet.is_corrupt:
            complain("truncated", f"packet {count - 1} is cut or damaged")
            continue  # salvaging: half an image may decode without a complaint
        try:
            frames = packet.decode()
        except av.FFmpegError as error:
            complain("undecodable", f"packet {count - 1} does not decode ({_one_line(error)})")
            continue
        for frame in frames:
            if frame.is_corrupt:
                complain("undecodable", f"the frame of packet {count - 1} is damaged")
            else:
                yield frame
    if _INDEXED & set(container.format.name.split(",")) and len(stream.index_entries) > count:
        complain("truncated", f"its index lists {len(stream.index_entries)} packets, only {count} are there")


@contextmanager
def _open_source(source: Source) -> Iterator[tuple[BinaryIO, str]]:
    """The clip as a file object, and what to call it in errors.

    FFmpeg never sees the path: it would read `a:b.avi` as a protocol and choose a demuxer by the file's suffix.
    """
    if isinstance(source, bytes):
        yield io.BytesIO(source), "<bytes>"
    elif not isinstance(source, Path):
        yield source, str(getattr(source, "name", "<file>"))
    else:
        with open_input(source, str(source)) as file:
            yield file, str(source)


def _check_bytes(file: BinaryIO, complain: _Complaints) -> None:
    """Reject an empty file, and one shorter than its container declares."""
    if not file.seek(0, io.SEEK_END):
        raise RejectInput(complain.where, "empty-file", "the file is empty")
    if reason := missing_tail(file):
        complain("truncated", reason)


@contextmanager
def _container(file: BinaryIO, where: str) -> Iterator[tuple[Any, Any]]:
    """An open container and its video stream, set to decode on one thread. All odd exceptions become RejectInput."""
    import av

    file.seek(0)
    head = file.read(16)
    file.seek(0)
    try:
        # Metadata in another encoding than UTF-8 is common in old AVIs, and no reason to lose a clip.
        container = av.open(file, metadata_errors="replace", container_options={"format_whitelist": _FORMATS})
    except (av.FFmpegError, UnicodeError, ValueError, IndexError) as error:
        if is_known_video(head):
            raise RejectInput(where, "undecodable", f"its container cannot be read ({_one_line(error)})") from error
        raise RejectInput(where, "not-a-video", f"no video container (starts with {head!r})") from error
    with container:
        try:
            yield container, _video_stream(container, where)
        except (av.FFmpegError, UnicodeError, ValueError, IndexError) as error:
            raise RejectInput(where, "undecodable", _one_line(error)) from error


def _video_stream(container: Any, where: str) -> Any:
    """The first stream of moving images. Cover art of a song is not one."""
    import av

    cover = av.stream.Disposition.attached_pic
    stream = next((s for s in container.streams.video if not s.disposition & cover), None)
    if stream is None:
        kinds = ", ".join(sorted({s.type for s in container.streams})) or "none"
        raise RejectInput(where, "no-video-stream", f"no video stream (streams: {kinds})")
    context = stream.codec_context
    if context is None:
        raise RejectInput(where, "undecodable", "FFmpeg has no decoder for its codec")
    if context.width * context.height > MAX_FRAME_PIXELS:
        raise RejectInput(where, "too-large", f"frames of {context.width}x{context.height} pixels")
    context.thread_count = 1  # with more, errors surface at other frames from run to run
    context.options = {"max_pixels": str(MAX_FRAME_PIXELS)}
    return stream


def _one_line(error: BaseException) -> str:
    """An exception in a few words, without FFmpeg's error number."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(str(text).split())
