"""Messages to turns: user and assistant alternate, and every image has its place.

`read` is LLaVA's, ShareGPT's and ms-swift's row: a list of messages with a role and a content, a column of images, and
`<image>` in the text at the place of each. Every spelling of a key or role that these tools use is read in all of them.

Codes: `bad-turns` (roles that do not alternate, a dialogue without turns, an answer missing before the end),
`marker-mismatch` (markers and images disagree, or an image is where phiv has no place for one), those of `fields`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, TypeGuard

from phiv_data.formats.content import ReadText, image_refs, read_content, video_refs
from phiv_data.formats.fields import Fields, ParsedRow, ParsedTurn, RejectRow, TurnPaths, is_empty, is_image_text
from phiv_data.formats.text import (
    IMG_TAG,
    MARKER,
    VIDEO_MARKER,
    Image,
    Piece,
    VideoPart,
    join_pieces,
    marker_reader,
    media_markers,
    normalize_offsets,
    read_markers,
)
from phiv_data.storage.record_errors import list_keys, truncated_repr

Markers = Literal["strict", "lenient"]
NormalizeOffsets = Callable[[str, tuple[int, ...]], tuple[str, tuple[int, ...] | None]]
Videos = Sequence[tuple[Image, ...]]
"""What is at the place of each video: itself, or its frames."""
_TOOLS = ("tool", "function", "observation")


@dataclass(frozen=True, slots=True)
class Names:
    """The keys and roles of a format, each with every spelling that is read."""

    messages: tuple[str, ...] = ("messages", "conversations", "conversation")
    images: tuple[str, ...] = ("images", "image")
    system_prompt: tuple[str, ...] = ("system", "system_prompt")
    role: tuple[str, ...] = ("role", "from")
    content: tuple[str, ...] = ("content", "value")
    user: tuple[str, ...] = ("user", "human")
    assistant: tuple[str, ...] = ("assistant", "gpt", "bot")
    system: tuple[str, ...] = ("system", "developer")
    videos: tuple[str, ...] = ("videos", "video")
    media: tuple[str, ...] = ()  # further columns of audio or tools
    kto_tag: str = ""  # the column that marks an answer as one to avoid


@dataclass(frozen=True, slots=True)
class Message:
    """One message: `user`, `assistant` or `system`, and its pieces; None where it has no content.

    `path` is its JSON path in the row; its content is the value of `key` there, or the value itself.
    """

    role: str
    pieces: tuple[Piece, ...] | None
    path: str = ""
    key: str = ""

    @property
    def content_path(self) -> str:
        """The JSON path of its content."""
        return f"{self.path}.{self.key}" if self.key else self.path


NAMES = Names()


def read_dialogue(
    fields: Fields,
    names: Names = NAMES,
    *,
    markers: Markers = "strict",
    marker: str = MARKER,
    unmarked: str | None = None,
    inline: ReadText | None = None,
) -> ParsedRow:
    """The row of a list of messages; `unmarked` as for `build_row`.

    `marker` is the text at the place of an image; `inline` reads the text of rows without an image column.
    """
    refs, videos = take_images(fields, names), take_videos(fields, names)
    path = fields.key(*names.messages)
    read_text = text_reader(marker, videos=bool(videos)) if refs or videos else inline or unescape_markers
    column = fields.take(*names.messages)
    if not isinstance(column, list):
        found = truncated_repr(column) if column is not None else list_keys(fields.left) or "nothing else"
        raise fields.bad(f"no list of messages in {path!r} (found {found})", path if column is not None else "")
    messages = []
    for i, raw in enumerate(column):
        if not isinstance(raw, dict):
            raise fields.bad(f"{path}[{i}] is not an object (found {truncated_repr(raw)})", f"{path}[{i}]")
        messages.append(read_message(raw, fields, names, read_text, f"{path}[{i}]"))
    if inline is None and not refs:
        refuse_img_tags(messages, fields)
    return build_row(fields, messages, refs, read_text, names, videos=videos, markers=markers, unmarked=unmarked)


def build_row(
    fields: Fields,
    messages: list[Message],
    refs: tuple[Image, ...],
    read_text: ReadText,
    names: Names = NAMES,
    *,
    videos: Videos = (),
    markers: Markers = "strict",
    unmarked: str | None = None,
    normalize: NormalizeOffsets = normalize_offsets,
) -> ParsedRow:
    """The row of these messages: the other columns read, every image put in its place.

    `unmarked`: images without any place come before the first text, with this between; None rejects them.
    """
    fields.refuse_media((*names.media, *names.videos))
    fields.refuse_bad_label(names.kto_tag)
    path = fields.key(*names.system_prompt)
    if not is_empty(prompt := fields.take(*names.system_prompt)):
        pieces = read_content(fields.text(prompt, path), fields, path, read_text)
        messages = [Message("system", pieces, path), *messages]
    messages = place_videos(messages, videos, fields.where, markers, unmarked, has_images=bool(refs))
    if markers == "lenient":
        messages = _drop_spare_places(messages, len(refs))
        unmarked = "\n" if unmarked is None else unmarked
    system, system_path = None, ""
    if messages and messages[0].role == "system":
        system_path = messages[0].content_path
        system, messages = _text_only(messages[0], fields.where), messages[1:]
    messages = _add_missing_places(messages, len(refs), fields.where, markers, unmarked)
    turns = tuple(_turns(messages, iter(refs), fields.where, normalize))
    row_id, source = fields.take_id("id"), fields.take_source()
    if turns[-1].assistant is None:
        fields.refuse_unread_answer()
    fields.refuse_unread_images([ref for turn in turns for ref in turn.images])
    return ParsedRow(turns, system, row_id, source, fields.all_unread(), system_path)


def text_reader(marker: str, *, videos: bool = False) -> ReadText:
    """Reads the text of rows with images (and `videos`): `<image>`, or another marker, is a place; so is `<video>`."""
    if marker in ("", MARKER):
        return partial(read_markers, videos=videos)
    read = marker_reader(marker)

    def read_both(text: str) -> Iterator[Piece]:
        for piece in read(text):
            parts: list[Piece] = [*piece.split(VIDEO_MARKER)] if isinstance(piece, str) else [piece]
            for i, part in enumerate(parts):
                if i:
                    yield Image(text=VIDEO_MARKER, video=VideoPart())
                yield part

    return read_both if videos else read


def refuse_img_tags(messages: Sequence[Message], fields: Fields) -> None:
    """RejectInput for text that names its image as Qwen-VL does, in a format that does not read it."""
    for message in messages:
        # Piece by piece: an escaped tag is a piece of its own, so it is none here.
        texts = [piece for piece in message.pieces or () if isinstance(piece, str)]
        for tag in (tag for text in texts for tag in IMG_TAG.finditer(text) if is_image_text(tag[1])):
            what, hint = f"the text names an image as {truncated_repr(tag[0])}", "phiv-convert swift reads that"
            raise RejectRow(fields.where, "marker-mismatch", what, message.content_path, hint)


def take_images(fields: Fields, names: Names = NAMES) -> tuple[Image, ...]:
    """The images of the image column."""
    key = fields.key(*names.images)
    return image_refs(fields.take(*names.images), fields, key)


def take_videos(fields: Fields, names: Names = NAMES) -> Videos:
    """The videos of the column of videos, where they are read; otherwise they are left, to be refused."""
    key = fields.key(*names.videos)
    return video_refs(fields.take(*names.videos), fields, key) if fields.reads_videos else ()


def read_message(
    raw: dict[str, Any], fields: Fields, names: Names, read_text: ReadText, path: str, unmarked: str = "\n"
) -> Message:
    """The message at `path` of the row, its role by the usual name; images in it as Ollama's chat has them."""
    message = Fields(dict(raw), fields.where, path)
    key = message.key(*names.content)
    role, content = message.take(*names.role), message.take(*names.content)
    roles = (("user", names.user), ("assistant", names.assistant), ("system", names.system))
    kind = next((kind for kind, spellings in roles if role in spellings), None)
    if kind is None and isinstance(role, str) and any(word in role for word in _TOOLS):
        what = f"{path} is of the role {truncated_repr(role)}: phiv has no tools"
        raise RejectRow(fields.where, "unsupported-media", what, path)
    if kind is None:
        known = ", ".join((*names.user, *names.assistant, *names.system))
        what = f"{path} is of the role {truncated_repr(role)}, not one of {known}"
        raise RejectRow(fields.where, "bad-turns", what, path)
    message.refuse_media(names.media)
    if kind == "assistant":
        message.refuse_masked_answer()
    images_path = f"{path}.{message.key(*names.images)}"
    images = image_refs(message.take(*names.images), fields, images_path)
    message.refuse_unread_images()
    if images and unmarked:  # a format with markers
        read_text = read_markers
    if is_empty(content):
        message.refuse_unread_text()
    pieces = None if content is None else read_content(content, fields, f"{path}.{key}", read_text)
    if images:
        pieces = _place(images, pieces or (), fields, images_path, unmarked)
    if unread := message.all_unread():
        fields.unread |= {f"{path.rpartition('[')[0]}[].{name}" for name in unread}
    return Message(kind, pieces, path, key)


def _place(
    images: Sequence[Image], pieces: Sequence[Piece], fields: Fields, path: str, unmarked: str
) -> tuple[Piece, ...]:
    """The pieces of a message with the images that it names itself: at its places, or before its text."""
    places = sum(map(_is_place, pieces))
    if not places:
        return (*images, unmarked, *pieces)
    if places != len(images):
        what = f"{path} holds {len(images)} images for {places} places in the text"
        raise RejectRow(fields.where, "marker-mismatch", what, path)
    named = iter(images)
    return tuple(next(named) if _is_place(piece) else piece for piece in pieces)


def unescape_markers(text: str) -> Iterator[Piece]:
    """The text of a row without images: a marker in it is text, escaped or not."""
    yield from (piece if isinstance(piece, str) else MARKER for piece in read_markers(text))


def _add_missing_places(
    messages: list[Message], num_images: int, where: str, markers: Markers, unmarked: str | None
) -> list[Message]:
    """The messages with a place for each image of the column. RejectInput `marker-mismatch` where that takes a guess.

    `lenient` is what ms-swift does: places that are missing are put before the first text, spare ones are text again.
    """
    count = sum(_is_place(piece) for message in messages for piece in message.pieces or ())
    if count < num_images and messages and messages[0].role == "user":
        missing = [Image()] * (num_images - count)
        if count == 0 and unmarked is not None:
            return _prepend([*missing, unmarked], messages)
        if markers == "lenient":
            return _prepend(missing, messages)
    if count != num_images:
        places, images = "place" + "s" * (count != 1), "image" + "s" * (num_images != 1)
        what = f"{count} {places} in the messages for {num_images} {images}"
        raise RejectRow(where, "marker-mismatch", what, hint=_way_out(messages))
    return messages


def place_videos(
    messages: list[Message], videos: Videos, where: str, markers: Markers, unmarked: str | None, *, has_images: bool
) -> list[Message]:
    """The messages with each video of the column at its place. RejectInput `marker-mismatch` as for images.

    In a row without images, `<image>` is the place of a video where `<video>` is not, and text where it is.
    """
    num_places = sum(_is_video_place(piece) for message in messages for piece in message.pieces or ())
    if videos and not has_images:
        turned = Image(text=VIDEO_MARKER, video=VideoPart())
        messages = _replace_places(messages, _is_image_place, lambda place: [place.text if num_places else turned])
        num_places = sum(_is_video_place(piece) for message in messages for piece in message.pieces or ())
    missing = len(videos) - num_places
    user = next((i for i, message in enumerate(messages) if message.role == "user"), None)
    if missing > 0 and user is not None and (markers == "lenient" or (not num_places and unmarked is not None)):
        pieces = [Image(text=VIDEO_MARKER, video=VideoPart())] * missing + [unmarked or "\n"] * (not num_places)
        messages = [*messages[:user], *_prepend(pieces, messages[user:])]
    elif missing and not (missing < 0 and markers == "lenient"):
        places, count = f"{num_places} place{'s' * (num_places != 1)}", f"{len(videos)} video{'s' * (len(videos) != 1)}"
        hint = (
            f"Put one {VIDEO_MARKER} for each video into what the user says, or pass --markers lenient to phiv-convert"
        )
        raise RejectRow(where, "marker-mismatch", f"{places} in the messages for {count}", hint=hint)
    left = iter(videos)
    return _replace_places(messages, _is_video_place, lambda place: next(([*video] for video in left), [place.text]))


def _replace_places(
    messages: Sequence[Message], is_place: Callable[[Piece], bool], pieces_of: Callable[[Image], Sequence[Piece]]
) -> list[Message]:
    """The messages with other pieces at some places."""
    found = []
    for message in messages:
        pieces: list[Piece] = []
        for piece in message.pieces or ():
            pieces += pieces_of(piece) if isinstance(piece, Image) and is_place(piece) else [piece]
        found.append(replace(message, pieces=None if message.pieces is None else tuple(pieces)))
    return found


def _is_place(piece: Piece) -> TypeGuard[Image]:
    """True for a place that an image or video of a column is for, and that names none itself."""
    return isinstance(piece, Image) and piece.ref is None


def _is_video_place(piece: Piece) -> bool:
    return _is_place(piece) and piece.video is not None


def _is_image_place(piece: Piece) -> bool:
    return _is_place(piece) and piece.video is None


def _way_out(messages: Sequence[Message]) -> str:
    """What to do where images have no places: another tool's marker in the text may be theirs."""
    text = "\n".join(piece for message in messages for piece in message.pieces or () if isinstance(piece, str))
    if others := [marker for marker in media_markers(text) if "image" in marker.lower() or "img" in marker.lower()]:
        shown = truncated_repr(others[0])
        return f"The text holds {shown}: phiv-convert --marker {shown} reads it as the place of an image"
    return f"Put one {MARKER} for each image into what the user says, or pass --markers lenient to phiv-convert"


def _prepend(pieces: Sequence[Piece], messages: list[Message]) -> list[Message]:
    return [replace(messages[0], pieces=(*pieces, *(messages[0].pieces or ()))), *messages[1:]]


def _drop_spare_places(messages: list[Message], num_images: int) -> list[Message]:
    """Places in answers, and those after the last image, as text."""
    kept, found = 0, []
    for message in messages:
        pieces: list[Piece] = []
        for piece in message.pieces or ():
            is_kept = _is_place(piece) and message.role == "user" and kept < num_images
            kept += is_kept
            pieces.append(piece.text if _is_place(piece) and not is_kept else piece)
        found.append(replace(message, pieces=None if message.pieces is None else tuple(pieces)))
    return found


def _turns(
    messages: Sequence[Message], refs: Iterator[Image], where: str, normalize: NormalizeOffsets
) -> Iterator[ParsedTurn]:
    if not messages:
        raise RejectRow(where, "bad-turns", "a dialogue without turns")
    for i, message in enumerate(messages):
        expected = ("user", "assistant")[i % 2]
        if message.role != expected:
            what = f"message {i + 1} is of the {message.role}, not of the {expected}: the two take turns"
            raise RejectRow(where, "bad-turns", what, message.path)
    for i in range(0, len(messages), 2):
        yield _turn(messages, i, refs, where, normalize)


def _turn(
    messages: Sequence[Message], i: int, refs: Iterator[Image], where: str, normalize: NormalizeOffsets
) -> ParsedTurn:
    """The turn that begins with message `i`."""
    message = messages[i]
    if message.pieces is None:
        raise RejectRow(where, "bad-turns", f"message {i + 1}, of the user, has no content", message.path)
    placed = [piece if piece.ref else next(refs) for piece in message.pieces if isinstance(piece, Image)]
    images = tuple([image.ref or "" for image in placed])
    videos = {k: image.video for k, image in enumerate(placed) if image.video is not None}
    user, offsets = normalize(*join_pieces(message.pieces))
    if i + 1 == len(messages):
        return ParsedTurn(images, user, None, offsets, _turn_paths(message, None, placed), videos=videos)
    answer = _text_only(messages[i + 1], where)
    if answer is None and i + 2 < len(messages):
        what = f"message {i + 2} has no content, and more messages follow"
        raise RejectRow(where, "bad-turns", what, messages[i + 1].path)
    return ParsedTurn(images, user, answer, offsets, _turn_paths(message, messages[i + 1], placed), videos=videos)


def _turn_paths(user: Message, assistant: Message | None, placed: Sequence[Image]) -> TurnPaths:
    said = user.content_path
    return TurnPaths(said, assistant.content_path if assistant else "", tuple([one.path or said for one in placed]))


def _text_only(message: Message, where: str) -> str | None:
    """The text of a message that must not hold images."""
    if any(isinstance(piece, Image) for piece in message.pieces or ()):
        what = f"an image is in a message of the {message.role}: phiv has images in user messages only"
        raise RejectRow(where, "marker-mismatch", what, message.content_path)
    return None if message.pieces is None else join_pieces(message.pieces)[0]
