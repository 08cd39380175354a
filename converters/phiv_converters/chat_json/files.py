"""Files of rows in another tool's JSON: found, read, and the images that their rows name."""

from __future__ import annotations

import base64
import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from phiv_data.export.record import read_export
from phiv_data.formats.files import (
    INFO,
    SUFFIXES,
    Root,
    decode_data_uri,
    is_array,
    is_data_uri,
    is_url,
    locate_image,
    read_entries,
    shorten,
    strip_folders,
)
from phiv_data.media.images import image_size
from phiv_data.media.reject import RejectInput
from phiv_data.sources.folders import entries
from phiv_data.sources.hf_layout import split_word, standard_split
from phiv_data.sources.hf_tables import Table, find_tables, iter_rows
from phiv_data.sources.image_index import read_image
from phiv_data.sources.json_stream import JsonRow, read_json_array, read_json_lines
from phiv_data.sources.nearby import suggest_image
from phiv_data.utils.atomic import environment_problems, sha256_file
from phiv_schemas.errors import SourceError

MAX_FILES_NAMED = 20

# Files ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ChatFile:
    """A file of rows. `name` is its path below the source; `entry` its entry of dataset_info.json.

    `why` says what decided its split; "" where nothing did.
    """

    path: Path
    name: str
    split: str
    is_array: bool
    sha256: str
    why: str = ""
    entry: dict[str, Any] | None = None
    table: Table | None = None

    @property
    def kind(self) -> str:
        """What it is, for a person."""
        if self.table is not None:
            return f"{self.table.kind} table"
        return ("JSON array" if self.is_array else "JSON lines") + (", by dataset_info.json" if self.entry else "")


def find_files(source: Path, split: str | None) -> tuple[ChatFile, ...]:
    """The files of rows at or in `source`, by name. SourceError where there is none, or one holds no rows."""
    if not source.exists():
        raise SourceError("--source", f"no such file or folder {str(source)!r}", "Check the path")
    if source.is_file():
        paths, root = [source], source.parent
    else:
        folders = [source / entry.name for entry in entries(source) if (source / entry.name).is_dir()]
        paths, root = _files_in(source) or [file for folder in folders for file in _files_in(folder)], source
    files = []
    for table in find_tables(source) if not paths or paths == [source] else ():
        with environment_problems(table.path):
            sha256 = sha256_file(table.path)
        table_split = split or standard_split(table.split)  # by the names of its file and folders, as the hub has them
        key = table.path.relative_to(root).as_posix()
        files.append(ChatFile(table.path, key, table_split, False, sha256, "by name", table=table))
    if files:
        return tuple(files)
    if not paths:
        raise SourceError(str(source), "no JSON, Parquet or Arrow file in it or its folders", "Pass the file of rows")
    named = {path: path.relative_to(root) for path in paths}
    splits = _splits_of(named, split)
    for path, name in named.items():
        if path.suffix.lower() not in SUFFIXES:
            raise SourceError(str(path), "is no JSON, Parquet or Arrow file", "Pass the file of rows")
        with environment_problems(path):
            files.append(
                ChatFile(path, name.as_posix(), splits[path][0], is_array(path), sha256_file(path), splits[path][1])
            )
    return tuple(sorted(files, key=lambda file: file.name))  # as the keys of their rows are sorted


def read_chat_rows(file: ChatFile) -> Iterator[JsonRow]:
    """The rows of a file in order; of a table as JSON has them, at offsets that are their places."""
    if file.table is None:
        yield from (read_json_array if file.is_array else read_json_lines)(file.path)
        return
    for place, row in enumerate(iter_rows(file.table, file.table.columns)):
        yield JsonRow(place + 1, place, 0, as_json(row))


def mentions_videos(file: ChatFile) -> bool:
    """Whether a row of the file could name a video: its text has the word, or it is a table."""
    if file.table is not None:
        return True
    with environment_problems(file.path), file.path.open("rb") as rows:
        tail = b""
        while chunk := rows.read(1 << 20):
            if b"video" in tail + chunk:
                return True
            tail = chunk[-4:]
    return False


def as_json(value: Any) -> Any:
    """A cell of a table as a chat format has it in JSON: bytes in base64, without the keys that a struct lacks."""
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, dict):
        return {key: as_json(item) for key, item in value.items() if item is not None}
    return [as_json(item) for item in value] if isinstance(value, list) else value


def _splits_of(names: dict[Path, Path], split: str | None) -> dict[Path, tuple[str, str]]:
    """The split of each file and what decided it: --split, phiv-export, or a word in the names below the source.

    Where two words for val or test are there (val.json and dev.json), each is a split of its own; all of train is one.
    """
    if split:
        return dict.fromkeys(names, (split, "by --split"))
    records = {folder: read_export(folder) for folder in {path.parent for path in names}}
    exported = {folder / file for folder, record in records.items() if record for file in record.files}
    words = {}
    for path, name in names.items():
        found = (split_word(part) for part in (path.stem, *name.parent.parts))
        words[path] = next((word for word in found if word), None)
    several = {
        split for split in ("val", "test") if len({word[1] for word in words.values() if word and word[0] == split}) > 1
    }
    chosen = {}
    for path, word in words.items():
        if path in exported:
            chosen[path] = path.stem, "by phiv-export"
        elif word:
            chosen[path] = word[1] if word[0] in several else word[0], "by name"
        else:
            chosen[path] = "train", ""
    return chosen


def find_described(source: Path, split: str | None, dataset: str | None) -> tuple[ChatFile, ...]:
    """As `find_files`, with the entry of dataset_info.json that names each file; only `dataset`'s where it is given."""
    if source.name == INFO:
        source = source.parent
    folder = source if source.is_dir() else source.parent
    entries = read_entries(folder / INFO)
    if dataset is None:
        by_name = {entry.get("file_name"): entry for entry in reversed(entries.values())}
        return tuple(replace(file, entry=by_name.get(file.path.name)) for file in find_files(source, split))
    if dataset not in entries:
        known = ", ".join(list(entries)[:8]) or "no entry"
        raise SourceError(str(folder / INFO), f"no entry {dataset!r} (found {known})", "Pass one of them as --dataset")
    name = entries[dataset].get("file_name")
    if not isinstance(name, str):
        hint = "Download it, and pass the file as --source"
        raise SourceError(str(folder / INFO), f"entry {dataset!r} names no file", hint)
    if not (folder / name).exists():
        hint = "Get it, or pass the file of rows as --source"
        raise SourceError(str(folder / INFO), f"entry {dataset!r} names {name!r}, which is not beside it", hint)
    return tuple(replace(file, entry=entries[dataset]) for file in find_files(folder / name, split))


def _files_in(folder: Path) -> list[Path]:
    paths = [folder / entry.name for entry in entries(folder)]
    return [path for path in paths if path.suffix.lower() in SUFFIXES and path.is_file() and path.name != INFO]


def describe_splits(files: Sequence[ChatFile]) -> Iterator[str]:
    """A line for each file on its split, and why; a warning for those that only stand beside one of train."""
    for file in files[:MAX_FILES_NAMED]:
        yield f"{file.name} is {file.split} ({file.why or 'its name says no split'})"
    if more := Counter(file.split for file in files[MAX_FILES_NAMED:]):
        yield f"and {more.total()} more files: {', '.join(f'{count} {split}' for split, count in more.items())}"
    unnamed = [file.name for file in files if not file.why]
    if unnamed and len(unnamed) < len(files):
        what = f"{unnamed[0]!r} beside files of named splits is taken for train"
        more_unnamed = f", and {len(unnamed) - 1} more" if len(unnamed) > 1 else ""
        yield f"{what}{more_unnamed}. Pass it alone with --split if it is not"


def row_key(file: ChatFile, number: int) -> str:
    """The name of a row: its file and number, from 1."""
    return f"{file.name}:{number}"


# Images ------------------------------------------------------------------------------------------------------------


def roots_of(file: ChatFile, images: Path | None) -> tuple[Root, ...]:
    """--images first, then the folder of the rows: two files of rows in two folders may use one name for two images.

    Without --images also the folder `images` beside the rows, where phiv-export puts them.
    """
    folder, name = file.path.parent, file.name.rpartition("/")[0]
    beside: tuple[Root, ...] = ((folder, name),)
    if images is not None:
        return ((images, ""), *beside)
    return (*beside, (folder / "images", name)) if (folder / "images").is_dir() else beside


def find_clip(ref: str, roots: Sequence[Root], strip: int, where: str) -> tuple[Path, str]:
    """A video's file, and its name under images/, without its split. RejectInput `unsupported-media` without a file."""
    shown = f"the video {shorten(ref)!r}"
    if is_data_uri(ref):
        raise RejectInput(where, "unsupported-media", f"{shown} is part of its row. Write it to a file, and name that")
    if is_url(ref):
        what = f"{shown} is an address: phiv downloads no videos. Download it, and name the file instead"
        raise RejectInput(where, "unsupported-media", what)
    try:
        found = locate_image(ref, roots, strip)
    except (OSError, ValueError):
        found = None
    if found is None:
        hint = "Pass the folder that its path starts from as --images"
        raise RejectInput(where, "unsupported-media", f"{shown} is no file in the source. {hint}")
    return found


def find_image(ref: str | bytes, roots: Sequence[Root], strip: int, where: str) -> tuple[str, bytes]:
    """An image's name under images/, without its split, and its bytes.

    RejectInput `missing-image` where it is not there or an address, `bad-row` where a `data:` URI is broken.
    """
    if isinstance(ref, bytes) or is_data_uri(ref):
        data = ref if isinstance(ref, bytes) else decode_data_uri(ref, where)
        suffix = image_size(data, where=where).format.lower().replace("jpeg", "jpg")
        return f"data/{hashlib.sha256(data).hexdigest()[:32]}.{suffix}", data  # bytes without a name: their hash
    shown = repr(shorten(ref))
    if is_url(ref):
        what = f"{shown} is an address: phiv downloads no images. Download it, and name the file instead"
        raise RejectInput(where, "missing-image", what)
    try:
        found = locate_image(ref, roots, strip)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else "no name of a file"
        raise RejectInput(where, "missing-image", f"no file {shown} ({reason})") from error
    if found is None:
        near = suggest_image(strip_folders(ref, 0), [root for root, _ in roots], "--images", "--strip_folders")
        hint = near or "Pass the folder that its path starts from as --images"
        raise RejectInput(where, "missing-image", f"no file {shown} in the source. {hint}")
    path, name = found
    return name, read_image(path, where)
