"""The synthetic demo set: shaped like UCF-101, the same for a seed, and its classes visible in the images alone."""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest

from phiv_converters.synthetic.clips import CLASSES, make_synthetic_ucf101
from phiv_data.media.video import sample_frames

NAME = re.compile(r"v_(?P<label>\w+)_g(?P<group>\d\d)_c(?P<clip>\d\d)\.avi")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_synthetic_ucf101(tmp_path_factory.mktemp("demo"), train=5, val=2, test=2)


def clips(root: Path) -> list[Path]:
    return sorted(root.rglob("*.avi"))


def names(root: Path) -> list[str]:
    return [clip.relative_to(root).as_posix() for clip in clips(root)]


def test_layout_and_names_are_ucf101s(root: Path) -> None:
    assert root.name == "UCF101_subset"
    assert len(clips(root)) == len(CLASSES) * 9
    for clip in clips(root):
        match = NAME.fullmatch(clip.name)
        assert match is not None
        assert clip.parent.name == match["label"]
        assert clip.parent.parent.name in ("train", "val", "test")


def test_no_group_is_in_two_splits(root: Path) -> None:
    splits: dict[str, set[str]] = defaultdict(set)
    for clip in clips(root):
        splits[clip.name.split("_")[2]].add(clip.parent.parent.name)
    assert all(len(found) == 1 for found in splits.values())


def test_the_same_seed_draws_the_same_bytes_and_another_seed_others(root: Path, tmp_path: Path) -> None:
    again = make_synthetic_ucf101(tmp_path / "a", train=5, val=2, test=2)
    other = make_synthetic_ucf101(tmp_path / "b", train=5, val=2, test=2, seed=1)
    assert names(again) == names(root) == names(other)
    assert [clip.read_bytes() for clip in clips(again)] == [clip.read_bytes() for clip in clips(root)]
    assert all(a.read_bytes() != b.read_bytes() for a, b in zip(clips(again), clips(other), strict=True))


def test_every_clip_is_sound_and_different(root: Path) -> None:
    infos = [sample_frames(clip, 8)[0] for clip in clips(root)]
    assert {(info.codec, info.container, info.width, info.height) for info in infos} == {("mpeg4", "avi", 160, 120)}
    assert all(24 <= info.decoded <= 40 and info.declared == info.decoded for info in infos)
    assert len({clip.read_bytes() for clip in clips(root)}) == len(clips(root))


def test_length_and_colour_tell_nothing_of_the_class(root: Path) -> None:
    """Clip i of every class has the same length, and the same average colour."""
    for split in ("train", "val", "test"):
        rows = [sorted((root / split / label).iterdir()) for label in sorted(CLASSES)]
        for same_i in zip(*rows, strict=True):
            seen = [sample_frames(clip, 1) for clip in same_i]
            colours = np.array([frames[0].image.mean(axis=(0, 1)) for _, frames in seen])
            assert len({info.decoded for info, _ in seen}) == 1
            assert np.ptp(colours, axis=0).max() < 2.5


def bright(image: np.ndarray) -> np.ndarray:
    """Mask of the shape: it is far brighter than the paper."""
    gray = image.mean(axis=2)
    return gray > (gray.min() + gray.max()) / 2


def centres(clip: Path) -> np.ndarray:
    """(x, y) of the shape's middle in 8 frames."""
    masks = [bright(frame.image) for frame in sample_frames(clip, 8)[1]]
    return np.array([np.argwhere(mask).mean(axis=0)[::-1] for mask in masks])


@pytest.mark.parametrize(
    ("label", "direction"),
    [
        ("FallingTriangle", (0, 1)),
        ("RisingTriangle", (0, -1)),
        ("SlidingSquareLeft", (-1, 0)),
        ("SlidingSquareRight", (1, 0)),
        ("SpinningStar", (0, 0)),
    ],
)
def test_the_motion_is_the_one_the_class_names(root: Path, label: str, direction: tuple[int, int]) -> None:
    for clip in sorted(root.glob(f"*/{label}/*.avi")):
        steps = np.diff(centres(clip), axis=0)
        assert (np.sign(np.trunc(steps / 1.5)) == direction).all(), clip.name
        assert np.abs(steps).max() < 20


def test_the_ball_bounces(root: Path) -> None:
    for clip in root.glob("*/BouncingBall/*.avi"):
        path = centres(clip)
        assert np.ptp(path[:, 0]) < 2
        assert (np.diff(path[:, 1]) > 3).any()
        assert (np.diff(path[:, 1]) < -3).any()


def test_the_shape_stays_in_the_image(root: Path) -> None:
    for clip in clips(root):
        for frame in sample_frames(clip, 8)[1]:
            mask = bright(frame.image)
            share = mask.mean()
            assert 0.08 < share < 0.17, clip.name


def test_an_interrupted_drawing_never_takes_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import phiv_converters.synthetic.clips as shapes

    real, calls = shapes.write_clip, []

    def stop_at_the_third(*args: object) -> None:
        calls.append(args)
        if len(calls) == 3:
            raise KeyboardInterrupt
        real(*args)  # type: ignore[arg-type]  # passed along

    monkeypatch.setattr(shapes, "write_clip", stop_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        make_synthetic_ucf101(tmp_path, train=1, val=0, test=0)
    assert list(tmp_path.iterdir()) == []
    monkeypatch.undo()
    assert len(clips(make_synthetic_ucf101(tmp_path, train=1, val=0, test=0))) == len(CLASSES)
