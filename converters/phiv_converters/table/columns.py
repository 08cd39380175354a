"""What the columns of a table are: guessed by their names and cells, or said by flags.

guess_columns(flags, ["photo", "q", "a"], rows)    Columns(image=("photo",), question="q", answer="a", ...)
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Any

from phiv_converters.examples import ImageRef, text_of_cell
from phiv_converters.table.options import TableOptions
from phiv_data.formats.files import is_data_uri
from phiv_data.formats.recognise import CLIP_SUFFIXES, IMAGE_SUFFIXES
from phiv_data.media.reject import RejectInput
from phiv_data.storage.record_errors import truncated_repr
from phiv_schemas.errors import SourceError, UsageError

QUESTIONS = ("question", "query", "prompt", "instruction", "problem", "user", "input")
ANSWERS = ("answers", "accepted_answers", "all_answers")
ANSWER = ("answer", "response", "output", "assistant", "completion", "solution", "multiple_choice_answer")
LABELS = ("label", "class", "class_name", "category", "target")
CAPTIONS = ("caption", "captions", "text", "description", "sentence")
DIALOGUES = ("messages", "conversations", "conversation", "texts", "chosen", "rejected", "videos", "video")
CLASSES = "Classify the image into one of the following classes: {classes}."
DESCRIBE = "Describe the image."
_SEPARATORS = ";|\n,"
_BASE64 = re.compile(r"[A-Za-z0-9+/\s]{64,}={0,2}\s*")
_MAGIC = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"RIFF", b"BM", b"II*\0", b"MM\0*")
_PLACE = re.compile(r"\{([^{}]+)\}")


@dataclass(frozen=True, slots=True)
class Columns:
    """The columns that are read. `prompt` is the question of every row where no column holds it; {NAME} is a cell.

    `classes` is what {classes} in it becomes; `has_clips`: image columns may hold paths of clips.
    """

    image: tuple[str, ...]
    question: str | None = None
    prompt: str = ""
    classes: str = ""
    answer: str | None = None
    answers: str | None = None
    id: str | None = None
    split: str | None = None
    group: str | None = None
    has_clips: bool = False

    @property
    def places(self) -> tuple[str, ...]:
        """The columns whose values the prompt takes."""
        return tuple(name for name in dict.fromkeys(_PLACE.findall(self.prompt)) if name != "classes")

    @property
    def names(self) -> tuple[str, ...]:
        """Every column that is read, once."""
        several = (*self.image, self.question, self.answer, self.answers, self.id, self.split, self.group, *self.places)
        return tuple(dict.fromkeys(name for name in several if name is not None))

    def describe(self) -> str:
        """Which column is what, in one line."""
        roles = ("question", "answer", "answers", "id", "split", "group")
        named = [f"{role}={value}" for role in roles if (value := getattr(self, role)) is not None]
        asked = [] if self.question else [f"question={truncated_repr(self.prompt)}"]
        return ", ".join([f"image={'+'.join(self.image)}", *asked, *named])


def guess_columns(flags: TableOptions, names: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> Columns:
    """The columns of a table with these first rows. UsageError for a flag that names none; SourceError where
    a column cannot be found, with the flags that say it.
    """
    for flag in ("image", "answer", "answers", "id", "split", "group"):
        value = getattr(flags, flag)
        for name in value if isinstance(value, tuple) else [value]:
            if name is not None and name not in names:
                raise UsageError(f"--{flag}", f"no column {name!r}", f"The table has: {', '.join(names)}")
    for name in names:
        if name.lower() in DIALOGUES and any(_may_be_dialogue(row.get(name)) for row in rows):
            command = {"texts": "cauldron", "conversations": "llava", "messages": "trl"}.get(name.lower())
            hint = f"Use phiv-convert {command}" if command else "phiv-convert reads no such rows"
            raise SourceError(f"column {name}", "holds conversations, or more than images", hint)
    image = flags.image or _image_columns(names, rows)
    if not image:
        what = f"no column holds images (found {', '.join(names)[:200]})"
        raise SourceError("--image", what, "Name the column with --image")
    free = [name for name in names if name not in image]
    question, prompt = _question(flags, free)
    has_clips = any(is_clip_name(ref) for ref in text_refs(image, rows))
    classes, describe = (text.replace("image", "video") if has_clips else text for text in (CLASSES, DESCRIBE))
    free = [name for name in free if name != question]
    answers = flags.answers or _named(free, ANSWERS, "--answers")
    free = [name for name in free if name != answers]
    answer, default = flags.answer, prompt or describe
    if answer is None:
        answer = _named(free, ANSWER, "--answer")
    if answer is None and answers is None:
        answer = _named(free, LABELS, "--answer")
        default = prompt or (classes if answer else describe)
        answer = answer or _named(free, CAPTIONS, "--answer")
    elif answer is not None and _plain(answer) in LABELS:
        default = prompt or classes
    unread = [name for name in free if name not in (answer, flags.id, flags.split, flags.group)]
    lacking = [] if question or prompt else ["question"]
    for usual in lacking + ([] if answer or answers else ["answer"]):
        if near := next((name for name in unread if _is_nearly(_plain(name), usual)), None):
            what = f"is nearly {usual!r}, and no column is called so"
            raise SourceError(f"column {near!r}", what, f"Rename it, or pass --{usual} {near}")
    return Columns(
        tuple(image), question, "" if question else default, "", answer, answers, flags.id,
        flags.split or next((name for name in free if _plain(name) == "split"), None), flags.group,
        has_clips or flags.num_frames is not None or flags.fps is not None,
    )  # fmt: skip


def image_refs(cell: Any, where: str) -> Iterator[ImageRef]:
    """The images of a cell: paths in a list or with a separator, bytes, base64, structs of bytes and path."""
    if cell is None or cell != cell or cell == "":
        return
    if isinstance(cell, bytes):
        yield cell
    elif isinstance(cell, list | tuple):
        for one in cell:
            yield from image_refs(one, where)
    elif isinstance(cell, dict):
        ref = cell.get("bytes") or cell.get("path") or cell.get("url") or cell.get("file_name")
        if not isinstance(ref, str | bytes):
            raise RejectInput(
                where, "missing-image", f"its object holds neither bytes nor path ({truncated_repr(cell)})"
            )
        yield ref
    elif isinstance(cell, str):
        yield from _refs_of_text(cell.strip(), where)
    else:
        raise RejectInput(where, "bad-row", f"its image is neither a path nor bytes (found {truncated_repr(cell)})")


def _refs_of_text(text: str, where: str) -> Iterator[ImageRef]:
    if is_data_uri(text):
        yield text
        return
    if text.startswith("["):
        try:
            yield from image_refs(json.loads(text), where)
        except (ValueError, RecursionError):
            yield text
        return
    if _BASE64.fullmatch(text):
        try:
            data = base64.b64decode("".join(text.split()), validate=True)
        except ValueError:
            data = b""
        if data.startswith(_MAGIC):
            yield data
            return
    for separator in _SEPARATORS:
        parts = [part.strip() for part in text.split(separator)]
        parts = parts if parts[-1] else parts[:-1]
        if len(parts) > 1 and all(map(_is_media_name, parts)):
            yield from parts
            return
    yield text


def _image_columns(names: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The columns whose cells are images, where those with a cell are nearly all that: or one that is called so."""
    found = []
    for name in names:
        cells = [row[name] for row in rows if row.get(name) not in (None, "")]
        shown = 0
        for cell in cells:
            with suppress(RejectInput):
                refs = list(image_refs(cell, ""))
                shown += bool(refs) and all(isinstance(r, bytes) or is_data_uri(r) or _is_media_name(r) for r in refs)
        if cells and shown >= 0.9 * len(cells):
            found.append(name)
    if found:
        return found
    return [name for name in names if re.fullmatch(r"(images?|img|file_name|image_path|image_file)", _plain(name))][:1]


def text_refs(image: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """What the cells of image columns name."""
    for row in rows:
        with suppress(RejectInput):
            yield from (ref for name in image for ref in image_refs(row.get(name), "") if isinstance(ref, str))


def _may_be_dialogue(cell: Any) -> bool:
    """True for an object or a list, but not of names of clips alone."""
    if isinstance(cell, list) and cell and all(isinstance(one, str) and is_clip_name(one) for one in cell):
        return False
    return isinstance(cell, list | dict)


def is_image_name(text: str) -> bool:
    """True for a name with the suffix of an image."""
    return _has_suffix(text, IMAGE_SUFFIXES)


def is_clip_name(text: str) -> bool:
    """True for a name with the suffix of a video."""
    return _has_suffix(text, CLIP_SUFFIXES)


def _is_media_name(text: str) -> bool:
    return is_image_name(text) or is_clip_name(text)


def _has_suffix(text: str, suffixes: Sequence[str]) -> bool:
    return len(text) < 4096 and "\n" not in text and text.lower().rpartition(".")[2] in suffixes and "." in text


def _question(flags: TableOptions, names: Sequence[str]) -> tuple[str | None, str]:
    """(column, prompt): one of them. A flag that names no column is the question itself where it reads like one."""
    if flags.question is None:
        return _named(names, QUESTIONS, "--question"), ""
    if flags.question in names:
        return flags.question, ""
    if not re.search(r"[\s?{]", flags.question.strip()):
        raise UsageError("--question", f"no column {flags.question!r}", f"The table has: {', '.join(names)}")
    if unknown := [name for name in _PLACE.findall(flags.question) if name not in (*names, "classes")]:
        raise UsageError("--question", f"no column {unknown[0]!r} to take from", f"The table has: {', '.join(names)}")
    return None, flags.question


def _named(names: Sequence[str], usual: Sequence[str], flag: str) -> str | None:
    """The one column that has a usual name. SourceError where several have."""
    found = [name for name in names if _plain(name) in usual]
    if len(found) > 1:
        what = f"{' and '.join(found)} could each be it"
        raise SourceError(flag, what, f"Name one: {' or '.join(f'{flag} {name}' for name in found)}")
    return found[0] if found else None


def _is_nearly(name: str, usual: str) -> bool:
    """True for a misspelling: `qestion`, `anwser`; not for a word of its own, as `answers` or `question_id`."""
    same = SequenceMatcher(None, name, usual).ratio()
    return same >= 0.8 and abs(len(name) - len(usual)) <= 1 and not name.startswith(usual) and name[0] == usual[0]


def _plain(name: str) -> str:
    return re.sub(r"[\s-]+", "_", name.strip().lower())


def fill_prompt(columns: Columns, text: Callable[[str], str | None]) -> str:
    """The prompt with the row's values at its places."""
    return _PLACE.sub(lambda p: columns.classes if p[1] == "classes" else text(p[1]) or "", columns.prompt)


def answer_list(cell: Any, where: str) -> tuple[str, ...]:
    """Accepted answers: of a list, its texts or the `answer` or `text` of its objects; of JSON text the same."""
    if isinstance(cell, str) and cell.lstrip().startswith("["):
        with suppress(ValueError, RecursionError):  # an answer may begin so
            cell = json.loads(cell)
    if isinstance(cell, dict) and isinstance(cell.get("text"), list):
        cell = cell["text"]
    found = []
    for one in cell if isinstance(cell, list) else [cell]:
        keys = [key for key in ("answer", "text", "value") if key in one] if isinstance(one, dict) else []
        value = one[keys[0]] if keys else one
        if (text := text_of_cell(value, "an answer", where)) is not None:
            found.append(text)
    return tuple(dict.fromkeys(found))
