"""`fix(path, out)`: a fixed copy of a data set, never in place; what cannot be fixed safely stays as it is.

    >>> fixed = fix("mine.jsonl", "fixed")
    >>> fixed.counts                                  # by fix: see `records.FIXES`
    {'nfc': 12, 'suffix': 2}

`fixed/` holds the jsonl files under their names, copies of the images in `images/`, and `phiv-fixes.jsonl`: every
change with what stood there before, so that each can be undone (`records.undo`). Lines without a change keep their
bytes. Of what phiv-convert wrote, all is rewritten: shards, hashes and manifest (`converted`).

    records.py    one record: the fixes       lines.py       one line, and the log of changes
    images.py   copies and new names        converted.py   shards, hashes, manifest
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from phiv_data.repair.converted import fix_converted
from phiv_data.repair.images import Images
from phiv_data.repair.lines import FixedLine, Log, copy_old_log, fix_lines, fixed_lines, image_paths, names_in
from phiv_data.repair.records import Paths
from phiv_data.storage.dataset import FIXES, MANIFEST, NON_RECORD_FILES
from phiv_data.utils.atomic import atomic_folder, atomic_write
from phiv_schemas import UsageError

OnRows = Callable[[int], object]


@dataclass(frozen=True, slots=True)
class Fixed:
    """What was done. `counts` are changes by fix, `examples` the first of each; `bad_rows` have errors and keep them.

    `path` is the fixed file, or the folder; `images_left` are those that rows name and that were not to be had.
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
) -> Fixed:
    """Write a fixed copy of `path` (a jsonl file, a folder of them, or what phiv-convert wrote) into the folder `out`.

    Without `images`, image files are neither copied nor renamed. `images_root` is where a jsonl file's paths start
    (default: the folder `images` beside it). The copy is whole or not there.

    Raises UsageError where `out` holds anything or lies in what is fixed, and for what is not in phiv's own format;
    ShardError for a converted folder that is damaged.
    """
    path, out = Path(path), Path(out)
    files = _files(path, input_format)
    folder = path if path.is_dir() else path.parent
    root = Path(images_root) if images_root else folder / "images"
    is_converted = path.is_dir() and (path / MANIFEST).is_file()
    _check_images(path, root, is_converted, images, images_root)
    _check_out(out, path if path.is_dir() or (folder / MANIFEST).is_file() else None, root)
    with atomic_folder(out) as new, atomic_write(new / FIXES) as log_file:
        log = Log(log_file)
        copy_old_log(folder / FIXES, [file.name for file in files], log_file)
        if is_converted:
            copies: Images | None = fix_converted(path, new, log, on_rows)
        else:
            copies = Images(root, new / "images") if images and root.is_dir() else None
            _fix_files(files, new, copies, log, on_rows)
    copied, left = (copies.num_copied, copies.num_left) if copies else (0, 0)
    target = out / path.name if path.is_file() else out
    return Fixed(target, log.rows, log.changed_rows, log.bad_rows, copied, left, log.counts, log.examples)


def _files(path: Path, input_format: str) -> list[Path]:
    """The jsonl files to fix."""
    from phiv_data.validation.inputs.chat_dataset import find_chat_files

    if not path.is_file() and not path.is_dir():
        raise UsageError(str(path), "is neither a file nor a folder" if path.exists() else "no such file or folder")
    if external := find_chat_files(path, input_format):
        hint = f"Convert it first: phiv-convert {external[0].format} --source {path}"
        raise UsageError(str(path), f"holds {external[0].format} rows, and --fix fixes phiv's own format", hint)
    files = [path] if path.is_file() else sorted(file for file in path.glob("*.jsonl") if file.is_file())
    files = [file for file in files if file.suffix != ".arrow" and file.name not in NON_RECORD_FILES]
    if not files:
        raise UsageError(str(path), "holds no jsonl file to fix", "Pass one, or a folder that phiv-convert wrote")
    return files


def _check_images(path: Path, root: Path, is_converted: bool, images: bool, images_root: Path | str | None) -> None:
    if is_converted and not images:
        raise UsageError("--no_images", "does not go with --fix on a converted folder, whose images go along")
    if is_converted and images_root:
        raise UsageError("--images_root", f"does not go with --fix on {path}, which has its own images", "Leave it out")
    if images_root and not root.is_dir():
        raise UsageError("--images_root", f"no such folder {str(root)!r}")


def _check_out(out: Path, data: Path | None, images_root: Path) -> None:
    """`data` is the file of a converted folder, or the folder; none for a file that stands alone."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(str(out), "is there already", "Pass a new folder to --fix: nothing is fixed in place")
    real = out.resolve()
    for source in (data, images_root):
        around = source and (source if source.is_dir() or source is images_root else source.parent)
        if around and real.is_relative_to(around.resolve()):
            raise UsageError(str(out), f"lies in {around}, which is fixed", "Pass a folder elsewhere to --fix")


def _fix_files(files: Sequence[Path], folder: Path, copies: Images | None, log: Log, on_rows: OnRows) -> None:
    renamed: Paths = {}
    if copies:
        for fixed_line in _lines(files):
            if fixed_line.is_bad:
                copies.keep(names_in(fixed_line.raw))
            elif fixed_line.record is not None:
                copies.copy(image_paths(fixed_line.record))
        renamed = copies.rename(path for fixed_line in _lines(files) for path in names_in(fixed_line.raw))
    for file in files:
        fix_lines(file, folder / file.name, renamed, log, on_rows)


def _lines(files: Sequence[Path]) -> Iterator[FixedLine]:
    return (fixed_line for file in files for _, fixed_line in fixed_lines(file, {}))
