"""Which command of phiv-convert reads a file or folder, by its names and first rows; no image is opened.

>>> recognise(Path("photos"))
Recognised(command='folder', what='images in 4 folders')
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from phiv_data.formats.detect import detect_format
from phiv_data.formats.files import INFO
from phiv_data.sources.folders import walk
from phiv_data.sources.hf_tables import find_tables
from phiv_data.sources.json_stream import read_rows
from phiv_data.utils.atomic import environment_problems
from phiv_schemas.errors import SourceError

IMAGE_SUFFIXES = ("jpg", "jpeg", "png", "gif", "bmp", "webp", "tif", "tiff", "jp2", "ppm", "pgm")
CLIP_SUFFIXES = ("avi", "mp4", "m4v", "mkv", "webm", "mov", "mpg", "mpeg", "wmv", "flv", "ts", "3gp", "ogv")
_TABLES, _JSON = ("csv", "tsv", "xlsx"), ("json", "jsonl", "ndjson")
_HEAD_BYTES = 1 << 16
_MOST_FILES = 5000
"""Of a folder's files, as many are looked at."""


class Recognised(NamedTuple):
    """A command, and what was found that it reads: "a table", "images in 4 folders"; its lists of labels."""

    command: str
    what: str
    labels: tuple[Path, ...] = ()

    def arguments(self, source: Path) -> str:
        """What to type behind phiv-convert: `folder --source clips --labels clips/train.txt`."""
        labels = f" --labels {' '.join(map(str, self.labels))}" if self.labels else ""
        return f"{self.command} --source {source}{labels}"


def recognise(source: Path) -> Recognised | None:
    """The command that reads `source`; None where none is known to. Damaged files are for the command to report."""
    if source.is_dir():
        return _of_folder(source)
    suffix = source.suffix.lower().removeprefix(".") if source.is_file() else ""
    if suffix in _TABLES:
        return Recognised("table", f"a {suffix} table")
    if suffix in ("parquet", "arrow"):
        return _of_tables(source)
    return _of_json(source) if suffix in _JSON else None


def _of_tables(path: Path) -> Recognised | None:
    try:
        tables = find_tables(path)
    except SourceError:
        return None
    if not tables:
        return None
    columns = set(tables[0].columns)
    kind = f"{tables[0].kind} tables" if len(tables) > 1 else f"a {tables[0].kind} table"
    if {"conversations", "media"} <= columns:
        return Recognised("hub", f"phiv's own rows in {kind}")
    if {"images", "texts"} <= columns:
        return Recognised("cauldron", f"{kind} of The Cauldron")
    dialogue = next((name for name in ("messages", "conversations") if name in columns), None)
    if dialogue:
        return Recognised("llava" if dialogue == "conversations" else "trl", f"{kind} of {dialogue}")
    return Recognised("table", kind)


def _of_json(path: Path) -> Recognised | None:
    """By the keys of the object that a file is, or of its first row."""
    first = _first_row(path)
    if {"identifier", "sentence"} <= first.keys():
        return Recognised("nlvr2", "sentences of NLVR2")
    if {"img", "text"} <= first.keys():
        return Recognised("hateful_memes", "rows of Hateful Memes")
    try:
        format = detect_format(path)
    except SourceError:
        format = None
    if format is not None:
        return Recognised("jsonl" if format == "phiv" else format, f"{format} rows")
    with environment_problems(path), path.open("rb") as file:
        head = file.read(_HEAD_BYTES).decode("utf-8", "replace")
    if '"caption"' in head and '"images"' in head and '"annotations"' in head:
        return Recognised("coco", "captions of COCO")
    keys = _keys_of_object(path)
    if keys & {"annotations", "images", "categories"} == {"annotations", "images", "categories"}:
        return None  # boxes
    if {"annotations", "images"} <= keys:
        return Recognised("coco", "captions of COCO")
    if "questions" in keys:
        return Recognised("vqa", "questions of VQA")
    if {"dataset_name", "data"} <= keys:
        return Recognised("docvqa", "questions of DocVQA")
    if isinstance(first.get("data"), dict) and first.keys() & {"annotations", "predictions", "completions"}:
        return Recognised("label_studio", "tasks of Label Studio")
    if "image" in first and first.keys() & {"annotation_id", "annotator", "lead_time"}:
        return Recognised("label_studio", "tasks of Label Studio")
    return Recognised("table", "flat JSON rows") if first else None


def _of_folder(root: Path) -> Recognised | None:
    files = list[str]()
    for folder, below in walk(root):
        files += [(folder / file.name).relative_to(root).as_posix() for file in below]
        if len(files) > _MOST_FILES:
            break
    files.sort()
    names = {name.rpartition("/")[2] for name in files}
    if any(name in names for name in ("classInd.txt", "trainlist01.txt")) or any("UCF101_subset/" in f for f in files):
        return Recognised("ucf101", "UCF-101")
    if any(name.lower().rpartition(".")[0] == "metadata" for name in names):
        return Recognised("folder", "an image folder with metadata")
    media = [name for name in files if name.lower().rpartition(".")[2] in (*IMAGE_SUFFIXES, *CLIP_SUFFIXES)]
    clips = [name for name in media if name.lower().rpartition(".")[2] in CLIP_SUFFIXES]
    if labels := tuple(root / name for name in files if _is_list(root / name, media, clips)):
        return Recognised("folder", f"files and {len(labels)} list{'s' * (len(labels) > 1)} of labels", labels)
    by_suffix = {
        suffix: [name for name in files if name.lower().endswith(f".{suffix}")] for suffix in (*_JSON, *_TABLES)
    }
    json_files = [name for suffix in _JSON for name in by_suffix[suffix] if name.rpartition("/")[2] != INFO]
    found = [one for name in json_files[:20] if (one := _of_json(root / name)) and one.command != "table"]
    if found:
        return found[0]
    if any(name.endswith((".parquet", ".arrow")) for name in files):
        return _of_tables(root)
    if tables := [name for suffix in _TABLES for name in by_suffix[suffix]]:
        return Recognised("table", f"{len(tables)} tables" if len(tables) > 1 else "a table")
    classes = {name.rpartition("/")[0] for name in media} - {""}
    if classes:
        kind = "clips" if len(clips) * 2 > len(media) else "images"
        return Recognised("folder", f"{kind} in {len(classes)} folders")
    return _of_json(root / json_files[0]) if json_files else None


def _is_list(path: Path, media: Sequence[str], clips: Sequence[str]) -> bool:
    """Whether a file names files beside it and their classes: "path label" a line, or a table or JSON of clips.

    Of text most of the first lines must: a note may begin with a word that is the name of a file.
    """
    suffix = path.suffix.lower().removeprefix(".")
    if suffix == "txt" and media:
        with environment_problems(path), path.open("rb") as file:
            lines = file.read(_HEAD_BYTES).decode("utf-8", "replace").splitlines()[:20]
        filled = [line.strip() for line in lines if line.strip()]
        entries = [line.rpartition("\t" if "\t" in line else " ")[0].strip() for line in filled]
        known = {alias for name in media for alias in (name, PurePosixPath(name).name, PurePosixPath(name).stem)}
        return 2 * sum(entry in known or PurePosixPath(entry).name in known for entry in entries) > len(entries)
    if suffix in ("csv", "tsv") and clips:
        with environment_problems(path), path.open("rb") as file:
            lines = file.read(_HEAD_BYTES).decode("utf-8", "replace").splitlines()[1:2]
        named = re.split(r'[,;\t"]+', lines[0]) if lines else []
    elif suffix in _JSON and clips:
        first = _first_row(path)
        named = [str(value) for value in first.values()] if first.keys() & {"label", "template", "class"} else []
    else:
        return False
    stems = {PurePosixPath(name).stem for name in clips}
    return any(
        re.sub(r"_\d{6}_\d{6}$", "", stem) in {*named, *(PurePosixPath(n).stem for n in named)} for stem in stems
    )


def _keys_of_object(path: Path) -> set[str]:
    """The keys at the top of one large object, without reading what is in it; none where it is no object."""
    keys, depth, at, text = set[str](), 0, 0, ""
    with environment_problems(path), path.open("rb") as file:
        text = file.read(1 << 24).decode("utf-8", "replace").lstrip("\ufeff \r\n\t")
    decoder = json.JSONDecoder()
    if not text.startswith("{"):
        return keys
    while at < len(text):
        char = text[at]
        if char == '"':
            try:
                value, end = decoder.raw_decode(text, at)
            except ValueError:
                break
            if depth == 1 and text[end : end + 8].lstrip().startswith(":"):
                keys.add(value)
            at = end
            continue
        depth += (char in "{[") - (char in "}]")
        if not depth:
            break
        at += 1
    return keys


def _first_row(path: Path) -> dict[str, Any]:
    try:
        row = next(iter(read_rows(path)), None)
    except SourceError:
        return {}
    return row.value if row and isinstance(row.value, dict) else {}
