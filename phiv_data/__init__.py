"""phiv's data side: read, write, check and convert datasets in one conversation format. No torch.

>>> from phiv_data import Conversation, ConversationDataset, read_jsonl, validate
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from phiv_data.integrations.arrow import result_schema, validate_batch, validate_batches
    from phiv_data.integrations.stream import iter_validated
    from phiv_data.storage.dataset import ConversationDataset
    from phiv_data.storage.jsonl import read_jsonl, read_lines, write_jsonl
    from phiv_data.storage.sample import Draft, EncodedImage, Sample
    from phiv_data.validation import validate
    from phiv_schemas import Conversation, Turn

    __version__: str

__all__ = [
    "Conversation",
    "ConversationDataset",
    "Draft",
    "EncodedImage",
    "Sample",
    "Turn",
    "iter_validated",
    "read_jsonl",
    "read_lines",
    "result_schema",
    "validate",
    "validate_batch",
    "validate_batches",
    "write_jsonl",
]

# Imported when first asked for, so that a command's --help does not pay for pyarrow and pydantic.
_HOMES = {
    "Conversation": "phiv_schemas",
    "Turn": "phiv_schemas",
    "ConversationDataset": "phiv_data.storage.dataset",
    "Draft": "phiv_data.storage.sample",
    "EncodedImage": "phiv_data.storage.sample",
    "Sample": "phiv_data.storage.sample",
    "iter_validated": "phiv_data.integrations.stream",
    "result_schema": "phiv_data.integrations.arrow",
    "validate_batch": "phiv_data.integrations.arrow",
    "validate_batches": "phiv_data.integrations.arrow",
    "read_jsonl": "phiv_data.storage.jsonl",
    "read_lines": "phiv_data.storage.jsonl",
    "write_jsonl": "phiv_data.storage.jsonl",
    "validate": "phiv_data.validation",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return import_module("importlib.metadata").version("phiv")
    if name not in _HOMES:
        raise AttributeError(f"module 'phiv_data' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
