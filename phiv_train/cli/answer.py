"""The heavy part of `phiv-eval`: loads the model and answers the questions of a split, on every rank.

dataset = ConversationDataset("out", "val")
result, settings = answer_questions(options, find_source("out/final"), dataset, on_gpu=True)
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from phiv_data.storage.dataset import ConversationDataset
from phiv_data.utils.image_options import collect_image_options
from phiv_data.utils.terminal import say
from phiv_train.batching.lengths import spread_rows
from phiv_train.checkpoints.base_stamp import stamp_base
from phiv_train.checkpoints.load import load_model
from phiv_train.checkpoints.resolve import Source, load_processor
from phiv_train.cli.options import EvalOptions
from phiv_train.evaluation.generate import EvalResult, evaluate, progress_bar
from phiv_train.families.base import get_family
from phiv_train.training import launcher
from phiv_train.training.distributed import process_group


def answer_questions(
    options: EvalOptions, source: Source, dataset: ConversationDataset, *, on_gpu: bool
) -> tuple[EvalResult, dict[str, Any]]:
    """The predictions with their scores, and the settings that the report names."""
    precision = options.precision if options.precision != "auto" else "bfloat16" if on_gpu else "float32"
    model, processor = load_model(
        source,
        image_options=collect_image_options(options.image_option, options.num_crops),
        dtype=precision,
        attn_implementation="flash_attention_2" if options.use_flash_attention else "sdpa",
    )
    rank = launcher.rank()
    model.to(f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if on_gpu else "cpu")
    if rank == 0 and (line := mismatch(source, processor)):
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
    return result, {
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


def mismatch(source: Source, processor: Any) -> str | None:
    """One line where the model was trained on another base, or with other images or another tokenizer than now."""
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
