"""Merge an adapter into its base: a plain checkpoint under the model's official names, proved to be the same model.

    merged = merge(find_source("runs/x/final"), Path("merged"))
    merged.proof        # Difference: base + adapter against the merged weights, both in float32
    merged.rounded      # Difference: the float32 weights against those that are written (bfloat16)

The sum W + (alpha / r) B A is peft's own (`LoraLayer.merge`), in float32; the checkpoint needs neither peft nor phiv.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from phiv_data.utils.atomic import atomic_folder
from phiv_data.utils.extras import install_hint
from phiv_data.utils.json_files import read_object
from phiv_schemas.errors import EnvironmentProblem, PhivError, UsageError
from phiv_train.checkpoints.base_stamp import stamp_base
from phiv_train.checkpoints.load import load_model
from phiv_train.checkpoints.pickles import without_code
from phiv_train.checkpoints.resolve import Source
from phiv_train.checkpoints.weights import ADAPTER, save_weights
from phiv_train.config import CONFIG_FILE
from phiv_train.families.base import get_family
from phiv_train.inference.probes import Difference, compare, probe

Onto = Literal["original", "4bit"]
# Relative to the largest logit. Sums in another order move float32 logits by about 1e-6; another model by far more.
LARGEST_DIFFERENCE = 1e-3


class MergeFailed(PhivError):
    """The merged model is not the one that base and adapter are together."""

    exit_code = 1


@dataclass(frozen=True, slots=True)
class Merged:
    """What was written, and how far it is from base and adapter: in float32, and as written in `precision`."""

    folder: Path
    adapted: int
    proof: Difference
    rounded: Difference
    precision: str


def merge(source: Source, folder: Path, *, precision: str = "bfloat16", onto: Onto | None = None) -> Merged:
    """Write base plus adapter of `source` as a checkpoint into the new `folder`.

    `onto`: for an adapter that was trained on a 4-bit base, the weights it is added to: the `original` ones, or those
    that it saw, `4bit` and dequantized again. UsageError for a source without an adapter, one whose base has other
    weights now, and where `onto` is needed; MergeFailed, with nothing written, where the merged model differs.
    """
    if source.adapter is None:
        what = "is a whole model, there is no adapter to merge"
        raise UsageError(source.base, what, "Use it as it is; phiv-merge is for runs with --use_lora or --use_qlora")
    if source.base_stamp and source.base_stamp != stamp_base(source.base):
        what = f"was trained on other weights than {source.base} has now"
        raise UsageError(str(source.adapter), what, "Pass --base with the model that it was trained on")
    config = source.adapter / CONFIG_FILE
    of_qlora = read_object(config).get("use_qlora") if config.is_file() else None  # None for another tool's adapter
    if onto == "4bit" and of_qlora is False:
        what = "is for an adapter that was trained on a base in 4 bit (--use_qlora), and this one was not"
        raise UsageError("--onto 4bit", what, "Leave it out")
    if onto is None and of_qlora:
        what = "was trained on a base in 4 bit, which a merged checkpoint does not have"
        hint = (
            "Pass --onto 4bit for the weights that it saw, dequantized (closest to the training), or --onto original"
            " for those of the base (what servers add adapters to)"
        )
        raise UsageError(str(source.adapter), what, hint)
    if onto == "4bit" and not _has_bitsandbytes():
        raise EnvironmentProblem("--onto 4bit", "the bitsandbytes package is missing", install_hint("qlora"))
    with atomic_folder(folder) as unfinished:
        family = get_family(source.family)
        model, processor = load_model(source, dtype="float32", dequantized=onto == "4bit")
        apart = probe(model, family, processor)
        adapted = _add_into_base(model)
        together = probe(model, family, processor)
        proof = compare(apart, together)
        if not proof.logits <= LARGEST_DIFFERENCE * max(proof.largest, 1.0):  # NaN is a failure too
            raise MergeFailed(str(source.adapter), f"merged into {source.base} it is another model: {proof}")
        model.to(getattr(torch, precision))
        in_memory = probe(model, family, processor)
        rounded = compare(together, in_memory)
        if not math.isfinite(rounded.logits):
            raise MergeFailed(str(source.adapter), f"its weights do not fit {precision}", "Pass --precision bfloat16")
        save_weights(family, model, processor, unfinished)
        del model
        with without_code():
            written, own_processor = family.load(str(unfinished), dtype=precision)
        if (difference := compare(in_memory, probe(written, family, own_processor))).logits != 0:
            raise MergeFailed(str(folder), f"what was written is another model: {difference}")
    return Merged(folder, adapted, proof, rounded, precision)


def _add_into_base(model: Any) -> int:
    """Put each adapter's product into the weights it stands beside, and take the wrappers away; how many there were."""
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils import ModulesToSaveWrapper

    wrapped = [(name, module) for name, module in model.named_modules() if isinstance(module, BaseTunerLayer)]
    for name, module in wrapped:
        module.merge(safe_merge=True)
        model.set_submodule(name, module.get_base_layer())
    for name, module in list(model.named_modules()):
        if isinstance(module, ModulesToSaveWrapper):  # trained whole, by another tool
            model.set_submodule(name, module.modules_to_save[ADAPTER])
            wrapped.append((name, module))
    model._hf_peft_config_loaded = False
    del model.peft_config
    model.requires_grad_(False)
    return len(wrapped)


def _has_bitsandbytes() -> bool:
    from transformers.utils import is_bitsandbytes_available

    return bool(is_bitsandbytes_available())
