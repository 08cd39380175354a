"""Writes a converted dataset again with its rows in other splits: each record, image and reject as it was."""

from __future__ import annotations

import os
import shutil
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path

from phiv_data.convert.assemble import file_info, finish_dataset
from phiv_data.export.dataset import ExportedDataset
from phiv_data.split.rows import read_split
from phiv_data.storage.sample import Sample
from phiv_data.storage.shards import plan_shards, shard_name, to_sample, write_shard
from phiv_data.utils.atomic import atomic_write
from phiv_data.validation.inputs.checksums import read_checksums
from phiv_schemas import Conversation, Manifest, SplitInfo

OnRows = Callable[[int], object]


def write_splits(
    data: Path, manifest: Manifest, out: Path, names: Mapping[int, str], sides: Sequence[int], on_rows: OnRows
) -> Manifest:
    """Fill the empty folder `out` with the rows of `data`, each in the split `names[side]`; returns its manifest.

    `sides` are those of all rows, split after split. Rows keep their order. `manifest` is `data`'s, with what is to be
    another in the new one.
    """
    used, splits = set[str](), []
    dataset = ExportedDataset(data, manifest, "", tuple(manifest.splits), on_rows=on_rows)
    image_bytes = _image_bytes(dataset)
    for side, name in names.items():
        chosen = [one == side for one in sides]
        splits.append(_write_split(dataset, out, name, chosen, image_bytes, used))
    with atomic_write(out / manifest.image_hashes.path) as hashes:
        for path, sha256 in read_checksums(data / manifest.image_hashes.path):
            if path in used:
                _link(data / "images" / path, out / "images" / path)
                hashes.write(f"{sha256}  images/{path}\n".encode())
    (out / "images").mkdir(exist_ok=True)
    shutil.copyfile(data / manifest.rejects.path, out / manifest.rejects.path)
    changed = {"splits": splits, "image_hashes": file_info(manifest.image_hashes.path, hashes), "loader_files": []}
    finish_dataset(out, manifest.model_copy(update=changed))
    return manifest.model_copy(update=changed)


def _write_split(
    dataset: ExportedDataset,
    out: Path,
    name: str,
    chosen: Sequence[bool],
    image_bytes: Sequence[int],
    used: set[str],
) -> SplitInfo:
    """Write the chosen rows as a split; `used` gets the paths of their images."""
    manifest, sizes, before = dataset.manifest, array("Q"), len(used)
    jsonl_name = f"{manifest.name}_{name}.jsonl"
    with atomic_write(out / jsonl_name) as jsonl:
        for row, (line, record) in enumerate(_lines(dataset)):
            if chosen[row]:
                size = jsonl.write(line.rstrip(b"\n") + b"\n")
                sizes.append(size + (image_bytes[row] if image_bytes else 0))
                used.update(record.image_paths)
    samples, ranges = _chosen_samples(dataset, chosen), plan_shards(sizes) if image_bytes else []
    shards = []
    for number, rows in enumerate(ranges):
        path = out / "arrow" / name / shard_name(number, len(ranges))
        shards.append(write_shard(path, islice(samples, len(rows)), root=out))
    info = file_info(jsonl_name, jsonl)
    return SplitInfo(name=name, rows=len(sizes), num_images=len(used) - before, jsonl=info, shards=shards)


def _lines(dataset: ExportedDataset) -> Iterator[tuple[bytes, Conversation]]:
    """Every line of the jsonl files, and its record."""
    for split in dataset.splits:
        with (dataset.folder / split.jsonl.path).open("rb") as lines:
            yield from zip(lines, read_split(dataset.folder, split), strict=True)


def _image_bytes(dataset: ExportedDataset) -> array[int]:
    """The bytes of each row's images, as its shard counts them; none without shards."""
    sizes = array("Q")
    for split in dataset.splits:
        for shard in split.shards:
            for batch in dataset.batches(shard):
                sizes.extend(sum(one["size_bytes"] for one in media) for media in batch.column("media").to_pylist())
    return sizes


def _chosen_samples(dataset: ExportedDataset, chosen: Sequence[bool]) -> Iterator[Sample]:
    row = 0
    for split in dataset.splits:
        for shard in split.shards:
            for batch in dataset.batches(shard):
                for at in range(batch.num_rows):
                    if chosen[row]:
                        yield to_sample(batch.slice(at, 1).to_pylist()[0])
                    row += 1


def _link(image: Path, target: Path) -> None:
    """A hard link, which takes no space; a copy where the disk has none, or `target` is on another."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(os.path.realpath(image), target)
    except OSError:
        shutil.copyfile(image, target)
