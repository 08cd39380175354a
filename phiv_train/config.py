"""`TrainConfig`: every setting of a training run, validated, frozen, and saved beside the checkpoint.

    config = TrainConfig(data_dir=Path("ucf101"), use_lora=True, lora_rank=32)
    config = phiv_train.cli.config.parse(["--recipe", "docvqa-lora", "--config", "run.yaml", "--learning_rate", "1e-4"])
    write_config(config, folder / CONFIG_FILE);  read_config(folder / CONFIG_FILE) == config

A flag overrides the YAML file, which overrides the preset, which overrides the defaults below. Flags of Microsoft's
Phi-3.5-vision recipe (PhiCookBook) keep their spelling, meaning and default; where a meaning is misleading, the
description explains it and names the clearer flag.
"""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, Strict, ValidationError, model_validator

from phiv_data.utils.atomic import atomic_write
from phiv_data.utils.image_options import collect_image_options
from phiv_data.utils.json_files import read_object
from phiv_schemas.errors import UsageError
from phiv_train.spellings import find_setting

if TYPE_CHECKING:
    from typing import Self

CONFIG_FILE = "phiv_config.json"
LaxPath = Annotated[Path, Strict(False)]
Names = Annotated[tuple[str, ...], Strict(False)]
# Trained by images alone: in data without images, weight decay would only shrink them.
IMAGE_PARTS = ("vision", "projector")
Rates = dict[str, Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False)]]


class TrainConfig(BaseModel):
    """Fine-tune a vision-language model on a converted dataset."""

    model_config = ConfigDict(
        strict=True, extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False
    )

    # -- data and model -----------------------------------------------------------------------------------------------
    data_dir: LaxPath
    """Folder of a converted dataset (made by phiv-convert), or its address in an object store: s3://bucket/folder."""
    model_name_or_path: str = "microsoft/Phi-3.5-vision-instruct"
    """Checkpoint folder, hub id, or a family's own name for a model built on the spot (`tiny`, `tiny:7`)."""
    family: str | None = None
    """Model family; by default the one that declares the model_type in the model's config.json."""
    output_dir: LaxPath = Path("output")
    """Folder for checkpoints, logs, evaluations and the final model."""
    train_split: str = "train"
    """Split to train on."""
    verify: Literal["size", "sha256"] = "size"
    """How shards are compared with the manifest before the run; sha256 reads them whole."""
    max_train_rows: Annotated[int, Field(ge=1)] | None = None
    """Train on this many rows only, spread evenly over the split; the same ones every time."""
    full_train: bool = False
    """Train on all rows of the split, even if max_train_rows is set. In Microsoft's recipe it selected DocVQA's full
    set instead of 1,000 pages; here data_dir decides that."""

    # -- batches ------------------------------------------------------------------------------------------------------
    batch_size: Annotated[int, Field(ge=1)] = 16
    """Rows per optimizer step, over all processes. With packing an average, because packs are filled by tokens."""
    batch_size_per_gpu: Annotated[int, Field(ge=1)] = 1
    """Rows per forward pass and process; gradient accumulation does the rest of batch_size, with the same gradient."""
    packing: bool = True
    """Pack several rows into one sequence (a pack, which is one micro-batch); they do not attend to each other. Without
    it rows are padded to the longest."""
    max_length: Annotated[int, Field(ge=16)] | None = None
    """Most tokens (text, image and padding) of one forward pass, and so of one row; it decides the memory needed. By
    default as many as batch_size_per_gpu of the longest rows take."""
    packs_per_step: Annotated[int, Field(ge=1)] | None = None
    """Packs (micro-batches) per optimizer step, over all processes. By default the fewest that hold batch_size rows."""
    max_image_tokens: Annotated[int, Field(ge=1)] | None = None
    """Most image tokens in one forward pass: limits the memory of the vision tower."""
    on_too_long: Literal["error", "skip", "trim_images", "trim_or_skip"] = "error"
    """What to do with rows longer than max_length: stop, skip them, drop some of their images and stop where that is
    not enough, or skip only those. All are counted."""
    on_bad: Literal["error", "skip"] = "error"
    """What to do with rows without an answer and with unreadable images: stop, or skip them and list them in
    bad_rows.jsonl."""
    num_crops: Annotated[int, Field(ge=1, le=16)] | None = None
    """Most crops per image. By default the checkpoint's own (Phi-3.5: 4). Microsoft's recipe uses 16, except for
    UCF-101; the presets keep that."""
    image_option: Names = ()
    """KEY=VALUE: an image option of the family, by default the checkpoint's. May be given several times; --num_crops N
    is num_crops=N."""
    num_train_epochs: Annotated[int, Field(ge=1)] = 1
    """Passes over the data, unless max_steps is given."""
    max_steps: Annotated[int, Field(ge=1)] | None = None
    """Optimizer steps of the run, in place of num_train_epochs; where the data gives fewer, it is gone over again. The
    learning rate schedule ends there too."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 42
    """Order of the data, dropout and adapter weights."""
    num_workers: Annotated[int, Field(ge=0)] | None = None
    """Worker processes that read and encode. By default 4 with a GPU, as in Microsoft's recipe, else none. The batches
    do not depend on it."""
    prefetch_factor: Annotated[int, Field(ge=1)] = 2
    """Batches each worker prepares ahead."""

    # -- optimizer ----------------------------------------------------------------------------------------------------
    learning_rate: Annotated[float, Field(gt=0, le=1e6)] = 4e-5
    """Peak learning rate."""
    part_learning_rates: Rates = Field(default_factory=dict)
    """Peak learning rates of single model parts, as `vision 2e-6 projector 1e-5`."""
    wd: Annotated[float, Field(ge=0)] = 0.01
    """Weight decay of matrices. Biases and norms are not decayed (Microsoft's recipe also decays RMS norms)."""
    adam_beta1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """AdamW: decay rate of the gradient's moving average."""
    adam_beta2: Annotated[float, Field(ge=0, lt=1)] = 0.95
    """AdamW: decay rate of the squared gradient's moving average."""
    adam_epsilon: Annotated[float, Field(gt=0)] = 1e-7
    """AdamW: added to the denominator."""
    max_grad_norm: Annotated[float, Field(ge=0)] = 1.0
    """Gradient clipping: largest norm of all gradients together; 0 switches it off."""
    lr_scheduler: Literal["linear", "cosine", "constant"] = "linear"
    """Learning rate schedule after the warm-up."""
    warmup_steps: Annotated[int, Field(ge=0)] | None = None
    """Steps of linear warm-up. By default 50, as in Microsoft's recipe, but at most a tenth of all steps: a run of
    fewer than 50 steps would never reach its learning rate."""

    # -- strategy -----------------------------------------------------------------------------------------------------
    use_lora: bool = False
    """Train LoRA adapters; the model's own weights are frozen."""
    use_qlora: bool = False
    """LoRA on a base in 4 bit (NF4, bitsandbytes). Sets use_lora."""
    lora_rank: Annotated[int, Field(ge=1)] = 64
    """Rank of the adapters."""
    lora_alpha_ratio: Annotated[float, Field(gt=0)] = 2.0
    """alpha = round(lora_rank * ratio): a ratio, not alpha (rank 32 with `16` here is alpha 512). See lora_alpha."""
    lora_alpha: Annotated[int, Field(ge=1)] | None = None
    """LoRA alpha itself; overrides lora_alpha_ratio."""
    lora_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Dropout before the adapters."""
    lora_parts: Names = ()
    """Model parts that get adapters. By default all that are not frozen."""
    freeze_vision_model: bool = False
    """As in Microsoft's recipe, freezes the vision tower AND the projector, the separators and the text embeddings.
    `--freeze vision` freezes the tower alone."""
    freeze: Names = ()
    """Model parts to freeze: vision, projector, embeddings, language, head."""
    distributed: Literal["auto", "ddp", "zero2", "fsdp2"] = "auto"
    """How several processes share the work. auto: ZeRO-2 for full training on GPUs, as in
    Microsoft's recipe, else DDP."""
    gradient_checkpointing: bool = True
    """Recompute activations in the backward pass: about a third more time, far less memory."""

    # -- precision ----------------------------------------------------------------------------------------------------
    bf16: bool = False
    """Compute in bfloat16. Without it: float16 on a GPU (the default of Microsoft's recipe), float32 on a CPU."""
    use_flash_attention: bool = False
    """flash-attention 2; sets bf16, because float16 gives NaN there. Otherwise PyTorch's sdpa is used."""
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Compute precision; overrides bf16. auto: as bf16 decides."""
    device: Literal["auto", "cpu"] = "auto"
    """auto: a GPU if there is one."""

    # -- running ------------------------------------------------------------------------------------------------------
    resume: str = "auto"
    """auto: resume from the newest complete checkpoint in output_dir; never: start over, and remove the checkpoints and
    logs of earlier runs there; or a checkpoint folder to resume from."""
    save_steps: Annotated[int, Field(ge=0)] | None = None
    """Optimizer steps between checkpoints; 0 saves at the end only. By default ten checkpoints per run."""
    save_total_limit: Annotated[int, Field(ge=1)] = 2
    """Checkpoints kept; older ones are removed once a newer one is complete."""
    logging_steps: Annotated[int, Field(ge=1)] = 10
    """Optimizer steps between log lines."""
    report_to: Names = ("tensorboard",)
    """Trackers of transformers' Trainer (tensorboard, wandb, ...). metrics.jsonl is always written."""
    tqdm: bool = True
    """Progress bars on a terminal. Without (`--no-tqdm`), and in a log file: a line every logging_steps."""
    dry_run: bool = False
    """Print the plan, the trainable parameters and memory estimates; loads no weights and writes nothing."""

    # -- evaluation ---------------------------------------------------------------------------------------------------
    eval: bool = True
    """Evaluate before and after training (`--no_eval` to switch off)."""
    eval_data_dir: LaxPath | None = None
    """Folder of another converted dataset to evaluate on. By default data_dir."""
    eval_split: str = "val"
    """Split to evaluate on."""
    max_eval_rows: Annotated[int, Field(ge=1)] | None = None
    """Evaluate on this many rows only, spread evenly over the split; the same ones every time."""
    eval_batch_size: Annotated[int, Field(ge=1)] = 8
    """Questions answered at once, per process."""
    max_new_tokens: Annotated[int, Field(ge=1)] = 64
    """Longest answer to generate, in tokens."""
    metric: Literal["auto", "accuracy", "accuracy_official", "anls", "anls_official"] = "auto"
    """How answers are scored; auto: anls where questions have several accepted answers, else accuracy."""

    @model_validator(mode="before")
    @classmethod
    def _take_usual_forms(cls, values: Any) -> Any:
        """`--freeze vision,projector` is `--freeze vision projector`, `--report_to none` is no tracker; in a file a
        list may be one name or null, and 3.0 is a whole number."""
        if not isinstance(values, Mapping):
            return values
        usual = dict(values)
        for key in {"freeze", "lora_parts", "report_to", "image_option"} & values.keys():
            names = [values[key]] if isinstance(values[key], str) else values[key] or ()
            if isinstance(names, list | tuple) and all(isinstance(name, str) for name in names):
                parts = names if key == "image_option" else [name for part in names for name in part.split(",")]
                usual[key] = tuple(name for name in parts if name)
        if usual.get("report_to") == ("none",):
            usual["report_to"] = ()
        for key, value in values.items():
            if isinstance(value, float) and value.is_integer() and key in cls.model_fields:
                usual[key] = int(value)
        return usual

    @model_validator(mode="after")
    def _check_combinations(self) -> Self:
        if self.precision == "float16" and self.use_flash_attention:
            raise ValueError("precision float16 does not work with use_flash_attention (NaN); use bfloat16")
        if self.use_qlora and self.distributed in ("zero2", "fsdp2"):
            raise ValueError(f"use_qlora does not work with distributed={self.distributed} (4-bit weights); use ddp")
        if self.lora and not self.lora_alpha and not 0.5 < self.lora_rank * self.lora_alpha_ratio < 2**31:
            raise ValueError(f"lora_alpha_ratio makes alpha {self.lora_rank * self.lora_alpha_ratio:g}; use lora_alpha")
        return self

    # -- derived from the settings ------------------------------------------------------------------------------------
    @property
    def lora(self) -> bool:
        """Adapters are trained, on a plain or a 4-bit base."""
        return self.use_lora or self.use_qlora

    @property
    def image_options(self) -> dict[str, str]:
        """The family's image options by name, `num_crops` among them where it is set. UsageError for wrong pairs."""
        return collect_image_options(self.image_option, self.num_crops)

    @property
    def alpha(self) -> int:
        """LoRA's alpha."""
        return self.lora_alpha or round(self.lora_rank * self.lora_alpha_ratio)

    @property
    def eval_dir(self) -> Path:
        """Folder of the dataset to evaluate on."""
        return self.eval_data_dir or self.data_dir

    @property
    def strategy(self) -> str:
        """full, frozen, lora or qlora: for logs."""
        if self.lora:
            return "qlora" if self.use_qlora else "lora"
        return "frozen" if self.freeze_vision_model or self.freeze else "full"

    @property
    def attn_implementation(self) -> str:
        """Attention backend as transformers names it."""
        return "flash_attention_2" if self.use_flash_attention else "sdpa"

    def compute_dtype(self, on_gpu: bool) -> str:
        """float32, bfloat16 or float16, in which matrices are multiplied."""
        if self.precision != "auto":
            return self.precision
        if self.bf16 or self.use_flash_attention:
            return "bfloat16"
        return "float16" if on_gpu else "float32"

    def num_warmup_steps(self, num_steps: int) -> int:
        """Warm-up steps of a run of `num_steps`."""
        return min(50, num_steps // 10) if self.warmup_steps is None else self.warmup_steps


# Settings that may differ when a run resumes: they do not change the trained weights.
FREE_ON_RESUME = frozenset(
    {
        "output_dir",
        "num_workers",
        "prefetch_factor",
        "verify",
        "distributed",
        "resume",
        "save_steps",
        "save_total_limit",
        "logging_steps",
        "report_to",
        "tqdm",
        "dry_run",
        "eval",
        "eval_data_dir",
        "eval_split",
        "max_eval_rows",
        "eval_batch_size",
        "max_new_tokens",
        "metric",
        "device",
        "batch_size_per_gpu",
        "gradient_checkpointing",
        "data_dir",
    }
)


def write_config(config: TrainConfig, path: Path) -> None:
    """Write the resolved configuration as JSON."""
    with atomic_write(path) as file:
        file.write((config.model_dump_json(indent=2) + "\n").encode())


def read_config(path: Path) -> TrainConfig:
    """The configuration of a saved run. UsageError when it is invalid."""
    return validate_config(read_object(path), str(path))


def binding_settings(config: TrainConfig) -> dict[str, Any]:
    """The settings that bind a resumed run because they change the trained weights, as JSON values."""
    return config.model_dump(mode="json", exclude=set(FREE_ON_RESUME))


def validate_config(values: Mapping[str, Any], where: str) -> TrainConfig:
    """The configuration of plain values. UsageError, naming the first wrong key, when they are invalid."""
    try:
        return TrainConfig.model_validate(dict(values))
    except ValidationError as error:
        raise to_usage_error(error, where) from error


def to_usage_error(error: ValidationError, where: str) -> UsageError:
    """The first problem of a ValidationError as one line."""
    first = error.errors(include_url=False, include_context=False)[0]
    key = ".".join(str(part) for part in first["loc"] if isinstance(part, int) or "[" not in part)
    if first["type"] == "extra_forbidden":
        hint = "phiv-train --help lists the settings"
        if setting := find_setting(key.replace("-", "_"), TrainConfig.model_fields):
            hint = f"Use {setting}".replace("--", "")
        elif close := get_close_matches(key, TrainConfig.model_fields, n=1):
            hint = f"Did you mean {close[0]}?"
        return UsageError(f"{where}: {key}", "no such setting", hint)
    found = "" if first["type"] == "missing" or not key else f" (found {first['input']!r})"
    what = first["msg"].removeprefix("Value error, ")
    return UsageError(f"{where}: {key}" if key else where, f"{what[:1].lower()}{what[1:]}{found}")
