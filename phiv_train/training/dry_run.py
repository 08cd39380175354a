"""`phiv-train --dry_run`: what a run would do, before any weight is loaded and without writing anything."""

from __future__ import annotations

from phiv_train.config import TrainConfig
from phiv_train.presets import warmup_warning
from phiv_train.training import launcher
from phiv_train.training.memory import Workload, estimates, gigabytes
from phiv_train.training.prepare import PreparedRun, prepare
from phiv_train.training.trainable import apply_strategy, part_sizes, trainable_table


def report(config: TrainConfig) -> str:
    """Plan, trainable parameters and memory, as text. PhivError as a real run would raise it."""
    prepared = prepare(config)
    config, family = prepared.config, prepared.family
    text = plan_text(prepared)
    # The trainable table of the chosen strategy, and the memory of one process by strategy, the chosen one marked.
    model = family.skeleton(prepared.source.base)
    parts = family.components(model)
    summaries = [plan.summary() for plan in prepared.schedule.plans]
    work = Workload(max(s.max_pack_tokens for s in summaries), max(s.max_pack_image_tokens for s in summaries))
    half, size = prepared.dtype in ("bfloat16", "float16"), launcher.world_size()
    rows = estimates(model, parts, config, work, half=half, sharding=prepared.sharding, world_size=size)
    apply_strategy(model, family, parts, config)
    trainable = trainable_table(part_sizes(model, parts, config))
    columns = ("weights", "gradients", "optimizer", "activations", "total")
    memory = ["memory (estimate)" + "".join(f"{name:>12}" for name in columns)]
    for row in rows:
        cells = "".join(f"{gigabytes(getattr(row, name)):>12}" for name in columns)
        memory.append(f"{'*' if row.strategy == config.strategy else ' '} {row.strategy:15}{cells}")
    return "\n".join([text, "", trainable, "", *memory])


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
        "data": f"{config.data_dir} {config.train_split}: {prepared.selection}",
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
        "precision": f"{prepared.dtype}, weights {prepared.weights_dtype}, {config.attn_implementation}",
    }
    text = "\n".join(f"{name:12} {value}" for name, value in lines.items())
    warning = warmup_warning(schedule.num_steps, warmup) if config.warmup_steps is None else None
    return f"{text}\nnote         {warning}" if warning else text


def _each(values: list[int]) -> str:
    low, high = min(values), max(values)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"
