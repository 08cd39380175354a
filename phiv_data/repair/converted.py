"""Fix a converted folder, or undo that: its jsonl files, images, hashes and shards are rewritten, the manifest last.

The folder must be whole: every file is compared with the manifest, and every image with images.sha256, before it is
copied; damage would look sound in the copy. The manifest's options name what was fixed, so phiv-convert does not take
the copy for its own work.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from phiv_data.convert.assemble import file_info, finish_dataset
from phiv_data.export.dataset import ExportedDataset
from phiv_data.repair.images import ImageCopies, copy_with_old_name
from phiv_data.repair.lines import FixLog, fix_lines
from phiv_data.repair.records import RenamedPaths
from phiv_data.storage.dataset import MANIFEST, read_manifest
from phiv_data.storage.jsonl import read_jsonl
from phiv_data.storage.sample import EncodedImage, Sample
from phiv_data.storage.shards import write_shard
from phiv_data.utils.atomic import HashingWriter, atomic_write, sha256_file
from phiv_data.validation.inputs.checksums import read_checksums
from phiv_schemas import Conversation, Manifest, ShardError

OnRows = Callable[[int], object]
RewriteLines = Callable[[Path, Path], HashingWriter]
"""Writes the lines of a jsonl file (the first path) to a new one (the second)."""
_CONVERT_AGAIN = "Run the same phiv-convert command with --overwrite, then fix what it wrote"
_FIXED = "; fixed by phiv-validate --fix"


def is_converted_folder(folder: Path) -> bool:
    """True for a folder that phiv-convert wrote. ShardError where its manifest is lost: shards would be left out."""
    if (folder / MANIFEST).is_file():
        return True
    if (folder / "images.sha256").exists():
        raise ShardError(str(folder), "has lost its manifest.json", "Copy the folder again, or convert it again")
    return False


def fix_converted(folder: Path, out: Path, log: FixLog, on_rows: OnRows) -> tuple[ImageCopies, Manifest]:
    """Write a fixed copy of a converted folder into the folder `out`, which has the log only.

    Returns the images that were copied, and what `finish_dataset` is to write once the log is closed.
    """
    manifest = _read_whole(folder)
    copies = ImageCopies(folder / "images", out / "images")
    (out / "images").mkdir()
    for path, sha256 in read_checksums(folder / manifest.image_hashes.path):
        copies.copy([path])
        if not os.path.lexists(out / "images" / path):
            raise ShardError(str(folder / "images" / path), "is missing, or outside images/", _CONVERT_AGAIN)
        _check(folder / "images" / path, sha256, out / "images" / path)
    renamed = copies.rename()
    changed = _rewrite(folder, out, manifest, renamed, lambda a, b: fix_lines(a, b, renamed, log, on_rows))
    options = manifest.options | {"fixed": dict(sorted(log.counts.items()))}
    about = {"source": manifest.source + _FIXED, "options": options}
    return copies, manifest.model_copy(update={**changed, **about})


def undo_converted(folder: Path, out: Path, old_names: RenamedPaths, restore_lines: RewriteLines) -> int:
    """Write a converted folder as it was before it was fixed into the empty folder `out`. Returns its images' number.

    `old_names`: the path of each renamed image, to the one it had.
    """
    manifest = _read_whole(folder)
    (out / "images").mkdir()
    count = 0
    for path, sha256 in read_checksums(folder / manifest.image_hashes.path):
        copy = copy_with_old_name(folder / "images", out / "images", path, old_names)
        _check(folder / "images" / path, sha256, copy)
        count += 1
    changed = _rewrite(folder, out, manifest, old_names, restore_lines)
    options = {name: value for name, value in manifest.options.items() if name != "fixed"}
    about = {"source": manifest.source.split(_FIXED)[0], "options": options}
    finish_dataset(out, manifest.model_copy(update={**changed, **about}))
    return count


def _read_whole(folder: Path) -> Manifest:
    """The manifest; ShardError where a file it names is missing or another."""
    manifest = read_manifest(folder)
    for info in manifest.files:
        _check(folder / info.path, info.sha256)
    return manifest


def _check(path: Path, sha256: str, copy: Path | None = None) -> None:
    """ShardError where a file, or the `copy` that was made of it, is not what the manifest names."""
    if not path.is_file() or sha256_file(copy or path) != sha256:
        what = "is not what was converted: its sha256 differs" if path.is_file() else "is listed, but missing"
        raise ShardError(str(path), what, _CONVERT_AGAIN)


def _rewrite(
    folder: Path, out: Path, manifest: Manifest, renamed: RenamedPaths, rewrite_lines: RewriteLines
) -> Mapping[str, object]:
    """Write all but the images: lines first, then hashes, rejects and shards. Returns what changes in the manifest."""
    jsonl = [rewrite_lines(folder / split.jsonl.path, out / split.jsonl.path) for split in manifest.splits]
    hashes = manifest.image_hashes.path
    with atomic_write(out / hashes) as file:
        for path, sha256 in read_checksums(folder / hashes):
            file.write(f"{sha256}  images/{renamed.get(path, path)}\n".encode())
    shutil.copyfile(folder / manifest.rejects.path, out / manifest.rejects.path)
    dataset = ExportedDataset(folder, manifest, "", tuple(manifest.splits))
    splits = []
    for split, written in zip(manifest.splits, jsonl, strict=True):
        records = read_jsonl(out / split.jsonl.path)
        shards = []
        for shard in split.shards:
            pairs = zip(dataset.samples(shard), records, strict=False)  # in this order, no record is lost at the end
            shards.append(write_shard(out / shard.path, _with_new_records(pairs, renamed), root=out))
        splits.append(split.model_copy(update={"jsonl": file_info(split.jsonl.path, written), "shards": shards}))
    return {"image_hashes": file_info(hashes, file), "splits": splits}


def _with_new_records(pairs: Iterator[tuple[Sample, Conversation]], renamed: RenamedPaths) -> Iterator[Sample]:
    """The samples with the records of the new jsonl file, and the new paths of their images."""
    for sample, record in pairs:
        if sample.id != record.id:
            what = f"this row of a shard has the place of {record.id!r} in the jsonl file"
            raise ShardError(sample.id, what, _CONVERT_AGAIN)
        images = {}
        for image in sample.images:
            path = renamed.get(image.meta.path, image.meta.path)
            images[path] = EncodedImage(image.meta.model_copy(update={"path": path}), image.data)
        yield Sample(record, tuple(images[path] for path in record.image_paths))
