"""`phiv-predict`: ask a model about images and clips, or let it answer a split of a dataset.

Exit codes: 0 answered, 1 some images cannot be used (the others are answered), 2 usage, 3 the environment,
130 interrupted (of a split: the same command continues).
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import get_type_hints

import tyro
from tyro.conf import FlagCreatePairsOff

from phiv_data.cli.common import run
from phiv_data.utils.extras import needs_extra
from phiv_schemas.errors import UsageError
from phiv_train.cli.options import PredictOptions
from phiv_train.cli.words import read_words


def main() -> int:
    """Entry point of `phiv-predict`."""
    return run("phiv-predict", lambda: _predict(_parse(sys.argv[1:])))


def _parse(argv: Sequence[str]) -> PredictOptions:
    words = read_words(argv, get_type_hints(PredictOptions), "phiv-predict")
    return tyro.cli(PredictOptions, prog="phiv-predict", args=words, config=(FlagCreatePairsOff,))


@needs_extra("train")
def _predict(options: PredictOptions) -> int:
    """Check the flags before anything is imported for them, then answer."""
    for name in ("limit", "batch_size", "max_new_tokens", "num_frames"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise UsageError(f"--{name}", f"must be at least 1 (found {value})")
    if bool(options.inputs) == (options.data_dir is not None):
        what = "needs images, clips or folders of them, or --data_dir with a converted dataset"
        raise UsageError("phiv-predict", what, "Pass one of the two")
    if options.inputs and options.question is None:
        raise UsageError("--question", "is missing", "Pass what to ask, in the words that the model was trained on")
    if not all(options.inputs):
        raise UsageError("IMAGE", "a name is empty", "Is a variable of the shell unset?")
    if not (options.question or "").isascii():
        try:
            (options.question or "").encode()
        except UnicodeEncodeError:
            raise UsageError("--question", "is not UTF-8 text", "Pass it as UTF-8") from None
    of_images, of_data = ("together", "num_frames"), ("split", "turns", "limit", "batch_size")
    for name in of_data if options.inputs else of_images:
        if getattr(options, name) != getattr(PredictOptions, name):
            what = "is for --data_dir" if options.inputs else "is for images and clips"
            raise UsageError(f"--{name}", what, "Leave it out")
    if options.data_dir is not None and options.output is None:
        raise UsageError("--output", "is missing", "Pass the file for the answers, such as predictions.jsonl")
    if options.data_dir is not None and options.question is not None:
        raise UsageError("--question", "a dataset has its own questions", "Leave it out")
    from phiv_train.cli.run_predict import predict_dataset, predict_inputs

    return predict_inputs(options) if options.inputs else predict_dataset(options)


if __name__ == "__main__":
    sys.exit(main())
