"""`phiv-train`: fine-tune a model on a converted dataset, and evaluate it before and after.

    phiv-train --data_dir demo --model_name_or_path tiny --output_dir out          one process, CPU or GPU
    torchrun --nproc_per_node 8 -m phiv_train.cli.train --recipe docvqa-full ...   several

Exit codes: 0 done, 1 the data has problems, 2 wrong usage, 3 the environment (packages, disk, hub), 130 stopped by a
signal: the same command resumes.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from phiv_data.cli.common import run
from phiv_data.stores.address import require_local
from phiv_data.utils.extras import needs_extra
from phiv_data.utils.outputs import make_output_folder
from phiv_data.utils.terminal import say
from phiv_schemas.errors import EXIT_INTERRUPTED, EXIT_OK
from phiv_train.cli.config import parse
from phiv_train.config import TrainConfig
from phiv_train.presets import table
from phiv_train.training.launcher import check_environment
from phiv_train.training.output_lock import lock_output
from phiv_train.training.quiet import quiet_libraries

if TYPE_CHECKING:
    from phiv_train.training.run import TrainResult


def main() -> int:
    """Entry point of `phiv-train`."""
    # Read when torch loads OpenMP, whose waiting threads spin by default: ten times slower on a shared machine.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    return run("phiv-train", lambda: run_command(sys.argv[1:]))


@needs_extra("train")
def run_command(argv: Sequence[str]) -> int:
    """Run `phiv-train` with these arguments; its exit code. PhivError, which `main` prints, for what is wrong."""
    if {"--list_recipes", "--list-recipes"} & set(argv):
        say(*table().splitlines())
        return EXIT_OK
    config = parse(argv)
    check_environment()
    quiet_libraries()
    if config.dry_run:
        from phiv_train.training.dry_run import report

        say(*report(config).splitlines())
        return EXIT_OK
    require_local("--output_dir", config.output_dir)
    make_output_folder("--output_dir", config.output_dir)
    with lock_output(config.output_dir):
        return EXIT_INTERRUPTED if _train(config).stopped else EXIT_OK


def _train(config: TrainConfig) -> TrainResult:
    import torch

    if not torch.cuda.is_available():  # transformers imports deepspeed, which would search for a GPU and warn
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    from phiv_train.training.run import train

    return train(config)


if __name__ == "__main__":
    sys.exit(main())
