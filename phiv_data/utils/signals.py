"""The signals that stop a program, and worker processes that leave them to the main process.

    with held():                              # in the main process: the signals come after the block
        SPAWN.Process(target=work).start()    # and this child never gets them, from its first instruction on

A terminal's Ctrl-C, scancel and systemd signal every process of a group. The main process alone decides what that
means: a worker that dies of it looks like a crash, and what it was about to hand over is lost.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from math import inf
from multiprocessing import popen_spawn_posix, resource_tracker
from multiprocessing.context import SpawnContext, SpawnProcess
from multiprocessing.process import BaseProcess
from types import FrameType
from typing import Any

from phiv_schemas.errors import EXIT_INTERRUPTED

# SIGHUP: a terminal that closes. SIGUSR1, SIGUSR2: what clusters send some time before they kill a job.
STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


@contextmanager
def on_stop(handler: Callable[[int, FrameType | None], object]) -> Iterator[None]:
    """Call `handler` for every stop signal inside the block. SIGHUP stays ignored where it is: by nohup."""
    heard = [s for s in STOPS if s != signal.SIGHUP or signal.getsignal(s) != signal.SIG_IGN]
    previous = {which: signal.signal(which, handler) for which in heard}
    try:
        yield
    finally:
        for which, before in previous.items():
            signal.signal(which, before)


class Interrupt(AbstractContextManager["Interrupt"]):
    """In its block the first stop signal raises KeyboardInterrupt, and so does a Ctrl-C one second later.

    Others change nothing: clusters and torchrun send a second signal while the first one is obeyed. In a `__del__`,
    where Python would drop the exception, the signal waits for its end.
    """

    def __init__(self) -> None:
        self._since = inf
        self._is_leaving = False
        self._block = ExitStack()

    def __enter__(self) -> Interrupt:
        self._block.enter_context(on_stop(self))
        return self

    def __exit__(self, *_: object) -> None:
        if not self._is_leaving:
            self._block.close()

    def leave(self) -> int:
        """The exit code of a stopped program. Until it ends, a second signal kills it no more than inside the block."""
        self._is_leaving, self._since = True, min(self._since, time.monotonic())
        return EXIT_INTERRUPTED

    def __call__(self, signum: int, frame: FrameType | None) -> None:
        if self._since < inf and (signum != signal.SIGINT or time.monotonic() < self._since + 1):
            return
        if self._is_leaving:
            os._exit(EXIT_INTERRUPTED)
        while frame is not None and frame.f_code.co_name != "__del__":
            frame = frame.f_back
        if frame is not None:
            again = threading.Timer(0.02, os.kill, (os.getpid(), signum))
            again.daemon = True
            again.start()
            return
        self._since = time.monotonic()
        raise KeyboardInterrupt


@contextmanager
def held() -> Iterator[None]:
    """Stop signals wait for the end of the block; processes started inside have them blocked from birth.

    Otherwise a stop in the milliseconds of a start would leave half-started workers that print tracebacks, or get lost.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)
    try:
        with on_stop(lambda number, _: came.append(number)):  # other threads of this process do not block them
            resource_tracker.ensure_running()  # it starts once, and as it does, unblocks SIGINT and SIGTERM
            signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)
            yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    for number in came:
        signal.raise_signal(number)


class _Popen(popen_spawn_posix.Popen):
    """`terminate` is SIGKILL: SIGTERM is blocked there, also in a child that has only begun to start."""

    def terminate(self) -> None:
        self.kill()


class SpawnedProcess(SpawnProcess):
    """A spawned process that leaves stop signals to its parent, when it is started in `held`."""

    @staticmethod
    def _Popen(process: BaseProcess) -> Any:
        return _Popen(process)


class Spawn(SpawnContext):
    """Spawned, never forked: a forked child inherits locks and threads (decoders, tokenizers, gloo, CUDA)."""

    Process = SpawnedProcess


SPAWN = Spawn()
