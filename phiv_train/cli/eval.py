"""`phiv-eval`: generate a model's answers to the questions of a split and score them.

Exit codes: 0 evaluated, 1 the data has problems, 2 wrong usage, 3 the environment (packages, disk), 130 interrupted.
"""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import tyro
from tyro.conf import FlagCreatePairsOff, UseAppendAction

from phiv_data.cli.common import run
from phiv_data.utils.image_options import collect_image_options
from phiv_schemas.errors import EXIT_OK, UsageError

if TYPE_CHECKING:
    from phiv_data.storage.dataset import ConversationDataset
    from phiv_train.checkpoints.resolve import Source
    from phiv_train.evaluation.generate import EvalResult

Metric = Literal["auto", "accuracy", "accuracy_official", "anls", "anls_official"]


@dataclasses.dataclass(frozen=True)
class EvalOptions:
    """Generate answers to the questions of a split and score them: accuracy or ANLS, in the variant of Microsoft's
    recipe or the official one.

    Prints the scores on stdout and writes everything to a JSON file, and for a classification a confusion matrix as an
    image beside it. Start with torchrun to share the rows among several GPUs; the result is the same.
    """

    data_dir: Path
    """Folder of a converted dataset (made by phiv-convert)."""
    model_name_or_path: str | None = None
    """Checkpoint folder, adapter folder (it names its base), hub id, or `tiny`, `tiny:7`."""
    adapter: Path | None = None
    """Adapter folder to put on the model; alone, the base is the one it names."""
    split: str = "val"
    """Split to evaluate."""
    metric: tuple[Metric, ...] = ("auto",)
    """One or more. auto: anls where questions list several accepted answers, else accuracy."""
    turns: Literal["last", "first", "all"] = "last"
    """Which turns of a conversation the model answers, with the true answers of earlier turns in the prompt."""
    limit: int | None = None
    """Evaluate the first rows of the split only."""
    family: str | None = None
    """Model family; by default read from the checkpoint."""
    num_crops: int | None = None
    """Crops per image (Phi-3.5-vision), as --image_option num_crops=N; by default what it was trained with."""
    image_option: UseAppendAction[tuple[str, ...]] = ()
    """KEY=VALUE: an image option of the family, by default what it was trained with. May be given several times."""
    batch_size: int = 8
    """Questions answered at once and per process."""
    max_new_tokens: int = 64
    """Longest answer, in tokens."""
    num_workers: int | None = None
    """Processes that read and encode images. By default 4 with a GPU, else none."""
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Precision of the weights. auto: bfloat16 on a GPU, else float32."""
    use_flash_attention: bool = False
    """flash-attention 2 in place of PyTorch's sdpa; needs bfloat16."""
    device: Literal["auto", "cpu"] = "auto"
    """auto: a GPU if there is one."""
    output: Path | None = None
    """The JSON file. By default eval_SPLIT.json in the model's folder, or here for a model without a folder."""


def main() -> int:
    """Entry point of `phiv-eval`."""
    return run("phiv-eval", lambda: _evaluate(tyro.cli(EvalOptions, prog="phiv-eval", config=(FlagCreatePairsOff,))))


def _evaluate(options: EvalOptions) -> int:
    """Check everything cheap before anything heavy is imported or loaded, then evaluate and report."""
    from phiv_data.storage.dataset import ConversationDataset
    from phiv_train.checkpoints.resolve import find_source

    _check(options)
    dataset = ConversationDataset(options.data_dir, options.split)
    source = find_source(options.model_name_or_path, adapter=options.adapter, family=options.family)
    result, settings = _answer(options, source, dataset)
    if _rank() == 0:
        _report(options, source, result, settings)
    return EXIT_OK


def _check(options: EvalOptions) -> None:
    if options.model_name_or_path is None and options.adapter is None:
        raise UsageError("--model_name_or_path", "is missing", "Pass a checkpoint, or an adapter with --adapter")
    for name in ("limit", "num_crops", "batch_size", "max_new_tokens"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise UsageError(f"--{name}", f"must be at least 1 (found {value})")
    if (options.num_crops or 1) > 16:
        raise UsageError("--num_crops", f"must be 1 to 16 (found {options.num_crops})")
    if (options.num_workers or 0) < 0:
        raise UsageError("--num_workers", f"must be 0 or more (found {options.num_workers})")
    if options.output is not None:
        from phiv_train.config import make_folder

        make_folder("--output", options.output.absolute().parent)


def _answer(options: EvalOptions, source: Source, dataset: ConversationDataset) -> tuple[EvalResult, dict[str, Any]]:
    on_gpu = _on_gpu(options)
    if not on_gpu:  # deepspeed, which comes with accelerate, else searches for an accelerator and warns on stdout
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    from phiv_train.checkpoints.resolve import load_model
    from phiv_train.evaluation.generate import evaluate, progress_bar
    from phiv_train.families.base import get_family
    from phiv_train.training.quiet import quiet_libraries

    quiet_libraries()
    precision = options.precision if options.precision != "auto" else "bfloat16" if on_gpu else "float32"
    attention = "flash_attention_2" if options.use_flash_attention else "sdpa"
    model, processor = load_model(
        source,
        image_options=collect_image_options(options.image_option, options.num_crops),
        dtype=precision,
        attn_implementation=attention,
    )
    model.to(f"cuda:{_local_rank()}" if on_gpu else "cpu")
    if line := mismatch(source, processor):
        sys.stderr.write(f"phiv-eval: {line}\n" if _rank() == 0 else "")
    with _process_group(options), progress_bar("evaluate", disable=None if _rank() == 0 else True) as on_batch:
        result = evaluate(
            model,
            get_family(source.family),
            processor,
            dataset,
            rows=range(min(options.limit or len(dataset), len(dataset))),
            metric=options.metric,
            turns=options.turns,
            batch_size=options.batch_size,
            max_new_tokens=options.max_new_tokens,
            num_workers=options.num_workers if options.num_workers is not None else 4 * on_gpu,
            on_batch=on_batch,
        )
    used = {**processor.image_options, "spec_hash": processor.spec_hash}
    return result, {"precision": precision, "world_size": _world_size(), **used}


def mismatch(source: Source, processor: Any) -> str | None:
    """One line where the model was trained with other images or another tokenizer than it is evaluated with."""
    from phiv_train.checkpoints.resolve import load_processor

    if Path(source.processor).is_dir():
        trained = load_processor(source).image_options
        for key, value in processor.image_options.items():
            if value != trained[key]:
                return f"{key} is {value}, the model was trained with {trained[key]}. Scores may be lower for it"
    if source.spec_hash is not None and processor.spec_hash != source.spec_hash:
        return (
            f"tokenizer or image settings are not those of the training (spec {processor.spec_hash[:12]},"
            f" trained with {source.spec_hash[:12]}). Scores may be lower for it"
        )
    return None


def _report(options: EvalOptions, source: Source, result: EvalResult, settings: dict[str, Any]) -> None:
    from phiv_train.evaluation.report import as_text, write_result

    named = {
        "model": source.base,
        "adapter": None if source.adapter is None else str(source.adapter),
        "family": source.family,
        "data_dir": str(options.data_dir),
        "limit": options.limit,
    }
    path = options.output or source.folder / f"eval_{options.split}.json"
    write_result(result, path, **named, **settings)
    sys.stdout.write(f"{as_text(result)}{path}\n")


@contextmanager
def _process_group(options: EvalOptions) -> Iterator[None]:
    """torch.distributed while evaluating, when torchrun started us."""
    if _world_size() == 1:
        yield
        return
    import torch
    import torch.distributed as dist

    if _on_gpu(options):
        torch.cuda.set_device(_local_rank())
    dist.init_process_group("nccl" if _on_gpu(options) else "gloo")
    try:
        yield
    finally:
        dist.destroy_process_group()


def _on_gpu(options: EvalOptions) -> bool:
    import torch

    return options.device == "auto" and torch.cuda.is_available()


def _rank() -> int:
    return int(os.environ.get("RANK", "0"))


def _local_rank() -> int:
    return int(os.environ.get("LOCAL_RANK", "0"))


def _world_size() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))
