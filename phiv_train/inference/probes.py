"""What a model says to three fixed prompts: two models are the same one where their logits and answers agree.

    before = probe(model, family, processor)
    compare(before, probe(other, family, processor))      # Difference(logits=2.1e-06, same_answers=3, ...)

The prompts have no image, one, and two of different shapes: text, image tokens and the order of images all count.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from phiv_schemas import Conversation, Turn
from phiv_train.families.base import Family
from phiv_train.inference.greedy import Answer, answer_batch, make_inputs

ANSWER_TOKENS = 24
_PROMPTS = (("Name three colours.", ()), ("What is shown?", ((448, 336),)), ("What changed?", ((640, 320), (240, 500))))


@dataclass(frozen=True, slots=True)
class Probe:
    """Logits of the last token of each prompt, float32 [prompts, vocabulary], and the greedy answers."""

    logits: Tensor
    answers: tuple[Answer, ...]


@dataclass(frozen=True, slots=True)
class Difference:
    """Largest absolute difference of logits, the largest logit itself, and how many of the answers are equal."""

    logits: float
    largest: float
    same_answers: int
    answers: int

    def __str__(self) -> str:
        return (
            f"logits differ by at most {self.logits:.1e} (the largest is {self.largest:.1f}),"
            f" {self.same_answers} of {self.answers} greedy answers are equal"
        )


def probe(model: Any, family: Family, processor: Any) -> Probe:
    """Each prompt alone, so that nothing depends on padding. The model is in eval mode."""
    logits, answers = [], []
    for number, (question, sizes) in enumerate(_PROMPTS):
        images = [_image(number * 10 + i, size) for i, size in enumerate(sizes)]
        turn = Turn(images=tuple(f"{i}.png" for i in range(len(images))), user=question, assistant="")
        conversation = Conversation(id=f"probe-{number}", source="phiv", conversations=(turn,))
        inputs = make_inputs(family, processor, [family.encode(conversation, images, processor, generation=True)])
        inputs = {name: tensor.to(model.device) for name, tensor in inputs.items()}
        with torch.no_grad():
            logits.append(model(**inputs, use_cache=False).logits[0, -1].float().cpu())
        answers += answer_batch(model, processor, inputs, max_new_tokens=ANSWER_TOKENS)
    return Probe(torch.stack(logits), tuple(answers))


def compare(one: Probe, other: Probe) -> Difference:
    """How far two models are apart on the prompts."""
    same = sum(a == b for a, b in zip(one.answers, other.answers, strict=True))
    apart, largest = (one.logits - other.logits).abs().max(), one.logits.abs().max()
    return Difference(float(apart), float(largest), same, len(one.answers))


def _image(seed: int, size: tuple[int, int]) -> Image.Image:
    """Noise with a gradient, always the same for a seed."""
    width, height = size
    noise = np.random.Generator(np.random.PCG64(seed)).integers(0, 128, (height, width, 3))
    gradient = np.linspace(0, 127, width)[None, :, None]
    return Image.fromarray((noise + gradient).astype(np.uint8))
