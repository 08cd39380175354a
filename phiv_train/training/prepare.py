"""Prepares a run from its settings, cheap checks first: data, processor, lengths, plan, device, precision.

prepared = prepare(config)                     # no weights are loaded
prepared.schedule.num_steps, prepared.fitted
"""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch

from phiv_data.formats.recognise import recognise
from phiv_data.storage.dataset import MANIFEST, ConversationDataset, read_manifest
from phiv_data.stores.address import spell_place
from phiv_data.utils.atomic import atomic_write
from phiv_data.utils.extras import install_hint
from phiv_schemas.errors import EnvironmentProblem, UsageError
from phiv_train.batching.bin_packing import Ints
from phiv_train.batching.lengths import Fitted, fit, measure
from phiv_train.batching.plan import Plan, PlanSpec, make_plan
from phiv_train.batching.schedule import Schedule
from phiv_train.checkpoints.resolve import Source, find_source, load_processor
from phiv_train.checkpoints.store import FoundCheckpoint, find_checkpoint
from phiv_train.config import IMAGE_PARTS, TrainConfig
from phiv_train.families.base import Family, Layout, get_family
from phiv_train.training import distributed, launcher

BAD_FILE = "bad_rows.jsonl"
USUAL_FILL = 0.98
"""Share of a pack that rows usually fill; steps are sized by it to hold batch_size rows."""


@dataclass(frozen=True)
class PreparedRun:
    """Everything about a run that is known before weights are loaded.

    `found`: the checkpoint to resume from. `batch_size_per_gpu`: of the schedule, as the run began. `dtype`: name of
    the compute precision.
    """

    config: TrainConfig
    source: Source
    family: Family
    processor: Any
    dataset: ConversationDataset
    selection: Fitted
    found: FoundCheckpoint | None
    schedule: Schedule
    batch_size_per_gpu: int
    on_gpu: bool
    dtype: str
    sharding: str

    @property
    def device(self) -> torch.device:
        """This process's device."""
        return torch.device(f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if self.on_gpu else "cpu")

    @property
    def weights_dtype(self) -> str:
        """Precision of the weights: trained ones are float32, a frozen base takes half of that in bfloat16."""
        return "bfloat16" if self.config.lora and self.dtype == "bfloat16" else "float32"

    @property
    def layout(self) -> Layout:
        """How the family collates a micro-batch."""
        return "packed" if self.config.packing else "right"

    @property
    def num_workers(self) -> int:
        """Encoding processes."""
        return self.config.num_workers if self.config.num_workers is not None else 4 * self.on_gpu


def prepare(config: TrainConfig) -> PreparedRun:
    """Check data and environment and plan the run. PhivError for wrong data, settings or environment."""
    check_splits(config)
    dataset = ConversationDataset(config.data_dir, config.train_split, verify=config.verify)
    if config.eval:
        ConversationDataset(config.eval_dir, config.eval_split, verify=config.verify)
    on_gpu = config.device != "cpu" and torch.cuda.is_available()
    dtype = config.compute_dtype(on_gpu)
    if not config.dry_run:  # it plans runs of other machines too, and says what is missing on this one
        check_precision(config, on_gpu)
        check_trackers(config)
    source = find_source(config.model_name_or_path, family=config.family)
    if source.adapter is not None:
        what = "is an adapter, not a model: a second round on an adapter is not possible yet"
        hint = f"Pass its base, {source.base!r}, or the two merged (phiv-merge)"
        raise UsageError(config.model_name_or_path, what, hint)
    family, processor = get_family(source.family), load_processor(source, image_options=config.image_options)
    # The rows to train on: measured, and within max_length.
    num_rows = None if config.full_train else config.max_train_rows
    cache = None if config.dry_run or launcher.rank() else config.output_dir
    lengths = measure(dataset, family, processor, num_rows=num_rows, on_bad=config.on_bad, cache_dir=cache)
    selection = fit(
        dataset,
        lengths,
        family,
        processor,
        max_length=config.max_length or max(int(lengths.tokens.max()), 1),
        max_image_tokens=config.max_image_tokens,
        on_too_long=config.on_too_long,
    )
    if not selection.lengths.images.any():  # weight decay would only shrink the parts that images alone train
        config = config.model_copy(update={"freeze": tuple(dict.fromkeys((*config.freeze, *IMAGE_PARTS)))})
    found = find_checkpoint(config)
    schedule, batch_size_per_gpu = plan_run(config, selection, found, launcher.world_size())
    planned_only = config.dry_run and config.distributed in ("zero2", "fsdp2")
    chosen = config.distributed if planned_only else distributed.choose_sharding(config, on_gpu)
    return PreparedRun(
        config,
        source,
        family,
        processor,
        dataset,
        selection,
        found,
        schedule,
        batch_size_per_gpu,
        on_gpu,
        dtype,
        chosen,
    )


def check_splits(config: TrainConfig) -> None:
    """UsageError where the split to train on, or the one to evaluate, is not there or has no rows."""
    evaluated = [("--eval_split", config.eval_dir, config.eval_split)] if config.eval else []
    for flag, folder, split in [("--train_split", config.data_dir, config.train_split), *evaluated]:
        is_output = any((folder / name).exists() for name in (MANIFEST, "images.sha256", ".phiv"))
        if folder.is_dir() and not is_output and (raw := recognise(folder)):
            way_out = f"Convert it: phiv-convert {raw.arguments(folder)} --out_dir OUT"
            raise UsageError(str(folder), f"is not converted: {raw.what}", way_out)
        rows = {one.name: one.rows for one in read_manifest(folder).splits}
        if rows.get(split):
            continue
        found = ", ".join(f"{name} of {count} rows" for name, count in rows.items()) or "none"
        what = "has no rows" if split in rows else "is not there"
        hint = f"Pass {flag} NAME with one that has rows"
        if flag == "--eval_split":
            hint += f", --eval_data_dir with another folder, or --no_eval; phiv-split {folder} makes a val of its rows"
        raise UsageError(spell_place(folder), f"the split {split!r} of {flag} {what} (found: {found})", hint)


def check_precision(config: TrainConfig, on_gpu: bool) -> None:
    """PhivError for a precision or a kind of weights that this machine or the packages on it cannot do."""
    dtype = config.compute_dtype(on_gpu)
    if dtype == "float16" and config.use_flash_attention:
        raise UsageError("--use_flash_attention", "does not work in float16 (NaN)", "Use bf16")
    if config.use_flash_attention and find_spec("flash_attn") is None:
        what = "the flash-attn package is missing"
        hint = f"{install_hint('flash')}, or leave the flag out (sdpa)"
        raise EnvironmentProblem("--use_flash_attention", what, hint)
    if config.use_flash_attention and not on_gpu:
        raise EnvironmentProblem("--use_flash_attention", "needs a GPU (none is used)", "Leave the flag out (sdpa)")
    if config.use_qlora and find_spec("bitsandbytes") is None:
        hint = f"{install_hint('qlora')}, or use --use_lora without 4 bit"
        raise EnvironmentProblem("--use_qlora", "the bitsandbytes package is missing", hint)
    if config.lora and find_spec("peft") is None:
        raise EnvironmentProblem("--use_lora", "the peft package is missing", install_hint("train"))
    if dtype == "float16" and not on_gpu:
        raise UsageError("--precision", "float16 needs a GPU (none is used)", "Use bfloat16 or float32")
    if dtype == "bfloat16" and on_gpu and not torch.cuda.is_bf16_supported(including_emulation=False):
        raise UsageError("--bf16", "this GPU has no bfloat16", "Leave it out: float16 is used then")


def check_trackers(config: TrainConfig) -> None:
    """PhivError for a tracker that transformers does not know, or whose package is missing."""
    from transformers.integrations import get_available_reporting_integrations
    from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

    for name in config.report_to:
        if name not in INTEGRATION_TO_CALLBACK:
            known = ", ".join(sorted(INTEGRATION_TO_CALLBACK))
            raise UsageError("--report_to", f"transformers knows no tracker {name!r}", f"It knows {known}")
        if name not in get_available_reporting_integrations():
            raise EnvironmentProblem("--report_to", f"the package of {name} is missing", f"pip install {name}")


def write_left_out_rows(prepared: PreparedRun) -> None:
    """List the rows that were left out before training in `bad_rows.jsonl`, again."""
    path, dataset = prepared.config.output_dir / BAD_FILE, prepared.dataset
    rows = [(row, reason) for reason, numbers in prepared.selection.skipped.items() for row in numbers]
    path.unlink(missing_ok=True)
    if rows:
        with atomic_write(path) as file:
            for row, reason in sorted(rows):
                file.write(json.dumps({"id": dataset.conversation(row).id, "reason": reason}).encode() + b"\n")


def plan_run(
    config: TrainConfig, selection: Fitted, found: FoundCheckpoint | None, world_size: int
) -> tuple[Schedule, int]:
    """The schedule, and the batch_size_per_gpu that it was planned with.

    A run that resumes keeps the packs of its checkpoint. Where batch_size_per_gpu is smaller now, as after a lack of
    memory, each is run in parts; where it is larger, packs stay as they are.
    """
    if found is None:
        return make_schedule(config, selection, world_size), config.batch_size_per_gpu
    begun, now = found.metadata, config.batch_size_per_gpu
    kept = {"packs_per_step": begun.packs_per_step, "batch_size_per_gpu": begun.batch_size_per_gpu}
    schedule = make_schedule(config.model_copy(update=kept), selection, world_size)
    by_tokens = config.packing and config.max_length  # which then is the size of packs, not batch_size_per_gpu
    parts = 1 if by_tokens else math.ceil(begun.batch_size_per_gpu / now)
    return replace(schedule, parts=parts), begun.batch_size_per_gpu


def make_schedule(config: TrainConfig, selection: Fitted, world_size: int) -> Schedule:
    """The plans of all epochs: of num_train_epochs, or as many as max_steps takes."""
    tokens, images = selection.lengths.tokens, selection.lengths.vision_cost
    if not len(selection.rows):
        hint = "Raise --max_length" if any("long" in reason for reason in selection.skipped) else ""
        raise UsageError(spell_place(config.data_dir), f"no row is left to train on ({selection})", hint)
    if (config.packs_per_step or 0) > world_size * len(selection.rows):
        what = f"{config.packs_per_step} packs a step for {len(selection.rows)} rows"
        raise UsageError("--packs_per_step", what, "Use fewer, or leave it out")
    spec = plan_spec(config, tokens[selection.rows], world_size)
    plans: list[Plan] = []
    steps = 0
    while len(plans) < config.num_train_epochs if config.max_steps is None else steps < config.max_steps:
        plans.append(make_plan(tokens, images, spec, epoch=len(plans), rows=selection.rows))
        steps += plans[-1].num_steps
    return Schedule(tuple(plans), config.max_steps)


def plan_spec(config: TrainConfig, tokens: Ints, world_size: int) -> PlanSpec:
    """Sizes of packs and steps, so that a step takes `batch_size` rows: exactly when padded, on average when packed.

    Packed: the fewest packs that hold as many tokens as batch_size rows have on average, each at most `max_length`
    (by default batch_size_per_gpu of the longest rows), and a multiple of the processes. A step takes no more than all
    rows.
    """
    size, per_device = min(config.batch_size, len(tokens)), config.batch_size_per_gpu
    common: dict[str, Any] = {"max_image_tokens": config.max_image_tokens, "seed": config.seed}
    if not config.packing:
        enough = world_size * math.ceil(len(tokens) / (per_device * world_size))
        if not config.packs_per_step and config.batch_size % (per_device * world_size):
            what = f"{config.batch_size} rows do not divide into {world_size} processes of {per_device}"
            hint = "Use a multiple of batch_size_per_gpu times the number of processes"
            raise UsageError("--batch_size", what, hint)
        packs = config.packs_per_step or min(enough, config.batch_size // per_device)
        return PlanSpec(
            packs_per_step=packs, layout="padded", max_tokens=config.max_length, max_rows=per_device, **common
        )
    longest, needed = int(tokens.max()), size * float(tokens.mean()) / USUAL_FILL
    limit = config.max_length or per_device * longest
    packs = config.packs_per_step or world_size * math.ceil(size / rows_per_pack(tokens, limit) / world_size)
    max_tokens = min(limit, max(longest, math.ceil(needed / packs)))
    # Where the longest row alone needs more tokens than batch_size rows, rows are counted as well.
    max_rows = math.ceil(size / packs) if max_tokens * packs > 1.25 * needed else None
    return PlanSpec(packs_per_step=packs, layout="packed", max_tokens=max_tokens, max_rows=max_rows, **common)


def rows_per_pack(tokens: Ints, max_tokens: int, sample: int = 20_000) -> float:
    """Rows that packs of `max_tokens` hold on average, by packing up to `sample` of them.

    >>> rows_per_pack(np.full(100, 30), 100)
    3.0
    """
    some = tokens[:: -(-len(tokens) // sample)]
    some = np.tile(some, -(-100 // len(some)))  # few rows: the odd pack at the end must not count
    packs = make_plan(some, np.zeros_like(some), PlanSpec(packs_per_step=1, max_tokens=max_tokens)).num_packs
    return max(1.0, round(len(some) / packs, 1))
