"""Threads for requests, many at a time.

>>> with request_pool() as pool:
...     list(pool.map(len, ["a", "bc"]))
[1, 2]
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

NUM_THREADS = 16
"""Requests at a time: of small objects, waiting takes longer than the bytes."""


@contextmanager
def request_pool() -> Iterator[ThreadPoolExecutor]:
    """Threads that end with the block; at an error or a stop, what has not begun is dropped."""
    pool = ThreadPoolExecutor(NUM_THREADS)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)
