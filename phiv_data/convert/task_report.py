"""The report of a finished task: its rows and rejects, in the order of its inputs.

It lies below `<out>/.phiv/parts/` until the output is complete, and below `<out>/.phiv/kept/` from then on: a run with
`--update` takes rows from it.
"""

from __future__ import annotations

from phiv_schemas import Conversation, ImageMeta, Reject
from phiv_schemas.conversation import Contract


class WrittenRow(Contract):
    """A written row: its record and its images' metadata, in the order of `conversation.image_paths`.

    `input` is the number of its input over all splits; `has_own_id` is False where the record's id is made from that.
    """

    input: int
    conversation: Conversation
    media: list[ImageMeta]
    has_own_id: bool = False


class TaskReport(Contract):
    """What became of every input of a task: a row, a reject, or the number of an input without an answer.

    `num_kept` of them were taken from an earlier output.
    """

    rows: list[WrittenRow]
    rejects: list[Reject]
    unlabeled: list[int]
    num_kept: int = 0
