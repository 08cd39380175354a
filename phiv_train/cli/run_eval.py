"""What `phiv-eval` does: checks what is cheap to check, answers the questions, writes the report on the first rank."""

from __future__ import annotations

import os

from phiv_data.storage.dataset import ConversationDataset
from phiv_data.stores.address import require_local
from phiv_data.utils.outputs import check_output_file
from phiv_data.utils.terminal import say
from phiv_train.checkpoints.resolve import find_source
from phiv_train.cli.options import EvalOptions
from phiv_train.evaluation.report import as_text, write_result
from phiv_train.training import launcher
from phiv_train.training.quiet import quiet_libraries


def evaluate_split(options: EvalOptions) -> None:
    """Check everything cheap before anything heavy is imported or loaded, then evaluate and report."""
    launcher.check_environment()
    dataset = ConversationDataset(options.data_dir, options.split)
    source = find_source(options.model_name_or_path, adapter=options.adapter, family=options.family)
    path = options.output or source.folder / f"eval_{options.split}.json"
    require_local("--output", path)
    check_output_file("--output", path)
    quiet_libraries()
    import torch

    on_gpu = options.device == "auto" and torch.cuda.is_available()
    if not on_gpu:  # deepspeed, which comes with accelerate, else searches for an accelerator and warns on stdout
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    from phiv_train.cli.answer import answer_questions  # imports transformers

    result, settings = answer_questions(options, source, dataset, on_gpu=on_gpu)
    if launcher.rank() == 0:
        write_result(result, path, **settings)
        say(*as_text(result).splitlines(), str(path))
