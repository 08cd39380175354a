"""`Phi3VConfig`: reads and writes the official `config.json` of Phi-3.5-vision (model type `phi3_v`).

It is transformers' own `Phi3Config` (so its decoder layers take it as it is) plus what the image path needs.
The official file differs from what transformers keeps inside in three ways, translated here in both directions:

- the rope type is called `su`; transformers calls it `longrope`, and its own renaming comes too late;
- the sizes of the CLIP tower are not in the file (the original hard-codes ViT-L/14 at 336 pixels), so
  `vision_config` is written only where it differs from that, as in toy models;
- one image takes `<|image|>` (32044) per position here, negative ids in the original; both are understood.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, ClassVar

from transformers import CLIPVisionConfig, Phi3Config
from transformers.configuration_utils import SubConfigSpec

from phiv_schemas.errors import UsageError

# openai/clip-vit-large-patch14-336, hard-coded in the original model code.
CLIP_VIT_L_14_336: dict[str, Any] = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "projection_dim": 768,
    "image_size": 336,
    "patch_size": 14,
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5,
}
EMBD_LAYER: dict[str, Any] = {
    "embedding_cls": "image",
    "hd_transform_order": "sub_glb",
    "projection_cls": "mlp",
    "use_hd_transform": True,
    "with_learnable_separator": True,
}
IMG_PROCESSOR: dict[str, Any] = {
    "image_dim_out": 1024,
    "model_name": "openai/clip-vit-large-patch14-336",
    "name": "clip_vision_model",
    "num_img_tokens": 144,
}
IMAGE_TOKEN_ID = 32044
# Servers such as vLLM read `phi3_v` with Microsoft's own config class, which is named here as the official file
# names it, but by its home on the hub. phiv never follows the pointer.
AUTO_MAP = {
    "AutoConfig": "microsoft/Phi-3.5-vision-instruct--configuration_phi3_v.Phi3VConfig",
    "AutoModelForCausalLM": "microsoft/Phi-3.5-vision-instruct--modeling_phi3_v.Phi3VForCausalLM",
}
# Keys of transformers' base class that say nothing about this model.
_NOT_OFFICIAL = {
    "chunk_size_feed_forward",
    "dtype",
    "id2label",
    "is_encoder_decoder",
    "label2id",
    "output_attentions",
    "output_hidden_states",
    "partial_rotary_factor",
    "problem_type",
    "return_dict",
    "rope_parameters",
    "vision_config",
}


class Phi3VConfig(Phi3Config):  # type: ignore[misc]  # transformers is untyped here
    """Configuration of Phi-3.5-vision. Keyword arguments are the keys of the official `config.json`.

    `vision_config` (a dict or CLIPVisionConfig) overrides the CLIP tower's sizes; `image_token_id` is the id
    that image positions hold. UsageError for an image path the family does not implement.
    """

    model_type = "phi3_v"
    sub_configs_defaults: ClassVar[Any] = {
        "vision_config": SubConfigSpec(config_class=CLIPVisionConfig, init_kwargs=CLIP_VIT_L_14_336)
    }

    vision_config: Any = None  # a dict of CLIP sizes or a CLIPVisionConfig; the latter afterwards
    rope_parameters: Any = None
    embd_layer: Any = None
    img_processor: Any = None
    image_token_id: int | None = IMAGE_TOKEN_ID
    max_position_embeddings: int = 131072
    eos_token_id: int | list[int] | None = 2

    def __post_init__(self, **kwargs: Any) -> None:
        kwargs.pop("_attn_implementation", None)  # the official file says flash_attention_2; the caller decides
        heads, groups = self.num_attention_heads, self.num_key_value_heads
        if self.hidden_size % (2 * heads):  # RoPE turns pairs
            found = f"hidden_size is {self.hidden_size}, not an even multiple of num_attention_heads {heads}"
            raise UsageError("config.json", found)
        if groups is not None and heads % groups:
            found = f"num_attention_heads is {heads}, not a multiple of num_key_value_heads {groups}"
            raise UsageError("config.json", found)
        rope_dims = self.hidden_size // heads // 2
        if "rope_scaling" in kwargs:
            kwargs["rope_scaling"] = _to_longrope(kwargs["rope_scaling"], rope_dims)
        self.rope_parameters = _to_longrope(self.rope_parameters, rope_dims)
        self.embd_layer = {**EMBD_LAYER, **(self.embd_layer or {})}
        self.img_processor = {**IMG_PROCESSOR, **(self.img_processor or {})}
        if self.image_token_id is not None and self.image_token_id >= self.vocab_size:
            self.image_token_id = None  # a toy vocabulary; only negative ids are image positions then
        super().__post_init__(**kwargs)
        if self.rope_parameters["rope_type"] == "longrope":  # transformers warns without it; rope.py does not use it
            self.rope_parameters["factor"] = self.max_position_embeddings / self.original_max_position_embeddings
        _only("partial_rotary_factor", self.rope_parameters.get("partial_rotary_factor", 1.0), 1.0)
        for key, known in EMBD_LAYER.items():
            _only(f"embd_layer.{key}", self.embd_layer[key], known)
        _only("img_processor.name", self.img_processor["name"], IMG_PROCESSOR["name"])
        _only("img_processor.type_feature", self.img_processor.get("type_feature", "patch"), "patch")
        index, layers = self.img_processor.get("layer_idx", -2), self.vision_config.num_hidden_layers
        if not isinstance(index, int) or not -layers - 1 <= index <= layers:
            found = f"img_processor.layer_idx is {index!r}, the CLIP tower has {-layers - 1} to {layers}"
            raise UsageError("config.json", found)
        width = self.vision_config.hidden_size
        if self.img_processor["image_dim_out"] != width:
            found = f"image_dim_out is {self.img_processor['image_dim_out']}, the CLIP tower's hidden_size {width}"
            raise UsageError("config.json", found, "Pass the vision_config these weights were made with")
        if self.img_processor["num_img_tokens"] != self.grid**2:
            found = f"num_img_tokens is {self.img_processor['num_img_tokens']}, the CLIP tower gives {self.grid**2}"
            raise UsageError("config.json", found)

    @property
    def grid(self) -> int:
        """Side of the square of features one crop becomes: 12, half of the CLIP tower's 24 patches."""
        return int(self.vision_config.image_size // self.vision_config.patch_size // 2)

    @property
    def num_vision_layers(self) -> int:
        """CLIP layers that are run: the features are `hidden_states[layer_idx]`, by default all but the last."""
        total, index = self.vision_config.num_hidden_layers, self.img_processor.get("layer_idx", -2)
        return int(index if index >= 0 else total + 1 + index)

    def to_diff_dict(self) -> dict[str, Any]:
        """What `save_pretrained` writes: this configuration in the schema of the official `config.json`."""
        rope = copy.deepcopy(self.rope_parameters)
        out = {k: v for k, v in self.to_dict().items() if k not in _NOT_OFFICIAL and not k.startswith("_")}
        out |= {"architectures": ["Phi3VForCausalLM"], "model_type": self.model_type, "auto_map": AUTO_MAP}
        out["rope_theta"] = rope["rope_theta"]
        out["rope_scaling"] = None
        if rope["rope_type"] == "longrope":
            out["rope_scaling"] = {"type": "su"} | {k: rope[k] for k in ("short_factor", "long_factor")}
        out["torch_dtype"] = str(self.dtype or "float32").removeprefix("torch.")
        vision = {k: getattr(self.vision_config, k) for k in CLIP_VIT_L_14_336}
        if vision != CLIP_VIT_L_14_336:
            out["vision_config"] = vision
        if self.image_token_id in (None, IMAGE_TOKEN_ID):
            del out["image_token_id"]
        return out


def from_plain(config: Mapping[str, Any], clip_config: Mapping[str, Any] | None = None) -> Phi3VConfig:
    """The configuration from the official file's dict, with the CLIP tower's sizes where they are not standard."""
    plain = {k: copy.deepcopy(v) for k, v in config.items() if k not in ("architectures", "model_type", "auto_map")}
    if clip_config is not None:
        plain["vision_config"] = dict(clip_config)
    return Phi3VConfig(**plain)


def _to_longrope(rope: Any, dims: int) -> Any:
    """Rename `su` before transformers looks at the type: its own renaming loses `original_max_position_embeddings`.

    UsageError for any other scaling and for factor lists that are not `dims` long: transformers takes them silently.
    """
    if not rope:
        return None
    if not isinstance(rope, Mapping):
        raise UsageError("config.json", f"rope_scaling is {rope!r}, not an object")
    out = {k: copy.deepcopy(v) for k, v in rope.items() if k != "type"}
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind not in ("default", "longrope", "su"):
        raise UsageError("config.json", f"rope_scaling.type is {kind!r}, only default, longrope, su are implemented")
    if kind == "default":
        return out | {"rope_type": kind}
    for key in ("short_factor", "long_factor"):
        values = rope.get(key)
        if not isinstance(values, list) or not all(isinstance(v, int | float) and v > 0 for v in values):
            raise UsageError("config.json", f"rope_scaling.{key} is no list of positive numbers")
        if len(values) != dims:
            found = f"rope_scaling.{key} has {len(values)} entries, expected {dims} (head_dim / 2)"
            raise UsageError("config.json", found)
    return out | {"rope_type": "longrope"}


def _only(key: str, found: Any, known: Any) -> None:
    if found != known:
        raise UsageError("config.json", f"{key} is {found!r}, only {known!r} is implemented")
