"""Libraries that talk: what training and evaluation silence, so that stderr holds what concerns the user."""

from __future__ import annotations

import os
import warnings


def quiet_libraries() -> None:
    """Leave stderr to what concerns the user. Set TRANSFORMERS_VERBOSITY to hear more."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    from transformers.utils import logging

    logging.disable_progress_bar()
    if "TRANSFORMERS_VERBOSITY" not in os.environ:
        logging.set_verbosity_error()
        warnings.filterwarnings("ignore", category=FutureWarning)
        warnings.filterwarnings("ignore", message=".*save_embedding_layers.*")
