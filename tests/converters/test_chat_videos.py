"""Videos of other tools' rows become frames at their places, each with where it comes from."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from media_tools import numbered_clip, read_number
from PIL import Image

from phiv_converters.chat_json.options import LlavaOptions, SharegptOptions, SwiftOptions, TrlOptions
from phiv_data.convert.engine import NothingWritten, Outcome, convert
from phiv_data.media.video import decoder_version
from phiv_data.storage.dataset import ConversationDataset
from phiv_data.storage.sample import Sample
from phiv_data.validation import validate
from phiv_schemas import UsageError


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two clips whose frames show their numbers: a long one of 25 frames a second, a short one."""
    root = tmp_path_factory.mktemp("videos")
    (root / "clips").mkdir()
    numbered_clip(root / "clips/long.mp4", 100, b_frames=1)
    numbered_clip(root / "clips/short.avi", 3)
    Image.new("RGB", (20, 16), (9, 90, 30)).save(root / "still.png")
    return root


def written(source: Path, *rows: Any) -> Path:
    path = source / "train.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def chat(user: Any, **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": user}, {"role": "assistant", "content": "It."}]} | more


def converted(options: Any, tmp: Path) -> tuple[Outcome, list[Sample]]:
    outcome = convert(replace(options, val_fraction=0), tmp / "out", num_workers=0)
    return outcome, list(ConversationDataset(tmp / "out", "train"))


def shown(sample: Sample) -> list[int]:
    """The numbers in the pixels of its frames."""
    return [read_number(np.asarray(image.open())) for image in sample.images]


def test_frames_stand_where_the_video_stood(source: Path, tmp_path: Path) -> None:
    row = chat("Is <video> after <image>?", videos=["clips/long.mp4"], images=["still.png"])
    _, (sample,) = converted(SwiftOptions(written(source, row), num_frames=4), tmp_path)
    (turn,) = sample.conversation.turns
    frames = tuple(f"train/clips/long.mp4/{index:06d}.jpg" for index in (0, 25, 50, 75))
    assert (turn.user, turn.images) == ("Is  after ?", (*frames, "train/still.png"))
    assert turn.image_offsets == (3, 3, 3, 3, 10)
    assert [image.meta.frame_index for image in sample.images] == [0, 25, 50, 75, None]


def test_every_frame_says_where_it_comes_from_and_is_found_again(source: Path, tmp_path: Path) -> None:
    rows = [
        {"video": "clips/long.mp4", "conversations": [
            {"from": "human", "value": "<video>\nWhat?"}, {"from": "gpt", "value": "It."}]},
        {"video": "clips/short.avi", "conversations": [
            {"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "It."}]},
    ]  # fmt: skip
    outcome, (long, short) = converted(LlavaOptions(written(source, *rows), num_frames=2), tmp_path)
    assert [turn.user for turn in long.conversation.turns] == ["What?"]
    facts = [(m.meta.source, m.meta.frame_index, m.meta.timestamp, m.meta.decoder) for m in long.images]
    groups = decoder_version(groups_only=True)
    assert facts == [("clips/long.mp4", 0, 0.0, groups), ("clips/long.mp4", 50, 2.0, groups)]
    assert [image.meta.decoder for image in short.images] == [decoder_version()] * 2
    assert {"num_frames": 2, "fps": None, "check_video": "used", "jpeg_quality": 75}.items() <= (
        outcome.manifest.options.items()
    )
    assert "libavcodec" in outcome.manifest.versions
    report = validate(tmp_path / "out", source=source)
    assert [issue.code for issue in report.issues if issue.code.startswith("PV31")] == []


def test_a_rate_gives_as_many_frames_as_a_clip_has_seconds_up_to_the_bound(source: Path, tmp_path: Path) -> None:
    row = chat("<video>\nWhat?", videos=["clips/long.mp4"])
    for k, (flags, numbers) in enumerate(
        [({"fps": 1.0}, [0, 25, 50, 75]), ({"fps": 2.0, "num_frames": 5}, [0, 20, 40, 60, 80])]
    ):
        _, (sample,) = converted(SharegptOptions(written(source, row), **flags), tmp_path / str(k))
        assert shown(sample) == numbers
    with pytest.raises(UsageError, match="--fps"):
        SharegptOptions(source, fps=0.0)


def test_a_part_of_a_video_is_sampled_as_its_row_asks(source: Path, tmp_path: Path) -> None:
    part = {"type": "video", "video": "clips/long.mp4", "video_start": 1.0, "video_end": 2.0}
    rows = [chat([part | more, {"type": "text", "text": "What?"}]) for more in ({}, {"fps": 4}, {"nframes": 3})]
    _, samples = converted(TrlOptions(written(source, *rows), num_frames=2), tmp_path)
    assert [shown(sample) for sample in samples] == [[25, 38], [25, 31, 37, 43, 50], [25, 33, 42]]
    assert [sample.conversation.turns[0].user for sample in samples] == ["What?"] * 3
    report = validate(tmp_path / "out", source=source)
    assert [issue.code for issue in report.issues if issue.code.startswith("PV31")] == []


def test_a_clip_with_fewer_frames_repeats_some(source: Path, tmp_path: Path) -> None:
    _, (sample,) = converted(
        SwiftOptions(written(source, chat("<video>What?", videos=["clips/short.avi"])), num_frames=4), tmp_path
    )
    assert shown(sample) == [0, 0, 1, 2]


def test_videos_that_cannot_be_used_are_rejected_by_name(source: Path, tmp_path: Path) -> None:
    data = (source / "clips/long.mp4").read_bytes()
    (source / "clips/cut.mp4").write_bytes(data[: len(data) // 2])
    late = [{"type": "video", "video": "clips/long.mp4", "video_start": 9}]
    rows = [
        chat("<video>What?", videos=["clips/none.mp4"]),
        chat("<video>What?", videos=["https://x.org/a.mp4"]),
        chat("<video>What?", videos=["clips/cut.mp4"]),
        chat("<video><video>What?", videos=["clips/long.mp4"]),
        chat(late),
    ]
    with pytest.raises(NothingWritten) as caught:
        convert(SwiftOptions(written(source, *rows)), tmp_path / "out", num_workers=0)
    text = str(caught.value)
    for code in ("2 unsupported-media", "1 truncated", "1 marker-mismatch", "1 no-frames"):
        assert code in text


def test_damage_in_unused_groups_is_found_when_asked_for(source: Path, tmp_path: Path) -> None:
    data = bytearray((source / "clips/long.mp4").read_bytes())
    with av.open(str(source / "clips/long.mp4")) as container:
        packet = [packet for packet in container.demux(video=0) if packet.size][61]
    assert packet.pos is not None
    data[packet.pos + 8 : packet.pos + packet.size] = b"\x55" * (packet.size - 8)
    (source / "clips/damaged.mp4").write_bytes(data)
    row = chat("<video>What?", videos=["clips/damaged.mp4"])
    with pytest.raises(NothingWritten, match="undecodable"):
        convert(SwiftOptions(written(source, row), num_frames=1, check_video="full"), tmp_path / "full", num_workers=0)
    _, (sample,) = converted(SwiftOptions(written(source, row), num_frames=1), tmp_path)
    assert shown(sample) == [0]
    report = validate(tmp_path / "out", source=source)
    assert [issue.code for issue in report.issues if issue.code.startswith("PV31")] == []
