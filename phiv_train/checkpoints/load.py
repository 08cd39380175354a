"""Load the model of a source: the base, its adapter put in, and the processor it was trained with.

    source = find_source("out/final")
    model, processor = load_model(source, dtype="bfloat16", image_options={"num_crops": "4"})

It imports torch; which model a name means is found without it, by `checkpoints.resolve`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from phiv_data.utils.image_options import parse_image_options
from phiv_schemas.errors import UsageError
from phiv_train.checkpoints.pickles import report_unreadable, without_code
from phiv_train.checkpoints.resolve import Source
from phiv_train.checkpoints.weights import ADAPTER, check_finite, load_weights
from phiv_train.families.base import get_family


def load_model(
    source: Source, *, image_options: Mapping[str, Any] | None = None, dequantized: bool = False, **options: Any
) -> tuple[Any, Any]:
    """`(model, processor)`, the adapter put in, in eval mode. `options` as for `Family.load`.

    `image_options` by name, as text or values; those that are not given are what the model was trained with.
    `dequantized`: the base's weights are rounded to 4 bit and back, as an adapter of --use_qlora saw them.
    """
    family = get_family(source.family)
    values = parse_image_options(family.name, family.image_options, image_options or {})
    with without_code():
        if dequantized:
            options["quantization"] = "4bit"
        model, processor = family.load(source.base, image_options=values, **options)
    if dequantized:
        model.dequantize(dtype=next(model.parameters()).dtype)
    check_finite(source.base, dict(model.named_parameters()))
    if source.processor != source.base:
        processor = family.load_processor(source.processor, image_options=values)
    if (folder := source.adapter) is not None:
        from peft import LoraConfig, inject_adapter_in_model
        from peft.tuners.tuners_utils import check_target_module_exists

        unused = tuple(prefix for part in family.components(model).values() for prefix in part.unused)
        with report_unreadable(folder / "adapter_config.json"), without_code():
            lora = LoraConfig.from_pretrained(folder)
            if not isinstance(lora, LoraConfig):
                raise UsageError(str(folder), f"holds a {type(lora).__name__}, not a LoRA adapter")
            # Modules that never run are left out, whatever the file says: Microsoft's recipe deletes CLIP's last
            # layer, names its targets by suffix, and so has no tensors for that layer.
            idle = [name for name, _ in model.named_modules() if f"{name}.".startswith(unused)]
            if idle := [name for name in idle if check_target_module_exists(lora, name)]:
                lora.exclude_modules = idle
            inject_adapter_in_model(lora, model, ADAPTER)
        model.peft_config, model._hf_peft_config_loaded = {ADAPTER: lora}, True
        load_weights(model, folder)
    model.eval()
    return model, processor
