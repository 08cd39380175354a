"""Progress on stderr: a bar on a terminal, one line every half minute elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from phiv_data.utils.terminal import printable, say

LOG_EVERY_S = 30.0


class Progress:
    """Counts towards `total`; use it as a context manager and call `add(n)`."""

    def __init__(self, label: str, total: int) -> None:
        from tqdm import tqdm

        self._label, self._total, self._done = printable(label), total, 0
        self._bar = tqdm(total=total, desc=self._label, unit="row", disable=None, leave=False, file=sys.stderr)
        self._start = time.monotonic()
        self._next_line = self._start + LOG_EVERY_S

    def add(self, count: int) -> None:
        """`count` more are done."""
        self._done += count
        self._bar.update(count)
        if self._bar.disable and time.monotonic() >= self._next_line:
            rate = self._done / (time.monotonic() - self._start)
            left = f", {rate:.1f}/s, {(self._total - self._done) / rate / 60:.0f} min left" if rate else ""
            say(f"{self._label}: {self._done}/{self._total}{left}", to=sys.stderr)
            self._next_line = time.monotonic() + LOG_EVERY_S

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()
