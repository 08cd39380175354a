"""Videos of rows: their places, what part of them a row asks for, and what is rejected."""

from __future__ import annotations

from typing import Any

import pytest

from phiv_data.formats import FORMATS, llava, sharegpt, swift, trl
from phiv_data.formats.fields import ParsedRow, ParsedTurn
from phiv_data.formats.text import VideoPart
from phiv_data.media.reject import RejectInput

MARKED = ["llava", "sharegpt", "swift"]
WHOLE = VideoPart()


def parsed(name: str, user: Any, **more: Any) -> ParsedTurn:
    """The turn of a row that all formats read."""
    (turn,) = parsed_row(name, user, **more).turns
    return turn


def parsed_row(name: str, user: Any, options: dict[str, Any] | None = None, **more: Any) -> ParsedRow:
    messages = [{"role": "user", "content": user}, {"role": "assistant", "content": "Yes"}]
    return FORMATS[name].parse({"messages": messages} | more, "row", videos=True, **(options or {}))


def rejected(name: str, user: Any, **more: Any) -> tuple[str, str]:
    with pytest.raises(RejectInput) as error:
        parsed_row(name, user, **more)
    return error.value.code, error.value.reason


@pytest.mark.parametrize("name", MARKED)
@pytest.mark.parametrize("key", ["video", "videos"])
@pytest.mark.parametrize("column", ["a.mp4", ["a.mp4"], [{"path": "a.mp4"}], {"url": "a.mp4"}])
def test_a_marker_is_the_place_of_a_video(name: str, key: str, column: Any) -> None:
    turn = parsed(name, "<video>\nWhat?", **{key: column})
    assert (turn.images, turn.videos, turn.user, turn.image_offsets) == (("a.mp4",), {0: WHOLE}, "What?", None)
    assert parsed(name, "Is <video> long?", **{key: column}).image_offsets == (3,)


@pytest.mark.parametrize("name", MARKED)
def test_videos_and_images_each_stand_at_their_own_markers(name: str) -> None:
    turn = parsed(name, "<video>A<image>B<video>", images=["1.jpg"], videos=["a.mp4", "b.mp4"])
    assert turn.images == ("a.mp4", "1.jpg", "b.mp4")
    assert (turn.videos, turn.user, turn.image_offsets) == ({0: WHOLE, 2: WHOLE}, "AB", (0, 1, 2))


@pytest.mark.parametrize("name", MARKED)
def test_in_a_row_without_images_the_marker_of_an_image_may_be_that_of_a_video(name: str) -> None:
    assert parsed(name, "<image>\nWhat?", video="a.mp4") == parsed(name, "<video>\nWhat?", video="a.mp4")
    turn = parsed(name, "<video>\nWhat is <image>?", video="a.mp4")
    assert (turn.images, turn.user) == (("a.mp4",), "What is <image>?")


@pytest.mark.parametrize("name", MARKED)
def test_escaped_markers_and_those_of_rows_without_videos_are_text(name: str) -> None:
    assert parsed(name, r"<video>What is <\video>?", video="a.mp4").user == "What is <video>?"
    assert parsed(name, "<video>\nWhat?").user == "<video>\nWhat?"
    assert parsed(name, "<video>\nWhat?", videos=[]).images == ()


@pytest.mark.parametrize("name", [*MARKED, "trl"])
def test_parts_name_their_videos_and_what_of_them(name: str) -> None:
    part = {"type": "video", "video": "a.mp4", "video_start": 1, "video_end": 2.5, "fps": 2, "min_pixels": 9}
    turn = parsed(name, [{"type": "text", "text": "So"}, part, {"type": "text", "text": "?"}])
    assert (turn.images, turn.user, turn.image_offsets) == (("a.mp4",), "So?", (2,))
    assert turn.videos == {0: VideoPart(start=1, end=2.5, fps=2)}
    assert parsed(name, [{"type": "video", "video": "a.mp4", "nframes": 4}]).videos == {0: VideoPart(num_frames=4)}
    assert parsed(name, [{"type": "video_url", "video_url": {"url": "a.mp4"}}]).images == ("a.mp4",)
    assert parsed(name, [{"type": "video"}, {"type": "text", "text": "?"}], videos=["b.mp4"]).images == ("b.mp4",)


@pytest.mark.parametrize("name", [*MARKED, "trl"])
def test_a_list_of_images_is_a_video_with_its_frames(name: str) -> None:
    turn = parsed(name, [{"type": "video", "video": ["1.jpg", "2.jpg"]}, {"type": "text", "text": "?"}])
    assert (turn.images, dict(turn.videos)) == (("1.jpg", "2.jpg"), {})
    for column in (["1.jpg", "2.jpg"], [["1.jpg", "2.jpg"]]):
        turn = parsed("llava", "A <video>?", video=column)
        assert (turn.images, turn.image_offsets, dict(turn.videos)) == (("1.jpg", "2.jpg"), (2, 2), {})


SECONDS, COUNT = "a number of seconds from 0 to 1,000,000", "a whole number from 1 to 1,000,000"


@pytest.mark.parametrize(
    ("wrong", "allowed"),
    [
        *((("fps", value), "a number above 0 and up to 1,000,000") for value in (0, 1e9, "2", True, float("nan"))),
        *(((key, value), COUNT) for key in ("nframes", "max_frames") for value in (0, 1.5, 10**9)),
        *(((key, value), SECONDS) for key in ("video_start", "video_end") for value in (-1, 1e7, "1")),
    ],
)
def test_a_number_out_of_range_is_rejected_with_the_range(wrong: tuple[str, Any], allowed: str) -> None:
    code, why = rejected("trl", [{"type": "video", "video": "a.mp4", wrong[0]: wrong[1]}])
    assert code == "bad-row"
    assert f"messages[0].content[0] asks for {wrong[0]!r} of " in why
    assert why.endswith(f". Write {allowed}")


@pytest.mark.parametrize("name", ["llava", "sharegpt"])
@pytest.mark.parametrize(("user", "videos"), [("What?", ["a"]), ("<video><video>?", ["a"]), ("<video>", ["a", "b"])])
def test_markers_and_videos_must_be_equally_many(name: str, user: str, videos: list[str]) -> None:
    code, why = rejected(name, user, videos=videos)
    assert code == "marker-mismatch"
    assert f"for {len(videos)} video" in why


def test_missing_places_are_put_in_front_where_images_are() -> None:
    for turn in (
        parsed("swift", "What?", videos=["a.mp4"]),
        parsed("llava", "What?", videos=["a.mp4"], options={"markers": "lenient"}),
    ):
        assert (turn.images, turn.user, turn.image_offsets) == (("a.mp4",), "What?", None)
    turn = parsed("llava", "<video>A<video>", videos=["a.mp4"], options={"markers": "lenient"})
    assert (turn.images, turn.user) == (("a.mp4",), "A<video>")
    assert parsed("trl", "What?", videos=["a.mp4"]).images == ("a.mp4",)


def test_a_video_in_an_answer_has_no_place() -> None:
    messages = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "<video>"}]
    with pytest.raises(RejectInput, match="images in user messages only"):
        swift.parse({"messages": messages, "videos": ["a.mp4"]}, "row", videos=True)


def test_another_marker_of_images_leaves_that_of_videos() -> None:
    turn = parsed("swift", "<IMG>A<video>B", images=["1.jpg"], videos=["a.mp4"], options={"marker": "<IMG>"})
    assert (turn.images, turn.videos, turn.image_offsets) == (("1.jpg", "a.mp4"), {1: WHOLE}, (0, 1))


def test_an_evaluation_question_has_its_video_in_front() -> None:
    row = llava.parse({"question_id": 0, "video": "a.mp4", "text": "What?", "answer": "It."}, "row", videos=True)
    assert row.turns == (ParsedTurn(("a.mp4",), "What?", "It.", videos={0: WHOLE}),)


def test_pairs_queries_and_renamed_columns_have_videos() -> None:
    row = swift.parse({"query": "<video>\nWhat?", "response": "It.", "videos": ["a.mp4"]}, "row", videos=True)
    assert row.turns[0].videos == {0: WHOLE}
    pairs = {"conversation": [{"human": "<video>\nWhat?", "assistant": "It."}], "videos": ["a.mp4"]}
    assert swift.parse(pairs, "row", videos=True).turns[0].images == ("a.mp4",)
    columns = {"messages": "messages", "videos": "vids"}
    tags = {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"}
    names = sharegpt.names_of({"formatting": "sharegpt", "columns": columns, "tags": tags}, "entry")
    messages = [{"role": "user", "content": "<video>What?"}, {"role": "assistant", "content": "It."}]
    row = sharegpt.parse({"messages": messages, "vids": ["a.mp4"]}, "row", videos=True, names=names)
    assert row.turns[0].images == ("a.mp4",)


@pytest.mark.parametrize("parse", [llava.parse, sharegpt.parse, swift.parse, trl.parse])
@pytest.mark.parametrize("content", ["<video>What?", [{"type": "video", "video": "a.mp4"}]])
def test_videos_are_refused_unless_they_are_asked_for(parse: Any, content: Any) -> None:
    messages = [{"role": "user", "content": content}, {"role": "assistant", "content": "It."}]
    column = {} if isinstance(content, list) else {"videos": ["a.mp4"]}
    with pytest.raises(RejectInput) as error:
        parse({"messages": messages} | column, "row")
    assert error.value.code == "unsupported-media"
