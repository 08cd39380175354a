"""Silences the progress bars and warnings of libraries, so that stderr holds what concerns the user."""

from __future__ import annotations

import logging
import os
import warnings

# bitsandbytes asks for a package that only 4 bit on CPUs would use, accelerate and deepspeed tell what they choose.
_LOGGERS = ("bitsandbytes", "accelerate", "peft", "torch.distributed", "DeepSpeed")


def quiet_libraries() -> None:
    """Switch off the libraries' own output; to be called before they are imported, which is when some of it comes.

    Set TRANSFORMERS_VERBOSITY to see it.
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if "TRANSFORMERS_VERBOSITY" not in os.environ:
        for name in _LOGGERS:
            logging.getLogger(name).setLevel(logging.ERROR)
    from transformers.utils import logging as of_transformers

    of_transformers.disable_progress_bar()
    if "TRANSFORMERS_VERBOSITY" not in os.environ:
        of_transformers.set_verbosity_error()
        warnings.filterwarnings("ignore", category=FutureWarning)
        warnings.filterwarnings("ignore", message=".*save_embedding_layers.*")
