"""Draft, Sample and EncodedImage: a converter yields a `Draft`, the dataset returns a `Sample`.

The images and turns of a draft come back in its sample byte for byte; the engine only adds the id and the source where
the draft has none of its own.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from phiv_data.media.images import open_image
from phiv_data.media.reject import RejectInput
from phiv_schemas import Conversation, ImageMeta, Turn, check_image_path

MAX_NAME_BYTES = 255

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True, slots=True)
class EncodedImage:
    """One image as a file holds it (JPEG, PNG, ...); decoded only when `open` is called."""

    meta: ImageMeta
    data: bytes

    def open(self) -> Image:
        """The decoded image, EXIF orientation applied, in the file's own mode. RecordError if broken."""
        return open_image(self.data, where=self.meta.path)


def encoded_image(path: str, data: bytes, *, size: tuple[int, int], format: str, **provenance: Any) -> EncodedImage:
    """An `EncodedImage` with its length and hash filled in. `size` is (width, height) of the decoded image.

    RejectInput `bad-name` for a path that the format or a file system cannot hold.
    """
    shown = path.encode("utf-8", "backslashreplace").decode()
    try:
        longest = max(len(part.encode()) for part in check_image_path(path).split("/"))
    except ValueError as error:  # UnicodeEncodeError is one: a name that is not UTF-8 on disk
        raise RejectInput(shown, "bad-name", f"cannot be an image path: {error}") from error
    if longest > MAX_NAME_BYTES:
        what = f"a name of {longest} bytes, over the {MAX_NAME_BYTES} a file system takes"
        raise RejectInput(shown, "bad-name", what)
    sha256 = hashlib.sha256(data).hexdigest()
    width, height = size
    meta = ImageMeta(
        path=path,
        width=width,
        height=height,
        format=format,
        size_bytes=len(data),
        sha256=sha256,
        **provenance,
    )
    return EncodedImage(meta, data)


@dataclass(frozen=True, slots=True)
class Draft:
    """What a converter makes of one input. `images` are in the order the turns name them, repeats included.

    `source` is the record's where it is not the converter's `record_source`. `id` is for data that come with ids of
    their own, unique over all splits; `convert.plan.row_id` makes the others.
    """

    turns: tuple[Turn, ...]
    images: tuple[EncodedImage, ...]
    system: str | None = None
    source: str | None = None
    id: str | None = None


@dataclass(frozen=True, slots=True)
class Sample:
    """A record and its images. `images[i]` is the image of `conversation.image_paths[i]`."""

    conversation: Conversation
    images: tuple[EncodedImage, ...]

    @property
    def id(self) -> str:
        """The record's id."""
        return self.conversation.id
