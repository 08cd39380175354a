"""Small converted datasets, built straight from samples; also hypothesis strategies for the contract."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Sequence
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from PIL import Image

from phiv_data.storage.dataset import ConversationDataset
from phiv_data.storage.jsonl import write_jsonl
from phiv_data.storage.sample import EncodedImage, Sample
from phiv_data.storage.shards import plan_shards, shard_name, write_dataset_dict, write_hf_files, write_shard
from phiv_data.utils.atomic import atomic_write, sha256_file
from phiv_schemas import (
    Accounting,
    Conversation,
    FileInfo,
    ImageMeta,
    Manifest,
    ShardInfo,
    SplitInfo,
    Turn,
)

settings.register_profile("phiv", deadline=None)  # the first example pays for imports
settings.load_profile("phiv")

CLASSES = (
    "ApplyEyeMakeup, ApplyLipstick, Archery, BabyCrawling, BalanceBeam, BandMarching, BaseballPitch, "
    "Basketball, BasketballDunk, BenchPress"
)
PROMPT = f"Classify the video into one of the following classes: {CLASSES}."


def image_bytes(number: int, size: tuple[int, int] = (24, 16), kind: str = "PNG") -> bytes:
    """The encoded bytes of a small image whose colours depend on `number`."""
    image = Image.new("RGB", size, (number * 37 % 256, number * 91 % 256, number * 53 % 256))
    image.putpixel((number % size[0], 0), (255, 255, 255))
    out = io.BytesIO()
    image.save(out, kind)
    return out.getvalue()


def encoded(path: str, data: bytes, *, width: int = 24, height: int = 16, kind: str = "PNG") -> EncodedImage:
    """`data` with true facts about it."""
    digest = hashlib.sha256(data).hexdigest()
    meta = ImageMeta(
        path=path, width=width, height=height, format=kind, size_bytes=len(data), sha256=digest
    )  # fmt: skip
    return EncodedImage(meta, data)


def sample(split: str, index: int, *, num_images: int = 2) -> Sample:
    """A row in the shape of the recipe's."""
    paths = [f"{split}/Archery/v_{index:04d}.{k}.png" for k in range(num_images)]
    images = tuple(encoded(path, image_bytes(index * 10 + k)) for k, path in enumerate(paths))
    turn = Turn(images=tuple(paths), user=PROMPT, assistant="Archery")
    conversation = Conversation(id=f"{split}-{index:010d}", source="ucf101", conversations=(turn,))
    return Sample(conversation, images)


def samples(split: str, count: int, start: int = 0) -> list[Sample]:
    """`count` rows with consecutive ids."""
    return [sample(split, start + i) for i in range(count)]


def write_split(folder: Path, split: str, rows: Sequence[Sample], *, max_shard_bytes: int = 2**20) -> SplitInfo:
    """A split's jsonl, images and shards below `folder`."""
    for row in rows:
        for image in row.images:
            with atomic_write(folder / "images" / image.meta.path, durable=False) as out:
                out.write(image.data)
    jsonl = write_jsonl(folder / f"ucf101_{split}.jsonl", (row.conversation for row in rows))
    arrow = folder / "arrow" / split
    sizes = [sum(len(image.data) for image in row.images) for row in rows]
    plan = plan_shards(sizes, max_shard_bytes)
    shards: list[ShardInfo] = [
        write_shard(arrow / shard_name(i, len(plan)), [rows[n] for n in part], root=folder)
        for i, part in enumerate(plan)
    ]
    write_hf_files(arrow, split, shards, name="ucf101")
    num_images = sum(len(row.images) for row in rows)
    return SplitInfo(name=split, rows=len(rows), num_images=num_images, jsonl=jsonl, shards=shards)


def write_dataset(folder: Path, splits: dict[str, Sequence[Sample]], *, max_shard_bytes: int = 2**20) -> Path:
    """A complete converted dataset; returns its folder."""
    infos = [write_split(folder, s, rows, max_shard_bytes=max_shard_bytes) for s, rows in splits.items()]
    write_dataset_dict(folder / "arrow", list(splits))
    (folder / "rejects.jsonl").write_bytes(b"")
    hashes = {i.meta.path: i.meta.sha256 for rows in splits.values() for row in rows for i in row.images}
    listing = "".join(f"{digest}  images/{path}\n" for path, digest in sorted(hashes.items()))
    (folder / "images.sha256").write_text(listing, encoding="utf-8", newline="\n")
    write_manifest(folder, infos)
    return folder


def write_manifest(folder: Path, splits: list[SplitInfo]) -> None:
    """`manifest.json` for what stands in `folder`."""
    rows = sum(split.rows for split in splits)
    manifest = Manifest(
        name="ucf101",
        source="a test",
        options={},
        versions={},
        plan_sha256="0" * 64,
        accounting=Accounting(inputs=rows, written=rows),
        splits=splits,
        rejects=file_info(folder, "rejects.jsonl"),
        image_hashes=file_info(folder, "images.sha256"),
    )
    loader_files = [
        file_info(folder, path.relative_to(folder).as_posix()) for path in sorted(folder.glob("arrow/**/*.json"))
    ]
    seal_manifest(folder, manifest.model_copy(update={"loader_files": loader_files}))


def seal_manifest(folder: Path, manifest: Manifest) -> None:
    """Write a manifest, right or wrong in what it says, with the sha256 of itself."""
    (folder / "manifest.json").write_bytes(manifest.to_bytes())


def rewrite_shard(folder: Path, split: str, edit: Callable[[EncodedImage], EncodedImage]) -> None:
    """Make every image of a split's one shard again; the manifest vouches for the new shard."""
    rows = [
        Sample(row.conversation, tuple(edit(image) for image in row.images))
        for row in ConversationDataset(folder, split)
    ]
    manifest = ConversationDataset(folder, split).manifest
    (one,) = (one for one in manifest.splits if one.name == split)
    (old,) = one.shards
    new = one.model_copy(update={"shards": [write_shard(folder / old.path, rows, root=folder)]})
    splits = [new if each is one else each for each in manifest.splits]
    seal_manifest(folder, manifest.model_copy(update={"splits": splits}))


def file_info(folder: Path, name: str) -> FileInfo:
    """The entry of a file in a manifest."""
    path = folder / name
    return FileInfo(path=name, size_bytes=path.stat().st_size, sha256=sha256_file(path))


text = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
name = text.map(lambda s: "x" + "".join(c for c in s.strip() if c.isprintable() and c != "\x7f") + "y")
part = name.map(lambda s: s.replace("/", "_").replace("\\", "_").replace(":", "_"))
image_path = st.lists(part, min_size=1, max_size=3).map("/".join)


@st.composite
def turns(draw: st.DrawFn, *, labeled: bool = True) -> Turn:
    """Any turn the contract allows."""
    images = tuple(draw(st.lists(image_path, max_size=3)))
    user = draw(text)
    answers = tuple(draw(st.lists(text, min_size=1, max_size=3))) if draw(st.booleans()) else None
    answer = draw(st.sampled_from(answers)) if answers else draw(text)
    assistant = answer if labeled else None
    offsets = st.lists(st.integers(0, len(user)), min_size=len(images), max_size=len(images))
    image_offsets = tuple(sorted(draw(offsets))) if draw(st.booleans()) else None
    return Turn(
        images=images, user=user, assistant=assistant, answers=answers, image_offsets=image_offsets
    )  # fmt: skip


@st.composite
def conversations(draw: st.DrawFn) -> Conversation:
    """Any record the contract allows, unlabeled tails included."""
    answered = draw(st.lists(turns(), max_size=3))
    asked = draw(st.lists(turns(labeled=False), min_size=0 if answered else 1, max_size=2))
    system = draw(st.none() | text)
    return Conversation(
        id=draw(name), source=draw(name), conversations=(*answered, *asked), system=system
    )  # fmt: skip


metas = st.builds(
    dict,
    width=st.integers(1, 2**31 - 1),
    height=st.integers(1, 2**31 - 1),
    format=st.sampled_from(["JPEG", "PNG", "WEBP"]),
    source=st.none() | text,
    source_sha256=st.none() | st.just("0" * 64),
    frame_index=st.none() | st.integers(0, 2**63 - 1),
    timestamp=st.none() | st.floats(allow_nan=False),
    decoder=st.none() | text,
)


@st.composite
def any_samples(draw: st.DrawFn) -> Sample:
    """Any record with any bytes as images and any facts about them."""
    conversation = draw(conversations())
    images = []
    for path in conversation.image_paths:
        data = draw(st.binary(min_size=1, max_size=64))
        digest = hashlib.sha256(data).hexdigest()
        meta = ImageMeta(path=path, size_bytes=len(data), sha256=digest, **draw(metas))
        images.append(EncodedImage(meta, data))
    return Sample(conversation, tuple(images))
