"""One training run from start to end: evaluate, train (or resume), save, evaluate again.

    result = train(config)
    result.stopped, result.steps, result.final      # True when a signal ended it; then the same command resumes

Stop signals: during an evaluation, and before there is anything to save, the run ends at once. During training and
saving it ends after the current step, with a checkpoint.

<output_dir>/final/              the model or adapter, its processor, phiv_config.json
<output_dir>/checkpoint-N/       see checkpoints/store.py
<output_dir>/eval_before.json, eval_after.json, metrics.jsonl, runs/ (TensorBoard)
<output_dir>/.phiv-lock          held while a run writes here
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from phiv_data.storage.dataset import MANIFEST, ConversationDataset
from phiv_data.utils.atomic import TMP_PREFIX, environment_problems, sha256_file
from phiv_data.utils.outputs import check_output_file, check_output_folder, make_output_folder
from phiv_data.utils.terminal import say
from phiv_train.batching.lengths import spread_rows
from phiv_train.batching.loader import EncodedRows, make_loader
from phiv_train.batching.sampler import PlanSampler
from phiv_train.checkpoints.base_stamp import stamp_base
from phiv_train.checkpoints.load import load_model
from phiv_train.checkpoints.store import (
    check_free_space,
    check_run,
    checkpoint_bytes,
    clean_output_dir,
    is_of_run,
    publish,
    remove_on_failure,
    write_metadata,
)
from phiv_train.checkpoints.weights import load_weights, save_weights
from phiv_train.config import IMAGE_PARTS, TrainConfig
from phiv_train.evaluation.generate import evaluate, progress_bar
from phiv_train.evaluation.report import write_result
from phiv_train.presets import warmup_warning
from phiv_train.training import distributed, launcher
from phiv_train.training.callbacks import METRICS_FILE, any_rank
from phiv_train.training.output_lock import lock_output
from phiv_train.training.prepare import BAD_FILE, PreparedRun, prepare, write_left_out_rows
from phiv_train.training.quiet import quiet_libraries
from phiv_train.training.trainable import apply_strategy, part_sizes, trainable_table
from phiv_train.training.trainer import PhivTrainer, Run, refuse_data_parallel, training_arguments

FINAL = "final"
EVAL_BEFORE, EVAL_AFTER = "eval_before.json", "eval_after.json"


@dataclass(frozen=True, eq=False)
class TrainResult:
    """What a run did: the model as it is in memory, finished optimizer steps, and the folder of the final model.

    `stopped`: a signal ended the run before its end; `final` is None where that was before its last step. `model` is
    None where nothing was left to do.
    """

    model: nn.Module | None
    steps: int
    stopped: bool = False
    final: Path | None = None


def train(config: TrainConfig) -> TrainResult:
    """Train as `config` says. PhivError for wrong data, settings or environment, or where another run writes there."""
    quiet_libraries()
    make_output_folder("--output_dir", config.output_dir)
    check_output_folder("--output_dir", config.output_dir / FINAL)
    for name in (EVAL_BEFORE, EVAL_AFTER, METRICS_FILE):
        check_output_file("--output_dir", config.output_dir / name)
    with lock_output(config.output_dir):
        prepared = prepare(config)
        config = prepared.config
        run = Run(
            family=prepared.family,
            processor=prepared.processor,
            parts={},
            schedule=prepared.schedule,
            images_of_row=prepared.selection.lengths.images,
            batch_size_per_gpu=prepared.batch_size_per_gpu,
            sharding=prepared.sharding,
            dtype=getattr(torch, prepared.dtype),
            on_gpu=prepared.on_gpu,
            base=stamp_base(prepared.source.base) if config.lora else "",
        )
        found, folder, start = prepared.found, None, 0
        if found is not None:
            for problem in found.problems:
                _log(f"damaged checkpoint skipped: {problem.where}: {problem.what}")
            check_run(found.folder, found.metadata, config, run.metadata(0))
            folder, start = found.folder, found.metadata.step
        steps, final = run.schedule.num_steps, config.output_dir / FINAL
        if start == steps and is_of_run(final, config, run.metadata(steps)) and _is_evaluated(config):
            _log(f"this run is finished: {steps} steps, {final}. --resume never starts it over")
            return TrainResult(None, steps, final=final)
        # Before there is a process group: transformers' files of a model made on the spot are written by rank 0 alone.
        model, processor = load_model(
            prepared.source,
            image_options=config.image_options,
            dtype=prepared.dtype if config.use_qlora else prepared.weights_dtype,
            attn_implementation=config.attn_implementation,
            quantization="4bit" if config.use_qlora else None,
        )
        if not config.use_qlora:  # bitsandbytes puts 4-bit weights on the device itself
            model.to(prepared.device)
        with distributed.process_group(prepared.on_gpu):
            return _train(prepared, run, model, processor, folder, start)


def _train(
    prepared: PreparedRun, run: Run, model: nn.Module, processor: Any, folder: Path | None, start: int
) -> TrainResult:
    """Evaluate, train from step `start`, of the checkpoint `folder`, save and evaluate; on every rank."""
    config, steps = prepared.config, run.schedule.num_steps
    args = training_arguments(config, run)
    refuse_data_parallel(args)
    if launcher.rank() == 0:
        clean_output_dir(config.output_dir, everything=config.resume == "never")
        if folder is None:
            (config.output_dir / EVAL_AFTER).unlink(missing_ok=True)  # of an earlier run, whose checkpoints are gone
            write_left_out_rows(prepared)
    distributed.wait()
    if folder is None:
        _evaluate(prepared, model, processor, EVAL_BEFORE)
    run = dataclasses.replace(run, parts=prepared.family.components(model))
    apply_strategy(model, run.family, run.parts, config)
    _log_run(prepared, model, run, folder)
    if start < steps:
        trainer = _make_trainer(prepared, model, run, start, args)
        with trainer.stop.catch_signals():
            trainer.train(resume_from_checkpoint=str(folder) if folder else None)
            if trainer.stop.stopped:
                _log(f"stopped after step {trainer.state.global_step}, run the same command to resume")
                return TrainResult(model, trainer.state.global_step, stopped=True)
            _write_final(prepared, run, lambda folder: trainer.save_model(str(folder)))
        if any_rank(trainer.stop.requested):  # during the last save, which ends no earlier for it
            _log("stopped before the evaluation, run the same command for it")
            return TrainResult(model, steps, stopped=True, final=config.output_dir / FINAL)
    else:
        assert folder is not None
        load_weights(model, folder)
        # The run may have died after its last checkpoint; or `final/` was lost since, or is another run's.
        if launcher.rank() == 0 and not is_of_run(config.output_dir / FINAL, config, run.metadata(steps)):
            _write_final(prepared, run, lambda folder: save_weights(run.family, model, run.processor, folder))
    distributed.wait()
    _evaluate(prepared, model, processor, EVAL_AFTER)
    merge = f"; phiv-merge {config.output_dir} --out MERGED" if config.lora else ""
    _log(f"{steps} steps done. Ask it: phiv-predict --model {config.output_dir} IMAGE --question TEXT{merge}")
    return TrainResult(model, steps, final=config.output_dir / FINAL)


def _make_trainer(prepared: PreparedRun, model: nn.Module, run: Run, start: int, args: Any) -> PhivTrainer:
    config = prepared.config
    if prepared.sharding == "fsdp2":
        distributed.shard_fsdp2(model, prepared.device, run.dtype)
    rows = EncodedRows(
        prepared.dataset,
        prepared.family,
        prepared.processor,
        prepared.selection,
        on_bad=config.on_bad,
        bad_file=config.output_dir.absolute() / BAD_FILE,
    )
    rank, world_size = launcher.rank(), launcher.world_size()
    loader = make_loader(
        rows,
        PlanSampler(prepared.schedule, start=start, rank=rank, world_size=world_size),
        layout=prepared.layout,
        num_workers=prepared.num_workers,
        prefetch_factor=config.prefetch_factor,
        pin_memory=prepared.on_gpu,
        seed=config.seed,
    )
    return PhivTrainer(config, run, model, loader, args)


def _write_final(prepared: PreparedRun, run: Run, save: Callable[[Path], None]) -> None:
    """`final/`, written beside its place by `save` and renamed. A collective call if `save` is one."""
    config, output_dir = prepared.config, prepared.config.output_dir
    beside = output_dir / f"{TMP_PREFIX}{FINAL}"
    with remove_on_failure(beside), environment_problems(output_dir / FINAL):
        save(beside)
        if launcher.rank() == 0:
            write_metadata(beside, config, run.metadata(prepared.schedule.num_steps))
            _log(f"saved {publish(beside, output_dir, FINAL)}")


def _evaluate(prepared: PreparedRun, model: nn.Module, processor: Any, name: str) -> None:
    """Evaluate the model as it is in memory and write `name` in the output folder, unless evaluation is off."""
    config = prepared.config
    if not config.eval:
        return
    split = ConversationDataset(config.eval_dir, config.eval_split, verify=config.verify)
    with progress_bar(
        name.removesuffix(".json"), disable=None if config.tqdm and launcher.rank() == 0 else True
    ) as on_batch:
        result = evaluate(
            model,
            prepared.family,
            processor,
            split,
            rows=spread_rows(len(split), config.max_eval_rows).tolist(),
            metric=config.metric,
            batch_size=config.eval_batch_size,
            max_new_tokens=config.max_new_tokens,
            num_workers=prepared.num_workers,
            on_batch=on_batch,
        )
    if launcher.rank() == 0:
        write_result(result, config.output_dir / name, **_eval_settings(config))
        scores = ", ".join(f"{metric} {score:.4f}" for metric, score in result.metrics.items())
        say(f"{name}: {scores} ({len(result.predictions)} questions of {split.split})")
        sys.stdout.flush()


def _eval_settings(config: TrainConfig) -> dict[str, Any]:
    """What an evaluation of this run depends on, besides its weights."""
    return {
        "data_dir": str(config.eval_dir),
        "quantization": "4bit" if config.use_qlora else None,
        "asked_metric": config.metric,
        "max_rows": config.max_eval_rows,
        "data_sha256": sha256_file(ConversationDataset(config.eval_dir, config.eval_split).path / MANIFEST),
    }


def _is_evaluated(config: TrainConfig) -> bool:
    """True when `eval_after.json` is what this run would write again, or evaluation is off."""
    if not config.eval:
        return True
    wanted = _eval_settings(config) | {"split": config.eval_split, "max_new_tokens": config.max_new_tokens}
    try:
        found = json.loads((config.output_dir / EVAL_AFTER).read_text(encoding="utf-8"))["settings"]
        return all(found[name] == value for name, value in wanted.items())
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _log_run(prepared: PreparedRun, model: nn.Module, run: Run, folder: Path | None) -> None:
    """Log on rank 0 what is about to run. EnvironmentProblem where there is no space for its checkpoints."""
    config, schedule = prepared.config, prepared.schedule
    sizes = part_sizes(model, run.parts, config)
    total, trainable = sum(size.total for size in sizes), sum(size.trainable for size in sizes)
    # One more than is kept: the space in which a checkpoint is written, and final/ once the last one is in its place.
    needed = checkpoint_bytes(total, trainable, adapter=config.lora) * (config.save_total_limit + 1)
    check_free_space(config.output_dir, needed)
    plan = schedule.plans[0].summary()
    fill = "" if plan.fill is None else f", {plan.fill:.1%} full"
    _log(f"{config.strategy}, {prepared.sharding}, {prepared.dtype}; {prepared.selection}")
    if not prepared.selection.lengths.images.any():
        _log(f"no row has an image: {', '.join(IMAGE_PARTS)} are frozen")
    of_lora = () if config.lora else ("lora_rank", "lora_alpha_ratio", "lora_alpha", "lora_dropout", "lora_parts")
    fields = TrainConfig.model_fields
    if unused := [f"--{name}" for name in of_lora if getattr(config, name) != fields[name].get_default()]:
        _log(f"{', '.join(unused)} {'does' if len(unused) == 1 else 'do'} nothing without --use_lora or --use_qlora")
    _log(
        f"{schedule.num_steps} steps of {plan.packs_per_step} packs{fill}, {plan.rows_per_step:.1f} rows a step,"
        f" {schedule.epoch_after(schedule.num_steps):.4g} epochs; the largest pack has {plan.max_pack_tokens} tokens"
    )
    if launcher.rank() == 0:
        say(*trainable_table(sizes).splitlines(), to=sys.stderr)
    if abs(plan.rows_per_step - config.batch_size) > 0.2 * config.batch_size:
        _log(f"a step takes {plan.rows_per_step:.1f} rows on average, not batch_size {config.batch_size}")
    warmup = config.num_warmup_steps(schedule.num_steps)
    if config.warmup_steps is None and (line := warmup_warning(schedule.num_steps, warmup)):
        _log(line)
    if folder is not None:
        _log(f"resuming from {folder}")
        if (begun := prepared.batch_size_per_gpu) != (now := config.batch_size_per_gpu):
            how = f"each pack is run in {schedule.parts} parts" if schedule.parts > 1 else "packs stay as they are"
            _log(f"the run was begun with batch_size_per_gpu {begun}, now {now}: {how}")


def _log(line: str) -> None:
    if launcher.rank() == 0:
        say(f"phiv-train: {line}", to=sys.stderr)
