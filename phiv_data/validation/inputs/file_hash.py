"""A file whose sha256 a manifest declares, as a piece of work."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from phiv_data.utils.atomic import sha256_file
from phiv_data.validation.partial_result import PartialResult, ResultBuilder
from phiv_data.validation.tasks import CONVERT_AGAIN, CheckContext
from phiv_schemas import Conversation


@dataclass(frozen=True, slots=True)
class FileHash:
    """A file as bytes. It counts no rows: other pieces read them."""

    file: str
    path: Path
    sha256: str
    split: ClassVar[str] = ""
    first_line: ClassVar[None] = None

    def __str__(self) -> str:
        return self.file

    def check(self, context: CheckContext) -> PartialResult:
        """PV302 where its bytes are others."""
        builder = ResultBuilder(self.file, self.split, context.settings)
        if sha256_file(self.path) != self.sha256:
            what = "was changed: its sha256 is not the manifest's"
            builder.issues.add("PV302", self.file, what, hint=CONVERT_AGAIN)
        return builder.result()

    def records(self, lines: set[int]) -> Iterator[tuple[int, Conversation]]:
        """None."""
        return iter(())
