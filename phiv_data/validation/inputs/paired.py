"""A shard beside its lines in the jsonl file as one piece of work: both must hold the same records."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import zip_longest

from phiv_data.validation.inputs.fast_parse import same
from phiv_data.validation.inputs.jsonl_range import JsonlRange, check_lines
from phiv_data.validation.inputs.shard import ShardPiece
from phiv_data.validation.inputs.shard_checks import shard_lines
from phiv_data.validation.partial_result import PartialResult, ResultBuilder
from phiv_data.validation.tasks import CONVERT_AGAIN, CheckContext
from phiv_schemas import Conversation


@dataclass(frozen=True, slots=True)
class PairedPiece:
    """Lines of a jsonl file, and the shard that must hold the same records in the same order."""

    jsonl: JsonlRange
    shard: ShardPiece

    @property
    def split(self) -> str:
        """That of both."""
        return self.jsonl.split

    @property
    def file(self) -> str:
        """The jsonl file: its rows count, and are quoted."""
        return self.jsonl.file

    @property
    def first_line(self) -> int:
        """Of the jsonl file."""
        return self.jsonl.first_line

    def __str__(self) -> str:
        return str(self.jsonl)

    def check(self, context: CheckContext) -> PartialResult:
        """Check every line as usual, the images of every row of the shard, and that both are equal (PV306)."""
        assert context.embedded is not None, "the plan of a shard sets it"
        jsonl, shard = self.jsonl, self.shard
        builder = ResultBuilder(jsonl.file, jsonl.split, context.settings)
        rows = shard_lines(shard.path, shard.file, builder.issues, rows=shard.rows)
        for line, beside in zip_longest(check_lines(jsonl.lines(), builder, context), rows):
            if beside is None:
                continue  # the shard is broken, which is reported already
            row_line, row = beside
            builder.issues.extend(row_line.issues)
            context.embedded.check(shard.file, row_line, row, builder.issues)
            record, embedded = line and line.conversation, row_line.conversation
            if record and embedded and not same(embedded, record):
                what = f"is not the record of {jsonl.file}:{line.number}"
                builder.issues.add("PV306", shard.file, what, line=row_line.number, hint=CONVERT_AGAIN)
        return builder.result()

    def records(self, lines: set[int]) -> Iterator[tuple[int, Conversation]]:
        """Those of the jsonl file."""
        return self.jsonl.records(lines)
