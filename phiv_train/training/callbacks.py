"""Trainer callbacks: the metrics log, the progress bar, stopping on a signal or a non-finite loss, the gradient audit.

None of them changes what is computed.
"""

from __future__ import annotations

import json
import math
import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn
from transformers import TrainerCallback

from phiv_data.utils.atomic import atomic_write, environment_problems
from phiv_data.utils.signals import on_stop
from phiv_data.utils.terminal import say
from phiv_schemas.errors import UsageError
from phiv_train.training.trainable import GradientAudit

METRICS_FILE = "metrics.jsonl"


class MetricsLog(TrainerCallback):  # type: ignore[misc]  # transformers is untyped here
    """`metrics.jsonl`: one line per log step, `step` first. A resumed run drops the lines after its checkpoint."""

    def __init__(self, output_dir: Path) -> None:
        self.path = output_dir / METRICS_FILE

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if not state.is_world_process_zero or not self.path.is_file():
            return
        kept: list[bytes] = []
        for line in self.path.read_bytes().splitlines(keepends=True):
            with suppress(ValueError, KeyError, TypeError):  # a line that was cut has no step
                if state.global_step and float(json.loads(line)["step"]) <= state.global_step:
                    kept.append(line)
        with atomic_write(self.path) as file:
            file.write(b"".join(kept))

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        if state.is_world_process_zero and logs:
            with environment_problems(self.path), self.path.open("a", encoding="utf-8") as file:
                # JSON cannot hold the infinite gradient norm of a float16 step that was skipped.
                line = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in logs.items()}
                file.write(json.dumps({"step": state.global_step, **line}, allow_nan=False) + "\n")


class ProgressBar(TrainerCallback):  # type: ignore[misc]  # transformers is untyped here
    """A bar on stderr with the time left, the loss and tokens/s. (transformers' own writes its logs to stdout.)"""

    def __init__(self) -> None:
        self.bar: Any = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.is_world_process_zero:
            from tqdm import tqdm

            self.bar = tqdm(
                total=state.max_steps, initial=state.global_step, unit="step", desc="train", file=sys.stderr
            )

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self.bar is not None:
            self.bar.update(state.global_step - self.bar.n)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        if self.bar is not None and logs and "loss" in logs:
            shown = {"loss": f"{logs['loss']:.4f}", "tok/s": f"{logs.get('tokens_per_s', 0):.0f}"}
            self.bar.set_postfix(shown, refresh=False)

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self.bar is not None:
            self.bar.close()


class LogLines(TrainerCallback):  # type: ignore[misc]  # transformers is untyped here
    """A line on stderr per log step, where a bar would make one endless line: in files, or with `--no_tqdm`."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._first_step, self._start_s = state.global_step, time.monotonic()

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        if not state.is_world_process_zero or not logs or "loss" not in logs:
            return
        done, left = state.global_step - self._first_step, state.max_steps - state.global_step
        minutes = (time.monotonic() - self._start_s) / max(done, 1) * left / 60
        say(
            f"phiv-train: step {state.global_step} of {state.max_steps}: loss {logs['loss']:.4f},"
            f" learning rate {logs.get('learning_rate', 0):.3g}, {logs.get('tokens_per_s', 0):.0f} tokens/s,"
            f" {minutes:.0f} min left",
            to=sys.stderr,
        )


class StopOnNonFinite(TrainerCallback):  # type: ignore[misc]  # transformers is untyped here
    """UsageError when the loss was not finite since the last check, before it is logged or saved as a checkpoint."""

    def __init__(self, any_rank: Callable[[bool], bool] = bool) -> None:
        self._any_rank = any_rank
        self._is_finite: Tensor | None = None

    def see(self, loss: Tensor) -> None:
        """Note a loss without waiting for the device."""
        finite = torch.isfinite(loss.detach()).all()
        self._is_finite = finite if self._is_finite is None else self._is_finite & finite

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        last = state.global_step >= state.max_steps
        if not (control.should_log or control.should_save or last) or self._is_finite is None:
            return
        if self._any_rank(not bool(self._is_finite)):
            what = f"the loss is not a finite number at step {state.global_step}, or shortly before"
            raise UsageError("training", what, "Lower --learning_rate, or use bfloat16 or float32")
        self._is_finite = None


class StopOnSignal(TrainerCallback):  # type: ignore[misc]  # transformers is untyped here
    """A stop signal ends the run after the current step, with a checkpoint; Ctrl-C once more ends it at once.

    A second signal of another kind changes nothing: clusters send SIGUSR1 or SIGTERM some time before they kill, and
    again meanwhile. `requested`: one came while they were caught. `stopped`: it has ended the training.
    """

    def __init__(self, any_rank: Callable[[bool], bool] = bool) -> None:
        self.requested, self._any_rank = False, any_rank
        self.stopped = False
        self._since = 0.0
        # torchrun's, which hands signals on. Without it nobody would: it dies of SIGUSR1, for one.
        self._agent = os.getppid() if "TORCHELASTIC_RUN_ID" in os.environ else None

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        orphaned = self._agent not in (None, os.getppid())
        # Every rank must stop at the same step, whichever of them got the signal.
        if self._any_rank(self.requested or orphaned) and state.global_step < state.max_steps:
            self.stopped = True
            control.should_save = control.should_training_stop = True

    def catch_signals(self) -> AbstractContextManager[None]:
        """Catch the signals inside the block."""
        return on_stop(self._note)

    def _note(self, signum: int, frame: FrameType | None) -> None:
        if not self.requested:
            self.requested, self._since = True, time.monotonic()
            say("", "phiv-train: stopping after this step, with a checkpoint (Ctrl-C: at once)", to=sys.stderr)
        elif signum == signal.SIGINT and time.monotonic() > self._since + 1:  # not the same one, by another way
            raise KeyboardInterrupt


class AuditFirstStep(TrainerCallback):  # type: ignore[misc]  # transformers is untyped here
    """Fails before the first optimizer step when a trainable tensor has got no gradient."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.audit: GradientAudit | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.audit = GradientAudit(self.model)

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self.audit is not None:
            self.audit.finish()
            self.audit = None


def sum_over_ranks(values: list[float]) -> list[float]:
    """Each number added up over all processes."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return values
    device = "cuda" if torch.distributed.get_backend() == "nccl" else "cpu"
    total = torch.tensor(values, dtype=torch.float64, device=device)
    torch.distributed.all_reduce(total)
    return [float(value) for value in total.tolist()]


def any_rank(flag: bool) -> bool:
    """True if the flag is set in any process."""
    return sum_over_ranks([float(flag)])[0] > 0
