"""What a message or a column of images or videos holds: text with markers, a list of parts, references.

Parts as OpenAI (chat and responses), Anthropic, transformers and TRL have them: `{"type": "text", "text": ...}`,
`{"type": "image"}` with or without its `image`, `url`, `path` or `source`, and `{"type": "image_url", "image_url":
{"url": ...}}`. Videos as Qwen has them: `{"type": "video", "video": "a.mp4", "video_start": 1, "fps": 2}`; a list of
images is a video that has its frames already.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable
from typing import Any

from phiv_data.formats.fields import Fields, RejectRow, is_empty, is_image_text
from phiv_data.formats.text import VIDEO_MARKER, Image, Piece, VideoPart
from phiv_data.storage.record_errors import truncated_repr

TEXT_PARTS = ("text", "input_text", "output_text")
IMAGE_PARTS = ("image", "image_url", "input_image")
VIDEO_PARTS = ("video", "video_url", "input_video")
_TEXTS = ("text", "value", "content")
ReadText = Callable[[str], Iterable[Piece]]
_REFS = ("image", "image_url", "url", "path", "source", "base64", "value", "content")
_BYTES = ("bytes", "base64", "b64")
_VIDEO_REFS = ("video", "video_url", "url", "path", "value", "content")
_VIDEO_OPTIONS = {
    "video_start": "start", "video_end": "end", "fps": "fps", "nframes": "num_frames", "max_frames": "max_frames"
}  # fmt: skip
MAX_VIDEO_OPTION = 1_000_000
_SECONDS, _COUNT = (int | float, 0.0, "a number of seconds from 0 to"), (int, 1, "a whole number from 1 to")
_RANGES: dict[str, tuple[Any, float, str]] = {
    "video_start": _SECONDS, "video_end": _SECONDS, "fps": (int | float, 1e-9, "a number above 0 and up to"),
    "nframes": _COUNT, "max_frames": _COUNT,
}  # fmt: skip
_KNOWN = {"type", "detail", "index", "cache_control", "min_pixels", "max_pixels", "resized_height", "resized_width"}
# How the bytes of a PNG, JPEG, GIF, WebP, BMP or TIFF begin in base64; shorter text is a path.
_BASE64 = re.compile(r"(?:iVBORw0KGgo|/9j/|R0lGOD|UklGR|Qk[0-3]|SUkqA|TU0AK)[A-Za-z0-9+/\s]{64,}={0,2}\s*")
_OTHER = ("video", "audio", "tool", "function")


def read_content(content: Any, fields: Fields, path: str, read_text: ReadText) -> tuple[Piece, ...]:
    """The pieces of a message's content; `read_text` finds the images of plain text. Text of parts is text."""
    if not isinstance(content, list):
        try:
            return tuple(read_text(fields.text(content, path)))
        except ValueError as error:  # numbered markers in another order
            raise RejectRow(fields.where, "marker-mismatch", f"{path} {error}", path) from error
    pieces: list[Piece] = []
    for i, part in enumerate(content):
        here, kind = f"{path}[{i}]", part.get("type") if isinstance(part, dict) else None
        if kind in TEXT_PARTS:
            key = next((key for key in _TEXTS if not is_empty(part.get(key))), "text")
            pieces.append(fields.text(part.get(key), f"{here}.{key}"))
            _refuse_second(part, key, _TEXTS, fields, here)
            _count_unread(part, {key}, fields, here)
        elif kind in IMAGE_PARTS:
            pieces.append(_image(part, fields, here))
        elif kind in VIDEO_PARTS and fields.reads_videos:
            pieces += _video(part, fields, here)
        elif isinstance(kind, str) and any(word in kind for word in _OTHER):
            raise RejectRow(fields.where, "unsupported-media", f"{here} is a part of type {truncated_repr(kind)}", here)
        else:
            raise fields.bad(f"{here} is no part with a known 'type' (found {truncated_repr(part)})", here)
    return tuple(pieces)


def image_refs(column: Any, fields: Fields, name: str) -> tuple[Image, ...]:
    """The images of an image column: one, or a list; each text, or an object with `path` or `url`."""
    if is_empty(column):
        return ()
    items = {f"{name}[{i}]": item for i, item in enumerate(column)} if isinstance(column, list) else {name: column}
    return tuple(Image(image_ref(item, fields, path), path) for path, item in items.items())


def video_refs(column: Any, fields: Fields, name: str) -> tuple[tuple[Image, ...], ...]:
    """The videos of a column: one, or a list; each a text, an object with `path`, or a list of images, its frames.

    Of each video what is at its place: itself, or its frames. A list of nothing but images is one video.
    """
    if is_empty(column):
        return ()
    is_list = isinstance(column, list)
    if not is_list or all(isinstance(item, str) and _is_frame(item) for item in column):
        return (_video_items(column, fields, name, VideoPart()),)
    return tuple(_video_items(item, fields, f"{name}[{i}]", VideoPart()) for i, item in enumerate(column))


def image_ref(value: Any, fields: Fields, path: str) -> str:
    """One reference, as text; bytes in base64 as a `data:` URI."""
    if isinstance(value, dict):
        full = {key: item for key, item in value.items() if item not in (None, "")}
        if full.get("type") == "base64" and isinstance(full.get("data"), str):  # Anthropic
            return f"data:{full.get('media_type', '')};base64,{full['data']}"
        key = next((key for key in (*_BYTES, "path", "url") if isinstance(full.get(key), str)), None)
        if key is None:
            raise fields.bad(f"{path} has no 'path', 'url' or 'bytes' (found {truncated_repr(value)})", path)
        if key in _BYTES:  # as `datasets` has it, where `path` is a name only
            body = fields.text(full[key], path)
            return body if body.startswith("data:") else f"data:;base64,{body}"
        # Counted over rows as `images[]`, not as `images[3]`.
        fields.unread |= {f"{_generic(path)}.{other}" for other in full.keys() - {key, "type", "detail"}}
        value = full[key]
    if not isinstance(value, str) or not value.strip():
        raise fields.bad(f"{path} is no reference to an image (found {truncated_repr(value)})", path)
    return f"data:;base64,{value}" if _BASE64.fullmatch(value) else fields.text(value, path)


def _image(part: dict[str, Any], fields: Fields, path: str) -> Image:
    """A place of its own, or one that names its image."""
    key = next((key for key in _REFS if part.get(key) not in (None, "")), None)
    if key is not None:
        _refuse_second(part, key, ("value", "content"), fields, path)
    _count_unread(part, {key}, fields, path)
    if key is None:
        return Image(path=path)
    value = part[key]
    if key == "base64" and isinstance(value, str) and not value.startswith("data:"):
        value = f"data:;base64,{value}"
    return Image(image_ref(value, fields, f"{path}.{key}"), path)


def _video(part: dict[str, Any], fields: Fields, path: str) -> tuple[Image, ...]:
    """A place of its own, or one that names its video; with what part of it the row asks for."""
    key = next((key for key in _VIDEO_REFS if part.get(key) not in (None, "")), None)
    _count_unread(part, {key, *_VIDEO_OPTIONS}, fields, path)
    given = {option: part[option] for option in _VIDEO_OPTIONS if part.get(option) is not None}
    for option, value in given.items():
        kind, least, allowed = _RANGES[option]
        if not isinstance(value, kind) or isinstance(value, bool) or not least <= value <= MAX_VIDEO_OPTION:
            what = f"{path} asks for {option!r} of {truncated_repr(value)}"
            raise fields.bad(what, path, f"Write {allowed} {MAX_VIDEO_OPTION:,}")
    asked = {_VIDEO_OPTIONS[option]: value for option, value in given.items()}
    if key is None:
        return (Image(path=path, text=VIDEO_MARKER, video=VideoPart(**asked)),)
    return _video_items(part[key], fields, f"{path}.{key}", VideoPart(**asked))


def _video_items(value: Any, fields: Fields, path: str, part: VideoPart) -> tuple[Image, ...]:
    """The place of a video, or those of the frames that a list names."""
    if isinstance(value, list):
        return tuple(Image(image_ref(item, fields, f"{path}[{i}]"), path) for i, item in enumerate(value))
    return (Image(image_ref(value, fields, path), path, VIDEO_MARKER, part),)


def _is_frame(text: str) -> bool:
    return is_image_text(text) and not text.strip().lower().endswith(".gif")


def _refuse_second(part: dict[str, Any], read: str, others: Collection[str], fields: Fields, path: str) -> None:
    """RejectRow where another of a part's keys than the one that is read holds text or images too."""
    for key in others:
        if key != read and not is_empty(part.get(key)) and part[key] != part[read]:
            raise fields.bad(f"{path} has both {read!r} and {key!r}", path, "Keep one of them")


def _count_unread(part: dict[str, Any], read: Collection[str | None], fields: Fields, path: str) -> None:
    """What else a part holds is left out, and counted; an image there is an error."""
    other = {key: value for key, value in part.items() if key not in read and key not in _KNOWN}
    if other:
        rest = Fields(other, fields.where, path)
        rest.refuse_unread_images()
        fields.unread |= {f"{_generic(path)}.{key}" for key in rest.all_unread()}


def _generic(path: str) -> str:
    """`messages[].content[]` of `messages[2].content[0]`."""
    return "[]".join(piece.partition("]")[2] if "]" in piece else piece for piece in path.split("["))
