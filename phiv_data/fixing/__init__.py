"""`fix(path, out)`: a mended copy of a data set, never in place; what cannot be mended safely stays as it is.

    >>> fixed = fix("mine.jsonl", "mended")
    >>> fixed.counts                                  # by fix: see `records.FIXES`
    {'nfc': 12, 'suffix': 2}

`mended/` holds the jsonl files under their names, copies of the images in `images/`, and `phiv-fixes.jsonl`: every
change with what stood there before, so that each can be undone (`records.undo`). Lines without a change keep their
bytes. Of what phiv-convert wrote, all is made anew: shards, hashes and manifest (`converted`).

    records.py    one record: the fixes       lines.py       one line, and the log of changes
    pictures.py   copies and new names        converted.py   shards, hashes, manifest
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from phiv_data.dataset import FIXES, MANIFEST, NO_ROWS
from phiv_data.files import atomic_folder, atomic_write
from phiv_data.fixing.converted import fix_converted
from phiv_data.fixing.lines import Log, fix_lines, image_paths, mended_lines
from phiv_data.fixing.pictures import Pictures
from phiv_data.fixing.records import Paths
from phiv_schemas import UsageError

OnRows = Callable[[int], object]


@dataclass(frozen=True, slots=True)
class Fixed:
    """What was done. `counts` are changes by fix, `examples` the first of each; `bad_rows` have errors and keep them.

    `path` is the mended file, or the folder.
    """

    path: Path
    rows: int
    changed_rows: int
    bad_rows: int
    num_images: int
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
    """Write a mended copy of `path` (a jsonl file, a folder of them, or what phiv-convert wrote) into the folder `out`.

    Without `images`, image files are neither copied nor renamed. `images_root` is where a jsonl file's paths start
    (default: the folder `images` beside it). The copy is whole or not there.

    Raises UsageError where `out` holds anything or lies in `path`, and for what is not in phiv's own format;
    ShardError for a converted folder that is damaged.
    """
    path, out = Path(path), Path(out)
    files = _files(path, input_format)
    _check_out(path, out, images_root)
    if (is_converted := (path / MANIFEST).is_file()) and not images:
        raise UsageError("--no_images", "does not go with --fix on a converted folder, whose images go along")
    root = Path(images_root) if images_root else (path if path.is_dir() else path.parent) / "images"
    with atomic_folder(out) as folder, atomic_write(folder / FIXES) as log_file:
        log = Log(log_file)
        if is_converted:
            num_images = fix_converted(path, folder, log, on_rows)
        else:
            pictures = Pictures(root, folder / "images") if images and root.is_dir() else None
            num_images = _fix_files(files, folder, pictures, log, on_rows)
    target = out / path.name if path.is_file() else out
    return Fixed(target, log.rows, log.changed_rows, log.bad_rows, num_images, log.counts, log.examples)


def _files(path: Path, input_format: str) -> list[Path]:
    """The jsonl files to mend."""
    from phiv_data.validation.foreign import foreign_files

    if not path.exists():
        raise UsageError(str(path), "no such file or folder")
    if foreign := foreign_files(path, input_format):
        hint = f"Convert it first: phiv-convert {foreign[0].format} --source {path}"
        raise UsageError(str(path), f"holds {foreign[0].format} rows, and --fix mends phiv's own format", hint)
    files = [path] if path.is_file() else sorted(path.glob("*.jsonl"))
    files = [file for file in files if file.suffix == ".jsonl" and file.name not in NO_ROWS]
    if not files:
        raise UsageError(str(path), "holds no jsonl file to mend", "Pass one, or a folder that phiv-convert wrote")
    return files


def _check_out(path: Path, out: Path, images_root: Path | str | None) -> None:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(str(out), "is there already", "Pass a new folder to --fix: nothing is mended in place")
    real = out.resolve()
    for source in (path, Path(images_root or path)):
        if source.is_dir() and real.is_relative_to(source.resolve()):
            raise UsageError(str(out), f"lies in {source}, which is mended", "Pass a folder elsewhere to --fix")


def _fix_files(files: Sequence[Path], folder: Path, pictures: Pictures | None, log: Log, on_rows: OnRows) -> int:
    """Write the mended files, and how many images were copied."""
    renamed: Paths = {}
    if pictures:
        for record, is_bad in _records(files):
            pictures.copy(image_paths(record), keep_names=is_bad)
        renamed = pictures.rename(path for record, _ in _records(files) for path in image_paths(record))
    for file in files:
        fix_lines(file, folder / file.name, renamed, log, on_rows)
    return pictures.num_copied if pictures else 0


def _records(files: Sequence[Path]) -> Iterator[tuple[object, bool]]:
    return ((mended.record, mended.is_bad) for file in files for _, mended in mended_lines(file, {}))
