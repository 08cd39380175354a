"""Fields of a row of an external format, taken one by one; the parsed row; the reject of a row.

Codes: `bad-row` (a field missing or of a wrong type), `unsupported-media` (video, audio, tools), `unsupported-row` (a
kind of row that phiv has no place for: an answer marked as bad, plain text to continue).
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from phiv_data.formats.text import VideoPart
from phiv_data.media.reject import RejectInput
from phiv_data.storage.record_errors import truncated_repr
from phiv_schemas.conversation import check_name

TOOLS = {"tools", "functions", "tool_calls", "function_call", "tool_call_id"}
ANSWERS = {
    *("chosen", "response", "answer", "answers", "output", "completion", "completions", "target", "targets", "label"),
    *("solution", "ground_truth", "gt_answer"),
}
"""Keys that hold an answer, where the messages have none."""
_PREDICTIONS = ("predict", "prediction", "predictions", "pred", "model_answer", "model_output", "model_response")
_TEXT_KEYS = {"text", "message", "msg", "body", "utterance", "parts", "prompt", "question"}
_WEIGHTS = ("loss", "weight", "train", "loss_weight")
_FILES = r"(?:[_-]?(?:paths?|files?|file[_-]?names?|names?|urls?|uris?|list|data|bytes|base64|b64|src|links?))?"
_MEDIA_KEY = re.compile(rf"(?:videos?|audios?|speech|clips?){_FILES}", re.IGNORECASE)
_IMAGE_KEY = re.compile(
    rf"(?:images?|imgs?|pict?(?:ure)?s?|photos?|frames?|visuals?|medias?){_FILES}"
    r"|pixel[_-]?values|attachments?|(?:multi[_-]?modal|mm)[_-]?(?:data|inputs?)",
    re.IGNORECASE,
)
_IMAGE_TEXT = re.compile(
    r"\s*data:image/.*|[^<>\n]+\.(?:jpe?g|jfif|png|gif|bmp|webp|tiff?|avif|heic)\s*", re.IGNORECASE | re.DOTALL
)


class RejectRow(RejectInput):
    """A row that phiv cannot use. `path` is where in it, such as `messages[2].content`; "" for the whole row.

    `hint` is what to do, the end of the reason.
    """

    def __init__(self, where: str, code: str, reason: str, path: str = "", hint: str = "") -> None:
        super().__init__(where, code, f"{reason}. {hint}" if hint else reason)
        self.args, self.path, self.hint = (where, code, reason, path, hint), path, hint

    @property
    def message(self) -> str:
        """The reason without its path and what to do."""
        return self.reason.removeprefix(f"{self.path} ").removesuffix(f". {self.hint}")


@dataclass(frozen=True, slots=True)
class TurnPaths:
    """JSON paths of the parts of a turn in its row, such as `messages[2].content[0]`; "" where not known."""

    user: str = ""
    assistant: str = ""
    images: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ParsedTurn:
    """A turn as another format has it; `images` are its references: paths, URLs, `data:` URIs."""

    images: tuple[str, ...]
    user: str
    assistant: str | None
    image_offsets: tuple[int, ...] | None = None
    paths: TurnPaths = field(default=TurnPaths(), compare=False, repr=False)
    answers: tuple[str, ...] | None = None
    videos: Mapping[int, VideoPart] = field(default_factory=dict, hash=False)
    """Which of `images` are videos, by their numbers."""


@dataclass(frozen=True, slots=True)
class ParsedRow:
    """A row as turns. `unread` names the keys that hold something phiv has no place for.

    `system_path` is the path of the system prompt, as in `TurnPaths`.
    """

    turns: tuple[ParsedTurn, ...]
    system: str | None = None
    id: str | None = None
    source: str | None = None
    unread: tuple[str, ...] = ()
    system_path: str = field(default="", compare=False, repr=False)

    @property
    def image_refs(self) -> tuple[str, ...]:
        """Every image and video of the row, in order, repeats included."""
        return tuple(ref for turn in self.turns for ref in turn.images)


@dataclass(slots=True)
class Fields:
    """The keys of a row that are not taken yet, or of the object at `path` in it."""

    left: dict[str, Any]
    where: str
    path: str = ""
    unread: set[str] = field(default_factory=set)
    reads_videos: bool = False

    def take(self, *names: str) -> Any:
        """The value of the one of `names` that holds something; None where none does."""
        left = self.left
        found = [name for name in names if name in left]
        values = [left.pop(name) for name in found]
        if len(found) < 2:
            return values[0] if values else None
        full = [i for i, value in enumerate(values) if not is_empty(value)]
        if len(full) > 1:
            raise self.bad(f"both {found[full[0]]!r} and {found[full[1]]!r} hold something")
        return values[full[0]] if full else next((value for value in values if value is not None), None)

    def key(self, *names: str) -> str:
        """The one of `names` that `take` would give the value of; the first one where none is there."""
        left = self.left
        found = [name for name in names if name in left]
        if len(found) < 2:
            return found[0] if found else names[0]
        return next((name for name in found if not is_empty(left[name])), found[0])

    def text(self, value: Any, path: str) -> str:
        """`value` if it is text that can be written as UTF-8."""
        if not isinstance(value, str):
            raise self.bad(f"{path} is not text (found {truncated_repr(value)})", path)
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise self.bad(f"{path} holds half a surrogate pair at {error.start}", path) from error
        return value

    def take_answer(self, *names: str) -> tuple[str, Any, tuple[str, ...] | None]:
        """The answer at the one of `names` that holds something, after its path and before all accepted ones.

        A list of answers is read as accepted ones, its first as the answer; so is `answers` beside another of `names`.
        """
        more: tuple[str, ...] = ()
        others = [name for name in names if name != "answers" and not is_empty(self.left.get(name))]
        if others and isinstance(self.left.get("answers"), list) and "answers" in names:
            more = self._answers(self.left.pop("answers"), "answers")
        path, value = self.key(*names), self.take(*names)
        is_list = isinstance(value, list) and not any(isinstance(item, dict) and "type" in item for item in value)
        if is_list or _is_number(value):
            found = self._answers(value, path)
            value, more = found[0] if found else None, (*found, *more)
        accepted = tuple(dict.fromkeys((value, *more))) if isinstance(value, str) else ()
        return path, value, accepted if len(accepted) > 1 else None

    def _answers(self, value: Any, path: str) -> tuple[str, ...]:
        """One answer, or a list of them (VQA's objects with an `answer` too); numbers as text, nothing left out."""
        found = []
        for i, item in enumerate(value if isinstance(value, list) else [value]):
            if not is_empty(item):
                here = f"{path}[{i}]" if isinstance(value, list) else path
                one = item.get("answer") if isinstance(item, dict) else item
                found.append(self.text(json.dumps(one) if _is_number(one) else one, here))
        return tuple(found)

    def take_id(self, *names: str) -> str | None:
        """An id, text or integer, as text; any other value is left, and so counted as unread."""
        for name in names:
            value = self.left.get(name)
            if type(value) in (str, int) and value != "":
                return self.text(str(self.left.pop(name)), name)
        return None

    def take_source(self) -> str | None:
        """`source`, where it can be the source of a record."""
        value = self.left.get("source")
        try:
            name = check_name(value) if isinstance(value, str) else None
        except ValueError:
            return None
        if name is not None:
            del self.left["source"]
        return name

    def refuse_media(self, more: Collection[str] = ()) -> None:
        """RejectInput for keys that hold video, audio or tools, and for those of `more`; empty ones are nothing."""
        for name in sorted(self.left):
            is_media = name in TOOLS or name in more or _MEDIA_KEY.fullmatch(name)
            if is_media and not isinstance(self.left[name], bool | int | float) and not is_empty(self.left.pop(name)):
                what = f"has {truncated_repr(name)}: phiv reads text and images only"
                if self.reads_videos:
                    what = f"has {truncated_repr(name)}: phiv reads text, images and 'videos' only"
                elif name in ("video", "videos"):
                    what = f"has {truncated_repr(name)}, which only phiv-convert reads"
                raise RejectRow(self.where, "unsupported-media", what, self._at(name))

    def refuse_bad_label(self, name_of_entry: str = "") -> None:
        """RejectInput for an answer that is marked as one to avoid (KTO); `name_of_entry` is a key known to mark it."""
        for name in ("label", "kto_tag", name_of_entry):
            value = self.left.get(name)
            is_zero = name == name_of_entry and value in (0, "0")
            if value is False or is_zero or (isinstance(value, str) and value.strip().lower() == "false"):
                what = f"{name!r} is false: the answer is one to avoid"
                raise RejectRow(self.where, "unsupported-row", what, self._at(name))

    def refuse_masked_answer(self) -> None:
        """RejectInput for a message that its row says must not be learned."""
        for name in _WEIGHTS:
            if (value := self.left.get(name)) is False or (isinstance(value, int | float) and value == 0):
                what = f"'{name}' is {value}: the answer is not to be learned, and phiv learns every answer"
                raise RejectRow(self.where, "unsupported-row", what, self._at(name))

    def refuse_unread_images(self, refs: Collection[str] = ()) -> None:
        """RejectInput for keys that could hold images, after all others are taken; `refs` are the row's images.

        Beside images that are read, only a key that is named for images counts, and only for others than these.
        """
        known = {ref.replace("\\", "/").rpartition("/")[2] for ref in refs}
        for name, value in sorted(self.left.items()):
            is_named = _IMAGE_KEY.fullmatch(name) is not None
            texts = [text for text in texts_of(value) if is_image_text(text)] if is_named or not refs else []
            new = [text for text in texts if text.replace("\\", "/").rpartition("/")[2].strip() not in known]
            is_other = is_named and not refs and isinstance(value, str | list | dict) and not is_empty(value)
            if new or is_other:
                what = f"{truncated_repr(self._at(name))} holds what could be an image, and is not read (found "
                hint = "Name the images in the column 'images'"
                raise self.bad(f"{what}{truncated_repr(value)})", self._at(name), hint)

    def refuse_unread_answer(self) -> None:
        """RejectInput for keys that hold an answer, in a row whose messages end without one."""
        for name in sorted(self.left.keys() & ANSWERS):
            if isinstance(value := self.left[name], str | list | dict) and not is_empty(value):
                what = f"{name!r} holds an answer, and the messages end without one"
                hint = "Make it the last message, of the assistant"
                raise RejectRow(self.where, "unsupported-row", what, self._at(name), hint)

    def refuse_unread_text(self) -> None:
        """RejectInput for a message without content whose text is under another key."""
        for name in sorted(self.left.keys() & (ANSWERS | _TEXT_KEYS)):
            if isinstance(value := self.left[name], str | list | dict) and not is_empty(value):
                what = f"{self.path} has no content, and {name!r} holds text, which is not read"
                raise self.bad(what, self.path, "Rename that key to 'content'")

    def _at(self, name: str) -> str:
        return f"{self.path}.{name}".lstrip(".")

    def all_unread(self) -> tuple[str, ...]:
        """What was left out: keys of messages and images, and keys of the row that nobody took."""
        if not self.left and not self.unread:
            return ()
        return tuple(sorted(self.unread | {name for name, value in self.left.items() if not is_empty(value)}))

    def bad(self, reason: str, path: str = "", hint: str = "") -> RejectRow:
        """The error of the field at `path` that is not what it should be."""
        return RejectRow(self.where, "bad-row", reason, path, hint)


def fields_of(record: Any, where: str, *, videos: bool = False) -> Fields:
    """The fields of a row, of one whose `videos` are read or refused. RejectInput `bad-row` where it is no object."""
    if not isinstance(record, dict):
        raise RejectRow(where, "bad-row", f"not an object (found {truncated_repr(record)})")
    if is_phiv_row(record):
        raise RejectRow(where, "bad-row", "a row in phiv's own format", hint="Use phiv-convert jsonl")
    if key := find_model_answer(record):
        what = f"{key!r} marks it as the answer of a model, which is not to be learned"
        raise RejectRow(where, "unsupported-row", what, key, "Pass the questions with their right answers")
    return Fields(dict(record), where, reads_videos=videos)


def find_model_answer(row: dict[str, Any]) -> str:
    """The key that shows a row to be what a model said in an evaluation; "" where it is none.

    LLaVA's answer files, LLaMA-Factory's `generated_predictions.jsonl`, ms-swift's results (`response` and `labels`).
    """
    with_model = "model_id" if "question_id" in row else "answer_id"
    with_response = "labels" if "response" in row else "predict"
    keys = ("answer_id", with_model, with_response, *_PREDICTIONS)
    return next((key for key in keys if not is_empty(row.get(key))), "")


def is_image_text(text: str) -> bool:
    """True for text that is likely the name of an image, or a `data:` URI of one."""
    return _IMAGE_TEXT.fullmatch(text) is not None


def is_phiv_row(record: Any) -> bool:
    """True for a record in phiv's own format: its turns have images and what the user says."""
    turns = record.get("conversations") if isinstance(record, dict) else None
    first = turns[0] if isinstance(turns, list) and turns else None
    return isinstance(first, dict) and {"images", "user"} <= set(first)


def texts_of(value: Any, depth: int = 4) -> Iterator[str]:
    """Every text in a JSON value, in lists and objects so deep."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | dict) and depth:
        for item in value.values() if isinstance(value, dict) else value:
            yield from texts_of(item, depth - 1)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def is_empty(value: Any) -> bool:
    """None, and empty text, lists and objects (and lists of nothing else): as tables fill a missing cell."""
    if isinstance(value, list):
        return all(is_empty(item) for item in value)
    return value is None or value in ("", {})
