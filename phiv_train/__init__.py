"""phiv's training side: model families, plans, the trainer, evaluation, models in use.

>>> from phiv_train import load_model
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from phiv_train.inference.model import LoadedModel, load_model

__all__ = ["LoadedModel", "load_model"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'phiv_train' has no attribute {name!r}")
    from phiv_train.inference import model  # imports torch: when first asked for

    return getattr(model, name)
