"""Other tools' json to conversations: LLaVA, ShareGPT (LLaMA-Factory), ms-swift, TRL and OpenAI messages.

    phiv-convert llava --source llava_v1_5_mix665k.json --images playground/data --out_dir out
    phiv-convert sharegpt --source LLaMA-Factory/data --dataset mllm_demo --out_dir out
    phiv-convert swift --source train.jsonl --out_dir out
    phiv-convert trl --source train.jsonl --split train --out_dir out

Files of JSON lines or one JSON array. What a row of each format may look like, and what becomes of it, is for
`phiv_data.formats`; here are the files, and the images, whose bytes are copied as they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from phiv_data.convert.base import Converter, ConverterOptions
from phiv_schemas.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from phiv_converters.chat_json.files import RowFile
    from phiv_data.convert.base import Inputs, Item
    from phiv_data.formats import ParsedRow
    from phiv_data.formats.fields import ParsedTurn
    from phiv_data.storage.sample import Draft, EncodedImage

SPLIT_ORDER = ("train", "val", "test")


@dataclass(frozen=True)
class _Options(ConverterOptions):
    """What the four have in common."""

    format: ClassVar[str]

    source: Path
    """File of rows (one JSON array, or JSON lines), or a folder: its *.json and *.jsonl files, or else those of the
    folders in it."""
    images: Path | None = None
    """Folder that the paths of images start from. They are looked for beside the file of rows too."""
    strip_folders: int = 0
    """Leave out so many folders at the front of each image's path: 1 makes `resource/a.jpg` of `./old/resource/a.jpg`.
    For rows that were written in another place."""
    split: str | None = None
    """Split of all rows. By default the file's name says it (train, val, test and what else they are called), and
    train where it does not."""
    keep_ids: bool = False
    """Rows keep the ids they have, which must then be there and all differ. By default phiv numbers them."""

    def __post_init__(self) -> None:
        if self.strip_folders < 0:
            raise UsageError("--strip_folders", f"must be 0 or more (found {self.strip_folders})")
        if self.split is not None and not self.split.replace("_", "").isalnum():
            raise UsageError("--split", f"must be letters, digits and _ (found {self.split!r})")
        if self.images is not None and not self.images.is_dir():
            raise UsageError("--images", f"no such folder {str(self.images)!r}", "Check the path")

    def identity(self) -> dict[str, Any] | None:
        """None: files can change."""
        return None

    def open(self, scratch: Path) -> Interchange:
        """Find the files of rows."""
        from phiv_converters.chat_json.files import find_files

        return Interchange(self, find_files(self.source, self.split))

    def parser(self, file: RowFile) -> Callable[..., ParsedRow]:
        """`parse(record, where)` for the rows of a file."""
        from phiv_data.formats import FORMATS

        return partial(FORMATS[self.format].parse, **self.reading())

    def reading(self) -> dict[str, Any]:
        """The options of the format's own parser, as plain JSON values."""
        return {}


@dataclass(frozen=True)
class _MarkedOptions(_Options):
    """Formats with `<image>` in their text."""

    markers: Literal["strict", "lenient"] = "strict"
    """strict: a row whose `<image>` markers are not as many as its images is rejected; lenient: markers that are
    missing stand before the first text, and those after the last image are text. A row without images keeps its
    markers as text in any case."""

    def reading(self) -> dict[str, Any]:
        """`markers`."""
        return {"markers": self.markers}


@dataclass(frozen=True)
class LlavaOptions(_MarkedOptions):
    """LLaVA json (image, conversations of from and value) to conversations."""

    format: ClassVar[str] = "llava"


@dataclass(frozen=True)
class SharegptOptions(_MarkedOptions):
    """ShareGPT and LLaMA-Factory json (messages or conversations, images) to conversations."""

    format: ClassVar[str] = "sharegpt"

    dataset: str | None = None
    """Entry of the dataset_info.json beside the rows, which names their file, columns and roles. By default the entry
    that names the file is used; without one, every usual name is read."""

    def open(self, scratch: Path) -> Interchange:
        """Find the files of rows, and what dataset_info.json says of them."""
        from phiv_converters.chat_json.files import find_described

        files = find_described(self.source, self.split, self.dataset)
        for file in files:
            self.parser(file)  # an entry of another format is told now
        return Interchange(self, files)

    def parser(self, file: RowFile) -> Callable[..., ParsedRow]:
        """`parse(record, where)` by the names of the file's entry."""
        from phiv_data.formats import sharegpt

        parse = partial(sharegpt.parse, **self.reading())
        return parse if file.entry is None else partial(parse, names=sharegpt.names_of(file.entry, file.name))


@dataclass(frozen=True)
class SwiftOptions(_MarkedOptions):
    """ms-swift json (messages, or query, response and history; images) to conversations."""

    format: ClassVar[str] = "swift"


@dataclass(frozen=True)
class TrlOptions(_Options):
    """TRL and OpenAI json (messages or prompt and completion, contents of parts, images) to conversations."""

    format: ClassVar[str] = "trl"

    marker: str = ""
    """Text that stands where the images do, for rows whose parts say only which there are: xtuner has <IMG_CONTEXT>."""

    def reading(self) -> dict[str, Any]:
        """`marker`."""
        return {"marker": self.marker}


@dataclass(frozen=True)
class Interchange(Converter):
    """Opened files of rows: lists the rows, and turns one with its images into a draft."""

    options_: _Options
    files: tuple[RowFile, ...]
    synthetic: bool = False

    @property
    def name(self) -> str:
        """The format's name."""
        return self.options_.format

    @property
    def record_source(self) -> str:
        """The format's name, for rows without a `source` of their own."""
        return self.options_.format

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits of the files, train, val and test first."""
        found = {file.split for file in self.files}
        return (*(s for s in SPLIT_ORDER if s in found), *sorted(found - set(SPLIT_ORDER)))

    def describe(self) -> str:
        """The files and what they are."""
        truncated_repr = [f"{file.name} ({file.kind})" for file in self.files[:4]]
        more = f" and {len(self.files) - 4} more" if len(self.files) > 4 else ""
        return f"{self.name} rows in {', '.join(truncated_repr)}{more}"

    def options(self) -> dict[str, Any]:
        """Everything that shapes the output, the files of rows by their hashes among it."""
        o = self.options_
        files = {file.name: file.sha256 for file in self.files}
        entries = {"entries": {f.name: f.entry for f in self.files if f.entry}}
        own = {"strip_folders": o.strip_folders, "split": o.split, "keep_ids": o.keep_ids, "files": files}
        return own | o.reading() | (entries if entries["entries"] else {})

    def versions(self) -> dict[str, str]:
        """Images are copied, so only what checks them matters."""
        from importlib.metadata import version

        return {"pillow": version("pillow")}

    def inputs(self) -> Inputs:
        """Every row, also those that cannot be used: they are rejected."""
        from phiv_converters.chat_json.files import list_rows

        return list_rows(self)

    def parse(self, file: int, record: Any, where: str) -> ParsedRow:
        """What a row of `files[file]` says. RejectInput where it cannot be used."""
        return self.options_.parser(self.files[file])(record, where)

    def draft(self, item: Item) -> Draft:
        """A row and its images."""
        from phiv_data.sources.json_stream import read_value
        from phiv_data.storage.sample import Draft

        file, offset, length = item.payload
        record = read_value(self.files[file].path, offset, length, where=item.key)
        row = self.parse(file, record, item.key)
        by_ref = self._images(item, self.files[file], row)
        turns = tuple(_turn(turn, by_ref) for turn in row.turns)
        images = tuple(by_ref[ref] for ref in row.image_refs)
        row_id = _own_id(row.id, item.key) if self.options_.keep_ids else None
        return Draft(turns, images, row.system, row.source, row_id)

    def _images(self, item: Item, file: RowFile, row: ParsedRow) -> dict[str, EncodedImage]:
        """Each image of a row by its reference."""
        from phiv_converters.chat_json.files import find_image, roots_of
        from phiv_data.sources.image_index import checked_image

        found, roots = {}, roots_of(file, self.options_.images)
        for ref in dict.fromkeys(row.image_refs):
            name, data = find_image(ref, roots, self.options_.strip_folders, item.key)
            found[ref] = checked_image(f"{item.split}/{name}", data, item.key, source=name)
        return found


def _turn(turn: ParsedTurn, by_ref: dict[str, EncodedImage]) -> Any:
    from phiv_schemas import Turn

    paths = tuple(by_ref[ref].meta.path for ref in turn.images)
    return Turn(images=paths, user=turn.user, assistant=turn.assistant, image_offsets=turn.image_offsets)


def _own_id(row_id: str | None, where: str) -> str:
    from phiv_data.media.reject import RejectInput
    from phiv_schemas.conversation import check_name

    if row_id is None:
        raise RejectInput(where, "bad-row", "no 'id' to keep")
    try:
        return check_name(row_id)
    except ValueError as error:
        raise RejectInput(where, "bad-row", f"its id {row_id!r} cannot be kept: {error}") from error
