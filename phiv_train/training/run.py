"""One training run from start to end: evaluate, train (or go on), save, evaluate again.

train(config)        # exit code

<output_dir>/final/              the model or adapter, its processor, phiv_config.json
<output_dir>/checkpoint-N/       see checkpoints.py
<output_dir>/eval_before.json, eval_after.json, metrics.jsonl, runs/ (TensorBoard)
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from phiv_data.utils.atomic import TMP_PREFIX, environment_problems
from phiv_schemas.errors import EXIT_INTERRUPTED, EXIT_OK, UsageError
from phiv_train.batching.loader import EncodedRows, make_loader
from phiv_train.batching.sampler import PlanSampler
from phiv_train.checkpoints.resolve import load_model
from phiv_train.checkpoints.store import (
    check_free_space,
    check_stamp,
    checkpoint_bytes,
    clean,
    find_checkpoint,
    is_of_run,
    left_aside,
    publish,
    write_stamp,
    written_beside,
)
from phiv_train.checkpoints.weights import load_weights, save_weights
from phiv_train.config import IMAGE_PARTS, TrainConfig
from phiv_train.presets import warmup_warning
from phiv_train.training import distributed as sharding
from phiv_train.training.quiet import quiet_libraries
from phiv_train.training.setup import BAD_FILE, Prepared, note_left_out, open_split, prepare
from phiv_train.training.trainable import Parts, apply_strategy, part_sizes, trainable_table
from phiv_train.training.trainer import PhivTrainer, Run, refuse_data_parallel, training_arguments

FINAL = "final"


def train(config: TrainConfig) -> int:
    """Train as `config` says; 0, or 130 when a signal stopped it. PhivError for what is wrong."""
    quiet_libraries()
    make_output_dir(config)
    prepared = prepare(config)
    start, folder = _start(prepared)
    # Before there is a process group: transformers' files of a model made on the spot are written by rank 0 alone.
    model, processor = _load(prepared)
    args = training_arguments(config, _run(prepared, {}))
    refuse_data_parallel(args)
    with _process_group():
        if sharding.rank() == 0:
            clean(config.output_dir, everything=config.resume == "never")
            if folder is None:
                note_left_out(prepared)
        _wait()
        if folder is None:
            _evaluate(prepared, model, processor, "eval_before.json")
        parts = prepared.family.components(model)
        apply_strategy(model, prepared.family, parts, prepared.config)
        _announce(prepared, model, parts, folder)
        if start < prepared.schedule.num_steps:
            trainer = _trainer(prepared, model, parts, start, args)
            trainer.train(resume_from_checkpoint=str(folder) if folder else None)
            if trainer.stopped:
                _say(f"stopped after step {trainer.state.global_step}, run the same command to go on")
                return EXIT_INTERRUPTED
            _save_final(prepared, trainer)
        else:
            assert folder is not None
            load_weights(model, folder)
            _save_lacking_final(prepared, model)
        _evaluate(prepared, model, processor, "eval_after.json")
    return EXIT_OK


def _start(prepared: Prepared) -> tuple[int, Path | None]:
    """`(finished steps, checkpoint)`: where to begin."""
    folder = find_checkpoint(prepared.config)
    for problem in left_aside(prepared.config):
        _say(f"left aside: {problem.where}: {problem.what}")
    if folder is None:
        return 0, None
    return check_stamp(folder, prepared.config, _run(prepared, {}).stamp(0)).step, folder


def _run(prepared: Prepared, parts: Parts) -> Run:
    return Run(
        family=prepared.family,
        processor=prepared.processor,
        parts=parts,
        schedule=prepared.schedule,
        images_of_row=prepared.fitted.lengths.images,
        sharding=prepared.sharding,
        dtype=getattr(torch, prepared.dtype),
        on_gpu=prepared.on_gpu,
    )


def _load(prepared: Prepared) -> tuple[nn.Module, Any]:
    """Model and processor, on this process's device."""
    config = prepared.config
    model, processor = load_model(
        prepared.source,
        image_options=config.image_options,
        dtype=prepared.dtype if config.use_qlora else prepared.weights_dtype,
        attn_implementation=config.attn_implementation,
        quantization="4bit" if config.use_qlora else None,
    )
    if not config.use_qlora:
        model.to(prepared.device)
    return model, processor


def _trainer(prepared: Prepared, model: nn.Module, parts: Parts, start: int, args: Any) -> PhivTrainer:
    config = prepared.config
    if prepared.sharding == "fsdp2":
        sharding.shard_fsdp2(model, prepared.device, getattr(torch, prepared.dtype))
    rows = EncodedRows(
        prepared.dataset,
        prepared.family,
        prepared.processor,
        prepared.fitted,
        on_bad=config.on_bad,
        bad_file=config.output_dir.absolute() / BAD_FILE,
    )
    place = {"rank": sharding.rank(), "world_size": sharding.world_size()}
    loader = make_loader(
        rows,
        PlanSampler(prepared.schedule, start=start, **place),
        layout="packed" if config.packing else "right",
        num_workers=prepared.num_workers,
        prefetch_factor=config.prefetch_factor,
        pin_memory=prepared.on_gpu,
        seed=config.seed,
    )
    return PhivTrainer(config, _run(prepared, parts), model, loader, args)


def _save_final(prepared: Prepared, trainer: PhivTrainer) -> None:
    _write_final(prepared, lambda folder: trainer.save_model(str(folder)))
    _wait()


def _save_lacking_final(prepared: Prepared, model: nn.Module) -> None:
    """For a run that died after its last checkpoint, or whose `final/` was lost since, or is another run's."""
    config, stamp = prepared.config, _run(prepared, {}).stamp(prepared.schedule.num_steps)
    if sharding.rank() == 0 and not is_of_run(config.output_dir / FINAL, config, stamp):
        _write_final(prepared, lambda folder: save_weights(prepared.family, model, prepared.processor, folder))
    _wait()


def _write_final(prepared: Prepared, save: Callable[[Path], None]) -> None:
    """`final/`, written beside its place by `save` and renamed. A collective call if `save` is one."""
    config, output_dir = prepared.config, prepared.config.output_dir
    beside = output_dir / f"{TMP_PREFIX}{FINAL}"
    with written_beside(beside), environment_problems(output_dir / FINAL):
        save(beside)
        if sharding.rank() == 0:
            write_stamp(beside, config, _run(prepared, {}).stamp(prepared.schedule.num_steps))
            _say(f"saved {publish(beside, output_dir, FINAL)}")


def _evaluate(prepared: Prepared, model: nn.Module, processor: Any, name: str) -> None:
    """Evaluate the model as it is in memory and write `name` in the output folder, unless evaluation is off."""
    config = prepared.config
    if not config.eval:
        return
    from phiv_train.evaluation.generate import evaluate
    from phiv_train.evaluation.report import write_result

    split = open_split(config.data_dir, config.eval_split, config)
    with _bar(config, name) as on_batch:
        result = evaluate(
            model,
            prepared.family,
            processor,
            split,
            rows=range(min(config.max_eval_rows or len(split), len(split))),
            metric=config.metric,
            batch_size=config.eval_batch_size,
            max_new_tokens=config.max_new_tokens,
            num_workers=prepared.num_workers,
            on_batch=on_batch,
        )
    if sharding.rank() == 0:
        write_result(result, config.output_dir / name, quantization="4bit" if config.use_qlora else None)
        scores = ", ".join(f"{metric} {score:.4f}" for metric, score in result.metrics.items())
        sys.stdout.write(f"{name}: {scores} ({len(result.predictions)} questions of {split.split})\n")
        sys.stdout.flush()


def _announce(prepared: Prepared, model: nn.Module, parts: Parts, folder: Path | None) -> None:
    """What is about to happen, on rank 0; and whether there is room for its checkpoints."""
    config, schedule = prepared.config, prepared.schedule
    sizes = part_sizes(model, parts, config)
    total, trainable = sum(size.total for size in sizes), sum(size.trainable for size in sizes)
    # One more than is kept: the room in which a checkpoint is written, and final/ once the last one is in its place.
    needed = checkpoint_bytes(total, trainable, adapter=config.lora) * (config.save_total_limit + 1)
    check_free_space(config.output_dir, needed)
    plan = schedule.plans[0].summary()
    fill = "" if plan.fill is None else f", {plan.fill:.1%} full"
    _say(f"{config.strategy}, {prepared.sharding}, {prepared.dtype}; {prepared.fitted}")
    if not prepared.fitted.lengths.images.any():
        _say(f"no row has an image: {', '.join(IMAGE_PARTS)} are frozen")
    if unused := config.unused_lora_settings:
        _say(f"{', '.join(unused)} {'does' if len(unused) == 1 else 'do'} nothing without --use_lora or --use_qlora")
    _say(
        f"{schedule.num_steps} steps of {plan.packs_per_step} packs{fill}, {plan.rows_per_step:.1f} rows a step;"
        f" the largest pack has {plan.worst_positions} positions"
    )
    if sharding.rank() == 0:
        sys.stderr.write(trainable_table(sizes) + "\n")
    if abs(plan.rows_per_step - config.batch_size) > 0.2 * config.batch_size:
        _say(f"a step takes {plan.rows_per_step:.1f} rows on average, not batch_size {config.batch_size}")
    warmup = config.num_warmup_steps(schedule.num_steps)
    if config.warmup_steps is None and (line := warmup_warning(schedule.num_steps, warmup)):
        _say(line)
    if folder is not None:
        _say(f"going on from {folder}")


def _say(line: str) -> None:
    if sharding.rank() == 0:
        sys.stderr.write(f"phiv-train: {line}\n")


@contextmanager
def _bar(config: TrainConfig, name: str) -> Iterator[Any]:
    """`on_batch` that moves a progress bar on stderr."""
    if not config.tqdm or sharding.rank():
        yield None
        return
    from tqdm import tqdm

    with tqdm(desc=name.removesuffix(".json"), unit="question", file=sys.stderr) as bar:

        def move(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield move


@contextmanager
def _process_group() -> Iterator[None]:
    """Leave the process group in order, when there is one and the run ended in order."""
    yield
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def _wait() -> None:
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.barrier()


def make_output_dir(config: TrainConfig) -> None:
    """The output folder. EnvironmentProblem or UsageError where it cannot be made."""
    folder = config.output_dir
    try:
        with environment_problems(folder):
            folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError("--output_dir", f"{str(folder)!r} cannot be a folder ({error.strerror})") from error
