"""Greedy answers to prompts, a batch at a time: `phiv-eval`, `phiv-predict` and `phiv-merge` all answer with this.

    inputs = make_inputs(family, processor, [family.encode(conversation, images, processor, generation=True)])
    answer_batch(model, processor, inputs, max_new_tokens=64)          # [Answer(text="a cat", stopped=True)]

Prompts are padded on the left. In float32 an answer does not depend on the others of its batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor
from transformers import GenerationConfig

from phiv_train.families.base import Encoded, Family


class Answer(NamedTuple):
    """What the model said. `stopped` is False where `max_new_tokens` cut it."""

    text: str
    stopped: bool


def make_inputs(family: Family, processor: Any, samples: Sequence[Encoded]) -> dict[str, Tensor]:
    """What the model takes for a batch of prompts, encoded with `generation`."""
    return family.generation_inputs(family.collate(samples, processor, layout="left"))


def answer_batch(
    model: Any, processor: Any, inputs: Mapping[str, Tensor], *, max_new_tokens: int, synced_gpus: bool = False
) -> list[Answer]:
    """The model's answers to `inputs`, which are on its device. `synced_gpus` where ranks hold parts of the model."""
    # Everything that could change greedy decoding is set here, because the checkpoint decides what is not.
    config = GenerationConfig(
        max_new_tokens=max_new_tokens,
        do_sample=False,
        num_beams=1,
        temperature=1.0,
        top_p=1.0,
        top_k=50,
        repetition_penalty=1.0,
        no_repeat_ngram_size=0,
        use_cache=True,
        eos_token_id=list(processor.stop_ids),
        pad_token_id=processor.pad_id,
    )
    ids = model.generate(**inputs, generation_config=config, synced_gpus=synced_gpus)
    new = ids[:, inputs["input_ids"].shape[1] :].tolist()
    return [Answer(processor.decode(one), any(token in processor.stop_ids for token in one)) for one in new]
