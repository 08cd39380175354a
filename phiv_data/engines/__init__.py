"""Where the tasks of a conversion or a validation are done; the output does not depend on it.

>>> from phiv_data.engines import ArrayEngine, Engine, Killed, LocalEngine, RayEngine, TaskOutcome
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from phiv_data.engines.array import ArrayEngine
    from phiv_data.engines.base import Engine, Killed, TaskOutcome
    from phiv_data.engines.local import LocalEngine
    from phiv_data.engines.ray_cluster import RayEngine

__all__ = ["ArrayEngine", "Engine", "Killed", "LocalEngine", "RayEngine", "TaskOutcome"]

# Imported when first asked for, so that a command's --help does not pay for multiprocessing.
_MODULES = {
    "ArrayEngine": "phiv_data.engines.array",
    "Engine": "phiv_data.engines.base",
    "Killed": "phiv_data.engines.base",
    "LocalEngine": "phiv_data.engines.local",
    "RayEngine": "phiv_data.engines.ray_cluster",
    "TaskOutcome": "phiv_data.engines.base",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'phiv_data.engines' has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
