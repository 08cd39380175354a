"""Training throughput against a faithful batch-of-one loop of the PhiCookBook recipe: same tiny model, same rows.

    python benchmarks/training_throughput.py [--rows 600] [--num_crops 4] [--rounds 1]

The set is mixed like the recipe's own: 0 to 3 images of many shapes, half of the answers a word or two (a class, yes
or no), half of them texts of up to 300 words. The recipe's side is transformers' Trainer with the recipe's settings:
one row per forward pass, every image padded to num_crops + 1 crops that CLIP runs as well, logits of all positions,
a step after 16 rows. Ours is `PhivTrainer` as phiv-train sets it up: plan, packs, loss over answers. Both checkpoint
activations, take one thread and encode in one worker. Both use sdpa, which is kind to the recipe: it offers eager.

Counted are the real tokens of one epoch, over the time from the first step's start to the last one's end.
"""

from __future__ import annotations

import argparse
import io
import os
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_callback import PrinterCallback

from phiv_data.convert.base import Inputs, Item
from phiv_data.convert.engine import convert
from phiv_data.storage.sample import Draft, EncodedImage, encoded_image
from phiv_schemas import Turn
from phiv_train.batching.loader import EncodedRows, make_loader
from phiv_train.batching.sampler import PlanSampler
from phiv_train.config import TrainConfig
from phiv_train.families.phi3_vision.pixels import pixels_from_crops
from phiv_train.training.prepare import PreparedRun, prepare
from phiv_train.training.quiet import quiet_libraries
from phiv_train.training.trainable import apply_strategy
from phiv_train.training.trainer import PhivTrainer, Run

WORDS = ["a", "cat", "sits", "on", "the", "left", "of", "two", "red", "squares", "and", "one", "ball", "that", "falls"]


def main() -> None:
    """Print both throughputs of every round, and the median ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rows", type=int, default=600)
    parser.add_argument("--num_crops", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--max_length", type=int, default=1280)
    options = parser.parse_args()
    torch.set_num_threads(1)
    quiet_libraries()
    ratios = []
    with tempfile.TemporaryDirectory() as folder:
        convert(MixedSet(options.rows), Path(folder) / "data", num_workers=1)
        prepared = prepare(settings(Path(folder), options.num_crops, options.max_length))
        sys.stdout.write(describe(prepared) + "\n")
        for _ in range(options.rounds):
            ours, recipe = tokens_per_second(packed, prepared), tokens_per_second(one_by_one, prepared)
            ratios.append(ours / recipe)
            sys.stdout.write(f"phiv-train {ours:.0f} tokens/s, recipe {recipe:.0f} tokens/s: {ratios[-1]:.2f}x\n")
    sys.stdout.write(f"median {statistics.median(ratios):.2f}x ({options})\n")


def settings(folder: Path, num_crops: int, max_length: int) -> TrainConfig:
    """Defaults, which are the recipe's, but for what a run on a CPU and a clock ask for."""
    return TrainConfig(
        data_dir=folder / "data",
        output_dir=folder / "run",
        model_name_or_path="tiny",
        num_crops=num_crops,
        max_length=max_length,
        num_workers=1,
        save_steps=0,
        report_to=(),
        tqdm=False,
        eval=False,
        device="cpu",
    )


def describe(prepared: PreparedRun) -> str:
    """The set and its plan in one line."""
    tokens, plan = prepared.selection.lengths.tokens, prepared.schedule.plans[0].summary()
    spread = f"{tokens.min()} to {tokens.max()} tokens, median {np.median(tokens):.0f}"
    return f"{plan.rows} rows of {spread}: {plan.packs} packs, {plan.fill or 0:.1%} full, {plan.steps} steps"


def tokens_per_second(make_trainer: Any, prepared: PreparedRun) -> float:
    """Real tokens of one epoch per second of `make_trainer(prepared)`."""
    trainer, clock = make_trainer(prepared), Clock()
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(clock)
    trainer.train()
    return float(prepared.selection.lengths.tokens.sum() / (clock.end - clock.start))


class Clock(TrainerCallback):  # type: ignore[misc]  # transformers is untyped here
    """From the start of the first step, its batches are there, to the end of the last one."""

    start = end = 0.0

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.start = self.start or time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.end = time.perf_counter()


def packed(prepared: PreparedRun) -> Trainer:
    """phiv-train's trainer, put together as run.py does."""
    config = prepared.config
    config.output_dir.mkdir(parents=True, exist_ok=True)
    model, _ = prepared.family.load(config.model_name_or_path, image_options={"num_crops": config.num_crops})
    parts = prepared.family.components(model)
    apply_strategy(model, prepared.family, parts, config)
    rows = EncodedRows(prepared.dataset, prepared.family, prepared.processor, prepared.selection)
    loader = make_loader(rows, PlanSampler(prepared.schedule), num_workers=prepared.num_workers)
    images = prepared.selection.lengths.images
    return PhivTrainer(
        config, Run(prepared.family, prepared.processor, parts, prepared.schedule, images, 1), model, loader
    )


def one_by_one(prepared: PreparedRun) -> Trainer:
    """transformers' Trainer with the recipe's arguments (finetune_hf_trainer_*.py)."""
    config = prepared.config
    model, _ = prepared.family.load(config.model_name_or_path, image_options={"num_crops": config.num_crops})
    args = TrainingArguments(
        output_dir=str(config.output_dir),
        num_train_epochs=1,
        per_device_train_batch_size=1,
        gradient_accumulation_steps=16,
        activation_checkpointing=True,
        activation_checkpointing_kwargs={"use_reentrant": False},
        optim="adamw_torch",
        adam_beta1=0.9,
        adam_beta2=0.95,
        adam_epsilon=1e-7,
        weight_decay=0.01,
        max_grad_norm=1.0,
        learning_rate=4e-5,
        lr_scheduler_type="linear",
        warmup_steps=50,
        logging_steps=10,
        save_strategy="no",
        remove_unused_columns=False,
        report_to=[],
        disable_tqdm=True,
        dataloader_num_workers=prepared.num_workers,
        dataloader_prefetch_factor=2,
        dataloader_pin_memory=False,
        dataloader_multiprocessing_context="spawn",
        use_cpu=True,
    )
    rows = RecipeRows(EncodedRows(prepared.dataset, prepared.family, prepared.processor))
    return Trainer(model, args, data_collator=only, train_dataset=rows)


@dataclass(frozen=True)
class RecipeRows(Dataset[dict[str, Any]]):
    """Rows as the recipe's single-row collators give them: no mask, images padded to num_crops + 1 crops."""

    rows: EncodedRows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, row: int) -> dict[str, Any]:
        family, processor = self.rows.family, self.rows.processor
        batch = dict(family.collate([self.rows.encode(row)], processor, layout="right"))
        del batch["attention_mask"]
        crops, sizes = batch.pop("crops"), batch.pop("image_sizes")
        if not len(sizes):
            return batch
        pixels = padded(crops, sizes, processor.num_crops + 1)
        return batch | {"pixel_values": pixels, "image_sizes": sizes, "keep_padding_crops": True}


def only(batch: list[dict[str, Any]]) -> dict[str, Any]:
    """The one row of the batch; a function of the module, so that spawned workers find it."""
    (row,) = batch
    return row


def padded(crops: Tensor, sizes: Tensor, width: int) -> Tensor:
    """[N, width, 3, S, S], zeros after an image's own crops."""
    pixels, counts = pixels_from_crops(crops, sizes)
    out = pixels.new_zeros(len(counts), width, *pixels.shape[1:])
    for image, part in zip(out, torch.split(pixels, counts), strict=True):
        image[: len(part)] = part
    return out


@dataclass(frozen=True)
class MixedSet:
    """Options and converter of the synthetic dataset."""

    num_rows: int
    source: Path = Path()
    name: str = "mixed"
    record_source: str = "mixed"
    splits: tuple[str, ...] = ("train", "val", "test")
    synthetic: bool = True

    def identity(self) -> dict[str, Any] | None:
        return None

    def open(self, work_dir: Path) -> MixedSet:
        return self

    def describe(self) -> str:
        return "synthetic"

    def options(self) -> dict[str, Any]:
        return {"num_rows": self.num_rows}

    def versions(self) -> dict[str, str]:
        return {}

    def inputs(self) -> Inputs:
        return Inputs(tuple(Item("train", f"{i:06d}", b"%d" % i, i) for i in range(self.num_rows)))

    def draft(self, item: Item) -> Draft:
        draw = np.random.default_rng(item.payload)
        images = tuple(_image(f"train/{item.key}.{k}.jpg", draw) for k in range(int(draw.integers(0, 4))))
        words = int(draw.integers(1, 3) if draw.random() < 0.5 else np.clip(draw.lognormal(3.0, 1.2), 2, 300))
        answer = " ".join(draw.choice(WORDS, words))
        turn = Turn(images=tuple(i.meta.path for i in images), user="What is shown?", assistant=answer)
        return Draft((turn,), images)


def _image(path: str, draw: np.random.Generator) -> EncodedImage:
    size = int(draw.integers(60, 320)), int(draw.integers(60, 320))
    out = io.BytesIO()
    Image.fromarray(draw.integers(0, 255, (8, 8, 3), np.uint8)).resize(size).save(out, "JPEG")
    return encoded_image(path, out.getvalue(), size=size, format="JPEG")


if __name__ == "__main__":
    main()
