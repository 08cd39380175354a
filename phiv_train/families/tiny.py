"""`tiny`: Phi-3.5-vision's own code with toy sizes and a tokenizer built on the spot, for demos, tests and CI.

    model, processor = build_tiny(seed=0)        # 0.3 M parameters, no file, no network
    model, processor = FAMILY.load("tiny")       # the same; "tiny:7" is another seed, a folder is a saved one

Everything of the real family is walked: HD crops, the CLIP tower and the 2x2 merge, separators, LongRoPE, chunked
BOS. Only sizes differ: crops are 56 pixels (4x4 patches, 2x2 features, so a frame of one crop takes 13 positions,
not 313) and the tokenizer's pieces are characters, UTF-8 bytes and a few words: any text but U+2581 without loss.
"""

from __future__ import annotations

import json
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from phiv_schemas.errors import UsageError
from phiv_train.families import phi3_vision
from phiv_train.families.base import Family, ImageOptions, Quantization
from phiv_train.families.phi3_vision.family import Phi3Vision
from phiv_train.families.phi3_vision.processor import CONTROL_TOKENS, Processor

if TYPE_CHECKING:
    from phiv_train.families.phi3_vision.modeling import Phi3VForConditionalGeneration

CROP_SIZE, PATCH_SIZE, NUM_CROPS = 56, 14, 1


_GRID = CROP_SIZE // PATCH_SIZE // 2
_CHARACTERS = ["▁", "\n", *(chr(code) for code in range(33, 127))]
# These are data: another word is another vocabulary, and other ids for all words after it.
# Words of prompts get a piece of their own: "Classify the video into one of ..." is 9 positions, not 53.
_WORDS = """Classify the video into one of following classes What is in image picture shown Answer briefly Is this
 True False Yes No left right up down"""
# Parts of class names, so that an answer is few positions and most of its loss is about what is seen.
_NAME_PARTS = "Bouncing Ball Falling Rising Triangle Sliding Square Spinning Star Left Right Up Down Move"
_BUILT = ["▁" + word for word in (_WORDS + " " + _NAME_PARTS).split()] + _NAME_PARTS.split()
# The merges that build a word from its characters, left to right.
_MERGES = list(dict.fromkeys((word[:i], word[i]) for word in _BUILT for i in range(1, len(word))))
_PIECES = [
    *("<unk>", "<s>", "</s>"),
    *(f"<0x{byte:02X}>" for byte in range(256)),
    *_CHARACTERS,
    *(left + right for left, right in _MERGES),
]
_VOCAB_SIZE = 640
# Readers number added tokens from the end of the vocabulary on, whatever the file says; <s> is not at that end.
_UNUSED = {"<unused>": len(_PIECES)}


@dataclass(frozen=True, slots=True)
class Tiny(Phi3Vision):
    """Phi3Vision that also builds its own checkpoint: `load("tiny")`, `load("tiny:SEED")`."""

    name: str = "tiny"
    default_model: str = "tiny"
    model_types: tuple[str, ...] = ()  # a saved one is a checkpoint of phi3_vision

    def load_processor(
        self, path: str, *, image_options: ImageOptions | None = None, revision: str | None = None
    ) -> Processor:
        if _is_built(path):
            return tiny_processor(**(image_options or {}))
        return Phi3Vision.load_processor(self, path, image_options=image_options, revision=revision)

    def skeleton(self, path: str) -> Phi3VForConditionalGeneration:
        if not _is_built(path):
            return Phi3Vision.skeleton(self, path)
        model: Phi3VForConditionalGeneration = phi3_vision.build_skeleton(tiny_config())
        return model

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
        """A built one goes through a real checkpoint folder, so that every option means what it always means."""
        with tempfile.TemporaryDirectory() as temporary:
            if _is_built(path):
                match = re.fullmatch(r"tiny(?::(\d+))?", path)
                if match is None:
                    raise UsageError(path, "is not tiny, tiny:SEED or a folder", "Use tiny:7 for the weights of seed 7")
                model, processor = build_tiny(int(match[1] or 0))
                path = temporary + "/checkpoint"
                self.save(model, processor, Path(path))
            return Phi3Vision.load(
                self,
                path,
                dtype=dtype,
                attn_implementation=attn_implementation,
                quantization=quantization,
                image_options=image_options,
                **options,
            )


FAMILY: Family = Tiny()


def build_tiny(
    seed: int = 0, *, num_crops: int = NUM_CROPS, **config: Any
) -> tuple[Phi3VForConditionalGeneration, Processor]:
    """`(model, processor)`: random float32 weights, the same for the same seed. `config` overrides keys of it."""
    import torch

    processor = tiny_processor(num_crops)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = phi3_vision.Phi3VForConditionalGeneration(tiny_config(**config))
    return model, processor


def _is_built(path: str) -> bool:
    """True for `tiny` and `tiny:7`, which are built on the spot; a folder of that name is a folder."""
    return path.partition(":")[0] == "tiny" and not Path(path).is_dir()


def tiny_config(**overrides: Any) -> Any:
    """The toy configuration, in the official schema."""
    ids = control_ids()
    plain = {
        "vocab_size": _VOCAB_SIZE,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "initializer_range": 0.1,  # about 1/sqrt(hidden): with the real 0.02 attention stays flat and learns late
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "max_position_embeddings": 131072,
        "original_max_position_embeddings": 4096,
        "rope_theta": 10000.0,
        "rope_scaling": {
            "type": "su",
            "short_factor": [1.0 + 0.25 * i for i in range(8)],
            "long_factor": [2.0 + 6.0 * i for i in range(8)],
        },
        "sliding_window": 262144,
        "tie_word_embeddings": False,
        "bos_token_id": ids["<s>"],
        "eos_token_id": 2,
        "pad_token_id": ids["<|endoftext|>"],
        "image_token_id": ids["<|image|>"],
        "img_processor": {"name": "clip_vision_model", "image_dim_out": 32, "num_img_tokens": _GRID**2},
    }
    vision = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "projection_dim": 16,
        "image_size": CROP_SIZE,
        "patch_size": PATCH_SIZE,
        "hidden_act": "quick_gelu",
        "layer_norm_eps": 1e-5,
    }
    return phi3_vision.Phi3VConfig(**plain | overrides | {"vision_config": vision})


def control_ids() -> dict[str, int]:
    """Ids of the control tokens: `<s>` is 1 as in the real vocabulary, the others come after all pieces."""
    return {name: 1 if name == "<s>" else len(_PIECES) + i for i, name in enumerate(CONTROL_TOKENS)}


def tiny_processor(num_crops: int = NUM_CROPS) -> Processor:
    """The toy processor; its files have the official names and formats."""
    template = (
        "{% for message in messages %}{{'<|' + message['role'] + '|>' + '\n' + message['content'] + '<|end|>\n' }}"
        "{% endfor %}{% if add_generation_prompt and messages[-1]['role'] != 'assistant' %}"
        "{{- '<|assistant|>\n' -}}{% endif %}"
    )
    names = {"bos_token": "<s>", "eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>", "unk_token": "<unk>"}
    tokenizer = {"tokenizer_class": "PreTrainedTokenizerFast", "chat_template": template, **names}
    preprocessor = {"num_crops": NUM_CROPS, "num_img_tokens": _GRID**2, "crop_size": CROP_SIZE}
    files = {
        "tokenizer.json": json.dumps(_tokenizer(), ensure_ascii=False),
        "tokenizer_config.json": json.dumps(tokenizer, indent=2),
        "preprocessor_config.json": json.dumps(preprocessor, indent=2),
    }
    return Processor.from_files(files, num_crops)


def _tokenizer() -> dict[str, Any]:
    """A `tokenizer.json` of the real one's make: the same normalizer, decoder and byte fallback, but few merges."""
    flags = {"single_word": False, "lstrip": False, "normalized": False, "special": True}
    added = [
        {"id": id_, "content": name, "rstrip": name == "<|assistant|>", **flags} for name, id_ in control_ids().items()
    ]
    space = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    decoders = [
        {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
        {"type": "Strip", "content": " ", "start": 1, "stop": 0},
    ]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}, space]},
        "pre_tokenizer": None,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}},
        },
        "decoder": {"type": "Sequence", "decoders": decoders},
        "model": {
            "type": "BPE",
            "unk_token": "<unk>",
            "fuse_unk": True,
            "byte_fallback": True,
            "vocab": {piece: i for i, piece in enumerate(_PIECES)} | _UNUSED,
            "merges": [list(pair) for pair in _MERGES],
        },
    }
