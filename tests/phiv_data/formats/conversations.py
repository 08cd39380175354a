"""Conversations of every kind, for property tests."""

from __future__ import annotations

from hypothesis import strategies as st

from phiv_data.formats import ParsedRow
from phiv_schemas import Conversation, Turn

# Whatever could be taken for something else: markers, halves of them, escaped ones, newlines at the front.
_WORDS = [
    "<image>",
    r"<\image>",
    r"<\\image>",
    "<image",
    "image>",
    "<",
    "\\",
    "\n",
    "",
    " ",
    "What?",
    "é",
    "<video>",
    "<img>",
    r"<\img>",
    "</img>",
    r"<\audio>",
]
TEXTS = st.one_of(
    st.lists(st.sampled_from(_WORDS), max_size=5).map("".join),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=12),
)
NAMES = st.sampled_from(["a.jpg", "b/a.jpg", "train/c d.png", "é.webp"])
IDS = st.sampled_from(["7", "train-0000000001", "a b", "é"])


@st.composite
def turns(draw: st.DrawFn, *, answered: bool) -> Turn:
    user, images = draw(TEXTS), draw(st.lists(NAMES, max_size=3))
    places = st.lists(st.integers(0, len(user)), min_size=len(images), max_size=len(images)).map(sorted)
    offsets = draw(st.one_of(st.none(), places, st.just([0] * len(images))))
    assistant = draw(TEXTS) if answered else None
    others = draw(st.none() | st.lists(TEXTS, min_size=1, max_size=2))
    answers = None if others is None else [*others, *([assistant] if assistant is not None else [])]
    return Turn(images=images, user=user, assistant=assistant, answers=answers, image_offsets=offsets)


@st.composite
def conversations(draw: st.DrawFn) -> Conversation:
    answered = draw(st.lists(turns(answered=True), max_size=3))
    open_ = draw(st.lists(turns(answered=False), max_size=2, min_size=0 if answered else 1))
    return Conversation(
        id=draw(IDS),
        source=draw(st.sampled_from(["docvqa", "my data"])),
        conversations=[*answered, *open_],
        system=draw(st.none() | TEXTS),
    )


def rebuilt(row: ParsedRow) -> Conversation:
    """The conversation that a parsed row is, where its references are paths."""
    assert row.id is not None
    assert row.source is not None
    assert row.unread == ()
    return Conversation(
        id=row.id,
        source=row.source,
        conversations=[
            Turn(images=t.images, user=t.user, assistant=t.assistant, image_offsets=t.image_offsets) for t in row.turns
        ],
        system=row.system,
    )


def without(conversation: Conversation, losses: tuple[str, ...], format: str) -> Conversation:
    """The conversation less exactly what the declared losses say; a literal marker costs the reader's view alone."""
    turns = list(conversation.turns)
    if "unanswered_turns" in losses:
        turns = turns[: 1 + sum(turn.assistant is not None for turn in turns)]
    if "answers" in losses:
        turns = [turn.model_copy(update={"answers": None}) for turn in turns]
    if "image_offsets" in losses:
        turns = [_in_front(turn, format) for turn in turns]
    system = conversation.system
    if format == "llava" and "system" in losses and system == "":
        system = None
    return conversation.model_copy(update={"conversations": tuple(turns), "system": system})


def _in_front(turn: Turn, format: str) -> Turn:
    if turn.image_offsets is None or any(turn.image_offsets):
        return turn
    if not turn.images or format == "trl":
        return turn.model_copy(update={"image_offsets": None})
    if turn.user.startswith("\n"):
        return turn.model_copy(update={"image_offsets": None, "user": turn.user[1:]})
    return turn
