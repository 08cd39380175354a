"""Frames of a clip: exactly `(k*T)//n` of the frames that decode, whatever the header, the codec or the damage."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from media_tools import audio_clip, number_image, numbered_clip, read_number
from PIL import Image

from phiv_data.media.images import encode_jpeg
from phiv_data.media.reject import RejectInput
from phiv_data.media.video import (
    Sampling,
    VideoFrame,
    decoder_version,
    frame_indices,
    frames_at,
    library_versions,
    pyav,
    sample_frames,
)

FLAVOURS = {
    "mpeg4 in avi": {"name": "a.avi"},
    "B-frames in avi": {"name": "a.avi", "b_frames": 2},
    "packed B-frames": {"name": "a.avi", "b_frames": 1, "packed": True},
    "header over-reports": {"name": "a.avi", "declared": 400},
    "header under-reports": {"name": "a.avi", "declared": 2},
    "header says 2^31": {"name": "a.avi", "declared": 2**31 - 1},
    "header says 0": {"name": "a.avi", "declared": 0},
    "variable rate mp4": {"name": "a.mp4", "variable_rate": True},
    "variable rate mkv, no count": {"name": "a.mkv", "variable_rate": True},
    "h264 with B-frames": {"name": "a.mp4", "codec": "libx264", "b_frames": 2},
    "fragmented mp4, no count": {"name": "a.mp4", "movflags": "+frag_keyframe+empty_moov"},
}


def clip_of(folder: Path, num_frames: int, flavour: str = "mpeg4 in avi") -> Path:
    """A numbered clip, encoded once per folder."""
    options = dict(FLAVOURS[flavour])
    path = folder / f"{flavour.replace(' ', '_').replace('^', '')}-{num_frames}-{options.pop('name')}"
    return path if path.exists() else numbered_clip(path, num_frames, **options)


@pytest.fixture(scope="session")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("clips")


def numbers(frames: list[VideoFrame]) -> list[int]:
    return [read_number(frame.image) for frame in frames]


# --- which frames ---


@settings(deadline=None, max_examples=40)
@given(total=st.integers(1, 40), num_frames=st.integers(1, 24), flavour=st.sampled_from(sorted(FLAVOURS)))
def test_frame_k_of_n_is_number_k_times_total_over_n(clips: Path, total: int, num_frames: int, flavour: str) -> None:
    info, frames = sample_frames(clip_of(clips, total, flavour), num_frames)
    wanted = [(k * total) // num_frames for k in range(num_frames)]
    assert numbers(frames) == wanted
    assert [frame.index for frame in frames] == wanted
    assert info.decoded == total


@settings(deadline=None, max_examples=20)
@given(total=st.integers(1, 20), wanted=st.sets(st.integers(-2, 25)), flavour=st.sampled_from(sorted(FLAVOURS)))
def test_frames_are_found_again_by_their_numbers(clips: Path, total: int, wanted: set[int], flavour: str) -> None:
    clip = clip_of(clips, total, flavour)
    frames = list(frames_at(clip, wanted))
    assert [frame.index for frame in frames] == numbers(frames) == sorted(wanted & set(range(total)))
    _, sampled = sample_frames(clip, total)
    assert all((frame.image == sampled[frame.index].image).all() for frame in frames)


def test_a_clip_shorter_than_n_repeats_frames(clips: Path) -> None:
    _, frames = sample_frames(clip_of(clips, 3), 8)
    assert numbers(frames) == [0, 0, 0, 1, 1, 1, 2, 2]


@given(total=st.integers(1, 10**6), num_frames=st.integers(1, 10**4))
def test_indices_are_in_range_and_never_step_back(total: int, num_frames: int) -> None:
    indices = frame_indices(total, num_frames)
    assert len(indices) == num_frames
    assert indices[0] == 0
    assert indices == sorted(indices)
    assert indices[-1] < total


@given(total=st.integers(8, 200_000))
def test_for_eight_frames_the_indices_are_the_recipes(total: int) -> None:
    assert frame_indices(total, 8) == list(np.arange(0, total, total / 8).astype(int))


def test_path_bytes_and_open_file_give_the_same_frames(clips: Path) -> None:
    path = clip_of(clips, 20)
    with path.open("rb") as file:
        file.seek(7)  # wherever it stands
        sources = (path, path.read_bytes(), file, io.BytesIO(path.read_bytes()))
        results = [sample_frames(source, 5) for source in sources]
    assert all(info == results[0][0] for info, _ in results)
    assert all(numbers(frames) == [0, 4, 8, 12, 16] for _, frames in results)


@pytest.mark.parametrize("name", ["a:b.avi", "frame%03d.avi", "http:x.avi", "é\u4e2d.avi", "no_suffix", "movie.txt"])
def test_a_file_name_is_only_a_name(tmp_path: Path, clips: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(clip_of(clips, 4).read_bytes())
    assert numbers(sample_frames(path, 4)[1]) == [0, 1, 2, 3]


def test_timestamps_are_those_of_the_file(clips: Path) -> None:
    _, frames = sample_frames(clip_of(clips, 6, "variable rate mp4"), 6)
    assert [frame.timestamp for frame in frames] == pytest.approx([0.0, 0.053, 0.106, 0.12, 0.173, 0.226], abs=1e-3)


def test_packed_b_frames_have_timestamps_that_run_backwards_and_frames_that_do_not(clips: Path) -> None:
    _, frames = sample_frames(clip_of(clips, 9, "packed B-frames"), 9)
    times = [frame.timestamp for frame in frames]
    assert times != sorted(times)
    assert numbers(frames) == list(range(9))


def test_a_long_clip_is_never_held_in_memory(tmp_path: Path) -> None:
    clip = numbered_clip(tmp_path / "long.avi", 600, side=256)  # 59 MB of decoded images
    code = (
        "import resource, sys; from pathlib import Path; from phiv_data.media.video import sample_frames\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "clip = Path(sys.argv[1]); data = clip.read_bytes()[:0]\n"
        "sample_frames(Path(sys.argv[2]), 8); before = peak()\n"
        "info, frames = sample_frames(clip, 8); assert info.decoded == 600\n"
        "print(peak() - before)"
    )
    short = numbered_clip(tmp_path / "short.avi", 30, side=256)
    result = subprocess.run([sys.executable, "-c", code, str(clip), str(short)], capture_output=True, check=True)
    assert int(result.stdout) < 8_000  # KiB


# --- real clips, and other decoders ---


def real_clips(shared: Path) -> list[Path]:
    return sorted((shared / "samples" / "ucf101").rglob("*.avi"))


def test_every_frame_of_real_clips_is_opencvs(shared: Path) -> None:
    cv2 = pytest.importorskip("cv2")
    for clip in real_clips(shared)[::4]:
        expected = list(_opencv_frames(cv2, clip))
        info, frames = sample_frames(clip, len(expected))
        assert info.decoded == len(expected), clip.name
        worst = max(int(cv2.norm(a.image, b, cv2.NORM_INF)) for a, b in zip(frames, expected, strict=True))
        assert worst <= 2, clip.name


def _opencv_frames(cv2: object, clip: Path) -> Iterator[np.ndarray]:
    capture = cv2.VideoCapture(str(clip))  # type: ignore[attr-defined]  # the module, passed along
    while (read := capture.read())[0]:
        yield read[1][:, :, ::-1].copy()


def test_a_real_clip_with_a_wrong_header_is_accepted(shared: Path) -> None:
    clip = shared / "samples/ucf101/UCF-101/HorseRace/v_HorseRace_g07_c03.avi"
    info, frames = sample_frames(clip, 8)
    assert (info.declared, info.decoded, info.damage) == (154, 153, None)
    assert [frame.index for frame in frames] == [0, 19, 38, 57, 76, 95, 114, 133]


def test_jpegs_of_real_clips_are_the_recipes_bytes(shared: Path) -> None:
    for clip in real_clips(shared)[::9]:
        _, frames = sample_frames(clip, 8)
        assert [encode_jpeg(frame.image) for frame in frames] == list(recipe_jpegs(clip)), clip.name


def recipe_jpegs(clip: Path) -> Iterator[bytes]:
    """What the recipe writes: positions by arange over the header's count, Pillow's default JPEG."""
    import av

    with av.open(str(clip)) as container:
        total = container.streams.video[0].frames
        indices = np.arange(0, total, total / 8).astype(int)
        for position, frame in enumerate(container.decode(video=0)):
            if position in indices:
                out = io.BytesIO()
                Image.fromarray(frame.to_ndarray(format="rgb24")).convert("RGB").save(out, "JPEG")
                yield out.getvalue()


def test_a_rotated_clip_is_turned_upright(shared: Path) -> None:
    cv2 = pytest.importorskip("cv2")
    for clip in sorted((shared / "samples/broken_media/video/rotated").iterdir()):
        expected = next(_opencv_frames(cv2, clip))
        info, frames = sample_frames(clip, 1)
        assert (info.width, info.height) == expected.shape[1::-1]
        assert np.abs(frames[0].image.astype(int) - expected).mean() < 3, clip.name


# --- what is no usable clip ---

BROKEN = {
    "breaks_midway/PixelProbe__corrupted.webm": 35,  # FFmpeg complains only when it decodes in slices
    "fewer_frames_than_declared/AFL__small_movie.mp4": 11,
    "no_frame_count_in_header/fuzzing-corpus__test-v-128k-320x240-30fps-10kfr.mp4": 60,
    "no_frame_count_in_header/pocs__webm.webm": 25,
    "no_frame_count_in_header/tika__testMKV.mkv": 28,
    "no_video_stream/PixelProbe__corrupted.mp4": "no-video-stream",
    "no_video_stream/fuzzing-corpus__small-shot-mp3.mp4": "no-video-stream",
    "odd_exception/AFL__ffmpeg-h264-bad-read.mp4": "undecodable",
    "ok_other_codec/PixelProbe__valid.mp4": 111,
    "ok_other_codec/decord__unordered.mov": 4,
    "ok_other_codec/exiv2__small_video.mp4": 20,
    "ok_other_codec/fuzzing-corpus___1601video.mp4": 113,
    "ok_other_codec/fuzzing-corpus__bear_mpeg4asp_mp3.avi": 30,
    "ok_other_codec/fuzzing-corpus__lavafalls.avi": 158,
    "ok_other_codec/fuzzing-corpus__test_av_vp9_mp3_32x18.mp4": 20,
    "tiny/fuzzing-corpus__blackwhite_yuv420p.avi": 1,
    "tiny/fuzzing-corpus__mjpeg.avi": 3,
    "tiny/pocs__avi.avi": 1,
    "tiny/pocs__mp4.mp4": 1,
    "tiny/tika__testMP4Video.mp4": 10,
    "unreadable/PixelProbe__valid.3g2": "not-a-video",
    "unreadable/PixelProbe__valid.3gp": "not-a-video",
    "unreadable/PixelProbe__valid.m4v": "undecodable",
    "unreadable/exiftool__Matroska.mkv": "truncated",
    "unreadable/exiv2__issue_2376_poc.mp4": "undecodable",
    "unreadable/fuzzing-corpus__short-cenc.mp4": "undecodable",
    "zero_frames/exiftool__QuickTime.mov": "no-frames",
    "zero_frames/exiftool__RIFF.avi": "truncated",
    "zero_frames/fuzzing-corpus__gizmo-frag-cencinit.mp4": "no-frames",
}


@pytest.mark.parametrize("name", sorted(BROKEN))
def test_broken_media_of_the_wild(shared: Path, name: str) -> None:
    clip, expected = shared / "samples/broken_media/video" / name, BROKEN[name]
    if isinstance(expected, int):
        info, frames = sample_frames(clip, 8)
        assert (info.decoded, len(frames)) == (expected, 8)
    else:
        assert rejected(clip).code == expected


def rejected(source: Path | bytes, **options: str) -> RejectInput:
    """The rejection of a clip, which is one line."""
    with pytest.raises(RejectInput) as caught:
        sample_frames(source, 8, **options)  # type: ignore[arg-type]  # literals, passed along
    assert "\n" not in str(caught.value)
    assert caught.value.reason
    return caught.value


def jpeg(folder: Path) -> bytes:
    return encode_jpeg(number_image(7))


def playlist(folder: Path) -> bytes:
    target = numbered_clip(folder / "secret.mp4", 3)
    return f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile://{target}\n#EXT-X-ENDLIST\n".encode()


def concat(folder: Path) -> bytes:
    return f"ffconcat version 1.0\nfile {numbered_clip(folder / 'secret.avi', 3).name}\n".encode()


@pytest.mark.parametrize(
    "make",
    [
        jpeg,
        playlist,
        concat,
        lambda _: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
        lambda _: b"\0" * 99,
    ],
    ids=["jpeg", "hls playlist", "concat list", "git lfs pointer", "zeros"],
)
def test_other_files_are_not_videos(tmp_path: Path, make: Callable[[Path], bytes]) -> None:
    path = tmp_path / "clip.avi"
    path.write_bytes(make(tmp_path))
    assert rejected(path).code == "not-a-video"


def test_an_empty_file_is_named_as_empty(tmp_path: Path) -> None:
    (tmp_path / "a.avi").touch()
    assert rejected(tmp_path / "a.avi").code == "empty-file"


def test_a_missing_file_is_rejected_in_one_line(tmp_path: Path) -> None:
    assert rejected(tmp_path / "a.avi").code == "unreadable"


def test_a_song_is_no_clip(tmp_path: Path) -> None:
    reject = rejected(audio_clip(tmp_path / "song.mp4"))
    assert (reject.code, "audio" in reject.reason) == ("no-video-stream", True)


def test_frames_beyond_the_limit_are_refused(clips: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pyav, "MAX_FRAME_PIXELS", 63 * 63)
    assert rejected(clip_of(clips, 4)).code == "too-large"


def test_frames_that_grow_beyond_the_limit_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = numbered_clip(tmp_path / "small.h264", 300, codec="libx264").read_bytes()
    large = numbered_clip(tmp_path / "large.h264", 4, codec="libx264", side=128).read_bytes()
    assert sample_frames(small + large, 8)[0].decoded == 304
    monkeypatch.setattr(pyav, "MAX_FRAME_PIXELS", 100 * 100)
    assert rejected(small + large).code == "undecodable"


def test_metadata_that_is_not_utf8_costs_no_clip(tmp_path: Path) -> None:
    import av

    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        container.metadata["title"] = "Motorrad"
        stream = container.add_stream("mpeg4", rate=25)
        stream.width = stream.height = 64
        container.mux(stream.encode(av.VideoFrame.from_ndarray(number_image(5), format="rgb24")))
        container.mux(stream.encode(None))
    data = (tmp_path / "a.mp4").read_bytes()
    assert b"Motorrad" in data
    assert numbers(sample_frames(data.replace(b"Motorrad", b"Motorr\xe4d"), 1)[1]) == [5]


@pytest.mark.parametrize(
    "flavour", ["mpeg4 in avi", "packed B-frames", "h264 with B-frames", "variable rate mkv, no count"]
)
@settings(deadline=None, max_examples=15)
@given(keep=st.floats(0, 1, exclude_max=True))
def test_a_cut_clip_is_rejected_or_loses_nothing(clips: Path, flavour: str, keep: float) -> None:
    whole = clip_of(clips, 30, flavour).read_bytes()
    try:
        info, frames = sample_frames(whole[: int(keep * len(whole))], 30)
    except RejectInput:
        return
    assert info.decoded == 30
    assert numbers(frames) == list(range(30))


@settings(deadline=None, max_examples=15)
@given(keep=st.floats(0.3, 0.95))
def test_salvage_keeps_the_sound_start_of_a_cut_clip(clips: Path, keep: float) -> None:
    cut = cut_in_the_images(clip_of(clips, 30).read_bytes(), keep)
    assert rejected(cut).code == "truncated"
    info, frames = sample_frames(cut, 40, on_corrupt="salvage")
    assert info.damage is not None
    assert "cut" in info.damage
    assert numbers(frames) == frame_indices(info.decoded, 40)
    assert 1 <= info.decoded < 30


def cut_in_the_images(avi: bytes, keep: float) -> bytes:
    """The AVI up to a share of its `movi` list: no index, and some images missing."""
    start, end = avi.index(b"movi"), avi.index(b"idx1")
    return avi[: start + int(keep * (end - start))]


def test_a_damaged_image_is_rejected_and_left_out_when_salvaging(clips: Path) -> None:
    data = bytearray(clip_of(clips, 20).read_bytes())
    start = data.index(b"movi")
    for _ in range(13):  # the chunk of frame 12, a keyframe
        start = data.index(b"00dc", start + 4)
    data[start + 68 : start + 98] = b"\xff" * 30
    assert "frame" in rejected(bytes(data)).reason
    info, frames = sample_frames(bytes(data), 19, on_corrupt="salvage")
    assert info.damage is not None
    assert info.decoded == 19
    assert numbers(frames)[:12] == list(range(12))


def test_salvage_of_a_sound_clip_reports_no_damage(clips: Path) -> None:
    info, frames = sample_frames(clip_of(clips, 9), 3, on_corrupt="salvage")
    assert (info.damage, numbers(frames)) == (None, [0, 3, 6])


def test_chunks_that_vanish_from_the_middle_are_noticed(clips: Path) -> None:
    data = bytearray(clip_of(clips, 30).read_bytes())
    start = data.index(b"movi")
    for _ in range(10):
        start = data.index(b"00dc", start + 4)
    data[start : start + 4] = b"99xx"  # the demuxer skips a stream it does not know
    reject = rejected(bytes(data))
    assert (reject.code, "30" in reject.reason) == ("truncated", True)


def test_ffmpeg_writes_nothing_to_stderr(clips: Path, tmp_path: Path) -> None:
    damaged = bytearray(clip_of(clips, 30).read_bytes())
    middle = len(damaged) // 2
    damaged[middle : middle + 40] = os.urandom(40)
    (tmp_path / "a.avi").write_bytes(damaged)
    code = (
        "import sys; from pathlib import Path; from phiv_data.media.video import sample_frames\n"
        "sample_frames(Path(sys.argv[1]), 8, on_corrupt='salvage')"
    )
    result = subprocess.run([sys.executable, "-c", code, str(tmp_path / "a.avi")], capture_output=True, check=True)
    assert result.stderr == b""


def test_versions_name_what_decides_the_pixels() -> None:
    import av

    assert decoder_version("pyav") == f"pyav-{av.__version__}"
    assert {"av", "libavcodec", "libavformat", "libswscale"} <= set(library_versions())


# --- at a rate, and between two times ---


@given(
    steps=st.lists(st.integers(1, 90), min_size=1, max_size=40),
    num_frames=st.integers(1, 12),
    fps=st.none() | st.floats(0.1, 60),
    start=st.none() | st.floats(0, 4),
    end=st.none() | st.floats(0, 4),
)
def test_a_sampling_takes_frames_of_its_part_in_order(
    steps: list[int], num_frames: int, fps: float | None, start: float | None, end: float | None
) -> None:
    times = [sum(steps[:k]) / 1000 for k in range(len(steps))]
    found = Sampling(num_frames, fps, start, end).indices(times)
    assert found == sorted(found)
    assert len(found) <= num_frames
    if found:
        last = found[-1]
        assert times[found[0]] - 1e-4 <= (start or 0)  # the frame that is shown at the start
        assert found[0] == len(times) - 1 or times[found[0] + 1] >= (start or 0) - 1e-4
        assert end is None or times[last] <= end + 1e-4
    else:
        assert (start or 0) > times[-1] - 1e-4 or (end is not None and end < (start or 0) + 0.1)


def test_frames_at_a_rate_are_those_shown_at_its_times(clips: Path) -> None:
    for sampling, expected in {
        Sampling(64, fps=5.0): list(range(0, 40, 5)),
        Sampling(64, fps=1.0): [0, 25],
        Sampling(4, fps=5.0): [0, 10, 20, 30],  # eight at that rate, and at most four
        Sampling(4, start=0.4): [10, 17, 25, 32],
        Sampling(4, start=0.41, end=0.8): [10, 12, 15, 18],
        Sampling(64, fps=10.0, start=0.4, end=0.8): [10, 12, 15, 17, 20],
        Sampling(64, fps=100.0, end=0.04): [0, 0, 0, 0, 1],
    }.items():
        for name in ("mpeg4 in avi", "h264 with B-frames", "packed B-frames"):
            info, frames = sample_frames(clip_of(clips, 40, name), sampling)
            assert numbers(frames) == expected, (sampling, name)
            assert info.decoded == 40
            assert sample_frames(clip_of(clips, 40, name), sampling, check="used")[1][-1].index == expected[-1]


@pytest.mark.parametrize("sampling", [Sampling(8, start=1.61), Sampling(8, start=1.0, end=0.5)])
@pytest.mark.parametrize("check", ["full", "used"])
def test_a_part_without_frames_is_rejected_with_its_times(clips: Path, sampling: Sampling, check: Any) -> None:
    with pytest.raises(RejectInput, match=r"no frame from 1.* s to .*, of 1\.560 s") as caught:
        sample_frames(clip_of(clips, 40, "h264 with B-frames"), sampling, check=check)
    assert caught.value.code == "no-frames"
