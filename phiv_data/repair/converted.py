"""A converted folder, fixed: its jsonl files, images, hashes and shards, the manifest last.

The folder must be whole: every file is held against the manifest, and every image against images.sha256, before it is
copied; what was damaged would look sound in the copy. The manifest's options say what was fixed, so phiv-convert
does not take the copy for its own work.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from phiv_data.convert.assemble import finish_dataset
from phiv_data.export.base import Source
from phiv_data.repair.images import Images
from phiv_data.repair.lines import Log, fix_lines
from phiv_data.repair.records import Paths
from phiv_data.storage.dataset import read_manifest
from phiv_data.storage.jsonl import read_jsonl
from phiv_data.storage.sample import EncodedImage, Sample
from phiv_data.storage.shards import write_shard
from phiv_data.utils.atomic import HashingWriter, atomic_write, sha256_file
from phiv_data.validation.inputs.checksums import read_checksums
from phiv_schemas import Conversation, FileInfo, Manifest, ShardError, SplitInfo

OnRows = Callable[[int], object]
_AGAIN = "Run the same phiv-convert command with --overwrite, then fix what it wrote"


def fix_converted(folder: Path, out: Path, log: Log, on_rows: OnRows) -> Images:
    """Write all that a converted folder holds into the empty folder `out`; the images that went along."""
    manifest = read_manifest(folder)
    for info in manifest.files:
        _check(folder / info.path, info.sha256)
    images = Images(folder / "images", out / "images")
    renamed = _copy_images(folder, out, manifest, images)
    splits = [_fix_lines(folder, out, split, renamed, log, on_rows) for split in manifest.splits]
    hashes = _write_listing(folder, out, manifest, renamed)
    shutil.copyfile(folder / manifest.rejects.path, out / manifest.rejects.path)
    source = Source(folder, manifest, "", tuple(manifest.splits))
    splits = [_fix_shards(out, split, source, renamed) for split in splits]
    changed = {
        "source": f"{manifest.source}; fixed by phiv-validate --fix",
        "options": manifest.options | {"fixed": dict(sorted(log.counts.items()))},
        "image_hashes": hashes,
        "splits": splits,
    }
    finish_dataset(out, manifest.model_copy(update=changed))
    return images


def _check(path: Path, sha256: str, copy: Path | None = None) -> None:
    """ShardError where a file, or the `copy` that was made of it, is not what the manifest names."""
    if not path.is_file() or sha256_file(copy or path) != sha256:
        what = "is not what was converted: its sha256 differs" if path.is_file() else "is listed but not there"
        raise ShardError(str(path), what, _AGAIN)


def _copy_images(folder: Path, out: Path, manifest: Manifest, images: Images) -> Paths:
    (out / "images").mkdir()
    for path, sha256 in read_checksums(folder / manifest.image_hashes.path):
        images.copy([path])
        if not os.path.lexists(out / "images" / path):
            raise ShardError(str(folder / "images" / path), "is not there, or lies outside images/", _AGAIN)
        _check(folder / "images" / path, sha256, out / "images" / path)
    return images.rename()


def _write_listing(folder: Path, out: Path, manifest: Manifest, renamed: Paths) -> FileInfo:
    name = manifest.image_hashes.path
    with atomic_write(out / name) as file:
        for path, sha256 in read_checksums(folder / name):
            file.write(f"{sha256}  images/{renamed.get(path, path)}\n".encode())
    return _info(name, file)


def _info(name: str, written: HashingWriter) -> FileInfo:
    return FileInfo(path=name, size_bytes=written.size_bytes, sha256=written.sha256)


def _fix_lines(folder: Path, out: Path, split: SplitInfo, renamed: Paths, log: Log, on_rows: OnRows) -> SplitInfo:
    """The split with its fixed jsonl file; its shards are still the old ones."""
    name = split.jsonl.path
    return split.model_copy(update={"jsonl": _info(name, fix_lines(folder / name, out / name, renamed, log, on_rows))})


def _fix_shards(out: Path, split: SplitInfo, source: Source, renamed: Paths) -> SplitInfo:
    """The same rows in the same shards, with the records that the jsonl file has now."""
    records = read_jsonl(out / split.jsonl.path)
    shards = []
    for shard in split.shards:
        pairs = zip(source.samples(shard), records, strict=False)  # in this order, none of the records is lost
        samples = (_with_record(sample, record, renamed) for sample, record in pairs)
        shards.append(write_shard(out / shard.path, samples, root=out))
    return split.model_copy(update={"shards": shards})


def _with_record(sample: Sample, record: Conversation, renamed: Paths) -> Sample:
    if sample.id != record.id:
        raise ShardError(sample.id, f"the shard's row stands where the jsonl file has {record.id!r}", _AGAIN)
    named = [
        image.meta.model_copy(update={"path": renamed.get(image.meta.path, image.meta.path)}) for image in sample.images
    ]
    ordered = {meta.path: EncodedImage(meta, image.data) for meta, image in zip(named, sample.images, strict=True)}
    return Sample(record, tuple(ordered[path] for path in record.image_paths))
