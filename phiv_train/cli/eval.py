"""`phiv-eval`: generate a model's answers to the questions of a split and score them.

Exit codes: 0 evaluated, 1 the data has problems, 2 wrong usage, 3 the environment (packages, disk), 130 interrupted.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import get_type_hints

import tyro
from tyro.conf import FlagCreatePairsOff

from phiv_data.cli.common import run
from phiv_data.utils.extras import needs_extra
from phiv_schemas.errors import EXIT_OK, UsageError
from phiv_train.cli.options import EvalOptions
from phiv_train.cli.words import read_words


def main() -> int:
    """Entry point of `phiv-eval`."""
    return run("phiv-eval", lambda: _evaluate(_parse(sys.argv[1:])))


def _parse(argv: Sequence[str]) -> EvalOptions:
    words = read_words(argv, get_type_hints(EvalOptions), "phiv-eval")
    return tyro.cli(EvalOptions, prog="phiv-eval", args=words, config=(FlagCreatePairsOff,))


@needs_extra("train")
def _evaluate(options: EvalOptions) -> int:
    """Check the flags before anything is imported for them, then evaluate."""
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
    from phiv_train.cli.run_eval import evaluate_split

    evaluate_split(options)
    return EXIT_OK
