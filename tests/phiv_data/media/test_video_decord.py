"""decord: its images where they are right, one line where it disagrees, hangs, dies or is not there."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from media_tools import numbered_clip, read_number

from phiv_data.media.reject import RejectInput
from phiv_data.media.video import decoder_version, decord_process, sample_frames
from phiv_schemas.errors import EXIT_ENVIRONMENT, EnvironmentProblem

needs_decord = pytest.mark.skipif(find_spec("decord") is None, reason="needs decord: pip install phiv[decord]")


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return numbered_clip(tmp_path / "a.avi", 20)


@pytest.fixture
def own_child(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A child process for this test alone."""
    child = decord_process._Child()
    monkeypatch.setattr(decord_process, "_child", lambda: child)
    monkeypatch.setattr(decord_process, "require_decord", lambda: None)
    return monkeypatch


@needs_decord
def test_frames_are_the_same_as_pyavs(clip: Path) -> None:
    info, frames = sample_frames(clip, 30, decoder="decord")
    expected_info, expected = sample_frames(clip, 30)
    assert info == expected_info
    assert [read_number(frame.image) for frame in frames] == [(k * 20) // 30 for k in range(30)]
    assert [(f.index, f.timestamp) for f in frames] == [(f.index, f.timestamp) for f in expected]
    assert sample_frames(clip.read_bytes(), 3, decoder="decord")[1][2].index == 13


@needs_decord
def test_real_clips_are_within_two_levels(shared: Path) -> None:
    for clip in sorted((shared / "samples/ucf101/UCF-101/BasketballDunk").iterdir()):
        _, frames = sample_frames(clip, 8, decoder="decord")
        _, expected = sample_frames(clip, 8)
        for a, b in zip(frames, expected, strict=True):
            assert np.abs(a.image.astype(int) - b.image).max() <= 2, clip.name


@needs_decord
@pytest.mark.parametrize(
    ("name", "reason"),
    [("HorseRace/v_HorseRace_g07_c03.avi", "counts 154"), ("Archery/v_Archery_g05_c01.avi", "another frame")],
)
def test_a_clip_decord_gets_wrong_is_rejected(shared: Path, name: str, reason: str) -> None:
    with pytest.raises(RejectInput, match=reason) as caught:
        sample_frames(shared / "samples/ucf101/UCF-101" / name, 8, decoder="decord")
    assert caught.value.code == "decoder-disagrees"


@pytest.mark.parametrize(
    ("script", "code"),
    [
        ("import time; time.sleep(60)", "decoder-timeout"),
        ("import os; os.abort()", "undecodable"),
        ("print('not an answer'); input()", "undecodable"),
    ],
)
def test_a_decoder_that_hangs_or_dies_costs_one_clip(
    clip: Path, tmp_path: Path, own_child: pytest.MonkeyPatch, script: str, code: str
) -> None:
    (tmp_path / "child.py").write_text(script)
    with own_child.context() as patch:
        patch.setattr(decord_process, "_CHILD", tmp_path / "child.py")
        patch.setattr(decord_process, "TIMEOUT_S", 0.5 if code == "decoder-timeout" else 60)
        with pytest.raises(RejectInput) as caught:
            sample_frames(clip, 8, decoder="decord")
        assert caught.value.code == code
    if find_spec("decord"):
        assert len(sample_frames(clip, 8, decoder="decord")[1]) == 8  # a new process serves the next clip


def test_without_decord_one_line_says_how_to_get_it(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decord_process, "find_spec", lambda name: None)
    for call in (lambda: sample_frames(clip, 8, decoder="decord"), lambda: decoder_version("decord")):
        with pytest.raises(EnvironmentProblem, match=r'pip install .*\[decord\]"') as caught:
            call()
        assert caught.value.exit_code == EXIT_ENVIRONMENT


@needs_decord
def test_a_damaged_clip_is_not_salvaged(clip: Path) -> None:
    with pytest.raises(RejectInput, match="salvage"):
        sample_frames(clip.read_bytes()[:-10], 8, decoder="decord", on_corrupt="salvage")
