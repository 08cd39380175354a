"""Choose and read the rows that a report shows: those with findings, and an even sample of the rest.

    >>> [(row.split, row.file, row.line, len(row.images)) for row in sample_rows(Path("out"), wanted, limit=200)]
    [('val', 'ucf101_val.jsonl', 17, 10), ...]

The data may be broken in every way a validation can find, so nothing here raises for it: a line without a record is
given as text, an image that cannot be shown as None. Rows are chosen by number alone: the same data, the same rows.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice, zip_longest
from pathlib import Path

from PIL import Image

from phiv_data.media.images import encode_jpeg, open_image
from phiv_data.media.reject import RejectInput
from phiv_data.sources.folders import find_files
from phiv_data.storage.dataset import MANIFEST, NON_RECORD_FILES, read_manifest
from phiv_data.storage.jsonl import parse_line
from phiv_data.storage.shards import ShardRow, open_shard, to_conversation
from phiv_data.utils.atomic import raise_if_of_machine
from phiv_data.validation.inputs.chat_dataset import ChatFile, find_chat_files, image_roots, split_chat_file
from phiv_data.validation.inputs.chat_images import read_image
from phiv_data.validation.inputs.chat_rows import rows_to_show
from phiv_data.validation.inputs.jsonl_range import split_of
from phiv_data.validation.partial_result import IssueCollector
from phiv_schemas import Conversation, PhivError

RowLocation = tuple[str, int]
"""A file, as issues call it, and a 1-based line or row of it."""
MAX_LINE_BYTES = 2**20
MAX_IMAGE_BYTES = 2**26


@dataclass(frozen=True, slots=True)
class ShownRow:
    """One row to show. `conversation` is None where the line holds no record; `text` is then how the line begins."""

    split: str
    file: str
    line: int
    conversation: Conversation | None
    text: str
    read_image: Callable[[int], bytes | None]
    """The encoded bytes of the n-th image of the record; None where there is none."""

    @property
    def place(self) -> RowLocation:
        """Where it is, as in issues."""
        return self.file, self.line


@dataclass(frozen=True, slots=True)
class _ShownFile:
    """A file with rows, its split, numbers of rows that are evenly apart, and how to read some of its rows."""

    split: str
    file: str
    numbers: Sequence[int]
    read: Callable[[set[int]], Iterator[ShownRow]]


def sample_rows(
    data: Path,
    wanted: Iterable[RowLocation],
    *,
    limit: int,
    images_root: Path | None = None,
    input_format: str = "auto",
) -> list[ShownRow]:
    """At most `limit` rows: `wanted` places first, in their order, then an even sample of every split, by turns."""
    sources = {source.file: source for source in _sources(data, images_root, input_format, limit)}
    chosen = [place for place in dict.fromkeys(wanted) if place[0] in sources]
    spread = [[(s.file, n) for n in _spread(s.numbers, limit)] for s in sources.values()]
    even = (place for some in zip_longest(*spread) for place in some if place is not None)  # of each file by turns
    places = list(islice(dict.fromkeys(chain(chosen, even)), limit))
    found: dict[RowLocation, ShownRow] = {}
    for file in dict.fromkeys(file for file, _ in places):
        lines = {line for name, line in places if name == file}
        found.update((row.place, row) for row in sources[file].read(lines))
    return [found[place] for place in places if place in found]


def _spread(numbers: Sequence[int], limit: int) -> list[int]:
    """At most `limit` of them, evenly apart, in an order whose every beginning is spread too."""
    count = min(len(numbers), limit)
    # 0 to count - 1 with the halves, then the quarters, ... first: bits reversed, as van der Corput does.
    bits = max(1, (count - 1).bit_length())
    order = [k for k in (int(f"{i:0{bits}b}"[::-1], 2) for i in range(2**bits)) if k < count]
    return [numbers[k * len(numbers) // count] for k in order]


# Where rows are ---------------------------------------------------------------------------------------------------


def _sources(data: Path, images_root: Path | None, input_format: str, limit: int) -> list[_ShownFile]:
    """The files of `data` in external chat formats or, where it is phiv's own, its jsonl files or else its shards."""
    roots = image_roots(data, images_root)
    with _problems_of_the_data():
        if external := [_external_source(file, roots, limit) for file in find_chat_files(data, input_format)]:
            return external
    splits = _splits(data)
    if data.is_file():
        files, folder = [data], data.parent
    else:
        folder = data
        files = []
        with _problems_of_the_data():
            files = [file for file in find_files(data, "*.jsonl") if file.name not in NON_RECORD_FILES]
            patterns = ("*.arrow", "*/*.arrow", "*/*/*.arrow")
            files = files or sorted(file for pattern in patterns for file in find_files(data, pattern))
    root = images_root or folder / "images"
    found = []
    for file in (file for file in files if file.is_file()):
        name = file.relative_to(folder).as_posix()
        with _problems_of_the_data():
            if file.suffix == ".arrow":
                found.append(_shard_source(file, name, splits.get(name) or file.parent.name))
            else:
                found.append(_jsonl_source(file, name, splits.get(name) or file.stem, root))
    return found


def _external_source(file: ChatFile, roots: Sequence[Path], limit: int) -> _ShownFile:
    """Its rows in pieces so small that the first rows of them are an even sample."""
    size, split = file.path.stat().st_size, split_of(file.path.stem)
    pieces = list(split_chat_file(file, max(1, size // (4 * limit)), IssueCollector()))

    def read(numbers: set[int]) -> Iterator[ShownRow]:
        for rows, after in zip_longest(pieces, pieces[1:]):
            here = {n for n in numbers if rows.first_line <= n and (after is None or n < after.first_line)}
            for number, conversation, text in rows_to_show(rows, here) if here else ():
                paths = conversation.image_paths if conversation else ()
                image = partial(lambda paths, n: read_image(paths[n], roots), paths)
                yield ShownRow(split, rows.file, number, conversation, text[:MAX_LINE_BYTES], image)

    return _ShownFile(split, file.path.name, [rows.first_line for rows in pieces], read)


def _splits(data: Path) -> Mapping[str, str]:
    """The split of each file that a manifest names, where there is a manifest."""
    if not (data / MANIFEST).is_file():
        return {}
    with _problems_of_the_data():
        splits = read_manifest(data).splits
        return {file.path: split.name for split in splits for file in (split.jsonl, *split.shards)}
    return {}


@contextmanager
def _problems_of_the_data() -> Iterator[None]:
    """Passes over what is wrong with the data: the report has a finding. An error of the machine is raised."""
    try:
        yield
    except (OSError, PhivError) as error:
        raise_if_of_machine(error, "report")


def _jsonl_source(file: Path, name: str, split: str, root: Path) -> _ShownFile:
    with file.open("rb") as opened:
        count, last = 0, b""
        while block := opened.read(2**20):
            count, last = count + block.count(b"\n"), block[-1:]
    count += last not in (b"", b"\n")

    def read(lines: set[int]) -> Iterator[ShownRow]:
        with file.open("rb") as opened:
            for number, raw in enumerate(opened, start=1):
                if number not in lines or not raw.strip():
                    continue
                short = raw.rstrip(b"\r\n").removeprefix(b"\xef\xbb\xbf")
                is_short = len(short) <= MAX_LINE_BYTES
                conversation = parse_line(short, name, number, may_lack_names=True).conversation if is_short else None
                text = "" if conversation else short[:MAX_LINE_BYTES].decode("utf-8", "backslashreplace")
                paths = conversation.image_paths if conversation else ()
                image = partial(lambda paths, n: _image_bytes(root, paths[n]), paths)
                yield ShownRow(split, name, number, conversation, text, image)

    return _ShownFile(split, name, range(1, count + 1), read)


def _image_bytes(root: Path, path: str) -> bytes | None:
    """The file's bytes if it is a regular file of a bounded size below `root`, symbolic links followed."""
    full = os.path.realpath(root / path)
    try:
        if not full.startswith(os.path.realpath(root) + os.sep):
            return None
        status = os.stat(full)  # noqa: PTH116  # realpath gives a str
        if not stat.S_ISREG(status.st_mode) or status.st_size > MAX_IMAGE_BYTES:
            return None
        return Path(full).read_bytes()
    except (OSError, ValueError) as error:
        raise_if_of_machine(error, path)
        return None


def _shard_source(file: Path, name: str, split: str) -> _ShownFile:
    batches = open_shard(file, where=name)

    def read(lines: set[int]) -> Iterator[ShownRow]:
        start = 1
        for batch in batches:
            for line in sorted(lines & set(range(start, start + batch.num_rows))):
                row: ShardRow = batch.slice(line - start, 1).to_pylist()[0]
                conversation: Conversation | None = None
                text = ""
                try:
                    conversation = to_conversation(row)
                except ValueError:  # pydantic's is one
                    text = repr({key: value for key, value in row.items() if key not in ("images", "media")})
                data = [(image or {}).get("bytes") for image in row["images"] or ()] if conversation else []
                image = partial(lambda data, n: data[n] if n < len(data) else None, data)
                yield ShownRow(split, name, line, conversation, text[:MAX_LINE_BYTES], image)
            start += batch.num_rows

    return _ShownFile(split, name, range(1, sum(batch.num_rows for batch in batches) + 1), read)


def thumbnail(data: bytes | None, side: int) -> tuple[bytes, int, int] | None:
    """A small JPEG of at most `side` pixels each way, with its width and height; None for what does not decode."""
    if data is None:
        return None
    try:
        image = open_image(data)
        if image.has_transparency_data:
            white = Image.new("RGBA", image.size, "white")
            white.alpha_composite(image.convert("RGBA"))
            image = white
        else:
            image = image.convert("RGB")
        image.thumbnail((side, side))
        return encode_jpeg(image, 60), image.width, image.height
    except (RejectInput, OSError, ValueError):  # odd modes that do not convert are in the report
        return None
