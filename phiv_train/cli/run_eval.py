"""What `phiv-eval` does: loads the model, answers the questions on every rank, writes the report on the first."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from phiv_data.storage.dataset import ConversationDataset
from phiv_data.utils.image_options import collect_image_options
from phiv_data.utils.outputs import check_output_file
from phiv_data.utils.terminal import say
from phiv_train.batching.lengths import spread_rows
from phiv_train.checkpoints.resolve import Source, find_source, load_model, load_processor
from phiv_train.cli.options import EvalOptions
from phiv_train.evaluation.report import as_text, write_result
from phiv_train.families.base import get_family
from phiv_train.training import launcher
from phiv_train.training.quiet import quiet_libraries


def evaluate_split(options: EvalOptions) -> None:
    """Check everything cheap before anything heavy is imported or loaded, then evaluate and report."""
    launcher.check_environment()
    dataset = ConversationDataset(options.data_dir, options.split)
    source = find_source(options.model_name_or_path, adapter=options.adapter, family=options.family)
    path = options.output or source.folder / f"eval_{options.split}.json"
    check_output_file("--output", path)
    quiet_libraries()
    import torch

    on_gpu = options.device == "auto" and torch.cuda.is_available()
    if not on_gpu:  # deepspeed, which comes with accelerate, else searches for an accelerator and warns on stdout
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    from phiv_train.evaluation.generate import evaluate, progress_bar
    from phiv_train.training.distributed import process_group

    precision = options.precision if options.precision != "auto" else "bfloat16" if on_gpu else "float32"
    model, processor = load_model(
        source,
        image_options=collect_image_options(options.image_option, options.num_crops),
        dtype=precision,
        attn_implementation="flash_attention_2" if options.use_flash_attention else "sdpa",
    )
    rank = launcher.rank()
    model.to(f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if on_gpu else "cpu")
    if rank == 0 and (line := _mismatch(source, processor)):
        say(f"phiv-eval: {line}", to=sys.stderr)
    with (
        process_group(on_gpu),
        progress_bar("evaluate", disable=None if rank == 0 else True) as on_batch,
    ):
        result = evaluate(
            model,
            get_family(source.family),
            processor,
            dataset,
            rows=spread_rows(len(dataset), options.limit).tolist(),
            metric=options.metric,
            turns=options.turns,
            batch_size=options.batch_size,
            max_new_tokens=options.max_new_tokens,
            num_workers=options.num_workers if options.num_workers is not None else 4 * on_gpu,
            on_batch=on_batch,
        )
    if rank == 0:
        settings = {
            "model": source.base,
            "adapter": None if source.adapter is None else str(source.adapter),
            "family": source.family,
            "data_dir": str(options.data_dir),
            "limit": options.limit,
            "precision": precision,
            "world_size": launcher.world_size(),
            **processor.image_options,
            "spec_hash": processor.spec_hash,
        }
        write_result(result, path, **settings)
        say(*as_text(result).splitlines(), str(path))


def _mismatch(source: Source, processor: Any) -> str | None:
    """One line where the model was trained on another base, or with other images or another tokenizer than now."""
    from phiv_train.checkpoints.base_stamp import stamp_base

    if source.base_stamp and source.base_stamp != stamp_base(source.base):
        return f"{source.adapter} was trained on other weights than {source.base} has. Scores may be lower for it"
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
