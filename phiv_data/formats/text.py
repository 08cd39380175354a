r"""Text with `<image>` markers to user text and image offsets, and back: LLaVA, LLaMA-Factory and ms-swift.

    "<image><image>\nWhich is larger?"      "Which is larger?", no offsets: all images before the text, then a newline
    "Is <image> larger than <image>?"       "Is  larger than ?", offsets 3, 16: characters of the text without markers
    "What does <\image> mean?"              "What does <image> mean?", no image: the marker is escaped

A literal `<image>`, `<video>`, `<audio>` or `<img>` is written with one more backslash, so that nobody takes it for the
place of one, and read with one less. `<\image>` itself becomes `<\\image>`. So every text and every placement has one
rendering, and comes back from it, but for one case: images at offset 0 of a text that begins with a newline read like
the plain form, which they equal.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from phiv_schemas import Turn

MARKER, VIDEO_MARKER = "<image>", "<video>"
_TOKEN = re.compile(r"<(\\*)(image|video|audio|img)>")  # `<img>a.jpg</img>` is an image to ms-swift

IMG_TAG = re.compile(r"<img>(.+?)</img>", re.DOTALL)
"""Qwen-VL's form of an image, which ms-swift reads: its path in the text."""

# Begins with a set of characters, to which the search jumps.
MEDIA_MARKER = re.compile(
    r"""[<\[](?:(?<=<)(?:
      \|?/?(?:(?:image|video|audio)(?:_pad|_token|_soft_token|_placeholder|_start|_end|_bos|_eos)?|imgpad|media_pad
         |vision_start|vision_end|vision_pad|(?:begin|start|end)_of_(?:image|video|audio)|speech
         |img_context|imagehere|im_patch)(?:[_\ ]?\d+)?\|?>
    | img>(?=[^<>]{0,400}</img>))                               # Qwen-VL; HTML's img has no end
    | (?<=\[)(?-i:IMG\](?!\s*http)|AUDIO\]))                   # Pixtral, not a forum's; Voxtral""",
    re.IGNORECASE | re.VERBOSE,
)
"""What one tool or another reads as the place of an image, a video or a sound."""


@dataclass(frozen=True, slots=True)
class VideoPart:
    """Which frames of a video a row itself asks for; None where it does not say. Times in seconds from its start."""

    start: float | None = None
    end: float | None = None
    fps: float | None = None
    num_frames: int | None = None
    max_frames: int | None = None


@dataclass(frozen=True, slots=True)
class Image:
    """A place for an image in a message; `ref` where the place itself names it, at `path` of the row.

    `text` is the marker that stood there. With `video` the place is that of the frames of a video.
    """

    ref: str | None = None
    path: str = field(default="", compare=False, repr=False)
    text: str = field(default=MARKER, compare=False, repr=False)
    video: VideoPart | None = None


Piece = str | Image


def read_markers(text: str, *, videos: bool = False) -> Iterator[Piece]:
    """The pieces of a text with markers, and with those of `videos`; escaped ones are text, each a piece of its own."""
    places = {MARKER: Image()} | ({VIDEO_MARKER: Image(text=VIDEO_MARKER, video=VideoPart())} if videos else {})
    start = 0
    for token in _TOKEN.finditer(text):
        if not token[1] and token[0] not in places:
            continue  # neither a place for an image nor escaped
        yield text[start : token.start()]
        yield places.get(token[0]) or f"<{token[1][1:]}{token[2]}>"
        start = token.end()
    yield text[start:]


def media_markers(text: str) -> list[str]:
    """Every kind of marker in a text, as it stands there first; those that differ in a number are one kind."""
    found: dict[str, str] = {}
    for marker in MEDIA_MARKER.finditer(text):
        found.setdefault(re.sub(r"\d+", "0", marker[0].lower()), marker[0])
    return list(found.values())


def marker_reader(marker: str) -> Callable[[str], Iterator[Piece]]:
    """As `read_markers`, for another text at the place of an image; for one row, since it counts.

    A marker with a number (`<|image_1|>`) stands for every number, in ascending order: ValueError for another order.
    """
    pattern = re.compile(re.sub(r"\d+", r"(\\d+)", re.escape(marker)))
    last: list[int] = []

    def read(text: str) -> Iterator[Piece]:
        start = 0
        for token in pattern.finditer(text):
            if token.lastindex:
                number = int(token[token.lastindex])
                if number != (last[-1] + 1 if last else min(number, 1)):
                    raise ValueError(f"{token[0]!r} is out of order: numbered markers must count the images up")
                last.append(number)
            yield text[start : token.start()]
            yield Image(text=token[0])
            start = token.end()
        yield text[start:]

    return read


def join_pieces(pieces: Iterable[Piece]) -> tuple[str, tuple[int, ...]]:
    """The text of the pieces, and the offsets of the images in it."""
    text, offsets = "", []
    for piece in pieces:
        if isinstance(piece, str):
            text += piece
        else:
            offsets.append(len(text))
    return text, tuple(offsets)


def normalize_offsets(text: str, offsets: tuple[int, ...]) -> tuple[str, tuple[int, ...] | None]:
    """User text and `image_offsets`: none where all images come first, with a newline after them."""
    if has_leading_images(text, offsets):
        return text[1:], None
    return text, offsets or None


def has_leading_images(text: str, offsets: Sequence[int]) -> bool:
    """True where the markers read like the plain form."""
    return bool(offsets) and not any(offsets) and text.startswith("\n")


def write_markers(turn: Turn) -> str:
    """The user text with a marker for each image."""
    if not turn.images:
        return escape(turn.user)
    if turn.image_offsets is None:
        return MARKER * len(turn.images) + "\n" + escape(turn.user)
    return MARKER.join(escape(chunk) for chunk in split_at(turn.user, turn.image_offsets))


def split_at(user: str, offsets: Sequence[int]) -> list[str]:
    """The text before, between and after the images: one more than there are images."""
    return [user[a:b] for a, b in pairwise([0, *offsets, len(user)])]


def escape(text: str) -> str:
    """The text with no marker left in it, nor one of LLaMA-Factory's and ms-swift's for video and audio."""
    return _TOKEN.sub(lambda token: f"<\\{token[1]}{token[2]}>", text)
