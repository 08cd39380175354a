"""`PhivTrainer`: transformers' Trainer over a plan of batches, with checkpoints that are complete and exact.

    trainer = PhivTrainer(config, run, model, loader)
    trainer.train(resume_from_checkpoint=str(folder) if folder else None)

It adds the plan's batches, the token-normalised loss, optimizer groups per part, throughput figures, and checkpoints
that are written under a temporary name and renamed. The training loop is transformers' own. `get_train_dataloader`,
`create_optimizer`, `get_batch_samples`, `log`, `save_model` and `floating_point_ops` are its public hooks; the
underscored methods at the end are overridden because it offers none for where and how a checkpoint is written.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.utils.data import DataLoader
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_callback import PrinterCallback, TrainerState

from phiv_data.utils.atomic import TMP_PREFIX, environment_problems
from phiv_data.utils.terminal import say
from phiv_schemas.errors import UsageError
from phiv_train.batching.schedule import Schedule
from phiv_train.checkpoints.pickles import allow_deepspeed_states, report_unreadable, without_code
from phiv_train.checkpoints.store import CheckpointMetadata, prune, publish, remove_on_failure, write_metadata
from phiv_train.checkpoints.weights import check_finite, has_adapter, load_weights, read_weights, save_weights
from phiv_train.config import TrainConfig
from phiv_train.families.base import Family, training_inputs
from phiv_train.training import distributed, launcher
from phiv_train.training.callbacks import (
    AuditFirstStep,
    LogLines,
    MetricsLog,
    ProgressBar,
    StopOnNonFinite,
    StopOnSignal,
    any_rank,
    sum_over_ranks,
)
from phiv_train.training.loss import TokenLoss
from phiv_train.training.throughput import Meter, run_speed
from phiv_train.training.trainable import Parts, parameter_groups

FSDP2_OPTIMIZER = "optimizer_fsdp2.pt"
_GATHER = StateDictOptions(full_state_dict=True, cpu_offload=True)
_SCHEDULERS = {"linear": "linear", "cosine": "cosine", "constant": "constant_with_warmup"}


@dataclass(frozen=True)
class Run:
    """What a run needs besides model and data.

    `images_of_row` int64 [rows]. `batch_size_per_gpu`: of the plan, as the run began. `dtype`: compute precision.
    `base`: stamp of the model that an adapter is trained on.
    """

    family: Family
    processor: Any
    parts: Parts
    schedule: Schedule
    images_of_row: NDArray[np.int64]
    batch_size_per_gpu: int
    sharding: str = "whole"
    dtype: torch.dtype = torch.float32
    on_gpu: bool = False
    base: str = ""

    def metadata(self, step: int) -> CheckpointMetadata:
        """The metadata of this run's checkpoint after `step`."""
        # ZeRO-2's optimizer state is read by as many processes only.
        sharding = f"zero2-x{launcher.world_size()}" if self.sharding == "zero2" else self.sharding
        return CheckpointMetadata(
            step,
            plan=self.schedule.sha256,
            spec=self.processor.spec_hash,
            sharding=sharding,
            packs_per_step=self.schedule.plans[0].spec.packs_per_step,
            batch_size_per_gpu=self.batch_size_per_gpu,
            base=self.base,
        )


def training_arguments(config: TrainConfig, run: Run) -> TrainingArguments:
    """transformers' settings for this run; under torchrun, after the process group has started."""
    steps = run.schedule.num_steps
    saves_every = max(1, -(-steps // 10)) if config.save_steps is None else config.save_steps
    return TrainingArguments(
        output_dir=str(config.output_dir),
        per_device_train_batch_size=1,  # one micro-batch of the plan
        gradient_accumulation_steps=run.schedule.accumulation(launcher.world_size()),
        max_steps=steps,
        learning_rate=config.learning_rate,
        lr_scheduler_type=_SCHEDULERS[config.lr_scheduler],
        warmup_steps=config.num_warmup_steps(steps),
        max_grad_norm=config.max_grad_norm,
        bf16=run.dtype == torch.bfloat16,
        fp16=run.dtype == torch.float16,
        ignore_data_skip=True,  # the loader begins at the right step by itself
        activation_checkpointing=config.gradient_checkpointing,
        # Reentrant checkpoints lose the gradients of adapters on frozen bases.
        activation_checkpointing_kwargs={"use_reentrant": False},
        logging_steps=config.logging_steps,
        logging_first_step=True,
        logging_nan_inf_filter=False,  # it would replace a NaN loss by a made-up one
        save_steps=saves_every or steps,
        report_to=list(config.report_to),
        disable_tqdm=True,
        remove_unused_columns=False,
        label_names=["labels"],
        average_tokens_across_devices=True,
        ddp_find_unused_parameters=False,
        seed=config.seed,
        use_cpu=not run.on_gpu,
        deepspeed=distributed.deepspeed_config(run.sharding, run.on_gpu),
        log_level="error",
        log_level_replica="error",
    )


class PhivTrainer(Trainer):  # type: ignore[misc]  # transformers is untyped here
    """One run. `loader` yields this process's micro-batches of the whole run, in the plan's order.

    UsageError where transformers would use nn.DataParallel. A stop signal while `stop.catch_signals()` ends it early.
    """

    def __init__(
        self,
        config: TrainConfig,
        run: Run,
        model: nn.Module,
        loader: DataLoader[dict[str, Tensor]],
        args: TrainingArguments | None = None,
    ) -> None:
        args = training_arguments(config, run) if args is None else args
        refuse_data_parallel(args)
        self.config, self.run, self.loader = config, run, loader
        self.meter = Meter(sum_over_ranks)
        self.stop = StopOnSignal(any_rank)
        self.finite = StopOnNonFinite(any_rank)
        callbacks = [TrueEpoch(run.schedule), self.finite, MetricsLog(config.output_dir), self.stop]
        callbacks += [AuditFirstStep(model)]
        uses_cache: bool = model.config.use_cache  # type: ignore[union-attr,assignment]  # transformers' model
        super().__init__(
            model=model,
            args=args,
            train_dataset=loader.dataset,
            compute_loss_func=TokenLoss(self._head, run.family.hidden_states),
            callbacks=[*callbacks, ProgressBar() if config.tqdm and sys.stderr.isatty() else LogLines()],
        )
        self.remove_callback(PrinterCallback)
        # transformers switches it off, in every config.json saved from here; training_inputs does it for each batch.
        model.config.use_cache = uses_cache  # type: ignore[union-attr]
        self._plain_model = model
        self._first_step: int = getattr(loader.batch_sampler, "start", 0)
        self._writing: Path | None = None

    def train(self, resume_from_checkpoint: str | bool | None = None, **kwargs: Any) -> Any:
        """As transformers', of a checkpoint that is read as data."""
        if resume_from_checkpoint:
            state = Path(str(resume_from_checkpoint)) / "trainer_state.json"
            with report_unreadable(state):
                TrainerState.load_from_json(str(state))
        with without_code(), allow_deepspeed_states(self.run.sharding == "zero2"):
            return super().train(resume_from_checkpoint, **kwargs)

    # -- public hooks of transformers' Trainer ----------------------------------------------------------------------
    def get_train_dataloader(self) -> DataLoader[dict[str, Tensor]]:
        return self.loader

    optimizer: torch.optim.Optimizer | None

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        if self.optimizer is None:
            config = self.config
            self.optimizer = torch.optim.AdamW(
                parameter_groups(self._plain_model, self.run.parts, config),
                lr=config.learning_rate,
                betas=(config.adam_beta1, config.adam_beta2),
                eps=config.adam_epsilon,
            )
        return self.optimizer

    def get_batch_samples(self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device) -> Any:
        start = time.perf_counter()
        samples, count = super().get_batch_samples(epoch_iterator, num_batches, device)
        self.meter.waited_s += time.perf_counter() - start
        if samples:
            if count is not None and not int(count):
                # All rows of the step are bad ones that --on_bad skip left out.
                what = f"step {self.state.global_step + 1} has no answer to learn from"
                if self.config.on_bad == "error":
                    raise UsageError("training", what)
                if self.args.should_save:
                    say(f"phiv-train: {what}: all of its rows are bad", to=sys.stderr)
                count = torch.ones_like(torch.as_tensor(count))
            place = (self.state.global_step, launcher.rank(), launcher.world_size())
            self.meter.add(self.run.schedule.work(*place, self.run.images_of_row))
        return [training_inputs(self.run.family, sample) for sample in samples], count

    def training_step(self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Tensor:
        loss: Tensor = super().training_step(model, inputs, num_items_in_batch)
        self.finite.see(loss)
        return loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs:
            logs |= self.meter.read()
        if "train_runtime" in logs:
            logs |= run_speed(self.run.schedule, self._first_step, self.state.global_step, logs["train_runtime"])
        super().log(logs, start_time)

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """Not estimated: transformers' formula ignores images, and visits all parameters for every micro-batch."""
        return 0

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Write the model or adapter; to be called by all ranks."""
        folder = Path(output_dir or self.args.output_dir)
        state: dict[str, Any] | None = None
        if self.run.sharding == "fsdp2":  # the whole of it on the CPU of rank 0, elsewhere empty; a collective call
            state = get_model_state_dict(self._plain_model, options=_GATHER)
        if self.args.should_save:
            save_weights(self.run.family, self._plain_model, self.run.processor, folder, state)

    # -- the loss ---------------------------------------------------------------------------------------------------
    def _head(self, hidden: Tensor) -> Tensor:
        """Logits of some hidden states. The loss runs outside `forward`, where autocast is not on by itself."""
        head = self._plain_model.get_output_embeddings()  # type: ignore[operator]  # transformers' model
        half = self.run.dtype in (torch.bfloat16, torch.float16)
        with torch.autocast(hidden.device.type, self.run.dtype) if half else contextlib.nullcontext():
            logits: Tensor = head(hidden)
        return logits

    # -- checkpoints ------------------------------------------------------------------------------------------------
    def _get_output_dir(self, trial: Any) -> str:
        return str(self._writing or self.args.output_dir)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        output_dir, name = Path(self.args.output_dir), f"checkpoint-{self.state.global_step}"
        self._writing = output_dir / f"{TMP_PREFIX}checkpoint"
        try:
            with remove_on_failure(self._writing), environment_problems(output_dir / name):
                super()._save_checkpoint(model, trial)
                self.accelerator.wait_for_everyone()
                if self.args.should_save:
                    write_metadata(self._writing / name, self.config, self.run.metadata(self.state.global_step))
                    publish(self._writing / name, output_dir, name)
                    self._writing.rmdir()
                    prune(output_dir, self.config.save_total_limit)
        finally:
            self._writing = None
        self.accelerator.wait_for_everyone()

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        folder = Path(resume_from_checkpoint)
        if self.run.sharding != "fsdp2":
            load_weights(self._plain_model, folder)
            return
        state: dict[str, Any] = read_weights(folder, self._plain_model) if launcher.rank() == 0 else {}
        check_finite(str(folder), state)
        strict = not has_adapter(self._plain_model)
        options = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True, strict=strict)
        set_model_state_dict(self._plain_model, state, options=options)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if self.run.sharding == "fsdp2":
            state = get_optimizer_state_dict(self._plain_model, self._plain_optimizer(), options=_GATHER)
            if launcher.rank() == 0:
                torch.save(state, Path(output_dir) / FSDP2_OPTIMIZER)
            if self.args.should_save:
                torch.save(self.lr_scheduler.state_dict(), Path(output_dir) / "scheduler.pt")
        else:
            super()._save_optimizer_and_scheduler(output_dir)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None:
            return
        folder = Path(checkpoint)
        if self.run.sharding == "fsdp2":
            # Read on rank 0, for any number of processes.
            file, first = folder / FSDP2_OPTIMIZER, launcher.rank() == 0
            with report_unreadable(file):
                state = torch.load(file, weights_only=True, mmap=True) if first else {}
                options = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)
                set_optimizer_state_dict(self._plain_model, self._plain_optimizer(), state, options=options)
        elif self.run.sharding == "whole":
            with report_unreadable(folder / "optimizer.pt"):
                device = self.args.device if launcher.world_size() > 1 else "cpu"  # as transformers does
                state = torch.load(folder / "optimizer.pt", map_location=device, weights_only=True)
                self._plain_optimizer().load_state_dict(state)
        with report_unreadable(folder / "scheduler.pt"):  # DeepSpeed has read its own optimizer state by now
            self.lr_scheduler.load_state_dict(torch.load(folder / "scheduler.pt", weights_only=True))

    def _load_rng_state(self, checkpoint: str | None) -> None:
        number = f"_{launcher.rank()}" if launcher.world_size() > 1 else ""
        with report_unreadable(Path(checkpoint or "") / f"rng_state{number}.pth"):
            super()._load_rng_state(checkpoint)

    def _plain_optimizer(self) -> torch.optim.Optimizer:
        optimizer: Any = getattr(self.optimizer, "optimizer", self.optimizer)
        assert isinstance(optimizer, torch.optim.Optimizer)
        return optimizer


class TrueEpoch(TrainerCallback):  # type: ignore[misc]  # transformers is untyped here
    """For transformers the whole run is one epoch: epochs of a plan differ in length. Logs the last step too."""

    def __init__(self, schedule: Schedule) -> None:
        self.schedule = schedule

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        state.epoch = self.schedule.epoch_after(state.global_step)
        control.should_log |= state.global_step >= state.max_steps


def refuse_data_parallel(args: TrainingArguments) -> None:
    """UsageError where one process sees several GPUs: nn.DataParallel would cut batches of images apart."""
    if args.n_gpu > 1:
        hint = f"Start with torchrun --nproc_per_node {args.n_gpu}, or show it one GPU (CUDA_VISIBLE_DEVICES=0)"
        raise UsageError("phiv-train", f"one process sees {args.n_gpu} GPUs", hint)
