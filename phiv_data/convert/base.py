"""The interface to datasets: a `Converter` lists the inputs of a raw dataset and turns one into a draft.

It is pure: no ids, no output files, no parallelism. The engine owns those. A converter is pickled to worker processes,
so make it a frozen dataclass. `converters/README.md` shows one in twenty lines.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from phiv_data.convert.fingerprint import Content, code_version
from phiv_schemas.errors import UsageError

if TYPE_CHECKING:
    from phiv_data.storage.sample import Draft
    from phiv_schemas.sharing import Sharing


@dataclass(frozen=True, slots=True)
class Item:
    """One input of a split. `key` names it in rejects, and is unique within the split.

    `content` is what the input is: its bytes or a digest of them, a file, or a tuple of these. When any of it changes,
    an output is made again; a file is compared by size and time, or by sha256 with --verify. A file that is missing is
    no error here: `draft` rejects it. `payload` is whatever `draft` needs beside. `size_bytes`, by default that of the
    content, decides how many inputs make a task.
    """

    split: str
    key: str
    content: Content
    payload: Any = field(default=None, compare=False)
    size_bytes: int | None = None

    @property
    def path(self) -> Path:
        """The file of an input that has one: its content, or the one path in it."""
        parts = self.content if isinstance(self.content, tuple) else (self.content,)
        files = [part for part in parts if isinstance(part, Path)]
        if len(files) != 1:
            found = f"its content holds {len(files)} files, so it has no path"
            raise UsageError(self.key, found, "In draft(), take files from item.content or item.payload")
        return files[0]


_NO_OPTIONS = ("name", "splits", "synthetic", "record_source", "version", "sharing")


class Duplicate(NamedTuple):
    """An input that the source gives again: `again` repeats `first` and is left out. Both are names for a person."""

    first: str
    again: str


@dataclass(frozen=True, slots=True)
class Inputs:
    """What a source holds: its items, and what a person should know of the rest.

    Rows come in the order of the items, split by split. `items` hold each input once; `duplicates` are counted as
    inputs too, and named in the manifest. `absent` counts entries of official lists without a file: they are not
    inputs.
    """

    items: Iterable[Item]
    absent: int = 0
    warnings: tuple[str, ...] = ()
    duplicates: tuple[Duplicate, ...] = ()


class ConverterOptions:
    """A converter's command line: a frozen dataclass whose fields become flags of `phiv-convert NAME`.

    A `Converter` is one itself. Where opening a source takes work, name the function that does it in `opener`.
    """

    opener: ClassVar[str] = ""
    """`module:function`, called with the options and `work_dir`. A name, so that --help loads no converter."""

    @property
    def version(self) -> str:
        """Of the converter: another one makes another output. By default a hash of its source code."""
        return code_version(type(self), self.opener)

    def chosen(self) -> ConverterOptions:
        """The options to convert with: these, or those of another converter that was found for the source."""
        return self

    def identity(self) -> dict[str, Any] | None:
        """Options that alone prove a finished output is theirs (fixed archives, demo); None: list the inputs."""
        return None

    def open(self, work_dir: Path) -> Converter:
        """Check the source, unpack or make it below `work_dir` where needed, and return the converter."""
        converter: Converter = resolve_name(self.opener)(self, work_dir)
        return converter


class Converter(ConverterOptions):
    """A raw dataset, opened. Give it a `name`, `inputs` and `draft`; the rest has defaults.

    Any of them may be an attribute of the class, a field of the dataclass or a property.
    """

    if TYPE_CHECKING:  # read-only for a type checker; plain attributes for a dataclass, which could not set properties

        @property
        def name(self) -> str:
            """Prefix of the jsonl files: `ucf101`."""
            ...

        @property
        def splits(self) -> tuple[str, ...]:
            """Splits in the order of the ids, of any names; each gets a jsonl file, even when empty.

            By default those of the inputs: train, val and test first, then the others by name.
            """
            ...

        @property
        def synthetic(self) -> bool:
            """True when the data were made, not recorded."""
            ...

        @property
        def sharing(self) -> Sharing | None:
            """What the splits share on purpose, and which images must stay in one split; it goes to the manifest."""
            ...

    else:
        splits = ()
        synthetic = False
        sharing = None

    @property
    def record_source(self) -> str:
        """The `source` field of every record whose draft names no other: the name, and whether it is synthetic."""
        return f"{self.name}-synthetic" if self.synthetic else self.name

    def open(self, work_dir: Path) -> Converter:
        """The converter itself."""
        return self

    def describe(self) -> str:
        """The layout found and why, in one line without absolute paths. By default the docstring's first line."""
        own = type(self).__doc__ or ""
        is_generated = own.startswith(f"{type(self).__name__}(")  # by dataclass, with the fields
        text = "" if is_generated else own
        return (text or sys.modules[type(self).__module__].__doc__ or self.name).strip().splitlines()[0].rstrip(".")

    def options(self) -> dict[str, Any]:
        """Every option that shapes the output, as plain JSON values.

        By default the fields of the dataclass, but for paths, fields with `repr=False`, and those that only name
        the converter (`name`, `splits`).
        """
        assert dataclasses.is_dataclass(self), f"{type(self).__name__} is no dataclass: give it options()"
        fields = [f for f in dataclasses.fields(self) if f.repr and "Path" not in str(f.type)]
        return {f.name: _plain_json(getattr(self, f.name)) for f in fields if f.name not in _NO_OPTIONS}

    def versions(self) -> dict[str, str]:
        """Versions of the libraries that shape the output's bytes."""
        return {}

    def inputs(self) -> Inputs | Iterable[Item]:
        """Every input there is, in the order of the rows. Raises SourceError where the dataset is not as it should be.

        Items may be made one at a time, by a generator or a sequence: they are read once.
        """
        raise NotImplementedError

    def drafts_depend_on(self) -> object:
        """What the drafts of all inputs depend on, beside the items: with `--update`, another value converts all again.

        By default the options and every field. Where fields list the source's inputs, name what `draft` uses of them.
        """
        return self.options(), self

    def draft_depends_on(self, item: Item) -> object:
        """What one draft depends on beside the item's split and content, and `drafts_depend_on`.

        By default the key and the payload. Leave out what only says where an input is: rows that others were put before
        are then kept by `--update`.
        """
        return item.key, item.payload

    def draft(self, item: Item) -> Draft:
        """The draft of one input. Raises RejectInput where the input cannot be used."""
        raise NotImplementedError


def _plain_json(value: Any) -> Any:
    if isinstance(value, tuple | list):
        return [_plain_json(one) for one in value]
    if isinstance(value, set | frozenset):
        return sorted(_plain_json(one) for one in value)
    return value
