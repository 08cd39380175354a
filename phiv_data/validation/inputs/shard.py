"""An Arrow shard as a piece of work: its records, and the images embedded in them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from phiv_data.storage.shards import to_conversation
from phiv_data.validation.inputs.shard_checks import read_batches, shard_lines
from phiv_data.validation.partial_result import IssueCollector, PartialResult, ResultBuilder
from phiv_data.validation.tasks import CheckContext
from phiv_schemas import Conversation


@dataclass(frozen=True, slots=True)
class ShardPiece:
    """A shard; `rows` is how many a manifest says it holds."""

    split: str
    file: str
    path: Path
    rows: int | None = None
    first_line: ClassVar[None] = None

    def __str__(self) -> str:
        return self.file

    def check(self, context: CheckContext) -> PartialResult:
        """Check every row and the images it embeds."""
        builder, embedded = ResultBuilder(self.file, self.split, context.settings), context.embedded
        assert embedded is not None, "the plan of a shard sets it"
        for line, row in shard_lines(self.path, self.file, builder.issues, rows=self.rows):
            builder.add([line], [embedded.check(self.file, line, row, builder.issues)])
        return builder.result()

    def records(self, lines: set[int]) -> Iterator[tuple[int, Conversation]]:
        """The records of the rows so numbered; those that cannot be read are left out."""
        start = 1
        for batch in read_batches(self.path, self.file, IssueCollector()) or ():
            for number in sorted(lines & set(range(start, start + batch.num_rows))):
                try:
                    yield number, to_conversation(batch.slice(number - start, 1).to_pylist()[0])
                except ValueError:  # pydantic's is one
                    continue
            start += batch.num_rows
