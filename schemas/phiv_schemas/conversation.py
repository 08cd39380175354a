"""The model of a record: one line of a phiv jsonl file is one `Conversation`.

    >>> line = '{"id": "val-0000000300", "source": "ucf101", "conversations": [' \\
    ...        '{"images": ["val/A/v.0.jpg"], "user": "What is it?", "assistant": "A"}]}'
    >>> c = Conversation.model_validate_json(line)
    >>> c.turns[0].images
    ('val/A/v.0.jpg',)
    >>> c.to_line() == line
    True

The wire format is that of the Phi-3.5-vision recipe to the letter. Optional fields are written only when
present, so a plain record stays byte-identical to the recipe's. `schemas/README.md` is the format on one page.
"""

from __future__ import annotations

import json
import re
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

_DRIVE = re.compile(r"^[A-Za-z]:")
_CONTROL = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")
# All of `check_image_path` in one match: 10 paths a record make it the hottest line of reading jsonl.
_GOOD_PATH = re.compile(r"(?![A-Za-z]:)(?:(?!\.{0,2}(?:/|\Z))[^/\\\x00-\x1f\x7f\ud800-\udfff]+(?:/(?!\Z)|\Z))+")


def check_image_path(path: str) -> str:
    """`path` itself if it is a relative, forward-slash path that stays under `images/`; else ValueError."""
    return path if _GOOD_PATH.fullmatch(path) else _explain(path)


def _explain(path: str) -> str:
    """Raise ValueError with what is wrong with a path, check by check. Tests compare it with the match above."""
    if not path or path.startswith("/") or _DRIVE.match(path):
        raise ValueError("must be a relative path under images/")
    if "\\" in path or _CONTROL.search(path):
        raise ValueError("must use forward slashes and no control characters")
    if any(part in ("", ".", "..") for part in path.split("/")):
        raise ValueError("must not hold empty, '.' or '..' parts")
    return path


def check_name(name: str) -> str:
    """`name` itself if it is non-empty, has no control characters and no outer blanks; else ValueError."""
    if not name or name != name.strip() or _CONTROL.search(name):
        raise ValueError("must be non-empty, without control characters or outer blanks")
    return name


def check_text(text: str) -> str:
    """`text` itself if it can be written as UTF-8; else ValueError (a lone surrogate, as bad decoding leaves)."""
    if not text.isascii():
        text.encode()  # UnicodeEncodeError is a ValueError
    return text


ImagePath = Annotated[str, AfterValidator(check_image_path)]
Name = Annotated[str, AfterValidator(check_name)]
Text = Annotated[str, AfterValidator(check_text)]
_LISTS = Field(strict=False)  # a tuple field takes a list too; its elements stay strict


class Contract(BaseModel):
    """Base of every model of the format: strict types, no unknown keys, immutable."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", defer_build=True)


class Turn(Contract):
    """One exchange. `images` are paths relative to `images/`, in the order the model sees them."""

    images: Annotated[tuple[ImagePath, ...], _LISTS] = Field(
        description="Image paths relative to images/, forward slashes."
    )
    user: Text = Field(description="The user's message. Plain text: markers such as <image> are text.")
    assistant: Text | None = Field(description="The answer to learn; null where the dataset has no label.")
    answers: Annotated[tuple[Text, ...], _LISTS, Field(min_length=1)] | None = Field(
        default=None, description="Every accepted answer; `assistant` is one of them."
    )
    image_offsets: Annotated[tuple[Annotated[int, Field(ge=0)], ...], _LISTS] | None = Field(
        default=None,
        description="The position of each image, as character offsets into `user`, ascending. "
        "Absent: all images come before the text.",
    )

    @model_validator(mode="after")
    def _answers_hold_assistant(self) -> Turn:
        if self.answers is not None and self.assistant is not None and self.assistant not in self.answers:
            raise ValueError(f"assistant {self.assistant!r} is not one of answers")
        return self

    @model_validator(mode="after")
    def _offsets_fit(self) -> Turn:
        if (offsets := self.image_offsets) is None:
            return self
        if len(offsets) != len(self.images):
            raise ValueError(f"image_offsets has {len(offsets)} entries for {len(self.images)} images")
        if list(offsets) != sorted(offsets) or any(o > len(self.user) for o in offsets):
            raise ValueError(f"image_offsets must ascend and stay within user (0..{len(self.user)})")
        return self

    def to_wire(self) -> dict[str, Any]:
        """The turn as a plain dict in wire order, optional keys only when present."""
        wire: dict[str, Any] = {
            "images": list(self.images),
            "user": self.user,
            "assistant": self.assistant,
        }
        if self.answers is not None:
            wire["answers"] = list(self.answers)
        if self.image_offsets is not None:
            wire["image_offsets"] = list(self.image_offsets)
        return wire


class Conversation(Contract):
    """One record: a dialogue of one or more turns over zero or more images."""

    id: Name = Field(description="Unique in a dataset; written by phiv as `{split}-{index:010d}`.")
    source: Name = Field(description="The dataset the record comes from, such as `ucf101`.")
    conversations: Annotated[tuple[Turn, ...], _LISTS] = Field(min_length=1, description="The turns, first to last.")
    system: Text | None = Field(default=None, description="A system prompt, where the dataset has one.")

    @model_validator(mode="after")
    def _labels_come_first(self) -> Conversation:
        labeled = [turn.assistant is not None for turn in self.conversations]
        if labeled != sorted(labeled, reverse=True):
            raise ValueError("a turn with an answer follows a turn whose assistant is null")
        return self

    @property
    def turns(self) -> tuple[Turn, ...]:
        """`conversations` by its plainer name."""
        return self.conversations

    @property
    def image_paths(self) -> tuple[str, ...]:
        """Every image of the dialogue, in order, repeats included."""
        return tuple(path for turn in self.conversations for path in turn.images)

    @property
    def is_labeled(self) -> bool:
        """True when every turn has an answer."""
        return all(turn.assistant is not None for turn in self.conversations)

    def to_wire(self) -> dict[str, Any]:
        """The record as a plain dict in wire order, optional keys only when present."""
        wire: dict[str, Any] = {
            "id": self.id,
            "source": self.source,
            "conversations": [turn.to_wire() for turn in self.conversations],
        }
        if self.system is not None:
            wire["system"] = self.system
        return wire

    def to_line(self) -> str:
        """The record as its jsonl line, without the newline: ASCII-escaped JSON, default separators."""
        return json.dumps(self.to_wire())
