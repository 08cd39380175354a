"""Phi-3.5-vision, native: transformers' own Phi-3 and CLIP, the official checkpoint, no remote code.

    from phiv_train.families import phi3_vision

    model = phi3_vision.load("microsoft/Phi-3.5-vision-instruct", dtype="bfloat16")
    phi3_vision.save(model, Path("out/final"), processor)

From plain values, with the ORIGINAL tensor names (this is how the golden data is checked, see
`benchmarks/golden_check.py`):

    model = phi3_vision.build_model(
        config,                        # dict, the official config.json
        state_dict,                    # {original name: tensor}; dtype kept
        clip_config,                   # dict of CLIP sizes, None for ViT-L/14-336
        attn_implementation="eager",   # or "sdpa", "flash_attention_2"
    )
    logits = model(input_ids, image_sizes=sizes, pixel_values=pixels).logits     # the original's padded pixels
    logits = model(input_ids, image_sizes=sizes, crops=crops).logits             # uint8 [C, 336, 336, 3]
    features = model.get_image_features(crops, sizes)                            # [rows, hidden]

and the processor from plain arrays:

    crops, (height, width) = phi3_vision.hd_crops(image, num_crops=16)         # uint8 [H, W, 3] or PIL
    pixels = phi3_vision.pixel_values(crops, (height, width))                    # float32 [1 + C, 3, 336, 336]
    processor = phi3_vision.Processor(tokenizer, control_ids, num_crops=4)       # anything with encode and decode
    ids = phi3_vision.official_ids(prompt, image_tokens, processor)              # negative ids at <|image_k|>

`FAMILY` is what the trainer uses. torch and transformers are imported on first use of a name that needs them.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_HOME = {
    "FAMILY": "family",
    "Phi3VConfig": "config",
    "Phi3VForConditionalGeneration": "modeling",
    "Processor": "processor",
    "build_model": "checkpoint",
    "build_skeleton": "checkpoint",
    "hd_crops": "image_processing",
    "load": "checkpoint",
    "official_ids": "encoding",
    "pixel_values": "image_processing",
    "pixels_from_crops": "pixels",
    "read_config": "checkpoint",
    "save": "checkpoint",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
