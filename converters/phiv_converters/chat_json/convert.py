"""Other tools' json to conversations: LLaVA, ShareGPT (LLaMA-Factory), ms-swift, TRL and OpenAI messages.

    phiv-convert llava --source llava_v1_5_mix665k.json --images playground/data --out_dir out
    phiv-convert sharegpt --source LLaMA-Factory/data --dataset mllm_demo --out_dir out
    phiv-convert swift --source train.jsonl --out_dir out
    phiv-convert trl --source train.jsonl --split train --out_dir out

    phiv-convert swift --source clips.jsonl --fps 1 --out_dir out         videos become frames in their places

Before, an element of a LLaVA file:

    {"id": "0", "image": "coco/1.jpg", "conversations": [{"from": "human", "value": "<image>\\nWhat is it?"},
                                                         {"from": "gpt", "value": "A bus."}]}

After, a record (and the image's file, copied byte for byte):

    {"id": "train-0000000000", "source": "llava", "conversations": [{"images": ["train/coco/1.jpg"],
      "user": "What is it?", "assistant": "A bus."}]}

Files of JSON lines or one JSON array, and tables with the same columns. `phiv_data.formats` defines what a row of each
format may contain and what becomes of it; this package finds the files and their images.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from phiv_converters.base import refuse_exports
from phiv_converters.chat_json.files import (
    ChatFile,
    as_json,
    describe_splits,
    find_described,
    find_files,
    mentions_videos,
    read_chat_rows,
    roots_of,
    row_key,
)
from phiv_converters.chat_json.images import RowImages
from phiv_converters.chat_json.listing import ChatRows, IgnoredContent, shared_names
from phiv_converters.chat_json.options import ChatJsonOptions, SharegptOptions
from phiv_converters.clips import JPEG_QUALITY, sampling_of
from phiv_converters.val_split import NO_SHARES, RowGroups, Shares, val_warning
from phiv_data.convert.base import Converter, Inputs, Item
from phiv_data.export.record import read_export
from phiv_data.formats import FORMATS, ParsedRow, sharegpt
from phiv_data.formats.detect import detect_format
from phiv_data.formats.files import explain_shape, is_data_uri, locate_image
from phiv_data.media.reject import RejectInput
from phiv_data.media.video import library_versions
from phiv_data.sources.hf_tables import read_row
from phiv_data.sources.json_stream import read_value
from phiv_data.storage.record_errors import truncated_repr
from phiv_data.storage.sample import Draft, EncodedImage
from phiv_schemas import Turn
from phiv_schemas.conversation import check_name
from phiv_schemas.errors import SourceError

SPLIT_ORDER = ("train", "val", "test")


def open_chat_json(flags: ChatJsonOptions, work_dir: Path) -> ChatJson:
    """Find the files of rows, and for sharegpt their entries of dataset_info.json."""
    refuse_exports(flags.source, *FORMATS)
    if isinstance(flags, SharegptOptions):
        files = find_described(flags.source, flags.split, flags.dataset)
    else:
        files = find_files(flags.source, flags.split)
    for file in files:
        row_parser(flags, file)  # raises now where an entry is of another format
    return ChatJson(flags, files)


def row_parser(flags: ChatJsonOptions, file: ChatFile) -> Callable[..., ParsedRow]:
    """`parse(row, where)` for the rows of a file, by the names of its entry of dataset_info.json if it has one."""
    parse = partial(FORMATS[flags.format].parse, videos=True, **flags.parser_options())
    return parse if file.entry is None else partial(parse, names=sharegpt.names_of(file.entry, file.name))


@dataclass(frozen=True)
class ChatJson(Converter):
    """Opened files of rows: lists the rows, and turns one with its images into a draft."""

    flags: ChatJsonOptions
    files: tuple[ChatFile, ...]

    @property
    def name(self) -> str:
        """The format's name; also the source of rows that name none."""
        return self.flags.format

    @property
    def is_split(self) -> bool:
        """True where rows have splits, or one is said: by --split, or by an export of phiv."""
        source = self.flags.source
        export = read_export(source) or read_export(source.parent)
        of_export = export is not None and (source.is_dir() or source.name in export.files)
        return self.flags.split is not None or of_export or {file.split for file in self.files} != {"train"}

    @property
    def shares(self) -> Shares:
        """How much of train becomes val and test."""
        self.flags.shares.check_source(file.split for file in self.files)
        return NO_SHARES if self.is_split else self.flags.shares

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits of the files, train, val and test first; where val is made of train, those that get rows."""
        if self.shares.splits_made():
            return ()
        found = {file.split for file in self.files}
        return (*(s for s in SPLIT_ORDER if s in found), *sorted(found - set(SPLIT_ORDER)))

    def describe(self) -> str:
        """The files and their kinds."""
        shown = [f"{file.name} ({file.kind})" for file in self.files[:4]]
        more = f" and {len(self.files) - 4} more" if len(self.files) > 4 else ""
        return f"{self.name} rows in {', '.join(shown)}{more}"

    def options(self) -> dict[str, Any]:
        """Everything that affects the output, with the hashes of the files of rows."""
        flags = self.flags
        files = {file.name: file.sha256 for file in self.files}
        entries = {file.name: file.entry for file in self.files if file.entry}
        sampling = sampling_of(flags.num_frames, flags.fps)
        of_videos: dict[str, Any] = {"num_frames": sampling.num_frames, "fps": sampling.fps}
        of_videos |= {"check_video": flags.check_video, "jpeg_quality": JPEG_QUALITY}
        own = {"strip_folders": flags.strip_folders, "split": flags.split, "keep_ids": flags.keep_ids, "files": files}
        own |= {} if self.is_split else flags.split_options()
        return own | of_videos | flags.parser_options() | ({"entries": entries} if entries else {})

    def versions(self) -> dict[str, str]:
        """Pillow, which checks images and writes frames; where rows could name videos also the decoder."""
        has_videos = any(mentions_videos(file) for file in self.files)
        return {"pillow": version("pillow")} | (library_versions("pyav") if has_videos else {})

    def inputs(self) -> Inputs:
        """Every row in the order of splits and files, also those that cannot be used: they are rejected."""
        rows, ignored, codes = ChatRows(self.files), IgnoredContent(self.flags.keep_ids), Counter[str]()
        shares = self.shares
        groups = RowGroups(shares)
        root = (self.flags.source if self.flags.source.is_dir() else self.flags.source.parent).resolve()
        first: RejectInput | None = None
        rank = {split: i for i, split in enumerate(self.splits)}
        for i, file in sorted(enumerate(self.files), key=lambda indexed: (rank.get(indexed[1].split, 0), indexed[0])):
            parse = row_parser(self.flags, file)
            for row in read_chat_rows(file):
                images, refs, where = list[Path](), tuple[str, ...](), row_key(file, row.line)
                try:
                    if row.problem:
                        raise RejectInput(where, "bad-row", row.problem)
                    parsed = parse(row.value, where)
                    images = self._image_files(parsed, file)
                    embedded = filter(is_data_uri, parsed.image_refs)
                    refs = (*embedded, *(os.path.relpath(path.resolve(), root) for path in images))
                    ignored.add(parsed)
                except RejectInput as reject:
                    codes[reject.code] += 1
                    first = first or reject
                rows.add(i, row, images)
                if shares.splits_made():
                    groups.add(shared_names(rows.digest(len(rows) - 1), refs))
        if first and len(rows) == codes["bad-row"]:
            raise self._no_rows(first)
        warnings = (*describe_splits(self.files), *ignored.warnings(self.name))
        if not shares.splits_made():
            return Inputs(rows.items(), warnings=warnings)
        positions = groups.positions()
        splits = list(map(shares.limits(positions).split_of, positions))
        warnings += (val_warning(splits, "groups of rows with an image in common"),)
        return Inputs(rows.items(splits), warnings=warnings)

    def _no_rows(self, first: RejectInput) -> SourceError:
        """The error of files none of which holds a row of the format: what they are instead."""
        path = next(file.path for file in self.files if first.where.startswith(f"{file.name}:"))
        is_table = any(file.table is not None for file in self.files)
        if problem := None if is_table else explain_shape(path):
            return SourceError(str(path), *problem)
        other = None if is_table else detect_format(path)
        if other == "phiv":
            return SourceError(str(path), "these are phiv's own rows", "Use phiv-convert jsonl")
        known = other is not None and other != self.name
        hint = f"They read as {other} rows: use phiv-convert {other}" if known else "Pass rows of that format"
        return SourceError(self.describe(), f"none of them is one (first: {first})", hint)

    def _image_files(self, row: ParsedRow, file: ChatFile) -> list[Path]:
        """The files of a row's images, without those that are missing."""
        files, roots = [], roots_of(file, self.flags.images)
        for ref in dict.fromkeys(row.image_refs):
            try:
                found = locate_image(ref, roots, self.flags.strip_folders)
            except (OSError, ValueError):
                continue
            files += [found[0]] if found else []
        return files

    def drafts_depend_on(self) -> object:
        """The flags: where images are looked for, and how rows are read."""
        return self.flags

    def draft_depends_on(self, item: Item) -> object:
        """The names of images below the file's folder, and how its entry of dataset_info.json says to read it."""
        file = self.files[item.payload[0]]
        return file.name, file.entry, file.table is None

    def draft(self, item: Item) -> Draft:
        """A row and its images."""
        index, offset, length = item.payload
        file, where = self.files[index], item.key
        if file.table is None:
            value = read_value(file.path, offset, length, where=where)
        else:
            value = as_json(read_row(file.table, offset))
        row = row_parser(self.flags, file)(value, where)
        reader = RowImages(self.flags, item.split, where, roots_of(file, self.flags.images))
        turns, images = list[Turn](), list[EncodedImage]()
        for turn in row.turns:
            record, shown = reader.turn(turn)
            turns.append(record)
            images += shown
        row_id = None
        if self.flags.keep_ids:
            if row.id is None:
                raise RejectInput(where, "bad-row", "no 'id' to keep")
            try:
                row_id = check_name(row.id)
            except ValueError as error:
                what = f"its id {truncated_repr(row.id)} cannot be kept: {error}"
                raise RejectInput(where, "bad-row", what) from error
        return Draft(tuple(turns), tuple(images), row.system, row.source, row_id)
