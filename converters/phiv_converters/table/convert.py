"""Tables of your own: images, questions and answers in csv, tsv, xlsx, parquet, Arrow or flat JSON.

    phiv-convert table --source qa.csv --out_dir out
    phiv-convert table --source data/ --question "Which bird is it?" --answer species --out_dir out
    phiv-convert table --source imagefolder/ --out_dir out        metadata.csv, .jsonl or .parquet beside the images

Before, a line of `qa.csv`:

    image,question,answer
    photos/1.jpg,Which bird is it?,a wren

After, a record:

    {"id": "train-0000000000", "source": "qa", "conversations": [{"images": ["train/photos/1.jpg"],
      "user": "Which bird is it?", "assistant": "a wren"}]}

What a column is, its name and cells say; it is printed in one line, and changed by flags. A column of classes becomes
answers to "Classify the image into one of the following classes: ...", captions to "Describe the image.".
"""

from __future__ import annotations

import hashlib
import re
from array import array
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from importlib.metadata import version
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any

from phiv_converters.base import refuse_exports, row_digest
from phiv_converters.clips import JPEG_QUALITY, sampling_of
from phiv_converters.examples import Clips, Example, ImageRef, example_draft, image_files, leads_out, text_of_cell
from phiv_converters.table.columns import (
    Columns,
    answer_list,
    fill_prompt,
    guess_columns,
    image_refs,
    is_clip_name,
    is_image_name,
    text_refs,
)
from phiv_converters.table.files import Row, RowFile, find_row_files, is_metadata, read
from phiv_converters.table.options import TableOptions
from phiv_converters.val_split import RowGroups, SplitLimits, val_warning
from phiv_data.convert.base import Converter, Inputs, Item
from phiv_data.formats.files import Root, is_data_uri, shorten
from phiv_data.media.reject import RejectInput
from phiv_data.media.video import library_versions
from phiv_data.sources.hf_layout import standard_split
from phiv_data.sources.hf_tables import class_names, read_row
from phiv_data.storage.sample import Draft
from phiv_schemas.errors import SourceError, UsageError

SAMPLE_ROWS, SAMPLE_TABLE_ROWS = 200, 20  # rows of a table may hold megabytes
MAX_CLASSES = 1000


def open_table(flags: TableOptions, work_dir: Path) -> TableRows:
    """Find the tables, and what their columns are. The classes that a question lists are read from all rows."""
    refuse_exports(flags.source)
    files, unread = find_row_files(flags.source)
    columns: Columns | None = None
    every: dict[str, None] = {}
    problem, names_clip = "", False
    labels, embedded = dict[str, dict[str, tuple[str, ...]]](), dict[str, tuple[str, ...]]()
    for file in files:
        sample = list(islice(read(file), SAMPLE_TABLE_ROWS if file.table else SAMPLE_ROWS))
        problem = problem or next((f"{file.path}:{row.number}: {row.problem}" for row in sample if row.problem), "")
        rows = [row.values for row in sample if not row.problem]
        names = file.table.columns if file.table else tuple(dict.fromkeys(name for row in rows for name in row))
        every |= dict.fromkeys(names)
        if not rows and not file.table:
            continue
        if any(is_image_name(name) or is_clip_name(name) for name in names):
            raise SourceError(
                f"{file.path}:1", "its first line is a row of data", "Its first line must name the columns"
            )
        columns = columns or guess_columns(flags, names, rows)
        names_clip = names_clip or any(map(is_clip_name, text_refs(columns.image, rows)))
        if unread_role := _role_of_later(flags, columns, names, rows):
            what = f"has a column {unread_role!r}, which {files[0].name} lacks, so it would not be read"
            raise SourceError(str(file.path), what, "Pass tables of the same columns, or each alone")
        if file.kind != "json" and (missing := [name for name in columns.names if name not in names]):
            what = f"has no column {missing[0]!r}, as {files[0].name} has (found {', '.join(names)[:200]})"
            raise SourceError(str(file.path), what, "Pass tables of the same columns")
        if file.table:
            labels[file.name] = class_names(file.table)
            embedded[file.name] = tuple(name for name in columns.image if any(_holds_bytes(row[name]) for row in rows))
    if columns is None:
        what = f"none of its first rows can be read (first: {problem})" if problem else "its tables have no rows"
        raise SourceError(str(flags.source), what, "Correct the rows" if problem else "Pass a table of rows")
    if flags.name is None:
        flags = replace(flags, name=re.sub(r"[^\w.-]+", "_", flags.source.absolute().stem).strip("_.-") or "table")
    warnings = []
    columns = replace(columns, has_clips=columns.has_clips or names_clip)
    if columns.has_clips and not names_clip:
        warnings.append("--num_frames and --fps change nothing where no row names a clip: the first ones name none")
    if left := [name for name in every if name not in columns.names]:
        warnings.append(f"columns that are not read: {', '.join(left)[:300]}")
    if unread:
        more = f", and {len(unread) - 5} more" if len(unread) > 5 else ""
        warnings.append(f"files that are not read: {', '.join(unread[:5])}{more}")
    return with_classes(TableRows(flags, files, columns, labels, embedded, tuple(warnings)))


def _role_of_later(
    flags: TableOptions, columns: Columns, names: Sequence[str], rows: Sequence[Mapping[str, Any]]
) -> str | None:
    """A column of a later table that would hold answers, a split or a question, had it been in the first one."""
    try:
        guessed = guess_columns(flags, names, rows)
    except (SourceError, UsageError):  # what it lacks, or cannot decide, the flags or the first table say
        return None
    roles = (guessed.question, guessed.answer, guessed.answers, guessed.split)
    of_first = (columns.question, columns.answer, columns.answers, columns.split)
    added = [new for old, new in zip(of_first, roles, strict=True) if old is None and new is not None]
    return next((name for name in added if name not in columns.names), None)


def with_classes(table: TableRows) -> TableRows:
    """The same with the answers of all rows in its question, where that lists them."""
    if "{classes}" not in table.columns.prompt:
        return table
    return replace(table, columns=replace(table.columns, classes=", ".join(table.find_classes())))


def _holds_bytes(cell: Any) -> bool:
    cells = cell if isinstance(cell, list) else [cell]
    return any(isinstance(one.get("bytes") if isinstance(one, dict) else one, bytes) for one in cells)


def _is_clip(ref: ImageRef) -> bool:
    return isinstance(ref, str) and not is_data_uri(ref) and is_clip_name(ref)


@dataclass(frozen=True)
class TableRows(Converter):
    """Opened tables: lists their rows, and turns one with its images into a draft.

    By file: `labels` are the names behind the integers of ClassLabel columns, `embedded` the columns of encoded images.
    `more_options` are those of what has read the files.
    """

    flags: TableOptions
    files: tuple[RowFile, ...]
    columns: Columns
    labels: Mapping[str, Mapping[str, tuple[str, ...]]] = field(default_factory=dict)
    embedded: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    more_options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """That of --name, or of the source."""
        assert self.flags.name is not None, "open_table gives it"
        return self.flags.name

    def describe(self) -> str:
        """The files, and what their columns are."""
        kinds = " and ".join(sorted({file.path.suffix[1:].lower() for file in self.files}))
        return f"{len(self.files)} {kinds} file{'s' * (len(self.files) > 1)}: {self.columns.describe()}"

    def options(self) -> dict[str, Any]:
        """Everything that affects the output."""
        columns = asdict(self.columns) | {"image": list(self.columns.image)}
        frames: dict[str, Any] = {}
        if columns.pop("has_clips"):
            sampling = sampling_of(self.flags.num_frames, self.flags.fps)
            frames = {"num_frames": sampling.num_frames, "fps": sampling.fps, "check_video": self.flags.check_video}
            frames["jpeg_quality"] = JPEG_QUALITY
        names = ("question", "answer", "answers", "id", "split", "group", "name")
        own = {name: getattr(self.flags, name) for name in names} | {"image": list(self.flags.image)}
        files = {file.name: file.split for file in self.files}
        own |= self.flags.split_options() | frames
        return {"columns": columns, "files": files} | own | dict(self.more_options)

    def versions(self) -> dict[str, str]:
        """Pillow, which checks images and writes frames; where there are clips also the decoder's."""
        return {"pillow": version("pillow")} | (library_versions("pyav") if self.columns.has_clips else {})

    def find_classes(self) -> list[str]:
        """Every answer there is, sorted. SourceError where there are too many for a question to list."""
        column, classes = self.columns.answer, dict[str, None]()
        for file in self.files:
            for row in read(file, () if column is None else (column,)):
                if file.reader and "classes" in row.values:  # those of an answer of several
                    classes |= dict.fromkeys(row.values["classes"])
                    continue
                with suppress(RejectInput):  # such a row is rejected, and gives no class
                    answer = None if row.problem else self._answers(row.values, file, self._key(file, row))[0]
                    classes |= {answer: None} if answer is not None else {}
                if len(classes) > MAX_CLASSES:
                    what = f"has over {MAX_CLASSES} different values: no classes that a question could list"
                    raise SourceError(f"column {column}", what, "Pass --question")
        return sorted(classes)

    def inputs(self) -> Inputs:
        """Every row in the order of the files, also those that cannot be used: they are rejected."""
        positions = self._positions()
        limits, warnings = self.flags.shares.limits(positions), self.warnings
        if positions:
            column = self.columns.group
            groups = f"values of {column}" if column else "groups of rows with an image in common"
            warnings += (val_warning(map(limits.split_of, positions), groups),)
        return Inputs(self._items(positions, limits), warnings=warnings)

    def drafts_depend_on(self) -> object:
        """The flags, and what the columns and the integers of classes mean."""
        return self.flags, self.columns, self.labels

    def draft_depends_on(self, item: Item) -> object:
        """The kind of the file, and the place in a table, whose cells are no content; not that in other files."""
        index, number, *_ = item.payload
        file = self.files[index]
        return file.name, file.kind, file.reader is None, number if file.table else 0

    def draft(self, item: Item) -> Draft:
        """A row and its images."""
        index, number, values, problem = item.payload
        file = self.files[index]
        if problem:
            raise RejectInput(item.key, "bad-row", problem)
        if file.table is not None:
            values = read_row(file.table, number - 1, self.columns.names)
        refs = tuple(self._image_refs(values, item.key))
        if (file.reader or is_metadata(file.path.name)) and (outside := next(filter(leads_out, refs), None)):
            what = f"{shorten(str(outside))!r} leads out of the folder of the images"
            raise RejectInput(item.key, "missing-image", f"{what}: write its path below it")
        if not self.columns.has_clips and (clip := next(filter(_is_clip, refs), None)):
            what = f"{shorten(str(clip))!r} is a video, and the first rows name none. Pass --num_frames to read videos"
            raise RejectInput(item.key, "unsupported-media", what)
        if not refs:
            raise RejectInput(item.key, "missing-image", f"its {' and '.join(self.columns.image)} is empty")
        answer, answers = self._answers(values, file, item.key)
        text = partial(self._text, values, file, item.key)
        question = text(self.columns.question) if self.columns.question else fill_prompt(self.columns, text)
        row_id = text(self.columns.id) if self.columns.id else None
        if self.columns.id and row_id is None:
            raise RejectInput(item.key, "bad-row", f"its {self.columns.id!r}, the id to keep, is empty")
        example = Example(refs, question or "", answer, answers, row_id)
        clips = Clips(_is_clip, sampling_of(self.flags.num_frames, self.flags.fps), self.flags.check_video)
        return example_draft(example, item.split, item.key, self._roots(file), clips)

    def named_files(self) -> Iterator[str]:
        """The files that the rows name as their images, below the source; those in the tables themselves left out."""
        for index, row, _ in self._rows():
            file = self.files[index]
            with suppress(RejectInput):
                folder = PurePosixPath(file.name).parent
                yield from ((folder / r).as_posix() for r in self._image_refs(row.values, "") if isinstance(r, str))

    # Listing -----------------------------------------------------------------------------------------------------

    def _items(self, positions: Sequence[float], limits: SplitLimits) -> Iterator[Item]:
        position_of_train = iter(positions)
        for index, row, split in self._rows():
            file, key = self.files[index], self._key(self.files[index], row)
            if positions and split == "train":
                split = limits.split_of(next(position_of_train))
            try:
                images = image_files(self._image_refs(row.values, key), self._roots(file))
            except RejectInput:  # the draft says it
                images = []
            if file.table is None:
                payload = index, row.number, dict(row.values), row.problem
                yield Item(split, key, (row_digest(row.values, row.problem), *images), payload)
            else:
                size = file.path.stat().st_size // max(file.table.num_rows, 1)
                yield Item(split, key, (file.path, *images), (index, row.number, None, ""), size)

    def _rows(self, *, with_bytes: bool = False) -> Iterator[tuple[int, Row, str]]:
        """(number of the file, row, split) of every row; by default without the images that a table contains."""
        column = self.columns.split
        for index, file in enumerate(self.files):
            hidden = () if with_bytes else self.embedded.get(file.name, ())
            for row in read(file, tuple(name for name in self.columns.names if name not in hidden)):
                split = file.split or "train"
                if column and not row.problem:
                    key = self._key(file, row)
                    named = self._text(row.values, file, key, column)
                    if named is None:
                        raise SourceError(key, f"its {column!r} is empty", "Give each row a split")
                    split = standard_split(named.strip())
                yield index, row, split

    def _positions(self) -> array[float]:
        """The positions in 0..1 of the rows of train, from which val is made; none where the source has a val."""
        shares = self.flags.shares
        groups = RowGroups(shares)
        shares.check_source(file.split for file in self.files)
        if not shares.splits_made() or any(file.split == "val" for file in self.files):
            return array("d")
        for index, row, split in self._rows(with_bytes=self.columns.group is None):
            shares.check_source((split,))
            if split == "val":
                return array("d")
            if split == "train":
                groups.add(self._shared(row, self.files[index]))
        return groups.positions()

    def _shared(self, row: Row, file: RowFile) -> list[str]:
        """What keeps a row together with others: its value of --group, or its images; nothing of a rejected one."""
        key = self._key(file, row)
        if row.problem:
            return []
        try:
            if self.columns.group:
                return [self._text(row.values, file, key, self.columns.group) or key]
            refs = list(self._image_refs(row.values, key))
        except RejectInput:
            return []
        folder = file.name.rpartition("/")[0]
        return [f"{folder}/{r}" if isinstance(r, str) else hashlib.sha256(r).hexdigest() for r in refs]

    # Cells -------------------------------------------------------------------------------------------------------

    def _key(self, file: RowFile, row: Row) -> str:
        return f"{file.name}:{row.number}"

    def _roots(self, file: RowFile) -> tuple[Root, ...]:
        """--images, then the folder of the table."""
        folder, name = file.path.parent, file.name.rpartition("/")[0]
        return ((folder, name),) if self.flags.images is None else ((self.flags.images, ""), (folder, name))

    def _image_refs(self, values: Mapping[str, Any], where: str) -> Iterator[ImageRef]:
        for column in self.columns.image:
            yield from image_refs(values.get(column), where)

    def _text(self, values: Mapping[str, Any], file: RowFile, where: str, column: str) -> str | None:
        """A cell as text; of a column of classes the class's name."""
        value, classes = values.get(column), self.labels.get(file.name, {}).get(column)
        if classes is not None and isinstance(value, int) and 0 <= value < len(classes):
            return classes[value]
        return text_of_cell(value, repr(column), where)

    def _answers(self, values: Mapping[str, Any], file: RowFile, where: str) -> tuple[str | None, tuple[str, ...]]:
        """(the answer to learn, every accepted one) of a row; (None, ()) where it has none."""
        accepted = answer_list(values.get(self.columns.answers), where) if self.columns.answers else ()
        column = self.columns.answer
        if column is None:
            return (accepted[0] if accepted else None), accepted
        if isinstance(values.get(column), list):
            several = answer_list(values.get(column), where)
            return (several[0] if several else None), accepted or several
        return self._text(values, file, where, column), accepted
