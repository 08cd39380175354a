"""`FAMILY`: Phi-3.5-vision as the trainer sees it. Imports nothing heavy until a model is asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from phiv_schemas import Conversation
from phiv_train.families.base import Encoded, Family, Layout, Part, Size
from phiv_train.families.phi3_vision import collate, encoding
from phiv_train.families.phi3_vision.processor import HUB_ID, Processor

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from phiv_train.families.phi3_vision.modeling import Phi3VForConditionalGeneration


@dataclass(frozen=True, slots=True)
class Phi3Vision:
    """Satisfies `families.base.Family`; see there for what each function promises. `checkpoint`: the published one."""

    name: str = "phi3_vision"
    checkpoint: str = HUB_ID

    def load(
        self,
        path: str,
        *,
        dtype: str = "float32",
        attn_implementation: str = "sdpa",
        quantization: Literal["4bit"] | None = None,
        num_crops: int | None = None,
        **options: Any,
    ) -> tuple[Phi3VForConditionalGeneration, Processor]:
        """`options`: `revision` of a hub repository, `skip_4bit` module names."""
        from phiv_train.families.phi3_vision import checkpoint
        from phiv_train.families.phi3_vision.folder import local_folder

        folder = local_folder(path, options.pop("revision", None))
        processor = Processor.from_folder(folder, num_crops=num_crops)
        model = checkpoint.load(
            folder,
            dtype=dtype,
            attn_implementation=attn_implementation,
            quantization=quantization,
            stop_ids=processor.stop_ids,
            **options,
        )
        return model, processor

    def load_processor(self, path: str, *, num_crops: int | None = None, revision: str | None = None) -> Processor:
        """The processor of a folder or hub id; no weights are fetched or read, and torch is not imported."""
        from phiv_train.families.phi3_vision.folder import local_folder

        return Processor.from_folder(local_folder(path, revision, weights=False), num_crops=num_crops)

    def skeleton(self, path: str) -> Phi3VForConditionalGeneration:
        """The model without weights, on the meta device: names, shapes and parts from config.json alone."""
        import torch

        from phiv_train.families.phi3_vision.checkpoint import read_config
        from phiv_train.families.phi3_vision.folder import local_folder
        from phiv_train.families.phi3_vision.modeling import Phi3VForConditionalGeneration

        with torch.device("meta"):
            return Phi3VForConditionalGeneration(read_config(local_folder(path, weights=False)))

    def save(self, model: Any, processor: Processor, folder: Path) -> None:
        from phiv_train.families.phi3_vision import checkpoint

        checkpoint.save(model, folder, processor)

    def parts(self, model: Any) -> Mapping[str, Part]:
        from phiv_train.families.phi3_vision.parts import parts

        return parts(model)

    def num_image_tokens(self, width: ArrayLike, height: ArrayLike, processor: Processor) -> NDArray[np.int64]:
        return encoding.num_image_tokens(width, height, processor)

    def length(
        self, conversation: Conversation, sizes: Sequence[Size], processor: Processor, *, generation: bool = False
    ) -> int:
        return encoding.length(conversation, sizes, processor, generation=generation)

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


FAMILY: Family = Phi3Vision()
