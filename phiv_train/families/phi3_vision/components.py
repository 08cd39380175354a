"""The model's components by name: what a trainer freezes, trains or wraps with adapters.

`embeddings` is a component of its own on purpose. In the original the token embedding is also a child of the image
embedding, so freezing "vision" there froze the text embedding, the projector and the separators as well.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from phiv_train.families.base import Component

if TYPE_CHECKING:
    from phiv_train.families.phi3_vision.modeling import Phi3VForConditionalGeneration

_VISION = "model.vision_embed_tokens.img_processor."
_CLIP = f"{_VISION}vision_model."
_IMAGE = "model.vision_embed_tokens."
_CLIP_LINEAR = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.out_proj", "mlp.fc1", "mlp.fc2")
_DECODER_LINEAR = ("self_attn.qkv_proj", "self_attn.o_proj", "mlp.gate_up_proj", "mlp.down_proj")


def components(model: Phi3VForConditionalGeneration) -> dict[str, Component]:
    """vision, projector, embeddings, language, head. CLIP layers after the features are `unused`: never train them."""
    config = model.config
    used, total = config.num_vision_layers, config.vision_config.num_hidden_layers
    clip_layers = [f"{_CLIP}encoder.layers.{i}." for i in range(total)]
    return {
        "vision": Component(
            parameters=(_VISION,),
            linear=tuple(layer + name for layer in clip_layers[:used] for name in _CLIP_LINEAR),
            unused=(*clip_layers[used:], f"{_CLIP}post_layernorm."),
        ),
        "projector": Component(
            parameters=(f"{_IMAGE}img_projection.", f"{_IMAGE}glb_GN", f"{_IMAGE}sub_GN"),
            linear=(f"{_IMAGE}img_projection.0", f"{_IMAGE}img_projection.2"),
        ),
        "embeddings": Component(parameters=("model.embed_tokens.weight",)),
        "language": Component(
            parameters=("model.layers.", "model.norm.weight"),
            linear=tuple(
                f"model.layers.{i}.{name}" for i in range(config.num_hidden_layers) for name in _DECODER_LINEAR
            ),
        ),
        "head": Component(parameters=("lm_head.weight",), linear=("lm_head",)),
    }
