"""Everything that the author of a converter imports; `converters/README.md` shows how.

>>> from phiv_data.convert import Converter, Draft, Inputs, Item, RejectInput, SourceError, Turn, load_image
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from phiv_data.convert.base import Converter, ConverterOptions, Duplicate, Inputs, Item
    from phiv_data.media.reject import RejectInput
    from phiv_data.sources.image_index import load_image
    from phiv_data.storage.sample import Draft, EncodedImage
    from phiv_schemas import Sharing, SourceError, Turn, UsageError

__all__ = [
    "Converter",
    "ConverterOptions",
    "Draft",
    "Duplicate",
    "EncodedImage",
    "Inputs",
    "Item",
    "RejectInput",
    "Sharing",
    "SourceError",
    "Turn",
    "UsageError",
    "load_image",
]

# Imported when first asked for, so that a command's --help does not pay for Pillow and pydantic.
_MODULES = {
    "Converter": "phiv_data.convert.base",
    "ConverterOptions": "phiv_data.convert.base",
    "Draft": "phiv_data.storage.sample",
    "Duplicate": "phiv_data.convert.base",
    "EncodedImage": "phiv_data.storage.sample",
    "Inputs": "phiv_data.convert.base",
    "Item": "phiv_data.convert.base",
    "RejectInput": "phiv_data.media.reject",
    "Sharing": "phiv_schemas",
    "SourceError": "phiv_schemas",
    "Turn": "phiv_schemas",
    "UsageError": "phiv_schemas",
    "load_image": "phiv_data.sources.image_index",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'phiv_data.convert' has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
