"""`FAMILY`: Phi-3.5-vision as the trainer sees it. Imports nothing heavy until a model is asked for: names of the
package `phi3_vision` are imported on first use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from phiv_schemas import Conversation
from phiv_train.families import phi3_vision
from phiv_train.families.base import (
    Component,
    Encoded,
    Family,
    ImageOptions,
    Layout,
    Measured,
    Preview,
    Quantization,
    Size,
)
from phiv_train.families.hub import local_folder
from phiv_train.families.phi3_vision import collate, components, encoding
from phiv_train.families.phi3_vision.image_processing import weave
from phiv_train.families.phi3_vision.processor import HUB_ID, Processor

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from phiv_train.families.phi3_vision.modeling import Phi3VForConditionalGeneration


class Phi3ImageOptions(BaseModel):
    """`num_crops`: 336-pixel crops an image may take, 1 to 16."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    num_crops: Annotated[int, Field(ge=1, le=16)] | None = None


@dataclass(frozen=True, slots=True)
class Phi3Vision:
    """Satisfies `families.base.Family`; see there for what each function promises."""

    name: str = "phi3_vision"
    default_model: str = HUB_ID
    model_types: tuple[str, ...] = ("phi3_v",)
    image_options: type[BaseModel] = Phi3ImageOptions

    @property
    def forward_options(self) -> Mapping[str, Any]:
        return {"skip_logits": True}

    def load(
        self,
        path: str,
        *,
        dtype: str = "float32",
        attn_implementation: str = "sdpa",
        quantization: Quantization | None = None,
        image_options: ImageOptions | None = None,
        **options: Any,
    ) -> tuple[Phi3VForConditionalGeneration, Processor]:
        """`options`: `revision` of a hub repository, `skip_4bit` module names."""
        folder = local_folder(path, options.pop("revision", None))
        processor = Processor.from_folder(folder, **(image_options or {}))
        model = phi3_vision.load(
            folder,
            dtype=dtype,
            attn_implementation=attn_implementation,
            quantization=quantization,
            stop_ids=processor.stop_ids,
            **options,
        )
        processor.check_vocabulary(model.config.vocab_size)
        return model, processor

    def load_processor(
        self, path: str, *, image_options: ImageOptions | None = None, revision: str | None = None
    ) -> Processor:
        return Processor.from_folder(local_folder(path, revision, weights=False), **(image_options or {}))

    def skeleton(self, path: str) -> Phi3VForConditionalGeneration:
        """The published model's sizes are the defaults of its configuration: no file is read for them."""
        if path == self.default_model and not Path(path).is_dir():
            config = phi3_vision.Phi3VConfig()
        else:
            config = phi3_vision.read_config(local_folder(path, weights=False))
        model: Phi3VForConditionalGeneration = phi3_vision.build_skeleton(config)
        return model

    def save(self, model: Any, processor: Processor, folder: Path) -> None:
        phi3_vision.save(model, folder, processor)

    def components(self, model: Any) -> Mapping[str, Component]:
        return components.components(model)

    def measure(
        self, conversation: Conversation, sizes: Sequence[Size], processor: Processor, *, generation: bool = False
    ) -> Measured:
        return encoding.measure(conversation, sizes, processor, generation=generation)

    def encode(
        self,
        conversation: Conversation,
        images: Sequence[Image],
        processor: Processor,
        *,
        generation: bool = False,
    ) -> Encoded:
        return encoding.encode(conversation, images, processor, generation=generation)

    def collate(
        self, samples: Sequence[Encoded], processor: Processor, *, layout: Layout = "packed"
    ) -> dict[str, Tensor]:
        return collate.collate(samples, processor, layout=layout)

    def hidden_states(self, outputs: Any) -> Tensor:
        hidden: Tensor = outputs.last_hidden_state
        return hidden

    def generation_inputs(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        # generate counts positions from the mask.
        return {name: tensor for name, tensor in batch.items() if name not in ("labels", "position_ids")}

    def run_vision_on_text(self, model: Any, enabled: bool) -> bool:
        before: bool = model.model.run_vision_on_text
        model.model.run_vision_on_text = enabled
        return before

    def preview(self, encoded: Encoded, processor: Processor) -> list[Preview]:
        """The padded images, put together again from their crops."""
        from PIL.Image import fromarray

        side, sizes = processor.crop_size, encoded.media["image_sizes"]
        ends = np.cumsum((sizes // side).prod(axis=1)).tolist()
        crops = np.split(encoded.media["crops"], ends)
        return [
            Preview(fromarray(weave(own, (height, width))), (width // side, height // side))
            for own, (height, width) in zip(crops, sizes.tolist(), strict=False)
        ]


FAMILY: Family = Phi3Vision()
