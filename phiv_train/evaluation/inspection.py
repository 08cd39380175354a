"""One row as the model gets it: spans of token ids, which are supervised, where every image is. No weights, no torch.

    row = inspect_row(dataset[0], get_family("tiny"), processor)
    row.tokens, row.supervised, [span.text for span in row.spans if span.supervised]
    row.images[0].start, row.images[0].tokens

A span is consecutive tokens that are one thing: unsupervised text, supervised text, or one image with its separators.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np

from phiv_data.storage.sample import Sample
from phiv_schemas.errors import RecordError
from phiv_train.families.base import IGNORE, Encoded, Family, Preview


@dataclass(frozen=True, slots=True)
class Span:
    """Tokens `start` to `stop` (exclusive). `image` is the image's number (from 0), None for text.

    `pieces`: the text of each id, control tokens by name; `text`: of all, where the bytes of a character may be ids
    of their own. Both empty for an image.
    """

    start: int
    stop: int
    ids: tuple[int, ...]
    supervised: bool
    image: int | None
    pieces: tuple[str, ...] = ()
    text: str = ""


@dataclass(frozen=True, slots=True)
class InspectedImage:
    """An image of the row: its turn, its size in pixels, and the tokens `start` to `start + tokens` it takes.

    `offset` is its place in the turn's text in characters, None before the text. `canvas` (width, height) and `tiles`
    (columns, rows) after resizing and padding, where the family shows them.
    """

    path: str
    turn: int
    width: int
    height: int
    offset: int | None
    start: int
    tokens: int
    canvas: tuple[int, int] | None
    tiles: tuple[int, int] | None


@dataclass(frozen=True, slots=True)
class Inspection:
    """A row, encoded. `labeled` is False where the last answer is null: then the prompt alone is shown.

    `previews`: the images as the model gets them, none where the family cannot show them.
    """

    id: str
    source: str
    labeled: bool
    spans: tuple[Span, ...]
    images: tuple[InspectedImage, ...]
    previews: tuple[Preview, ...]
    encoded: Encoded

    @property
    def tokens(self) -> int:
        """Tokens of the row."""
        return len(self.encoded)

    @property
    def supervised(self) -> int:
        """Tokens that count in the loss."""
        return int((self.encoded.labels != IGNORE).sum())


def inspect_row(sample: Sample, family: Family, processor: Any) -> Inspection:
    """The row, encoded as in training. RecordError where it cannot be."""
    conversation = sample.conversation
    pil_images = [image.open() for image in sample.images]
    encoded = family.encode(conversation, pil_images, processor, generation=not conversation.is_labeled)
    if len(encoded.image_spans) != len(pil_images):
        what = f"family {family.name} gives {len(encoded.image_spans)} image spans for {len(pil_images)} images"
        raise RecordError(sample.id, what)
    previews = tuple(family.preview(encoded, processor))
    places = [
        (number, turn.image_offsets[k] if turn.image_offsets is not None else None)
        for number, turn in enumerate(conversation.turns)
        for k in range(len(turn.images))
    ]
    images = []
    for k, ((turn, offset), pil_image) in enumerate(zip(places, pil_images, strict=True)):
        start, stop = encoded.image_spans[k].tolist()
        canvas, tiles = (previews[k].image.size, previews[k].tiles) if previews else (None, None)
        path = sample.images[k].meta.path
        images.append(InspectedImage(path, turn, *pil_image.size, offset, start, stop - start, canvas, tiles))
    owner = np.full(len(encoded), -1, np.int64)  # the number of the image a token belongs to, -1 for text
    for number, (first, end) in enumerate(encoded.image_spans):
        owner[first:end] = number
    spans, at, is_supervised = list[Span](), 0, encoded.labels != IGNORE
    for (number, supervised), run in groupby(zip(owner.tolist(), is_supervised.tolist(), strict=True)):
        ids = tuple(encoded.input_ids[at : at + len(list(run))].tolist())
        if number >= 0:
            spans.append(Span(at, at + len(ids), ids, supervised, number))
        else:
            shown = tuple(processor.pieces(ids)), processor.text(ids)
            spans.append(Span(at, at + len(ids), ids, supervised, None, *shown))
        at += len(ids)
    return Inspection(
        id=sample.id,
        source=conversation.source,
        labeled=conversation.is_labeled,
        spans=tuple(spans),
        images=tuple(images),
        previews=previews,
        encoded=encoded,
    )
