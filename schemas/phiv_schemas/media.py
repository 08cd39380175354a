"""What is known of one image of a record: its size, its bytes' hash and where it came from.

Width and height are those of the *decoded* image: after the EXIF orientation, which phiv applies on decode as
Hugging Face `datasets` does. Token counts are planned from them without opening the image.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from phiv_schemas.conversation import Contract, ImagePath

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class ImageMeta(Contract):
    """One encoded image. `frame_index`, `timestamp` and `decoder` are set for frames of a video."""

    path: ImagePath = Field(description="Relative to images/, as in the turn that shows it.")
    width: int = Field(ge=1, description="Pixels, after EXIF orientation.")
    height: int = Field(ge=1, description="Pixels, after EXIF orientation.")
    format: str = Field(description="Pillow's format name, read from the header: JPEG, PNG, ...")
    size_bytes: int = Field(ge=1, description="Length of the encoded image.")
    sha256: Sha256 = Field(description="Of the encoded image.")
    source: str | None = Field(default=None, description="Input file, relative to the source's root.")
    source_sha256: Sha256 | None = Field(default=None, description="Of the input file.")
    frame_index: int | None = Field(default=None, ge=0, description="Decode-order index of the frame.")
    timestamp: float | None = Field(default=None, description="Presentation time of the frame, seconds.")
    decoder: str | None = Field(
        default=None,
        description="`pyav-18.1.0`: decoder and version; `pyav-18.1.0 (used groups)` where it decoded only groups of"
        " frames with wanted ones.",
    )
