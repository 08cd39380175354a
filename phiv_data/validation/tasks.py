"""A validation as independent pieces of work, and what they share while they are checked.

    piece.check(context) -> PartialResult      everything wrong with one piece by itself, in any order, anywhere
    piece.records({7, 9})                      some of its records, read again to quote them

Kinds of pieces, a module each in `inputs/`: `JsonlRange` (lines of a jsonl file), `ShardPiece` (a shard), `PairedPiece`
(a shard beside its lines), `FileHash` (a file whose sha256 is known), `ChatRange` (rows of an external chat format).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from phiv_data.validation.core.finding import Settings
from phiv_data.validation.core.key_index import KeyIndex
from phiv_data.validation.inputs.image_checks import ImageChecks
from phiv_data.validation.inputs.shard_checks import EmbeddedImageChecks
from phiv_data.validation.partial_result import IssueCollector, PartialResult
from phiv_schemas import Conversation

CONVERT_AGAIN = "Run the same phiv-convert command with --overwrite"


@dataclass(slots=True)
class CheckContext:
    """What the pieces of one validation share in a process.

    `images` checks image files, `embedded` the images inside shards; both remember what they decoded, and are None
    where there is nothing of their kind to check.
    """

    settings: Settings = field(default_factory=Settings)
    images: ImageChecks | None = None
    embedded: EmbeddedImageChecks | None = None


Context = TypeVar("Context", contravariant=True)


class WorkUnit(Protocol[Context]):
    """A part of a validation that can be checked without the others. It is pickled to worker processes."""

    @property
    def file(self) -> str:
        """What issues call its file."""

    @property
    def first_line(self) -> int | None:
        """The line its rows begin at, where issues of the file have lines."""

    def check(self, context: Context, /) -> PartialResult:
        """Everything wrong with it by itself."""


class Piece(WorkUnit[CheckContext], Protocol):
    """A unit of work on a dataset: some rows of one file, or one file as bytes."""

    @property
    def split(self) -> str:
        """The split of its rows; "" where it has none."""

    def records(self, lines: set[int], /) -> Iterator[tuple[int, Conversation]]:
        """The good ones among the records at `lines`, with their line."""


@dataclass(frozen=True, slots=True)
class ValidationPlan:
    """The pieces of a path, and what is checked when all of them are done.

    `check_whole(whole, index, issues)` adds issues about whole files, and returns how many more images it checked. By
    default every check is part of a piece.
    """

    pieces: list[Piece]
    context: CheckContext
    check_whole: Callable[[PartialResult, KeyIndex, IssueCollector], int] = lambda whole, index, issues: 0
