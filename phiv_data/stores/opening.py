"""Which store an address belongs to.

>>> open_store(Address.parse("file:///data")).stat("none") is None
True
"""

from __future__ import annotations

from functools import lru_cache

from phiv_data.stores.address import Address
from phiv_data.stores.arrow import ArrowStore
from phiv_data.stores.base import Store
from phiv_data.stores.hub import open_hub


@lru_cache(maxsize=16)
def open_store(address: Address) -> Store:
    """The store of an address, opened once in a process."""
    return open_hub(address) if address.scheme == "hf" else ArrowStore(address)
