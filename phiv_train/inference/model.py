"""A model in use: load it by the name of a run, and ask it about images, clips or text.

    from phiv_train import load_model

    model = load_model("runs/x")                                  # a run, final/, a checkpoint, an adapter, a hub id
    model.answer("cat.jpg", "What is shown?")                     # 'A cat.'
    model.answer(["a.jpg", "b.jpg"], "What changed?", earlier=[("What is shown?", "A cat.")])

Prompts, image preparation and the tokens that end an answer are those of training: both are one code.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, cast

import torch
from PIL import ImageOps

from phiv_data.formats.recognise import CLIP_SUFFIXES
from phiv_data.media.images import encode_jpeg, open_image
from phiv_data.media.video import sample_frames
from phiv_schemas import Conversation, Turn
from phiv_schemas.errors import UsageError
from phiv_train.checkpoints import load
from phiv_train.checkpoints.resolve import Source, find_source
from phiv_train.families.base import Encoded, Family, get_family
from phiv_train.inference.greedy import Answer, answer_batch, make_inputs

if TYPE_CHECKING:
    from PIL.Image import Image

Precision = Literal["auto", "float32", "bfloat16", "float16"]
ImageLike: TypeAlias = "str | Path | bytes | Image"
"""A file of an image or of a clip, the bytes of an image file, or a decoded image."""
JPEG_QUALITY, NUM_FRAMES = 75, 8
"""Of the frames of a clip, as phiv-convert stores them: the model sees what it was trained on."""


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model in eval mode with what turns questions into its inputs."""

    family: Family
    model: Any
    processor: Any
    source: Source

    def answer(
        self,
        images: ImageLike | Sequence[ImageLike],
        question: str,
        *,
        earlier: Sequence[tuple[str, str]] = (),
        system: str | None = None,
        num_frames: int = NUM_FRAMES,
        max_new_tokens: int = 64,
    ) -> str:
        """The greedy answer to a question about one image, several, the frames of a clip, or none (`[]`).

        `earlier`: questions and answers of this dialogue so far; the images belong to its first question. RecordError
        for an image or clip that cannot be used, and where question and images do not fit together.
        """
        alone = isinstance(images, (str, Path, bytes)) or not isinstance(images, Sequence)
        given = cast("Sequence[ImageLike]", [images] if alone else images)
        opened = [image for one in given for image in open_images(one, num_frames)]
        prompt = make_prompt(len(opened), question, earlier=earlier, system=system)
        return self.reply([self.encode(prompt, opened)], max_new_tokens=max_new_tokens)[0].text

    def encode(self, prompt: Conversation, images: Sequence[Image]) -> Encoded:
        """A conversation up to the answer of its last turn; images as for `Family.encode`."""
        return self.family.encode(prompt, images, self.processor, generation=True)

    def reply(self, samples: Sequence[Encoded], *, max_new_tokens: int = 64) -> list[Answer]:
        """The greedy answers to encoded prompts, in one batch."""
        inputs = make_inputs(self.family, self.processor, samples)
        inputs = {name: tensor.to(self.model.device) for name, tensor in inputs.items()}
        return answer_batch(self.model, self.processor, inputs, max_new_tokens=max_new_tokens)


def make_prompt(
    num_images: int, question: str, *, earlier: Sequence[tuple[str, str]] = (), system: str | None = None
) -> Conversation:
    """A conversation that ends with the question; the images come before the text of its first turn."""
    paths = tuple(f"{i}.png" for i in range(num_images))
    said = [*earlier, (question, "")]
    turns = tuple(Turn(images=() if i else paths, user=user, assistant=answer) for i, (user, answer) in enumerate(said))
    return Conversation(id="prompt", source="prompt", conversations=turns, system=system)


def load_model(
    name: str | Path,
    *,
    adapter: str | Path | None = None,
    family: str | None = None,
    precision: Precision = "auto",
    device: Literal["auto", "cpu"] = "auto",
    image_options: Mapping[str, Any] | None = None,
    use_flash_attention: bool = False,
) -> LoadedModel:
    """The model of a run's folder, its final/, a checkpoint, an adapter (its base is found), or a hub id.

    `precision` auto: bfloat16 on a GPU, else float32. `image_options` by name (`{"num_crops": 4}`); by default those
    that it was trained with. UsageError for what is no model, EnvironmentProblem for a missing package or network.
    """
    source = find_source(str(name), adapter=None if adapter is None else Path(adapter), family=family)
    on_gpu = device == "auto" and torch.cuda.is_available()
    if not on_gpu:  # deepspeed, which comes with accelerate, else searches for an accelerator and warns on stdout
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    model, processor = load.load_model(
        source,
        image_options=image_options,
        dtype=precision if precision != "auto" else "bfloat16" if on_gpu else "float32",
        attn_implementation="flash_attention_2" if use_flash_attention else "sdpa",
    )
    model.to(f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if on_gpu else "cpu")
    return LoadedModel(get_family(source.family), model, processor, source)


def open_images(image: ImageLike, num_frames: int = NUM_FRAMES) -> list[Image]:
    """A decoded image, upright; of a clip so many frames of it, through JPEG as training sees them."""
    if not isinstance(image, (str, Path, bytes)):
        return [ImageOps.exif_transpose(image)]
    if isinstance(image, bytes):
        return [open_image(image, where="image")]
    path = Path(image)
    if not path.exists():
        raise UsageError(str(path), "no such file", "Pass an image, a clip, or a folder of them")
    if path.suffix.lower().removeprefix(".") not in CLIP_SUFFIXES:
        return [open_image(path, where=str(path))]
    frames = sample_frames(path, num_frames)[1]
    return [open_image(encode_jpeg(frame.image, JPEG_QUALITY)) for frame in frames]
