"""One row as the model will see it: spans of ids, what is learnt, where every image stands. No weights, no torch.

    seen = inspect_row(dataset[0], get_family("tiny"), processor)
    seen.length, seen.learnt, [span.text for span in seen.spans if span.learnt]
    seen.images[0].start, seen.images[0].positions

A span is a stretch of the row that is one thing: text not learnt, text learnt, or one image.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from phiv_data.storage.sample import Sample
from phiv_schemas.errors import RecordError
from phiv_train.families.base import IGNORE, Encoded, Family

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True, slots=True)
class Span:
    """Positions `start` to `stop` (exclusive). `image` is the image's number (from 0), None for text.

    `pieces`: the text of each id, control tokens by name; `text`: of all, where the bytes of a character may be ids
    of their own. Both empty for an image.
    """

    start: int
    stop: int
    ids: tuple[int, ...]
    learnt: bool
    image: int | None
    pieces: tuple[str, ...] = ()
    text: str = ""


@dataclass(frozen=True, slots=True)
class SeenImage:
    """An image of the row: its turn, its size in pixels, and the positions `start` to `start + positions` it takes.

    `offset` is its place in the turn's text in characters, None before the text. `canvas` (width, height) and `crops`
    (columns, rows) after resizing and padding, where the family has such.
    """

    path: str
    turn: int
    width: int
    height: int
    offset: int | None
    start: int
    positions: int
    canvas: tuple[int, int] | None
    crops: tuple[int, int] | None


@dataclass(frozen=True, slots=True)
class Inspection:
    """A row, encoded. `labeled` is False where the last answer is null: then the prompt alone is shown."""

    id: str
    source: str
    labeled: bool
    spans: tuple[Span, ...]
    images: tuple[SeenImage, ...]
    encoded: Encoded

    @property
    def length(self) -> int:
        """Positions of the row."""
        return len(self.encoded)

    @property
    def learnt(self) -> int:
        """Positions the loss looks at."""
        return int((self.encoded.labels != IGNORE).sum())


def inspect_row(sample: Sample, family: Family, processor: Any) -> Inspection:
    """The row, encoded as in training. RecordError where it cannot be."""
    conversation = sample.conversation
    pil_images = [image.open() for image in sample.images]
    encoded = family.encode(conversation, pil_images, processor, generation=not conversation.is_labeled)
    sizes = np.array([pil_image.size for pil_image in pil_images], np.int64).reshape(-1, 2)
    counts = family.num_image_tokens(sizes[:, 0], sizes[:, 1], processor)
    owner = image_of_position(encoded, counts, processor)
    return Inspection(
        id=sample.id,
        source=conversation.source,
        labeled=conversation.is_labeled,
        spans=tuple(_spans(encoded, owner, processor)),
        images=tuple(_images(sample, encoded, owner, pil_images, processor)),
        encoded=encoded,
    )


def image_of_position(encoded: Encoded, counts: Sequence[int] | NDArray[np.int64], processor: Any) -> NDArray[np.int64]:
    """int64 [L]: the number of the image a position belongs to, -1 for text. `counts`: positions per image."""
    owner = np.full(len(encoded), -1, np.int64)
    slots = np.flatnonzero(encoded.input_ids == processor.image_id)
    numbers = np.repeat(np.arange(len(counts)), counts)
    if len(slots) != len(numbers):
        raise RecordError(encoded.id, f"has {len(slots)} image positions, its images take {len(numbers)}")
    owner[slots] = numbers
    return owner


def canvases(seen: Inspection) -> Iterator[Image]:
    """Each image as it is cut into crops: resized, padded with white, put together again. None of other families."""
    from PIL import Image

    if "crops" not in seen.encoded.media:
        return
    crops, sizes = seen.encoded.media["crops"], seen.encoded.media["image_sizes"]
    side, first = crops.shape[1], 0
    for height, width in sizes.tolist():
        rows, columns = height // side, width // side
        mine = crops[first : first + rows * columns].reshape(rows, columns, side, side, 3)
        first += rows * columns
        yield Image.fromarray(mine.transpose(0, 2, 1, 3, 4).reshape(height, width, 3))


def _spans(encoded: Encoded, owner: NDArray[np.int64], processor: Any) -> Iterator[Span]:
    learnt = encoded.labels != IGNORE
    start = 0
    for (image, is_learnt), run in groupby(zip(owner.tolist(), learnt.tolist(), strict=True)):
        stop = start + len(list(run))
        ids = tuple(encoded.input_ids[start:stop].tolist())
        if image >= 0:
            yield Span(start, stop, ids, is_learnt, image)
        else:
            pieces = tuple(text_of([id_], processor, inner=True) for id_ in ids)
            yield Span(start, stop, ids, is_learnt, None, pieces, text_of(ids, processor))
        start = stop


def text_of(ids: Sequence[int], processor: Any, *, inner: bool = False) -> str:
    """The text of ids, control tokens by their names. `inner`: as inside a text, where a leading blank is kept."""
    names = {value: name for name, value in getattr(processor, "control_ids", {}).items()}
    decode = processor.tokenizer.decode
    parts: list[str] = []
    for control, run in groupby(ids, key=names.get):
        plain = list(run)
        if control is not None:
            parts += [control] * len(plain)
        elif inner:  # a decoder strips the blank that begins a text, so decode behind a copy
            parts.append(decode(plain * 2)[len(decode(plain)) :])
        else:
            parts.append(decode(plain))
    return "".join(parts)


def _images(
    sample: Sample, encoded: Encoded, owner: NDArray[np.int64], pil_images: Sequence[Image], processor: Any
) -> Iterator[SeenImage]:
    places = [
        (number, turn.image_offsets[k] if turn.image_offsets is not None else None)
        for number, turn in enumerate(sample.conversation.turns)
        for k in range(len(turn.images))
    ]
    padded = encoded.media.get("image_sizes")
    side = getattr(processor, "crop_size", None)
    for k, ((turn, offset), pil_image) in enumerate(zip(places, pil_images, strict=True)):
        mine = np.flatnonzero(owner == k)
        canvas = None if padded is None else (int(padded[k][1]), int(padded[k][0]))
        crops = (canvas[0] // side, canvas[1] // side) if canvas and side else None
        path = sample.images[k].meta.path
        yield SeenImage(path, turn, *pil_image.size, offset, int(mine[0]), len(mine), canvas, crops)
