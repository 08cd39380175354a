"""`phiv-train`: fine-tune a model on a converted dataset, and evaluate it before and after.

    phiv-train --data_dir demo --model_name_or_path tiny --output_dir out          one process, CPU or GPU
    torchrun --nproc_per_node 8 -m phiv_train.cli.train --recipe docvqa-full ...   several

Exit codes: 0 done, 1 the data has problems, 2 usage, 3 something of the environment is missing, 130 stopped by a
signal: the same command goes on.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from phiv_data.cli.common import run
from phiv_schemas.errors import EXIT_OK


def main() -> int:
    """Entry point of `phiv-train`."""
    # Read when torch loads its OpenMP: threads that wait spin by default, which on a shared machine costs tenfold.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    return run("phiv-train", lambda: _main(sys.argv[1:]))


def _main(argv: Sequence[str]) -> int:
    if {"--list_recipes", "--list-recipes"} & set(argv):
        from phiv_train.presets import table

        sys.stdout.write(table() + "\n")
        return EXIT_OK
    from phiv_train.cli.config import parse

    config = parse(argv)
    if config.dry_run:
        from phiv_train.training.dry_run import report

        sys.stdout.write(report(config) + "\n")
        return EXIT_OK
    _quiet_deepspeed()
    from phiv_train.training.run import train

    return train(config)


def _quiet_deepspeed() -> None:
    """Where there is no GPU, say so: transformers imports deepspeed, which would look for one and warn."""
    import torch

    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")


if __name__ == "__main__":
    sys.exit(main())
