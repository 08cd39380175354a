"""`phiv-inspect DATA ROW`: a row's ids, mask, images and length as the model gets them.

Exit codes: 0 shown, 1 the row cannot be encoded, 2 usage, 3 something of the environment is missing.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import get_type_hints

import tyro
from tyro.conf import FlagCreatePairsOff

from phiv_data.cli.common import run
from phiv_data.utils.extras import needs_extra
from phiv_schemas.errors import EXIT_OK, UsageError
from phiv_train.cli.options import InspectOptions
from phiv_train.cli.words import read_words


def main() -> int:
    """Entry point of `phiv-inspect`."""
    return run("phiv-inspect", lambda: _inspect(_parse(sys.argv[1:])))


def _parse(argv: Sequence[str]) -> InspectOptions:
    words = read_words(argv, get_type_hints(InspectOptions), "phiv-inspect")
    return tyro.cli(InspectOptions, prog="phiv-inspect", args=words, config=(FlagCreatePairsOff,))


@needs_extra("train")
def _inspect(options: InspectOptions) -> int:
    if options.num_crops is not None and not 1 <= options.num_crops <= 16:
        raise UsageError("--num_crops", f"must be 1 to 16 (found {options.num_crops})")
    os.environ.setdefault("DS_ACCELERATOR", "cpu")  # deepspeed, where a family imports it, else warns on stdout
    from phiv_train.cli.show_row import show_row

    show_row(options)
    return EXIT_OK
