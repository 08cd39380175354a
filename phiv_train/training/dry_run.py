"""`phiv-train --dry_run`: what a run would do, before any weight is loaded and without writing anything.

It plans runs of other machines too: packages, GPUs and files that a run here would lack are notes at the end.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch

from phiv_data.storage.dataset import ConversationDataset
from phiv_data.stores.address import spell_place
from phiv_schemas.errors import EnvironmentProblem, PhivError
from phiv_train.batching.lengths import spread_rows
from phiv_train.checkpoints.resolve import find_source
from phiv_train.config import TrainConfig
from phiv_train.families.base import Family, get_family
from phiv_train.presets import warmup_warning
from phiv_train.training import distributed, launcher
from phiv_train.training.memory import Workload, estimates, gigabytes
from phiv_train.training.prepare import PreparedRun, check_precision, check_splits, check_trackers, prepare
from phiv_train.training.trainable import apply_strategy, part_sizes, trainable_table


def report(config: TrainConfig) -> str:
    """Plan, trainable parameters and memory, as text. PhivError as a real run would raise it for data and settings."""
    try:
        prepared = prepare(config)
    except EnvironmentProblem as missing:  # the model's small files, on a machine without them and the hub
        return _report_without_lengths(config, missing)
    config = prepared.config
    summaries = [plan.summary() for plan in prepared.schedule.plans]
    work = Workload(max(s.max_pack_tokens for s in summaries), max(s.max_pack_image_tokens for s in summaries))
    tables = model_tables(config, prepared.family, prepared.source.base, work, prepared.sharding)
    return "\n".join([plan_text(prepared), "", *tables, *_notes(config)])


def _report_without_lengths(config: TrainConfig, missing: EnvironmentProblem) -> str:
    """What can be said without the model's tokenizer. `missing`, raised again, where that is nothing."""
    check_splits(config)
    source = find_source(config.model_name_or_path, family=config.family)
    dataset = ConversationDataset(config.data_dir, config.train_split, verify=config.verify)
    rows = len(spread_rows(len(dataset), None if config.full_train else config.max_train_rows))
    steps = config.max_steps or config.num_train_epochs * math.ceil(rows / config.batch_size)
    try:
        tables = model_tables(config, get_family(source.family), source.base, None, config.distributed)
    except EnvironmentProblem:
        raise missing from None
    lines = [
        f"data         {dataset.place} {config.train_split}: {rows} rows",
        f"steps        about {steps}, of {config.batch_size} rows on average",
        f"precision    {_precision(config, config.compute_dtype(torch.cuda.is_available()))}",
        f"not planned  lengths, packs and activations: {missing}",
    ]
    return "\n".join([*lines, "", *tables, *_notes(config)])


def model_tables(
    config: TrainConfig, family: Family, model_name: str, work: Workload | None, sharding: str
) -> Iterator[str]:
    """What is trained, and the memory of one process by strategy, the chosen one marked; without `work` only weights,
    gradients and averages."""
    model = family.skeleton(model_name)
    parts = family.components(model)
    half = config.compute_dtype(torch.cuda.is_available()) in ("bfloat16", "float16")
    counted = work or Workload(0, 0)
    rows = estimates(model, parts, config, counted, half=half, sharding=sharding, world_size=launcher.world_size())
    apply_strategy(model, family, parts, config)
    yield trainable_table(part_sizes(model, parts, config))
    columns = ("weights", "gradients", "optimizer", *(("activations", "total") if work else ()))
    yield "\nmemory (estimate)" + "".join(f"{name:>12}" for name in columns)
    for row in rows:
        cells = "".join(f"{gigabytes(getattr(row, name)):>12}" for name in columns)
        yield f"{'*' if row.strategy == config.strategy else ' '} {row.strategy:15}{cells}"


def _notes(config: TrainConfig) -> Iterator[str]:
    """A line for each thing that keeps this machine from the run."""
    on_gpu = config.device != "cpu" and torch.cuda.is_available()
    for check in (
        lambda: check_precision(config, on_gpu),
        lambda: check_trackers(config),
        lambda: distributed.choose_sharding(config, on_gpu),
    ):
        try:
            check()
        except PhivError as problem:
            yield f"\nnot here     {problem}"


def _precision(config: TrainConfig, dtype: str) -> str:
    there = config.compute_dtype(on_gpu=True)
    return f"{dtype}{'' if there == dtype else f' ({there} on a GPU)'}, {config.attn_implementation}"


def plan_text(prepared: PreparedRun) -> str:
    """The plan in numbers."""
    config, schedule = prepared.config, prepared.schedule
    summaries = [plan.summary() for plan in schedule.plans]
    first = summaries[0]
    accumulation = schedule.accumulation(launcher.world_size())
    warmup = config.num_warmup_steps(schedule.num_steps)
    lengths, rows = prepared.selection.lengths, prepared.selection.rows
    image_share = lengths.image_tokens[rows].sum() / lengths.tokens[rows].sum()
    full = "" if first.fill is None else f"{first.fill:.1%} of the capacity, "
    odd = f"; {first.padding_packs} empty packs complete the last step" if first.padding_packs else ""
    lines = {
        "data": f"{spell_place(config.data_dir)} {config.train_split}: {prepared.selection}",
        "epochs": f"{len(summaries)}, {_each([s.tokens for s in summaries])} tokens per epoch,"
        f" {image_share:.1%} of them images",
        "steps": f"{schedule.num_steps} ({_each([s.steps for s in summaries])} per epoch), {warmup} of them warm-up",
        "a step": f"{first.rows_per_step:.1f} rows on average (batch_size {config.batch_size})"
        f" in {accumulation * launcher.world_size()} packs: {launcher.world_size()} processes x {accumulation}"
        " accumulated",
        "fill": f"{full}{first.padding:.1%} padding{odd}",
        "worst batch": f"{max(s.max_pack_tokens for s in summaries):,} positions,"
        f" {max(s.max_pack_image_tokens for s in summaries):,} of images; it runs first",
        "longest row": f"{max(s.longest_row for s in summaries):,} positions",
        "precision": f"{_precision(config, prepared.dtype)}, weights {prepared.weights_dtype}",
    }
    text = "\n".join(f"{name:12} {value}" for name, value in lines.items())
    warning = warmup_warning(schedule.num_steps, warmup) if config.warmup_steps is None else None
    return f"{text}\nnote         {warning}" if warning else text


def _each(values: list[int]) -> str:
    low, high = min(values), max(values)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"
