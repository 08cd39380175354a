"""Chat templates: a conversation to segments of token ids, each supervised or not. A new template is a few strings.

    renderer = ChatRenderer(CHATML, {"<|im_start|>": 1, "<|im_end|>": 2}, tokenizer.encode)
    list(renderer.segments(conversation, images=[[IMAGE] * 16]))     # Segment(ids, supervised, image)
    measure_segments(renderer.segments(conversation, [range(16)]))   # Measured(tokens=..., supervised=..., ...)

Strings of a template are trusted: special tokens in them become their ids. Texts of a conversation are data: whatever
they contain, they are encoded as plain text. A template's string and the data beside it are encoded together up to the
next special token, image or answer, as a tokenizer of the whole rendered prompt would do; an answer begins a run of its
own, so that what is asked is exactly a prefix of what is trained on.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from phiv_schemas import Conversation
from phiv_schemas.errors import RecordError
from phiv_train.families.base import IGNORE, Encoded, Measured


@dataclass(frozen=True, slots=True)
class ChatTemplate:
    """The strings around the texts of a conversation; pairs stand before and after.

    `answer` asks for an answer and is not supervised; `answer_end` is, so that the model learns to stop; `turn_end`
    follows it and is not. `begin` stands once, `turn` before every turn. `after_images` separates images that stand
    before a turn's text from the text; with `image_offsets` the images stand inside it.
    """

    user: tuple[str, str]
    answer: str
    answer_end: str
    system: tuple[str, str]
    begin: str = ""
    turn: str = ""
    turn_end: str = ""
    image: tuple[str, str] = ("", "")
    after_images: str = ""


PHI3 = ChatTemplate(
    turn="<s>",
    system=("<|system|>\n", "<|end|>\n"),
    user=("<|user|>\n", "<|end|>\n"),
    answer="<|assistant|>",
    answer_end="<|end|>\n<|endoftext|>",
    image=("", "<s>"),
    after_images="\n",
)
"""Phi-3.5-vision: the ids of the official processor for `<|image_1|><|image_2|>\\n{user}`."""

CHATML = ChatTemplate(
    system=("<|im_start|>system\n", "<|im_end|>\n"),
    user=("<|im_start|>user\n", "<|im_end|>\n"),
    answer="<|im_start|>assistant\n",
    answer_end="<|im_end|>",
    turn_end="\n",
    after_images="\n",
)
"""ChatML, as Qwen and many others write it."""


@dataclass(frozen=True, slots=True)
class Segment:
    """Consecutive tokens that are one thing: a special token, a run of text, or the image of number `image`."""

    ids: Sequence[int]
    supervised: bool = False
    image: int | None = None


class ChatRenderer:
    """A template with a tokenizer. `special_ids`: the special tokens by name; `encode`: plain text to ids."""

    def __init__(
        self, template: ChatTemplate, special_ids: Mapping[str, int], encode: Callable[[str], Sequence[int]]
    ) -> None:
        self.template, self._special_ids, self._encode = template, special_ids, encode
        names = sorted(special_ids, key=len, reverse=True)  # the longest name first, where one begins with another
        self._special = re.compile(f"({'|'.join(map(re.escape, names))})")

    def segments(
        self, conversation: Conversation, images: Sequence[Sequence[int]], *, generation: bool = False
    ) -> Iterator[Segment]:
        """The conversation in order; with `generation` up to where its last answer begins.

        `images`: the ids of each image, separators included. RecordError when their number is not that of
        `image_paths`, or where an answer is null.
        """
        check_image_count(conversation, len(images))
        run, run_is_supervised = "", False
        for text, is_template, supervised, image in _render(conversation, self.template, generation):
            if run and (supervised != run_is_supervised or image is not None):
                yield Segment(self._encode(run), run_is_supervised)
                run = ""
            run_is_supervised = supervised
            if image is not None:
                yield Segment(images[image], image=image)
                continue
            for part in self._special.split(text) if is_template else [text]:
                if is_template and part in self._special_ids:
                    if run:
                        yield Segment(self._encode(run), supervised)
                        run = ""
                    yield Segment((self._special_ids[part],), supervised)
                else:
                    run += part
        if run:
            yield Segment(self._encode(run), run_is_supervised)


Piece = tuple[str, bool, bool, int | None]
"""(text, is it the template's, is it supervised, number of the image that stands here instead of a text)."""


def _render(conversation: Conversation, template: ChatTemplate, generation: bool) -> Iterator[Piece]:
    """The conversation as strings and places of images: the one function that knows the order of things."""
    image = 0
    yield template.begin, True, False, None
    for number, turn in enumerate(conversation.turns):
        yield template.turn, True, False, None
        if number == 0 and conversation.system is not None:
            yield template.system[0], True, False, None
            yield conversation.system, False, False, None
            yield template.system[1], True, False, None
        yield template.user[0], True, False, None
        # n images have n + 1 texts around them, and stand before the text where no offsets are given.
        offsets = [0] * len(turn.images) if turn.image_offsets is None else turn.image_offsets
        first, *rest = (turn.user[start:stop] for start, stop in pairwise([0, *offsets, len(turn.user)]))
        yield first, False, False, None
        for count, text in enumerate(rest, start=1):
            yield template.image[0], True, False, None
            yield "", True, False, image
            yield template.image[1], True, False, None
            if turn.image_offsets is None and count == len(rest):
                yield template.after_images, True, False, None
            yield text, False, False, None
            image += 1
        yield template.user[1] + template.answer, True, False, None
        if generation and number == len(conversation.turns) - 1:
            return
        if turn.assistant is None:
            where = f"{conversation.id}: $.conversations[{number}].assistant"
            raise RecordError(where, "is null, there is nothing to learn", "Leave unlabeled rows out of training")
        yield turn.assistant, False, True, None
        yield template.answer_end, True, True, None
        yield template.turn_end, True, False, None


def check_image_count(conversation: Conversation, found: int) -> None:
    """RecordError unless as many images were given as the conversation names."""
    if found != (expected := len(conversation.image_paths)):
        raise RecordError(conversation.id, f"names {expected} images, {found} were given")


def measure_segments(
    segments: Iterable[Segment], *, generation: bool = False, vision_cost: int | None = None
) -> Measured:
    """The lengths of segments, whose ids are counted only. `vision_cost` None: as many as the images' tokens."""
    tokens = supervised = image_tokens = 0
    for segment in segments:
        tokens += (count := len(segment.ids))
        supervised += count * segment.supervised
        image_tokens += count * (segment.image is not None)
    return Measured(
        tokens, 0 if generation else supervised, image_tokens, image_tokens if vision_cost is None else vision_cost
    )


def encode_segments(
    id_: str, segments: Iterable[Segment], media: Mapping[str, NDArray[Any]], *, generation: bool = False
) -> Encoded:
    """The sample of segments. With `generation` nothing is labelled, earlier answers neither."""
    ids: list[int] = []
    labels: list[int] = []
    spans: list[tuple[int, int]] = []
    for segment in segments:
        if segment.image is not None:
            spans.append((len(ids), len(ids) + len(segment.ids)))
        ids.extend(segment.ids)
        labels.extend(segment.ids if segment.supervised and not generation else [IGNORE] * len(segment.ids))
    image_spans = np.array(spans, np.int64).reshape(-1, 2)
    return Encoded(id_, np.array(ids, np.int64), np.array(labels, np.int64), media, image_spans)
