"""A complete family in one file: SmolVLM at toy size, from transformers' own model and image processor.

Another architecture than Phi-3.5-vision in every respect: a Llama decoder, image tiles with a separator token each,
byte-level text, a chat template of its own. A real one would read its tokenizer from the checkpoint.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from phiv_schemas import UsageError
from phiv_train.families.base import IGNORE, Component, Encoded, Measured, Preview
from phiv_train.families.hub import local_folder
from phiv_train.families.segments import (
    ChatRenderer,
    ChatTemplate,
    check_image_count,
    encode_segments,
    measure_segments,
)

TILE, TOKENS_PER_TILE = 56, 4
TEMPLATE = ChatTemplate(
    begin="<|im_start|>",
    system=("System: ", "<end_of_utterance>\n"),
    user=("User: ", "<end_of_utterance>\n"),
    answer="Assistant: ",
    answer_end="<end_of_utterance>",
    turn_end="\n",
)
PLACES = [f"<row_{row}_col_{column}>" for row in range(1, 9) for column in range(1, 9)]
FAKE, IMAGE, GLOBAL = "<fake_token_around_image>", "<image>", "<global-img>"
SPECIAL_IDS = {
    name: 256 + i
    for i, name in enumerate(["<pad>", "<|im_start|>", "<end_of_utterance>", FAKE, IMAGE, GLOBAL, *PLACES])
}


class ImageOptions(BaseModel):
    model_config = ConfigDict(extra="forbid")

    longest_edge: int | None = Field(None, ge=TILE, le=8 * TILE)


class Bytes:
    """Text as its UTF-8 bytes."""

    @staticmethod
    def encode(text: str) -> list[int]:
        return list(text.encode())


@dataclass(frozen=True)
class Processor:
    longest_edge: int = 2 * TILE

    pad_id = SPECIAL_IDS["<pad>"]
    stop_ids = (SPECIAL_IDS["<end_of_utterance>"],)

    @property
    def spec_hash(self) -> str:
        return hashlib.sha256(repr((self, TEMPLATE, SPECIAL_IDS)).encode()).hexdigest()

    @property
    def image_options(self) -> dict[str, int]:
        return {"longest_edge": self.longest_edge}

    @cached_property
    def renderer(self) -> ChatRenderer:
        return ChatRenderer(TEMPLATE, SPECIAL_IDS, Bytes.encode)

    def decode(self, ids: Sequence[int]) -> str:
        stop = next((i for i, token in enumerate(ids) if token in self.stop_ids), len(ids))
        return bytes(token for token in ids[:stop] if token < 256).decode(errors="replace")

    def text(self, ids: Sequence[int]) -> str:
        names = {id_: name for name, id_ in SPECIAL_IDS.items()}
        runs = [(name, list(run)) for name, run in groupby(ids, key=names.get)]
        return "".join(bytes(run).decode(errors="replace") if name is None else name * len(run) for name, run in runs)

    def pieces(self, ids: Sequence[int]) -> list[str]:
        return [self.text([id_]) for id_ in ids]

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "preprocessor_config.json").write_text(json.dumps(self.image_options))

    def grid(self, width: int, height: int) -> tuple[int, int]:
        """(rows, columns) of tiles, (0, 0) for an image that is one tile: the image processor's own arithmetic."""
        from transformers.models.smolvlm.image_processing_pil_smolvlm import get_resize_output_image_size

        height, width = get_resize_output_image_size(
            np.broadcast_to(np.uint8(0), (3, height, width)), self.longest_edge
        )
        aspect = width / height
        if width >= height:
            width = math.ceil(width / TILE) * TILE
            height = math.ceil(int(width / aspect) / TILE) * TILE
        else:
            height = math.ceil(height / TILE) * TILE
            width = math.ceil(int(height * aspect) / TILE) * TILE
        return (height // TILE, width // TILE) if max(height, width) > TILE else (0, 0)

    def image_ids(self, rows: int, columns: int) -> list[int]:
        """The tokens of an image: tiles by their places, a newline after each row, then the whole image as a tile."""
        fake, tile, newline = SPECIAL_IDS[FAKE], [SPECIAL_IDS[IMAGE]] * TOKENS_PER_TILE, Bytes.encode("\n")
        ids: list[int] = []
        for row in range(1, rows + 1):
            for column in range(1, columns + 1):
                ids += [fake, SPECIAL_IDS[f"<row_{row}_col_{column}>"], *tile]
            ids += newline
        return [*ids, *(newline if rows else []), fake, SPECIAL_IDS[GLOBAL], *tile, fake]


class SmolVLM:
    name = default_model = "smolvlm_toy"
    model_types = ("smolvlm",)
    image_options = ImageOptions
    # The norm's output is the last hidden state; one row of logits is the least the model computes.
    forward_options: Mapping[str, Any] = {"output_hidden_states": True, "logits_to_keep": 1}

    def load(
        self,
        path: str,
        *,
        dtype: str = "float32",
        attn_implementation: str = "sdpa",
        quantization: str | None = None,
        image_options: Mapping[str, Any] | None = None,
    ) -> tuple[Any, Processor]:
        import torch
        from transformers import SmolVLMForConditionalGeneration

        if quantization is not None:
            raise UsageError("quantization", "a toy has no 4-bit weights", "Leave it out")
        if path == self.name:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                model = SmolVLMForConditionalGeneration._from_config(
                    toy_config(), attn_implementation=attn_implementation
                )
            model = model.to(getattr(torch, dtype))
        else:
            model = SmolVLMForConditionalGeneration.from_pretrained(
                local_folder(path), dtype=dtype, attn_implementation=attn_implementation
            )
        return with_blank_images(model.eval()), self.load_processor(path, image_options=image_options)

    def load_processor(self, path: str, *, image_options: Mapping[str, Any] | None = None) -> Processor:
        if path == self.name:
            return Processor(**(image_options or {}))
        saved = json.loads((local_folder(path, weights=False) / "preprocessor_config.json").read_text())
        return Processor(**saved | dict(image_options or {}))

    def skeleton(self, path: str) -> Any:
        import torch
        from transformers import SmolVLMConfig, SmolVLMForConditionalGeneration

        config = toy_config() if path == self.name else SmolVLMConfig.from_pretrained(local_folder(path, weights=False))
        with torch.device("meta"):
            return with_blank_images(SmolVLMForConditionalGeneration(config))

    def save(self, model: Any, processor: Processor, folder: Path) -> None:
        model.save_pretrained(folder)
        processor.save(folder)

    def components(self, model: Any) -> dict[str, Component]:
        import torch

        linear = [name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)]
        prefixes = {
            "vision": ("model.vision_model.",),
            "projector": ("model.connector.",),
            "embeddings": ("model.text_model.embed_tokens.",),
            "language": ("model.text_model.layers.", "model.text_model.norm."),
            "head": ("lm_head.",),
        }
        return {
            name: Component(own, tuple(module for module in linear if module.startswith(own)))
            for name, own in prefixes.items()
        }

    def measure(self, conversation: Any, sizes: Any, processor: Processor, *, generation: bool = False) -> Measured:
        grids = [processor.grid(*size) for size in sizes]
        images = [processor.image_ids(*grid) for grid in grids]
        segments = processor.renderer.segments(conversation, images, generation=generation)
        tiles = sum(rows * columns + 1 for rows, columns in grids)
        return measure_segments(segments, generation=generation, vision_cost=tiles * TOKENS_PER_TILE)

    def encode(self, conversation: Any, images: Any, processor: Processor, *, generation: bool = False) -> Encoded:
        from transformers.models.smolvlm.image_processing_pil_smolvlm import SmolVLMImageProcessorPil

        check_image_count(conversation, len(images))
        process = SmolVLMImageProcessorPil(
            size={"longest_edge": processor.longest_edge}, max_image_size={"longest_edge": TILE}
        )
        tiles, grids = [np.empty((0, 3, TILE, TILE), np.float32)], []
        for image in images:
            done = process([[image.convert("RGB")]], return_tensors="np", return_row_col_info=True)
            tiles.append(done["pixel_values"][0].astype(np.float32))
            grids.append((done["rows"][0][0], done["cols"][0][0]))
        image_ids = [processor.image_ids(*grid) for grid in grids]
        segments = processor.renderer.segments(conversation, image_ids, generation=generation)
        media = {"pixel_values": np.concatenate(tiles), "grids": np.array(grids, np.int64).reshape(-1, 2)}
        return encode_segments(conversation.id, segments, media, generation=generation)

    def collate(self, samples: Sequence[Encoded], processor: Processor, *, layout: str = "packed") -> dict[str, Any]:
        import torch

        if layout == "packed":
            batch: dict[str, Any] = {
                "input_ids": np.concatenate([s.input_ids for s in samples])[None],
                "labels": np.concatenate([s.labels for s in samples])[None],
                "position_ids": np.concatenate([np.arange(len(s)) for s in samples])[None],
            }
        else:
            shape = len(samples), max(map(len, samples))
            fill = {"input_ids": processor.pad_id, "labels": IGNORE, "position_ids": 0, "attention_mask": 0}
            batch = {name: np.full(shape, value, np.int64) for name, value in fill.items()}
            for row, sample in enumerate(samples):
                own = slice(shape[1] - len(sample), None) if layout == "left" else slice(len(sample))
                batch["input_ids"][row, own], batch["labels"][row, own] = sample.input_ids, sample.labels
                batch["position_ids"][row, own], batch["attention_mask"][row, own] = np.arange(len(sample)), 1
        tiles = np.concatenate([s.media["pixel_values"] for s in samples])
        if len(tiles):
            batch["pixel_values"] = tiles[None]
        return {name: torch.from_numpy(array) for name, array in batch.items()}

    def hidden_states(self, outputs: Any) -> Any:
        return outputs.hidden_states[-1]

    def generation_inputs(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in batch.items() if name not in ("labels", "position_ids")}

    def run_vision_on_text(self, model: Any, enabled: bool) -> bool:
        before: bool = model.run_vision_on_text
        model.run_vision_on_text = enabled
        return before

    def preview(self, encoded: Encoded, processor: Processor) -> list[Preview]:
        """The whole image as its last tile shows it, and the grid of the others."""
        from PIL.Image import fromarray

        ends = [rows * columns + 1 for rows, columns in encoded.media["grids"].tolist()]
        last = encoded.media["pixel_values"][np.cumsum(ends, dtype=np.int64) - 1]
        pixels = np.rint((last * 0.5 + 0.5) * 255).clip(0, 255).astype(np.uint8).transpose(0, 2, 3, 1)
        grids = encoded.media["grids"].tolist()
        return [
            Preview(fromarray(p), (columns, rows) if rows else None)
            for p, (rows, columns) in zip(pixels, grids, strict=True)
        ]


def toy_config() -> Any:
    from transformers import SmolVLMConfig

    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    vocabulary = {"vocab_size": 256 + len(SPECIAL_IDS), "pad_token_id": SPECIAL_IDS["<pad>"]}
    return SmolVLMConfig(
        text_config={"model_type": "llama", "initializer_range": 0.1, **sizes, **vocabulary},
        vision_config={"image_size": TILE, "patch_size": 14, **sizes},
        image_token_id=SPECIAL_IDS[IMAGE],
    )


def with_blank_images(model: Any) -> Any:
    """While `model.run_vision_on_text`, a batch without images runs a blank one and adds it times zero."""

    def run_blank(module: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        import torch

        if model.run_vision_on_text and kwargs.get("pixel_values") is None and kwargs.get("input_ids") is not None:
            embeds = module.get_input_embeddings()(kwargs.pop("input_ids"))
            blank = torch.ones(1, 1, 3, TILE, TILE, dtype=embeds.dtype, device=embeds.device)
            features = torch.cat(module.get_image_features(blank, return_dict=True).pooler_output)
            kwargs["inputs_embeds"] = embeds + 0 * features.sum().to(embeds.dtype)
        return args, kwargs

    model.run_vision_on_text = False
    model.model.register_forward_pre_hook(run_blank, with_kwargs=True)
    return model


FAMILY = SmolVLM()
