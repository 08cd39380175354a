"""ShareGPT as LLaMA-Factory reads it: `{"messages": [{"role": ..., "content": "<image>..."}, ...], "images": [...]}`.

Names of columns and roles as in `dataset_info.json`, where an entry defines them; every usual spelling otherwise (the
`conversations` of `from` and `value` that ShareGPT began with among them).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from phiv_data.formats.dialogue import NAMES, Markers, Names, read_dialogue
from phiv_data.formats.fields import ParsedRow, fields_of
from phiv_data.formats.rendering import chat, marker_losses
from phiv_data.formats.text import MARKER
from phiv_data.storage.record_errors import truncated_repr
from phiv_schemas import Conversation
from phiv_schemas.errors import SourceError

# LLaMA-Factory's defaults for what an entry leaves out.
_TAGS = {
    "role_tag": "from",
    "content_tag": "value",
    "user_tag": "human",
    "assistant_tag": "gpt",
    "system_tag": "system",
}
_COLUMNS = {"messages": "messages", "images": "images", "videos": "videos", "system": "system_prompt"}


def parse(
    record: Any,
    where: str,
    *,
    markers: Markers = "strict",
    marker: str = MARKER,
    videos: bool = False,
    names: Names = NAMES,
) -> ParsedRow:
    """The parsed row. RejectInput where phiv cannot use it; `markers`: whether counts that disagree are an error."""
    return read_dialogue(fields_of(record, where, videos=videos), names, markers=markers, marker=marker)


def render(conversation: Conversation) -> dict[str, Any]:
    """The row, for the entry that `dataset_info` gives; `images` is always there, as a column must be."""
    return chat(conversation)


def losses(conversation: Conversation) -> tuple[str, ...]:
    """Codes of what a row cannot carry of the conversation; `LOSSES` explains them."""
    found = marker_losses(conversation)
    return tuple(sorted((*found, "empty_system"))) if conversation.system == "" else found


def dataset_info(file_name: str) -> dict[str, Any]:
    """The entry of `dataset_info.json` for a file of rendered rows."""
    return {
        "file_name": file_name,
        "formatting": "sharegpt",
        "columns": {"messages": "messages", "images": "images"},
        "tags": {
            "role_tag": "role",
            "content_tag": "content",
            "user_tag": "user",
            "assistant_tag": "assistant",
            "system_tag": "system",
        },
    }


def names_of(entry: Mapping[str, Any], where: str) -> Names:
    """The names of an entry of `dataset_info.json`; images and system keep their usual spellings where it has none.

    SourceError for an entry that is not `"formatting": "sharegpt"`, or is not an object of texts.
    """
    formatting = entry.get("formatting", "alpaca")
    if formatting not in ("sharegpt", "openai"):
        hint = "phiv-convert swift reads alpaca rows; or correct the entry"
        raise SourceError(where, f"its rows are not of the format sharegpt (found {formatting!r})", hint)
    columns, tags = _texts(entry, "columns", where), _texts(entry, "tags", where)
    found = {ours: (columns[name],) for name, ours in _COLUMNS.items() if name in columns}
    found |= {name.removesuffix("_tag"): (tags.get(name, default),) for name, default in _TAGS.items()}
    media = tuple(columns[name] for name in ("audios", "tools") if name in columns)
    kto_tag = columns.get("kto_tag", "")
    return replace(NAMES, **({"messages": ("conversations",)} | found), media=media, kto_tag=kto_tag)


def _texts(entry: Mapping[str, Any], key: str, where: str) -> dict[str, str]:
    value = entry.get(key) or {}
    if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
        what = f"{key!r} is not an object of texts (found {truncated_repr(value)})"
        raise SourceError(where, what, "Correct the entry")
    return value
