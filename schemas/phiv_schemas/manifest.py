"""The model of `manifest.json`: written last, it is what makes a converted dataset complete.

Readers trust only files named here whose size and sha256 match, and its last field is the sha256 of itself. It
contains no time and no absolute path, so the same input, options and library versions give the same bytes.

>>> Manifest.model_validate_json(raw).is_whole(raw)       # no bit of the file has changed
True
"""

from __future__ import annotations

from hashlib import sha256
from typing import Any, Literal

from pydantic import Field, model_serializer, model_validator
from pydantic_core.core_schema import SerializerFunctionWrapHandler

from phiv_schemas.conversation import Contract, Name
from phiv_schemas.media import Sha256
from phiv_schemas.sharing import Sharing

FORMAT_VERSION: Literal[1] = 1
_SEAL = b'"manifest_sha256": "'


class FileInfo(Contract):
    """One file of the dataset; `path` is relative to the dataset's folder."""

    path: str
    size_bytes: int = Field(ge=0)
    sha256: Sha256


class ShardInfo(FileInfo):
    """One Arrow stream shard. `rows` decides whether it is whole: a cut stream opens short without an error."""

    rows: int = Field(ge=0)
    rows_sha256: Sha256 | None = Field(
        default=None,
        description="Of everything in the rows but the images' bytes, each of which has its own sha256 in its row: "
        "what a reader compares without reading the whole shard.",
    )


class SplitInfo(Contract):
    """One split: its jsonl file and its shards (none with --no_arrow)."""

    name: Name
    rows: int = Field(ge=0)
    num_images: int = Field(ge=0)
    jsonl: FileInfo
    shards: list[ShardInfo] = Field(default_factory=list)

    @model_validator(mode="after")
    def _shards_add_up(self) -> SplitInfo:
        if self.shards and sum(shard.rows for shard in self.shards) != self.rows:
            raise ValueError(f"shards hold {sum(s.rows for s in self.shards)} rows, not {self.rows}")
        return self


class Accounting(Contract):
    """Where every input went: `inputs = written + rejected (by code) + unlabeled + duplicates`.

    `absent` counts entries of official lists without a file; they are not inputs. `identical` counts inputs whose
    bytes equal those of an earlier input under another name; they are written, and named in the manifest.
    """

    inputs: int = Field(ge=0)
    written: int = Field(ge=0)
    rejected: dict[str, int] = Field(default_factory=dict)
    unlabeled: int = Field(default=0, ge=0)
    duplicates: int = Field(default=0, ge=0)
    absent: int = Field(default=0, ge=0)
    identical: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _adds_up(self) -> Accounting:
        out = self.written + sum(self.rejected.values()) + self.unlabeled + self.duplicates
        if out != self.inputs:
            raise ValueError(f"{self.inputs} inputs, but {out} accounted for")
        return self


class Manifest(Contract):
    """The whole of a converted dataset."""

    format_version: Literal[1] = FORMAT_VERSION
    name: Name = Field(description="The dataset, and the prefix of its jsonl files: `ucf101`.")
    source: str = Field(description="What was converted, in words: the layout found and why.")
    synthetic: bool = Field(default=False, description="True for synthetic demo data.")
    options: dict[str, Any] = Field(description="Every converter option that shapes the output.")
    versions: dict[str, str] = Field(description="phiv and every library that shapes the output's bytes.")
    converter: str | None = Field(
        default=None, description="Where its options class is, as its entry point names it: `phiv_pets:Pets`."
    )
    converter_version: str | None = Field(
        default=None, description="Of the converter: what it declares, or a hash of its source code."
    )
    plan_sha256: Sha256 = Field(
        description="Of the plan: the inputs with their contents (of files the sizes), the options and the converter."
    )
    accounting: Accounting
    splits: list[SplitInfo]
    rejects: FileInfo
    image_hashes: FileInfo = Field(description="images.sha256: a line per image, as sha256sum reads.")
    loader_files: list[FileInfo] = Field(
        default_factory=list, description="What `datasets.load_from_disk` asks for beside the shards."
    )
    other_files: list[FileInfo] = Field(
        default_factory=list, description="README.md, and phiv-fixes.jsonl where the dataset was fixed."
    )
    identical_inputs: list[list[str]] = Field(
        default_factory=list, description="Groups of inputs with equal bytes under different names."
    )
    duplicate_inputs: list[list[str]] = Field(
        default_factory=list, description="Inputs the source gives again: the one used, then those left out."
    )
    sharing: Sharing | None = Field(
        default=None,
        description="What the splits share on purpose, and which images belong together. Absent where the converter "
        "declares nothing.",
    )
    manifest_sha256: Sha256 | None = Field(
        default=None, description="Of the bytes of this file, with nothing between the quotes of this value."
    )

    @model_serializer(mode="wrap")
    def _without_absent(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """As before the field existed, where it is None: a dataset keeps its bytes."""
        wire: dict[str, Any] = serialize(self)
        if wire.get("sharing", self) is None:
            del wire["sharing"]
        return wire

    def to_bytes(self) -> bytes:
        """The bytes of manifest.json, their own sha256 at the end."""
        blank = f"{self.model_copy(update={'manifest_sha256': ''}).model_dump_json(indent=1)}\n".encode()
        head, seal, tail = blank.rpartition(_SEAL)
        return b"".join((head, seal, sha256(blank).hexdigest().encode(), tail))

    def is_whole(self, raw: bytes) -> bool:
        """True when no bit of `raw`, which this manifest was read from, is another than `to_bytes` wrote."""
        listed = (self.manifest_sha256 or "").encode()
        head, seal, tail = raw.rpartition(_SEAL + listed)
        return bool(seal) and sha256(b"".join((head, _SEAL, tail))).hexdigest().encode() == listed

    @property
    def rows(self) -> int:
        """Rows over all splits."""
        return sum(split.rows for split in self.splits)

    @property
    def files(self) -> list[FileInfo]:
        """Every file the manifest names, with its size and sha256."""
        of_splits = [info for split in self.splits for info in (split.jsonl, *split.shards)]
        return [*of_splits, self.rejects, self.image_hashes, *self.loader_files, *self.other_files]

    def split(self, name: str) -> SplitInfo | None:
        """The split called `name`, or None."""
        return next((split for split in self.splits if split.name == name), None)
