"""`fix(path, out)`: a fixed copy of a dataset, never in place; what cannot be fixed safely stays as it is.

    >>> fixed = fix("mine.jsonl", "fixed")
    >>> fixed.counts                                  # by fix: see `records.RECORD_FIXES`
    {'nfc': 12, 'suffix': 2}
    >>> undo("fixed", "again")                        # again/mine.jsonl is mine.jsonl, byte for byte

`fixed/` has the jsonl files under their names, copies of the images in `images/`, and `phiv-fixes.jsonl`: every
change with what was there before. Lines without a change keep their bytes. Of what phiv-convert wrote, all is
rewritten: shards, hashes and manifest (`converted`).

    records.py    one record: the fixes       lines.py       one line, and the log of changes
    images.py     copies and new names        converted.py   shards, hashes, manifest
    undoing.py    the data as they were       summary.py     what was done, as text
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from phiv_data.convert.assemble import finish_dataset
from phiv_data.repair.converted import fix_converted, is_converted_folder
from phiv_data.repair.images import ImageCopies
from phiv_data.repair.lines import (
    FixedLine,
    FixLog,
    RowNames,
    copy_old_log,
    fix_lines,
    image_paths,
    iter_fixed_lines,
    last_line,
    possible_image_paths,
)
from phiv_data.repair.records import RenamedPaths
from phiv_data.repair.undoing import UndoResult, undo
from phiv_data.sources.folders import find_files
from phiv_data.storage.dataset import FIXES, MANIFEST, NON_RECORD_FILES
from phiv_data.utils.atomic import atomic_folder, atomic_write, must_stay
from phiv_data.validation.inputs.jsonl_range import SPLIT_NAMES, split_of
from phiv_data.validation.inputs.other_kinds import find_rows
from phiv_schemas import UsageError

__all__ = ["FixResult", "UndoResult", "fix", "undo"]

OnRows = Callable[[int], object]


@dataclass(frozen=True, slots=True)
class FixResult:
    """What was done. `counts` are changes by fix, `examples` the first of each; `bad_rows` have errors and keep them.

    `path` is the fixed file, or the folder; `images_left` are images that rows name and that could not be copied.
    """

    path: Path
    rows: int
    changed_rows: int
    bad_rows: int
    num_images: int = 0
    images_left: int = 0
    counts: dict[str, int] = field(default_factory=dict)
    examples: dict[str, list[str]] = field(default_factory=dict)


def fix(
    path: Path | str,
    out: Path | str,
    *,
    images: bool = True,
    images_root: Path | str | None = None,
    input_format: str = "auto",
    on_rows: OnRows = lambda count: None,
) -> FixResult:
    """Write a fixed copy of `path` (a jsonl file, a folder of them, or what phiv-convert wrote) into the folder `out`.

    Without `images`, image files are neither copied nor renamed. `images_root` is where a jsonl file's paths start
    (default: the folder `images` beside it). The copy appears whole or not at all.

    Raises UsageError where `out` is not empty or lies in what is fixed, and for what is not in phiv's own format;
    ShardError for a converted folder that is damaged.
    """
    path, out = Path(path), Path(out)
    files = _files_to_fix(path, input_format)
    folder = path if path.is_dir() else path.parent
    root = Path(images_root) if images_root else folder / "images"
    is_converted = path.is_dir() and is_converted_folder(path)
    if is_converted and not images:
        raise UsageError("--no_images", "does not go with --fix on a converted folder, whose images are copied too")
    if is_converted and images_root:
        raise UsageError("--images_root", f"does not go with --fix on {path}, which has its own images", "Leave it out")
    if images_root and not root.is_dir():
        raise UsageError("--images_root", f"no such folder {str(root)!r}")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(str(out), "already exists", "Pass a new folder to --fix: nothing is fixed in place")
    # Only a file that is not part of a converted folder may get its copy beside it.
    for around in (folder if path.is_dir() or (folder / MANIFEST).is_file() else None, root):
        if around and out.resolve().is_relative_to(around.resolve()):
            raise UsageError(str(out), f"is in {around}, which is fixed", "Pass a folder elsewhere to --fix")
    copies, manifest = None, None
    with atomic_folder(out) as new, must_stay(path):
        with atomic_write(new / FIXES) as log_file:
            log = FixLog(log_file)
            copy_old_log(folder / FIXES, [file.name for file in files], log_file)
            if is_converted:
                copies, manifest = fix_converted(path, new, log, on_rows)
            else:
                copies = ImageCopies(root, new / "images") if images and root.is_dir() else None
                names = _names_of_rows(files)
                renamed = _copy_images(names, copies) if copies else {}
                for file in files:
                    fix_lines(file, new / file.name, renamed, log, on_rows, names[file])
            log_file.write(last_line(log_file.sha256))
        if manifest:
            finish_dataset(new, manifest)
    copied, left = (copies.num_copied, copies.num_left) if copies else (0, 0)
    target = out / path.name if path.is_file() else out
    return FixResult(target, log.rows, log.changed_rows, log.bad_rows, copied, left, log.counts, log.examples)


def _files_to_fix(path: Path, input_format: str) -> list[Path]:
    if not path.is_file() and not path.is_dir():
        raise UsageError(str(path), "is neither a file nor a folder" if path.exists() else "no such file or folder")
    if external := find_rows(path, input_format):
        hint = f"Convert it first: phiv-convert {external[0].format} --source {path}"
        raise UsageError(str(path), f"has {external[0].format} rows, and --fix fixes phiv's own format", hint)
    files = [path] if path.is_file() else [file for file in find_files(path, "*.jsonl") if file.is_file()]
    files = [file for file in files if file.suffix != ".arrow" and file.name not in NON_RECORD_FILES]
    if not files:
        raise UsageError(str(path), "has no jsonl file to fix", "Pass one, or a folder that phiv-convert wrote")
    return files


def _names_of_rows(files: list[Path]) -> dict[Path, RowNames]:
    """What the rows of each file are called that have no id or source: as `phiv-convert jsonl` numbers them."""
    splits = {file: split_of(file.stem) for file in files}
    if len(files) == 1 and splits[files[0]] not in SPLIT_NAMES:
        splits[files[0]] = "train"
    prefixes = {file.stem.removesuffix(splits[file]).strip("_.-") for file in files}
    source = re.sub(r"[^\w.-]+", "_", prefixes.pop()).strip("_.-") if len(prefixes) == 1 else ""
    names, first = {}, 0

    def order(file: Path) -> tuple[int, str]:
        return SPLIT_NAMES.index(splits[file]) if splits[file] in SPLIT_NAMES else len(SPLIT_NAMES), file.name

    for file in sorted(files, key=order):
        names[file] = RowNames(splits[file], first, source or "own")
        with file.open("rb") as lines:
            first += sum(not line.isspace() for line in lines)
    return names


def _copy_images(files: dict[Path, RowNames], copies: ImageCopies) -> RenamedPaths:
    """Copy the images of all rows, and rename those with a wrong suffix; old to new path of these."""

    def lines() -> Iterator[FixedLine]:
        return (line for file, names in files.items() for _, line in iter_fixed_lines(file, {}, names))

    for line in lines():
        if line.is_bad:
            copies.keep(possible_image_paths(line.raw))
        elif line.record is not None:
            copies.copy(image_paths(line.record))
    return copies.rename(path for line in lines() for path in possible_image_paths(line.raw))
