"""What the rows of each format are, field by field, and what is rejected."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from phiv_data.formats import FORMATS, LOSSES, ParsedRow, llava, sharegpt, swift, trl
from phiv_data.formats.fields import ParsedTurn
from phiv_data.media.reject import RejectInput
from phiv_schemas import Conversation, SourceError, Turn

MARKED = ["llava", "sharegpt", "swift"]


def one(user: Any, images: Any = None, answer: Any = "Yes", **more: Any) -> dict[str, Any]:
    """A row of one turn that LLaVA, ShareGPT and ms-swift all read."""
    messages = [{"role": "user", "content": user}, {"role": "assistant", "content": answer}]
    return {"messages": messages, "images": images} | more


def conversation(*turns: Turn, **more: Any) -> Conversation:
    return Conversation(id="7", source="s", conversations=turns, **more)


def rejected(name: str, record: Any, **options: Any) -> str:
    with pytest.raises(RejectInput) as error:
        FORMATS[name].parse(record, "row", **options)
    return error.value.code


def only(row: ParsedRow) -> ParsedTurn:
    (turn,) = row.turns
    return turn


# Where images stand --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MARKED)
@pytest.mark.parametrize(
    ("text", "user", "offsets"),
    [
        ("<image>\nWhat is it?", "What is it?", None),
        ("<image>What is it?", "What is it?", (0,)),
        ("<image>\n", "", None),
        ("<image>", "", (0,)),
        ("What is it?\n<image>", "What is it?\n", (12,)),
        ("Is <image> red?", "Is  red?", (3,)),
        (r"<image>Is \<image> that?"[:7] + r"Is <\image> that?", "Is <image> that?", (0,)),
    ],
)
def test_markers_become_offsets_unless_they_are_the_plain_form(
    name: str, text: str, user: str, offsets: tuple[int, ...] | None
) -> None:
    turn = only(FORMATS[name].parse(one(text, ["a.jpg"]), "row"))
    assert turn == ParsedTurn(("a.jpg",), user, "Yes", offsets)


def test_several_images_in_front_are_plain_with_one_newline_after_them_all() -> None:
    assert only(llava.parse(one("<image><image>\nSo?", ["a", "b"]), "row")).image_offsets is None
    turn = only(llava.parse(one("<image>\n<image>\nSo?", ["a", "b"]), "row"))
    assert (turn.user, turn.image_offsets) == ("\n\nSo?", (0, 1))


def test_images_of_later_turns_are_taken_in_the_order_of_the_markers() -> None:
    messages = [("user", "<image>A?"), ("assistant", "a"), ("user", "B?<image><image>"), ("assistant", "b")]
    record = {"messages": [{"role": r, "content": c} for r, c in messages], "images": ["1", "2", "3"]}
    row = sharegpt.parse(record, "row")
    assert [turn.images for turn in row.turns] == [("1",), ("2", "3")]
    assert row.turns[1].image_offsets == (2, 2)


@pytest.mark.parametrize("name", MARKED)
@pytest.mark.parametrize("text", ["<image>A<image>", "A <image> B <image>", "<image><image><image>"])
def test_more_markers_than_images_are_refused_or_text(name: str, text: str) -> None:
    assert rejected(name, one(text, ["a"])) == "marker-mismatch"
    turn = only(FORMATS[name].parse(one(text, ["a"]), "row", markers="lenient"))
    assert turn.images == ("a",)
    assert turn.user.count("<image>") == text.count("<image>") - 1
    assert turn.image_offsets == (text.index("<image>"),)


@pytest.mark.parametrize("name", MARKED)
def test_fewer_markers_than_images_are_refused_or_the_missing_ones_stand_first(name: str) -> None:
    assert rejected(name, one("A <image>", ["a", "b"])) == "marker-mismatch"
    turn = only(FORMATS[name].parse(one("A <image>", ["a", "b"]), "row", markers="lenient"))
    assert (turn.user, turn.image_offsets) == ("A ", (0, 2))


def test_images_without_any_marker_stand_first_where_the_tool_does_so() -> None:
    plain = ParsedTurn(("a", "b"), "Which?", "Yes", None)
    assert only(swift.parse(one("Which?", ["a", "b"]), "row")) == plain
    assert only(trl.parse(one("Which?", ["a", "b"]), "row")) == plain
    for name in ("llava", "sharegpt"):
        assert rejected(name, one("Which?", ["a", "b"])) == "marker-mismatch"
        assert only(FORMATS[name].parse(one("Which?", ["a", "b"]), "row", markers="lenient")) == plain


@pytest.mark.parametrize("name", sorted(FORMATS))
@pytest.mark.parametrize("images", [None, [], "", [None]])
def test_a_marker_in_a_row_without_images_is_text(name: str, images: Any) -> None:
    row = FORMATS[name].parse(one("What does <image> mean?", images, "An <image> tag"), "row")
    assert only(row) == ParsedTurn((), "What does <image> mean?", "An <image> tag")


@pytest.mark.parametrize("name", MARKED)
def test_a_image_in_an_answer_or_a_system_prompt_has_no_place(name: str) -> None:
    assert rejected(name, one("Draw it", ["a"], "<image>")) == "marker-mismatch"
    assert rejected(name, one("So?", ["a"], system="<image>")) == "marker-mismatch"
    row = FORMATS[name].parse(one("<image>\nA?", ["a"], "<image>", system="<image>"), "row", markers="lenient")
    assert (row.system, only(row).assistant, only(row).user) == ("<image>", "<image>", "A?")


@pytest.mark.parametrize("name", MARKED)
def test_a_literal_marker_is_escaped_and_declared(name: str) -> None:
    c = conversation(Turn(images=("a",), user="What is <image>?", assistant=r"<\image>"))
    record = FORMATS[name].render(c)
    texts = [m.get("content", m.get("value")) for m in record.get("messages", record.get("conversations"))]
    assert texts == ["<image>\n" + r"What is <\image>?", r"<\\image>"]
    assert FORMATS[name].losses(c) == ("literal_marker",)


@pytest.mark.parametrize("name", MARKED)
@pytest.mark.parametrize("media", ["video", "audio"])
def test_a_marker_of_video_or_audio_is_text_that_is_escaped_and_declared(name: str, media: str) -> None:
    c = conversation(Turn(images=(), user=f"Is <{media}> a tag?", assistant=rf"<\{media}>"), system=f"<{media}>")
    text = json.dumps(FORMATS[name].render(c))
    assert f"<{media}>" not in text
    assert "literal_marker" in FORMATS[name].losses(c)
    row = FORMATS[name].parse(json.loads(text), "row")
    assert (row.system, only(row).user, only(row).assistant) == (c.system, c.turns[0].user, c.turns[0].assistant)
    assert only(FORMATS[name].parse(one(f"Is <{media}> a tag?"), "row")).user == f"Is <{media}> a tag?"


# Losses --------------------------------------------------------------------------------------------------------------


def test_answers_of_a_turn_are_declared_lost() -> None:
    c = conversation(Turn(images=(), user="u", assistant="a", answers=("a", "b")))
    assert {name: FORMATS[name].losses(c) for name in FORMATS} == dict.fromkeys(FORMATS, ("answers",))


def test_turns_after_the_first_without_an_answer_are_declared_lost() -> None:
    open_ = Turn(images=("a",), user="u", assistant=None)
    for format in FORMATS.values():
        assert format.losses(conversation(open_)) == ()
        assert format.losses(conversation(open_, open_)) == ("unanswered_turns",)
        assert len(format.parse(format.render(conversation(open_, open_)), "row").turns) == 1


def test_positions_are_lost_only_where_they_read_like_the_plain_form() -> None:
    front = conversation(Turn(images=("a",), user="u", assistant="a", image_offsets=(0,)))
    newline = conversation(Turn(images=("a",), user="\nu", assistant="a", image_offsets=(0,)))
    inside = conversation(Turn(images=("a",), user="\nu", assistant="a", image_offsets=(1,)))
    for name in MARKED:
        places = ("image_places",) if name == "llava" else ()
        assert [FORMATS[name].losses(c) for c in (front, newline, inside)] == [(), ("image_offsets",), places]
    assert [trl.losses(c) for c in (front, newline, inside)] == [("image_offsets",), ("image_offsets",), ()]


def test_llava_keeps_a_system_prompt_where_lmms_finetune_looks_for_it() -> None:
    c = conversation(Turn(images=(), user="u", assistant="a"), system="Be brief")
    assert llava.render(c)["system_prompt"] == "Be brief"
    assert llava.losses(c) == ("system",)
    assert sharegpt.losses(c) == swift.losses(c) == trl.losses(c) == ()


def test_an_empty_system_prompt_is_declared_where_another_takes_its_place() -> None:
    c = conversation(Turn(images=(), user="u", assistant="a"), system="")
    losses = {name: FORMATS[name].losses(c) for name in FORMATS}
    assert losses == {"llava": ("system",), "sharegpt": ("empty_system",), "swift": (), "trl": ()}


def test_text_that_a_processor_takes_for_an_image_is_declared() -> None:
    for user, assistant, system in (("<image>?", "a", None), ("u", "<image>", None), ("u", "a", "<image>")):
        c = conversation(Turn(images=(), user=user, assistant=assistant), system=system)
        assert trl.losses(c) == ("image_token",)
    assert trl.losses(conversation(Turn(images=("a",), user=r"<\image>", assistant="<video>"))) == ()


def test_text_that_ms_swift_takes_for_a_path_is_declared() -> None:
    path = conversation(Turn(images=(), user="Is <img>a.jpg</img> HTML, and <img>?", assistant="No"))
    record = swift.render(path)
    assert record["messages"][0]["content"] == r"Is <\img>a.jpg</img> HTML, and <\img>?"
    assert swift.losses(path) == ("literal_marker",)
    assert only(swift.parse(record, "row")).user == path.turns[0].user
    nested = conversation(Turn(images=(), user="<img>a <image> < b</img>", assistant="No"))
    assert only(swift.parse(swift.render(nested), "row")).user == nested.turns[0].user


def test_what_llava_itself_does_not_read_of_images_is_declared() -> None:
    two = conversation(Turn(images=("a", "b"), user="u", assistant="a"))
    inside = conversation(Turn(images=("a",), user="u", assistant="a", image_offsets=(1,)))
    front = conversation(Turn(images=("a",), user="u", assistant="a", image_offsets=(0,)))
    assert [llava.losses(c) for c in (two, inside, front)] == [("many_images",), ("image_places",), ()]
    assert [sharegpt.losses(c) for c in (two, inside)] == [(), ()]


def test_every_loss_is_explained() -> None:
    assert set(LOSSES) == {
        "answers",
        "empty_system",
        "image_offsets",
        "image_places",
        "image_token",
        "literal_marker",
        "many_images",
        "system",
        "unanswered_turns",
    }


# Fields --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(FORMATS))
def test_an_image_can_be_a_string_and_an_id_a_number(name: str) -> None:
    messages = one("<image>\nu" if name in MARKED else "u")["messages"]
    row = FORMATS[name].parse({"id": 12, "image": "a.jpg", "messages": messages}, "row")
    assert (row.id, row.image_refs, row.unread) == ("12", ("a.jpg",), ())


def test_an_image_of_a_table_cell_is_its_path() -> None:
    row = llava.parse(
        one(
            "<image>",
            [
                {"bytes": None, "path": "a.jpg"},
            ],
        ),
        "row",
    )
    assert (row.image_refs, row.unread) == (("a.jpg",), ())
    assert rejected("llava", one("<image>", [{"size": "aGk="}])) == "bad-row"


@pytest.mark.parametrize("name", sorted(FORMATS))
def test_keys_without_a_place_are_named(name: str) -> None:
    record = one("u", category="conv", nothing=None, empty=[], id=True, source=3)
    record["messages"][1] |= {"loss": True, "name": None}
    assert FORMATS[name].parse(record, "row").unread == ("category", "id", "messages[].loss", "source")


@pytest.mark.parametrize("name", sorted(FORMATS))
@pytest.mark.parametrize("key", ["video", "videos", "audio", "audios", "tools"])
def test_video_audio_and_tools_are_unsupported_media(name: str, key: str) -> None:
    assert rejected(name, one("u", **{key: ["a.mp4"]})) == "unsupported-media"
    assert FORMATS[name].parse(one("u", **{key: []}), "row").turns


@pytest.mark.parametrize("name", sorted(FORMATS))
@pytest.mark.parametrize(
    ("roles", "code"),
    [
        (["assistant", "user"], "bad-turns"),
        (["user", "assistant", "user", "system"], "bad-turns"),
        (["user", "assistant", "assistant"], "bad-turns"),
        (["user", "assistant", "system"], "bad-turns"),
        (["system"], "bad-turns"),
        (["user", "pretrain"], "bad-turns"),
        (["user", "tool"], "unsupported-media"),
        (["user", "function_call"], "unsupported-media"),
    ],
)
def test_roles_take_turns(name: str, roles: list[str], code: str) -> None:
    assert rejected(name, {"messages": [{"role": role, "content": "text"} for role in roles]}) == code


@pytest.mark.parametrize(
    ("name", "code"),
    [("llava", "bad-turns"), ("sharegpt", "bad-turns"), ("swift", "bad-row"), ("trl", "unsupported-row")],
)
def test_a_dialogue_without_messages_is_refused(name: str, code: str) -> None:
    assert rejected(name, {"messages": []}) == code


@pytest.mark.parametrize("name", sorted(FORMATS))
def test_an_answer_that_is_missing_at_the_end_is_no_label(name: str) -> None:
    for messages in (one("u")["messages"][:1], one("u", answer=None)["messages"]):
        assert only(FORMATS[name].parse({"messages": messages}, "row")).assistant is None
    assert rejected(name, {"messages": [*one("u", answer=None)["messages"], *one("v")["messages"]]}) == "bad-turns"
    assert only(FORMATS[name].parse(one("u", answer=""), "row")).assistant == ""


@pytest.mark.parametrize("name", sorted(FORMATS))
def test_a_system_prompt_comes_first_or_beside_the_messages(name: str) -> None:
    beside = FORMATS[name].parse(one("u", system="Be brief"), "row")
    messages = [{"role": "system", "content": "Be brief"}, *one("u")["messages"]]
    first = FORMATS[name].parse({"messages": messages}, "row")
    assert beside.system == first.system == "Be brief"
    assert rejected(name, {"messages": messages, "system": "Another"}) == "bad-turns"


@pytest.mark.parametrize("name", sorted(FORMATS))
@pytest.mark.parametrize("value", [3, ["a", 3], {"a": 1}, "half \ud800 pair"])
def test_text_that_is_no_text_is_a_bad_row(name: str, value: Any) -> None:
    assert rejected(name, one(value)) == "bad-row"


# The shapes of each --------------------------------------------------------------------------------------------------


def test_llava_evaluation_questions_have_no_answer() -> None:
    row = llava.parse({"question_id": 0, "image": "a.jpg", "text": "What?", "category": "conv"}, "row")
    assert row == ParsedRow((ParsedTurn(("a.jpg",), "What?", None),), id="0", unread=("category",))


def test_llava_renders_one_image_as_text_and_more_as_a_list() -> None:
    one_, two = (conversation(Turn(images=images, user="u", assistant="a")) for images in (("a",), ("a", "b")))
    assert llava.render(one_) == {
        "id": "7",
        "source": "s",
        "image": "a",
        "conversations": [{"from": "human", "value": "<image>\nu"}, {"from": "gpt", "value": "a"}],
    }
    assert llava.render(two)["image"] == ["a", "b"]
    assert "image" not in llava.render(conversation(Turn(images=(), user="u", assistant="a")))


def test_sharegpt_rows_are_read_by_the_names_of_their_dataset_info() -> None:
    entry = {
        "file_name": "x.json",
        "formatting": "sharegpt",
        "columns": {"messages": "talk", "images": "pics"},
        "tags": {
            "role_tag": "who",
            "content_tag": "said",
            "user_tag": "me",
            "assistant_tag": "it",
            "system_tag": "sys",
        },
    }
    talk = [{"who": "sys", "said": "S"}, {"who": "me", "said": "<image>u"}, {"who": "it", "said": "a"}]
    row = sharegpt.parse({"talk": talk, "pics": ["1"]}, "row", names=sharegpt.names_of(entry, "entry"))
    assert (row.system, only(row)) == ("S", ParsedTurn(("1",), "u", "a", (0,)))
    names = sharegpt.names_of({"formatting": "sharegpt"}, "entry")
    row = sharegpt.parse({"conversations": [{"from": "human", "value": "u"}]}, "row", names=names)
    assert only(row).user == "u"


@pytest.mark.parametrize("entry", [{}, {"formatting": "alpaca"}, {"formatting": "sharegpt", "tags": {"role_tag": 3}}])
def test_an_entry_of_another_format_is_reported(entry: dict[str, Any]) -> None:
    with pytest.raises(SourceError):
        sharegpt.names_of(entry, "dataset_info.json: 'x'")


def test_sharegpt_rows_fit_the_entry_that_is_written_for_them() -> None:
    c = conversation(Turn(images=("a",), user="u", assistant="a"), system="S")
    names = sharegpt.names_of(sharegpt.dataset_info("x.json"), "entry")
    assert sharegpt.parse(sharegpt.render(c), "row", names=names).system == "S"


@pytest.mark.parametrize(
    "record",
    [
        {"system": "S", "conversation": [{"human": "1", "assistant": "2"}, {"human": "3", "assistant": "4"}]},
        {"system": "S", "query": "3", "response": "4", "history": [["1", "2"]]},
        {"system_prompt": "S", "question": "3", "answer": "4", "history": [["1", "2"]]},
        {"conversations": [{"from": "system", "value": "S"}, *({"from": f, "value": v} for f, v in
         (("user", "1"), ("assistant", "2"), ("user", "3"), ("assistant", "4")))]},
    ],
)  # fmt: skip
def test_swift_reads_the_shapes_that_ms_swift_reads(record: dict[str, Any]) -> None:
    row = swift.parse(record, "row")
    assert row == ParsedRow((ParsedTurn((), "1", "2"), ParsedTurn((), "3", "4")), system="S")


def test_swift_reads_alpaca_and_images_inside_queries() -> None:
    assert only(swift.parse({"instruction": "I", "input": "J", "output": "O"}, "row")).user == "I\nJ"
    assert only(swift.parse({"instruction": "I", "input": "", "output": "O"}, "row")).user == "I"
    turn = only(swift.parse({"query": "<img>a.jpg</img><img>b.jpg</img>Which?", "response": "b"}, "row"))
    assert turn == ParsedTurn(("a.jpg", "b.jpg"), "Which?", "b", (0, 0))


@pytest.mark.parametrize(
    ("record", "code"),
    [
        ({"query": "q", "response": ["a", True]}, "bad-row"),
        ({"query": "q", "response": "a", "history": [["x"]]}, "bad-row"),
        ({"prompt": "q", "question": "r", "response": "a"}, "bad-row"),
        ({"response": "text to continue"}, "bad-row"),
        (one("u", label=False), "unsupported-row"),
        (one("<ref-object>", objects={"ref": ["a dog"], "bbox": []}), "unsupported-row"),
    ],
)
def test_swift_rows_without_a_place_are_refused(record: dict[str, Any], code: str) -> None:
    assert rejected("swift", record) == code


IMAGE, TEXT = {"type": "image"}, {"type": "text", "text": "What?"}
ANSWER = {"role": "assistant", "content": [{"type": "text", "text": "It."}]}


@pytest.mark.parametrize(
    ("parts", "offsets"),
    [([IMAGE, TEXT], None), ([TEXT, IMAGE], (5,)), ([IMAGE, TEXT, IMAGE], (0, 5)), ([TEXT, IMAGE, TEXT], (5,))],
)
def test_trl_parts_have_places(parts: list[Any], offsets: tuple[int, ...] | None) -> None:
    images = ["a", "b"][: parts.count(IMAGE)]
    row = trl.parse({"messages": [{"role": "user", "content": parts}, ANSWER], "images": images}, "row")
    assert only(row) == ParsedTurn(tuple(images), "What?" * parts.count(TEXT), "It.", offsets)


@pytest.mark.parametrize(
    ("part", "ref"),
    [
        ({"type": "image_url", "image_url": {"url": "a.jpg", "detail": "high"}}, "a.jpg"),
        ({"type": "image_url", "image_url": "a.jpg"}, "a.jpg"),
        ({"type": "input_image", "image_url": "a.jpg"}, "a.jpg"),
        ({"type": "image", "image": "a.jpg", "text": None}, "a.jpg"),
        ({"type": "image", "path": "a.jpg"}, "a.jpg"),
        ({"type": "image", "base64": "aGk="}, "data:;base64,aGk="),
        ({"type": "image", "source": {"type": "url", "url": "https://x/a"}}, "https://x/a"),
        ({"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "aGk="}},
         "data:image/png;base64,aGk="),
    ],
)  # fmt: skip
def test_parts_may_name_their_image(part: dict[str, Any], ref: str) -> None:
    for name in sorted(FORMATS):
        row = FORMATS[name].parse({"messages": [{"role": "user", "content": [TEXT, part]}, ANSWER]}, "row")
        assert only(row) == ParsedTurn((ref,), "What?", "It.", (5,))


@pytest.mark.parametrize(
    ("record", "turn"),
    [
        ({"prompt": [{"role": "user", "content": "q"}], "completion": [{"role": "assistant", "content": "a"}]}, "a"),
        ({"prompt": "q", "completion": "a"}, "a"),
        ({"prompt": "q"}, None),
        ({"prompt": [{"role": "user", "content": "q"}]}, None),
        ({"prompt": "q", "chosen": "a", "rejected": "b"}, "a"),
        ({"chosen": one("q", answer="a")["messages"], "rejected": one("q", answer="b")["messages"]}, "a"),
        ([{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}], "a"),
    ],
)
def test_trl_dataset_types_that_teach_an_answer(record: Any, turn: str | None) -> None:
    row = trl.parse(record, "row")
    assert only(row) == ParsedTurn((), "q", turn)
    assert row.unread == (("rejected",) if "rejected" in record else ())


@pytest.mark.parametrize(
    ("record", "code"),
    [
        ({"text": "The sky is blue."}, "unsupported-row"),
        ({"chosen": "The sky is blue.", "rejected": "The sky is green."}, "unsupported-row"),
        ({"prompt": "q", "completion": "a", "label": False}, "unsupported-row"),
        ({"prompt": "Which is larger?", "completions": ["a", "b"], "labels": [True, False]}, "unsupported-row"),
        ({"messages": [{"role": "user", "content": [TEXT]}, ANSWER], "images": ["a"]}, "marker-mismatch"),
        ({"messages": [{"role": "user", "content": [IMAGE, TEXT]}, ANSWER], "images": []}, "marker-mismatch"),
        ({"messages": [{"role": "user", "content": [TEXT]}, {"role": "assistant", "content": [IMAGE]}],
          "images": ["a"]}, "marker-mismatch"),
        ({"messages": [{"role": "user", "content": [{"type": "video"}]}]}, "unsupported-media"),
        ({"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]}, "unsupported-media"),
        ({"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "tool_calls": [{}, {"a": 1}]}]},
         "unsupported-media"),
        ({"messages": [{"role": "user", "content": [{"type": "smell"}]}]}, "bad-row"),
    ],
)  # fmt: skip
def test_trl_rows_without_a_place_are_refused(record: Any, code: str) -> None:
    assert rejected("trl", record) == code


def test_trl_text_is_text() -> None:
    c = conversation(Turn(images=("a",), user="<image>", assistant="a"))
    assert trl.render(c)["messages"][0]["content"] == [IMAGE, {"type": "text", "text": "<image>"}]
    assert trl.losses(c) == ("image_token",)


def test_a_marker_beside_parts_says_where_they_stand() -> None:
    image = {"type": "image_url", "image_url": {"url": "a.jpg"}}
    parts = [image, {"type": "text", "text": "Is <IMG_CONTEXT> red?"}]
    record = {"messages": [{"role": "user", "content": parts}, ANSWER]}
    assert only(trl.parse(record, "row", marker="<IMG_CONTEXT>")) == ParsedTurn(("a.jpg",), "Is  red?", "It.", (3,))
    assert only(trl.parse(record, "row")).user == "Is <IMG_CONTEXT> red?"
    record["messages"][0]["content"] = [image, *parts]
    assert rejected("trl", record, marker="<IMG_CONTEXT>") == "marker-mismatch"


@pytest.mark.parametrize("name", ["llava", "sharegpt", "swift", "trl"])
def test_keys_in_a_message_are_printable_and_short(name: str) -> None:
    row = {"\x7fessages": 1, "a\x1b[31m": 2, "k" * 500: 3}
    with pytest.raises(RejectInput) as caught:
        FORMATS[name].parse(row, where="rows.json:1")
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 400


# Nothing is lost without a word ------------------------------------------------------------------------------------


def reason(name: str, record: Any, **options: Any) -> str:
    with pytest.raises(RejectInput) as error:
        FORMATS[name].parse(record, "row", **options)
    return f"{error.value.code}: {error.value.reason}"


@pytest.mark.parametrize("name", sorted(FORMATS))
@pytest.mark.parametrize("label", [False, "false", "False"])
@pytest.mark.parametrize("key", ["label", "kto_tag"])
def test_an_answer_marked_as_bad_is_never_read(name: str, key: str, label: Any) -> None:
    assert rejected(name, one("u", **{key: label})) == "unsupported-row"
    assert FORMATS[name].parse(one("u", **{key: True}), "row").unread == (key,)
    assert FORMATS[name].parse(one("u", **{key: 0}), "row").unread == (key,), "a class, where nothing says otherwise"


@pytest.mark.parametrize("name", sorted(FORMATS))
@pytest.mark.parametrize("mask", [{"loss": False}, {"weight": 0}, {"train": False}, {"loss_weight": 0.0}])
def test_an_answer_that_must_not_be_learned_is_never_read(name: str, mask: dict[str, Any]) -> None:
    record = one("u")
    record["messages"][1] |= mask
    assert "not to be learned" in reason(name, record)
    record["messages"][1] = {"role": "assistant", "content": "a"}
    record["messages"][0] |= mask
    assert FORMATS[name].parse(record, "row").turns, "nobody learns what the user says"


def test_columns_are_known_by_the_names_that_dataset_info_gives_them() -> None:
    columns = {"videos": "clips_of", "audios": "heard", "tools": "can_call", "kto_tag": "is_good"}
    names = sharegpt.names_of({"formatting": "sharegpt", "columns": columns | {"messages": "messages"},
                               "tags": {"role_tag": "role", "content_tag": "content", "user_tag": "user",
                                        "assistant_tag": "assistant"}}, "entry")  # fmt: skip
    for key in ("clips_of", "heard", "can_call"):
        assert reason("sharegpt", one("u", **{key: ["x"]}), names=names).startswith("unsupported-media")
        assert sharegpt.parse(one("u", **{key: []}), "row", names=names).turns
    for bad in (False, 0, "false"):
        assert reason("sharegpt", one("u", is_good=bad), names=names).startswith("unsupported-row")


@pytest.mark.parametrize("name", sorted(FORMATS))
@pytest.mark.parametrize(
    "more",
    [
        {"img": "a.jpg"},
        {"image_path": "a"},
        {"imagePath": "a.jpg"},
        {"pics": ["a"]},
        {"multi_modal_data": {"image": "a"}},
        {"frames": ["a"]},
        {"file": "photos/a.JPG"},
        {"meta": {"from": ["data:image/png;base64,aGk="]}},
    ],
)
def test_a_key_that_could_hold_images_is_never_left_out(name: str, more: dict[str, Any]) -> None:
    assert reason(name, one("u", **more)).startswith("bad-row")
    record = one("u")
    record["messages"][0] |= more
    assert reason(name, record).startswith("bad-row")
    record = one([{"type": "text", "text": "u"} | more])
    assert reason(name, record).startswith("bad-row")


@pytest.mark.parametrize("name", sorted(FORMATS))
def test_beside_images_only_further_images_are_refused(name: str) -> None:
    text = "u" if name == "trl" else "<image>u"
    same = one(text, ["d/a.jpg"], image_path="/old/a.jpg", file="b.jpg", image_size=[1, 2])
    assert FORMATS[name].parse(same, "row").unread == ("file", "image_path", "image_size")
    assert reason(name, one(text, ["a.jpg"], image_path="b.jpg")).startswith("bad-row")


@pytest.mark.parametrize("name", sorted(FORMATS))
@pytest.mark.parametrize("key", ["video_path", "videoPaths", "clips", "speech", "audio_url"])
def test_video_and_audio_are_known_by_any_usual_name(name: str, key: str) -> None:
    assert rejected(name, one("u", **{key: "a.mp4"})) == "unsupported-media"


@pytest.mark.parametrize("name", sorted(FORMATS))
@pytest.mark.parametrize("key", ["chosen", "output", "answer", "completions"])
def test_an_answer_beside_messages_without_one_is_never_left_out(name: str, key: str) -> None:
    record = {"messages": one("u")["messages"][:1], key: [{"role": "assistant", "content": "a"}]}
    assert reason(name, record).startswith("unsupported-row")
    assert FORMATS[name].parse(one("u") | {key: "a"}, "row").unread == (key,)


@pytest.mark.parametrize("name", sorted(FORMATS))
def test_images_inside_a_message_stand_before_its_text_or_at_its_places(name: str) -> None:
    record = one("What?")
    record["messages"][0]["images"] = ["a", "b"]
    assert only(FORMATS[name].parse(record, "row")) == ParsedTurn(("a", "b"), "What?", "Yes", None)
    if name in MARKED:
        record["messages"][0] |= {"content": "<image>What<image>?"}
        assert only(FORMATS[name].parse(record, "row")) == ParsedTurn(("a", "b"), "What?", "Yes", (0, 4))
        record["messages"][0] |= {"content": "<image>What?"}
        assert rejected(name, record) == "marker-mismatch"
    record["messages"] = [{"role": "user", "content": "u"}, {"role": "assistant", "content": "a", "image": "a.jpg"}]
    assert rejected(name, record) == "marker-mismatch"


def test_swift_reads_images_in_the_text_of_every_kind_of_row() -> None:
    text = "A <img>1.jpg</img> B <img>2.jpg</img>"
    wanted = ParsedTurn(("1.jpg", "2.jpg"), "A  B ", "Yes", (2, 5))
    pair = {"conversation": [{"human": text, "assistant": "Yes"}]}
    for record in (one(text), pair, {"query": text, "response": "Yes"}):
        assert only(swift.parse(record, "row")) == wanted
    for name in ("llava", "sharegpt"):
        assert "phiv-convert swift" in reason(name, one(text))
        escaped = one(text.replace("<img>", r"<\img>"))
        assert only(FORMATS[name].parse(escaped, "row")).user == text
        assert only(FORMATS[name].parse(one("In XML, <img>x</img>"), "row")).user == "In XML, <img>x</img>"


@pytest.mark.parametrize("name", MARKED)
def test_another_marker_is_named_and_read(name: str) -> None:
    record = one("See <|image|>!", ["a"])
    if name != "swift":  # which puts images without a place first
        assert "--marker '<|image|>'" in reason(name, record)
    turn = only(FORMATS[name].parse(record, "row", marker="<|image|>"))
    assert turn == ParsedTurn(("a",), "See !", "Yes", (4,))
    literal = only(FORMATS[name].parse(one("<image> <|image|>", ["a"]), "row", marker="<|image|>"))
    assert (literal.user, literal.image_offsets) == ("<image> ", (8,))


@pytest.mark.parametrize("name", MARKED)
def test_numbered_markers_stand_for_the_images_in_their_order(name: str) -> None:
    marker = "<|image_1|>"
    turn = only(FORMATS[name].parse(one("<|image_1|>A<|image_2|>", ["a", "b"]), "row", marker=marker))
    assert (turn.images, turn.user, turn.image_offsets) == (("a", "b"), "A", (0, 1))
    for text in ("<|image_2|>A<|image_1|>", "<|image_1|>A<|image_1|>", "<|image_2|><|image_3|>"):
        assert "out of order" in reason(name, one(text, ["a", "b"]), marker=marker)


def test_trl_reads_a_marker_beside_a_column_of_images() -> None:
    turn = only(trl.parse(one("what <image> is it?", ["a"]), "row", marker="<image>"))
    assert (turn.images, turn.user, turn.image_offsets) == (("a",), "what  is it?", (5,))


def test_trl_joins_user_messages_as_openai_writes_them() -> None:
    image = {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "a.jpg"}}]}
    record = {"messages": [{"role": "user", "content": "Which?"}, image, {"role": "assistant", "content": "It."}]}
    assert only(trl.parse(record, "row")) == ParsedTurn(("a.jpg",), "Which?", "It.", (6,))
    record = {"messages": [*one("a")["messages"][:1], *one("b")["messages"]]}
    assert only(trl.parse(record, "row")).user == "a\nb"
    assert {name: rejected(name, record) for name in MARKED} == dict.fromkeys(MARKED, "bad-turns")


def test_accepted_answers_are_kept_and_the_first_is_the_answer() -> None:
    for parse, record in (
        (swift.parse, {"query": "q", "answers": ["cat", "a cat"]}),
        (swift.parse, {"query": "q", "answer": "cat", "answers": [{"answer": "a cat"}, {"answer": "cat"}]}),
        (llava.parse, {"question_id": 1, "text": "q", "answers": ["cat", "a cat", None]}),
    ):
        turn = only(parse(record, "row"))
        assert (turn.user, turn.assistant, turn.answers) == ("q", "cat", ("cat", "a cat"))
    assert only(swift.parse({"query": "q", "answer": 3}, "row")).assistant == "3"
    assert only(llava.parse({"question_id": 1, "text": "q", "label": "yes"}, "row")).assistant == "yes"
    assert only(swift.parse({"query": "q", "answers": []}, "row")).assistant is None


@pytest.mark.parametrize("name", sorted(FORMATS))
def test_rows_in_phivs_own_format_are_named(name: str) -> None:
    record = {"id": "1", "source": "s", "conversations": [{"images": ["a.jpg"], "user": "u", "assistant": "a"}]}
    assert "phiv-convert jsonl" in reason(name, record)


@pytest.mark.parametrize("name", sorted(FORMATS))
def test_bytes_in_base64_are_an_image(name: str) -> None:
    bare = base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(100)).decode()
    text = "u" if name == "trl" else "<image>\nu"
    for value in (bare, {"bytes": bare, "path": None}, {"bytes": bare, "path": "a.png"}):
        assert FORMATS[name].parse(one(text, [value]), "row").image_refs == (f"data:;base64,{bare}",)
    assert FORMATS[name].parse(one(text, ["/9j/a.jpg"]), "row").image_refs == ("/9j/a.jpg",)


def test_values_of_any_length_make_short_rejects() -> None:
    long = "x" * 5000
    for record in (
        {"messages": [{"role": f"tool{long}", "content": "u"}]},
        one([{"type": f"video{long}"}]),
        one("u", image_path=long + ".jpg"),
        one("u", images=[{long: long}]),
        one("<img>" + long + ".jpg</img>"),
    ):
        assert len(reason("sharegpt", record)) < 400


@pytest.mark.parametrize(
    "row",
    [
        {"question_id": 1, "prompt": "q", "text": "said", "answer_id": "x", "model_id": "m", "metadata": {}},
        {"question_id": 1, "image": "a.png", "text": "q", "answer": "said", "model_id": "m"},
        {"prompt": "q", "predict": "said", "label": "right"},
        {"query": "q", "response": "said", "labels": "right", "images": ["a.png"]},
        {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}], "prediction": "said"},
    ],
)
@pytest.mark.parametrize("format", FORMATS)
def test_the_answer_of_a_model_is_no_row(format: str, row: dict[str, Any]) -> None:
    with pytest.raises(RejectInput, match="marks it as the answer of a model, which is not to be learned") as reject:
        FORMATS[format].parse(row, "x:1")
    assert reject.value.code == "unsupported-row"


SAID = {"role": "assistant", "content": "a"}


@pytest.mark.parametrize("key", ["text", "value", "content"])
@pytest.mark.parametrize("ref", ["image", "value", "content"])
def test_parts_name_their_text_and_image_by_any_usual_key(key: str, ref: str) -> None:
    parts = [{"type": "image", ref: "a.png"}, {"type": "text", key: "q"}]
    row = FORMATS["trl"].parse({"messages": [{"role": "user", "content": parts}, SAID]}, "x:1")
    assert [(turn.images, turn.user, turn.assistant) for turn in row.turns] == [(("a.png",), "q", "a")]


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ({"content": [{"type": "text", "text": "q", "value": "p"}]}, r"content\[0\] has both 'text' and 'value'"),
        (
            {"content": [{"type": "image", "data": "a.png"}]},
            r"'messages\[0\].content\[0\].data' holds what could be an",
        ),
        ({"text": "q"}, r"messages\[0\] has no content, and 'text' holds text, which is not read"),
        ({"content": "", "parts": ["q"]}, "'parts' holds text, which is not read"),
    ],
)
@pytest.mark.parametrize("format", FORMATS)
def test_text_and_images_under_other_keys_are_named(format: str, message: dict[str, Any], reason: str) -> None:
    with pytest.raises(RejectInput, match=reason):
        FORMATS[format].parse({"messages": [{"role": "user", **message}, SAID]}, "x:1")
