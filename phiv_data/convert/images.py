"""Images for drafts, read and checked."""

from __future__ import annotations

from pathlib import Path

from phiv_data.sources.image_index import checked_image, read_image
from phiv_data.storage.sample import EncodedImage


def load_image(path: Path, name: str, *, where: str = "", source: str = "") -> EncodedImage:
    """The image in the file `path`, its bytes as they are, decoded once to be sure.

    `name` is its place below images/; `where`, by default `name`, stands for it in a reject, and `source` in its
    metadata. RejectInput where the file is missing, cannot be read, or does not decode.
    """
    where = where or name
    return checked_image(name, read_image(path, where), where, source=source or name)
