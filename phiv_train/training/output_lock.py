"""One run at a time writes into an output folder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from phiv_data.utils.atomic import environment_problems
from phiv_schemas.errors import UsageError
from phiv_train.training.launcher import rank

LOCK = ".phiv-lock"


@contextmanager
def lock_output(output_dir: Path) -> Iterator[None]:
    """UsageError where another process writes into this folder. The system frees the lock of one that is killed.

    This process may lock it again inside: the command does before it imports what takes seconds, so that the first of
    two commands has it.
    """
    if rank():  # rank 0 locks for all of them
        yield
        return
    lock = FileLock(output_dir / LOCK, timeout=0, is_singleton=True)
    try:
        with environment_problems(output_dir):
            lock.acquire()
    except Timeout:
        hint = "Wait for it to end, or use another --output_dir"
        raise UsageError("--output_dir", f"another run is writing into {str(output_dir)!r}", hint) from None
    try:
        yield
    finally:
        lock.release()
