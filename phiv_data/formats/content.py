"""What a message or an image column holds: text with markers, a list of parts, references to images.

Parts as OpenAI (chat and responses), Anthropic, transformers and TRL have them: `{"type": "text", "text": ...}`,
`{"type": "image"}` with or without its `image`, `url`, `path` or `source`, and `{"type": "image_url", "image_url":
{"url": ...}}`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from phiv_data.formats.fields import Fields, RejectRow, is_empty
from phiv_data.formats.text import Image, Piece
from phiv_data.storage.record_errors import truncated_repr

TEXT_PARTS = ("text", "input_text", "output_text")
IMAGE_PARTS = ("image", "image_url", "input_image")
ReadText = Callable[[str], Iterable[Piece]]
_REFS = ("image", "image_url", "url", "path", "source", "base64")
_OTHER = ("video", "audio", "tool", "function")


def read_content(content: Any, fields: Fields, path: str, read_text: ReadText) -> tuple[Piece, ...]:
    """The pieces of a message's content; `read_text` finds the images of plain text. Text of parts is text."""
    if not isinstance(content, list):
        return tuple(read_text(fields.text(content, path)))
    pieces: list[Piece] = []
    for i, part in enumerate(content):
        here, kind = f"{path}[{i}]", part.get("type") if isinstance(part, dict) else None
        if kind in TEXT_PARTS:
            pieces.append(fields.text(part.get("text"), f"{here}.text"))
        elif kind in IMAGE_PARTS:
            pieces.append(_image(part, fields, here))
        elif isinstance(kind, str) and any(word in kind for word in _OTHER):
            raise RejectRow(fields.where, "unsupported-media", f"{here} is a part of type {kind!r}", here)
        else:
            raise fields.bad(f"{here} is no part with a known 'type' (found {truncated_repr(part)})", here)
    return tuple(pieces)


def image_refs(column: Any, fields: Fields, name: str) -> tuple[Image, ...]:
    """The images of an image column: one, or a list; each text, or an object with `path` or `url`."""
    if is_empty(column):
        return ()
    items = {f"{name}[{i}]": item for i, item in enumerate(column)} if isinstance(column, list) else {name: column}
    return tuple(Image(image_ref(item, fields, path), path) for path, item in items.items())


def image_ref(value: Any, fields: Fields, path: str) -> str:
    """One reference, as text."""
    if isinstance(value, dict):
        full = {key: item for key, item in value.items() if item not in (None, "")}
        key = next((key for key in ("url", "path") if isinstance(full.get(key), str)), None)
        if full.get("type") == "base64" and isinstance(full.get("data"), str):  # Anthropic
            return f"data:{full.get('media_type', '')};base64,{full['data']}"
        if key is None:
            raise fields.bad(f"{path} has no 'path' or 'url' (found {truncated_repr(value)})", path)
        # Counted over rows as `images[]`, not as `images[3]`.
        generic = "[]".join(piece.partition("]")[2] if "]" in piece else piece for piece in path.split("["))
        fields.unread |= {f"{generic}.{other}" for other in full.keys() - {key, "type", "detail"}}
        value = full[key]
    if not isinstance(value, str) or not value.strip():
        raise fields.bad(f"{path} is no reference to an image (found {truncated_repr(value)})", path)
    return fields.text(value, path)


def _image(part: dict[str, Any], fields: Fields, path: str) -> Image:
    """A place of its own, or one that names its image."""
    for key in _REFS:
        value = part.get(key)
        if value not in (None, ""):
            if key == "base64" and isinstance(value, str) and not value.startswith("data:"):
                value = f"data:;base64,{value}"
            return Image(image_ref(value, fields, f"{path}.{key}"), path)
    return Image(path=path)
