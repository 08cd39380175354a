"""Examples: questions about images and their answers, however a source keeps them, and the drafts they become.

    Example(images=("cats/1.jpg",), question="What is it?", answer="a cat")

An image is a path (looked for below the roots), an encoded image, or a `data:` URI.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from phiv_converters.base import file_stamp
from phiv_converters.chat_json.files import find_clip, find_image
from phiv_converters.clips import JPEG_QUALITY, clip_images
from phiv_data.formats.files import Root, is_absolute, is_data_uri, locate_image, shorten, strip_folders
from phiv_data.media.reject import RejectInput
from phiv_data.media.video import CheckVideo, Sampling
from phiv_data.sources.image_index import checked_image
from phiv_data.storage.record_errors import truncated_repr
from phiv_data.storage.sample import Draft, EncodedImage
from phiv_schemas import Turn
from phiv_schemas.conversation import check_name

ImageRef = str | bytes


@dataclass(frozen=True, slots=True)
class Example:
    """A question, the images it is about, and what is answered: `answer` is learned, `answers` are all accepted ones.

    `answer` is None where the source knows none.
    """

    images: tuple[ImageRef, ...]
    question: str
    answer: str | None
    answers: tuple[str, ...] = ()
    id: str | None = None


def image_files(images: Iterable[ImageRef], roots: Sequence[Root]) -> list[Path]:
    """The files of those images that are paths and are there."""
    files = []
    for ref in images:
        try:
            found = locate_image(ref, roots, 0) if isinstance(ref, str) else None
        except (OSError, ValueError):
            continue  # the draft is rejected
        files += [found[0]] if found else []
    return files


def leads_out(ref: ImageRef) -> bool:
    """True for a path that is absolute or has `..`, which a dataset from elsewhere has no use for."""
    path = "" if isinstance(ref, bytes) or is_data_uri(ref) else strip_folders(ref, 0)
    return is_absolute(path) or ".." in path.split("/")


def example_draft(example: Example, split: str, where: str, roots: Sequence[Root], clips: Clips | None = None) -> Draft:
    """One turn about the example's images, and the frames of those references that `clips` takes for clips.

    RejectInput where one of them cannot be used, or there is no question.
    """
    if not example.question.strip():
        raise RejectInput(where, "bad-row", "the question is empty")
    images = list[EncodedImage]()
    for ref in example.images:
        if clips is not None and isinstance(ref, str) and clips.takes(ref):
            images += _frames(ref, split, where, roots, clips)
            continue
        name, data = find_image(ref, roots, 0, where)
        try:
            images.append(_check_image(f"{split}/{name}", data, name))
        except RejectInput as reject:
            shown = repr(shorten(ref)) if isinstance(ref, str) else "of bytes"
            raise RejectInput(where, reject.code, f"image {shown}: {reject.reason}") from reject
    answers = example.answers
    if answers and example.answer is not None and example.answer not in answers:
        answers = (example.answer, *answers)
    paths = tuple(image.meta.path for image in images)
    try:
        turn = Turn(images=paths, user=example.question, assistant=example.answer, answers=answers or None)
    except ValueError as error:  # JSON may hold half a surrogate pair
        raise RejectInput(where, "bad-row", "its question or answer cannot be written as UTF-8") from error
    if example.id is not None:
        try:
            check_name(example.id)
        except ValueError as error:
            raise RejectInput(
                where, "bad-row", f"its id {truncated_repr(example.id)} cannot be kept: {error}"
            ) from error
    return Draft((turn,), tuple(images), id=example.id)


class Clips(NamedTuple):
    """Which references are to clips, and how these are read."""

    takes: Callable[[str], bool]
    sampling: Sampling
    check: CheckVideo


def _frames(ref: str, split: str, where: str, roots: Sequence[Root], clips: Clips) -> tuple[EncodedImage, ...]:
    """The frames of a clip, named by its path. RejectInput, at the row, where it cannot be used."""
    path, name = find_clip(ref, roots, 0, where)
    try:
        return _read_clip(path, file_stamp(path), f"{split}/{name}", name, clips.sampling, clips.check)
    except RejectInput as reject:
        raise RejectInput(where, reject.code, f"video {shorten(ref)!r}: {reject.reason}") from reject


@lru_cache(maxsize=2)  # rows that ask about one clip are next to each other
def _read_clip(
    path: Path, stamp: tuple[int, ...] | None, stem: str, name: str, sampling: Sampling, check: CheckVideo
) -> tuple[EncodedImage, ...]:
    return clip_images(path, stem, name, sampling, JPEG_QUALITY, check=check)


@lru_cache(maxsize=8)  # rows that ask about one image are next to each other
def _check_image(path: str, data: bytes, name: str) -> EncodedImage:
    return checked_image(path, data, path, source=name)


def text_of_cell(value: Any, what: str, where: str) -> str | None:
    """A cell as text; None for an empty one. Numbers and booleans are written as in JSON.

    RejectInput `bad-row` where it is a list or an object.
    """
    if value is None or value != value or (isinstance(value, str) and not value.strip()):  # NaN differs from itself
        return None
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str | int | float):
        return str(value)
    if hasattr(value, "isoformat"):  # a date of a spreadsheet
        return str(value.isoformat())
    raise RejectInput(where, "bad-row", f"{what} is no text (found {truncated_repr(value)})")
