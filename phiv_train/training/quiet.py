"""Silences the progress bars and warnings of libraries, so that stderr holds what concerns the user."""

from __future__ import annotations

import os
import warnings


def quiet_libraries() -> None:
    """Switch off the libraries' own output. Set TRANSFORMERS_VERBOSITY to see it."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    from transformers.utils import logging

    logging.disable_progress_bar()
    if "TRANSFORMERS_VERBOSITY" not in os.environ:
        logging.set_verbosity_error()
        warnings.filterwarnings("ignore", category=FutureWarning)
        warnings.filterwarnings("ignore", message=".*save_embedding_layers.*")
