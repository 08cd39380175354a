"""A conversation to ids, labels and crops; its exact length from sizes alone; an official prompt's exact ids.

Every turn is rendered the same way in training and in evaluation, so that what the model continues when it is asked
turn t is, id for id, what it was trained on:

    <s><|system|>\\n{system}<|end|>\\n                      first turn, where there is a system prompt
    <|user|>\\n[image]<s>[image]<s>\\n{user}<|end|>\\n<|assistant|>{assistant}<|end|>\\n<|endoftext|>
                                                           \\______________ labelled ______________/
    <s><|user|>\\n{user}<|end|>\\n<|assistant|>...           every later turn

These are the ids of the official processor for the recipe's prompt `<|image_1|><|image_2|>\\n{user}`: it tokenizes
the chunks between images one by one, each with its own BOS, and `<|assistant|>` swallows the newline after it. With
`image_offsets` the images stand inside the text instead. Images are numbered through the dialogue.

One deliberate difference from the recipe, which renders dialogues of several turns differently in training and
evaluation (`<|endoftext|><|end|>\\n`, no new BOS, in evaluation): both follow its training text here.

Text is data: `<|end|>`, `<s>` or `<|image_1|>` inside system, user or assistant become plain text pieces.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from phiv_schemas import Conversation
from phiv_schemas.errors import RecordError
from phiv_train.families.base import Encoded, Measured, Size
from phiv_train.families.phi3_vision import image_processing
from phiv_train.families.phi3_vision.image_processing import Pixels, hd_crops
from phiv_train.families.phi3_vision.processor import BOS, Processor
from phiv_train.families.segments import check_image_count, encode_segments, measure_segments

if TYPE_CHECKING:
    from PIL.Image import Image

_IMAGE_TAG = re.compile(r"<\|image_(\d+)\|>")


def encode(
    conversation: Conversation,
    images: Sequence[Image | Pixels],
    processor: Processor,
    *,
    generation: bool = False,
) -> Encoded:
    """The sample; media `crops` uint8 [C, S, S, 3] (real crops, row-major) and `image_sizes` int64 [N, 2] (h, w)."""
    check_image_count(conversation, len(images))
    side = processor.crop_size
    cut = [
        hd_crops(
            image,
            processor.num_crops,
            crop_size=side,
            clip_high_depth=processor.clip_high_depth,
            where=f"{conversation.id}: {path}",
        )
        for image, path in zip(images, conversation.image_paths, strict=True)
    ]
    image_ids = [[processor.image_id] * image_slots(size, processor) for _, size in cut]
    segments = processor.renderer.segments(conversation, image_ids, generation=generation)
    media = {
        "crops": np.concatenate([crops for crops, _ in cut] or [np.empty((0, side, side, 3), np.uint8)]),
        "image_sizes": np.array([size for _, size in cut], np.int64).reshape(-1, 2),
    }
    return encode_segments(conversation.id, segments, media, generation=generation)


def measure(
    conversation: Conversation, sizes: Sequence[Size], processor: Processor, *, generation: bool = False
) -> Measured:
    """Exactly the numbers of `encode(...)`, from the text and each image's (width, height)."""
    widths, heights = np.array(sizes, np.int64).reshape(-1, 2).T
    counts = num_image_tokens(widths, heights, processor).tolist()
    images = [range(count) for count in counts]  # counted only
    measured = measure_segments(
        processor.renderer.segments(conversation, images, generation=generation), generation=generation
    )
    for (width, height), count, path in zip(sizes, counts, conversation.image_paths, strict=True):
        if not count:
            what = f"an image of {width}x{height} is too thin for num_crops {processor.num_crops}"
            raise RecordError(f"{conversation.id}: {path}", what, "Crop it, or leave the row out")
    return measured


def num_image_tokens(width: ArrayLike, height: ArrayLike, processor: Processor) -> NDArray[np.int64]:
    """Positions of images of these sizes; broadcasts; 0 where an image is too thin to be shown."""
    p = processor
    return image_processing.num_image_tokens(width, height, p.num_crops, p.crop_size, p.grid)


def official_ids(text: str, image_tokens: Sequence[int], processor: Processor) -> list[int]:
    """The ids the official processor gives for a rendered prompt with tags `<|image_1|>`..., id -k at image k.

    Here control tokens in `text` do control: it is the trusted output of a chat template. For parity and servers.
    RecordError unless the tags are exactly 1..n of n images, in any order.
    """
    chunks = _IMAGE_TAG.split(text)
    tags = [int(tag) for tag in chunks[1::2]]
    if sorted(tags) != list(range(1, len(image_tokens) + 1)):
        raise RecordError("prompt", f"image tags {tags} for {len(image_tokens)} images", "Number them 1..n, once each")
    ids = _chunk_ids(chunks[0], processor)
    for tag, chunk in zip(tags, chunks[2::2], strict=True):
        ids += [-tag] * image_tokens[tag - 1] + _chunk_ids(chunk, processor)
    return ids


def image_slots(image_size: Sequence[int], processor: Processor) -> int:
    """Positions of an image of this padded (height, width): what the vision tower will return for it."""
    rows, cols = (side // processor.crop_size for side in image_size)
    return (rows * cols + 1) * processor.grid**2 + 1 + (rows + 1) * processor.grid


def _chunk_ids(chunk: str, processor: Processor) -> list[int]:
    """One chunk of an official prompt: BOS, then control tokens and the runs of text between them."""
    names = "|".join(re.escape(name) for name in processor.control_ids)
    ids, strip = [processor.control_ids[BOS]], False
    for part in re.split(f"({names})", chunk):
        if part in processor.control_ids:
            ids.append(processor.control_ids[part])
        elif run := part.lstrip() if strip else part:
            ids += processor.tokenizer.encode(run)
        strip = part in processor.rstrip
    return ids
