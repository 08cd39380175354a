"""`split_dataset(data, out)`: a converted dataset with new train, val and test, no two of which share anything.

    >>> done = split_dataset(Path("out"), Path("new"), val_fraction=0.1)      # doctest: +SKIP
    >>> done.rows                                                             # doctest: +SKIP
    {'train': 900, 'val': 100}

All rows of `data` are split again, whichever split they were in. Rows that phiv-validate would report in two splits
(PV240 to PV243) stay together, each class has its shares, and rows that are appended move none that were there.

    links.py    which rows must stay together       assign.py    which side each is on
    rows.py     the rows: class, and what is asked  write.py     the new dataset
"""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain
from math import lcm
from pathlib import Path

from phiv_data.split.assign import SIDES, Shares, assign
from phiv_data.split.links import Link, find_links
from phiv_data.split.rows import class_of, read_split, row_keys
from phiv_data.split.write import write_splits
from phiv_data.storage.damage import dataset_files, find_damage
from phiv_data.storage.dataset import MANIFEST, read_manifest
from phiv_data.utils.atomic import atomic_folder, must_stay, sha256_file
from phiv_data.utils.groups import JoinedGroups
from phiv_schemas import Manifest, ShardError, UsageError

__all__ = ["SplitResult", "split_dataset"]

_OPTION, _SOURCE = "phiv-split", "; split by phiv-split"


@dataclass(frozen=True, slots=True)
class SplitResult:
    """The rows and images of each split, and the rows of those there were `before`.

    `linked`: how many rows must be with an earlier one, by the rule they would break. Of the rows of an older split
    in `out`, `kept` were found again, of which `moved` are on another side now.
    """

    rows: dict[str, int]
    images: dict[str, int]
    before: dict[str, int]
    linked: dict[str, int]
    kept: int = 0
    moved: int = 0
    found_finished: bool = False


def split_dataset(
    data: Path,
    out: Path,
    *,
    val_fraction: float = 0.1,
    test_fraction: float = 0.0,
    seed: int = 0,
    overwrite: bool = False,
    num_workers: int | None = 0,
    on_rows: Callable[[int], object] = lambda rows: None,
) -> SplitResult:
    """Write the dataset in `data`, split again, to the folder `out`: all of it or nothing.

    A finished split of the same data and options is left alone. `overwrite` replaces an older split; where that has
    the same fractions and seed, its rows keep their sides. `num_workers` processes decode the images (0: this one;
    None: one per core, if there is much to do); the result does not depend on them. `on_rows(n)` is called as rows
    are checked, then as they are written.

    UsageError for fractions that are none, where `out` is taken, and where a split would get no row; ShardError where
    `data` is damaged or unfinished, or the finished split is.
    """
    how = {"val_fraction": val_fraction, "test_fraction": test_fraction, "seed": seed}
    shares = _shares(val_fraction, test_fraction)
    if num_workers is not None and num_workers < 0:
        raise UsageError("--num_workers", f"must be 0 or more (found {num_workers})")
    with must_stay(data):
        manifest = read_manifest(data)
        before = _rows_by_split(manifest)
        wanted = how | {"data_sha256": sha256_file(data / MANIFEST), "before": before}
        old = _read_old(data, out)
        damage = find_damage(out, dataset_files(out, old)) if old else None
        if damage and not overwrite:
            raise ShardError(str(out), f"a finished split is damaged: {damage}", "--overwrite writes it again")
        if old and old.options[_OPTION] == wanted and not damage:
            return SplitResult(_rows_by_split(old), _images_by_split(old), before, {}, found_finished=True)
        if old and not overwrite:
            what = "has another split, of other data or other options"
            raise UsageError("--out_dir", f"{str(out)!r} {what}", "Pass --overwrite to replace it, or another folder")
        is_kept = old and how.items() <= old.options[_OPTION].items()
        kept = _kept_sides(data, manifest, out, old) if old and is_kept else {}
        with atomic_folder(out, replace=old is not None) as new, must_stay(data):
            sides, linked = _choose_sides(data, manifest, shares, seed, kept, num_workers, on_rows)
            source = manifest.source.split(_SOURCE)[0] + _SOURCE
            about = {"source": source, "options": manifest.options | {_OPTION: wanted}}
            names = {side: name for side, name in enumerate(SIDES) if shares[side]}
            done = write_splits(data, manifest.model_copy(update=about), new, names, sides, on_rows)
    moved = sum(sides[row] != side for row, side in kept.items())
    return SplitResult(_rows_by_split(done), _images_by_split(done), before, linked, len(kept), moved)


_MAX_DENOMINATOR = 10**18


def _shares(val_fraction: float, test_fraction: float) -> Shares:
    """The fractions as whole numbers: 0.1 and 0.05 are (17, 2, 1)."""
    for flag, value in (("--val_fraction", val_fraction), ("--test_fraction", test_fraction)):
        if not 0 <= value < 1:
            raise UsageError(flag, f"must be at least 0 and less than 1 (found {value:g})")
    val, test = Fraction(str(val_fraction)), Fraction(str(test_fraction))
    if not 0 < val + test < 1 or lcm(val.denominator, test.denominator) > _MAX_DENOMINATOR:
        what = f"leaves nothing {'for train' if val + test >= 1 else 'to split off'}"
        raise UsageError("--val_fraction", f"{val_fraction:g} with --test_fraction {test_fraction:g} {what}")
    whole = lcm(val.denominator, test.denominator)
    return int((1 - val - test) * whole), int(val * whole), int(test * whole)


def _read_old(data: Path, out: Path) -> Manifest | None:
    """The manifest of the split that is in `out`; None where there is nothing. UsageError for anything else there."""
    if out.resolve().is_relative_to(data.resolve()):
        raise UsageError("--out_dir", f"{str(out)!r} is in the dataset that is split", "Pass a folder elsewhere")
    if not os.path.lexists(out) or (out.is_dir() and not any(out.iterdir())):
        return None
    if (out / MANIFEST).is_file() and _OPTION in (old := read_manifest(out)).options:
        return old
    what = f"{str(out)!r} already exists, and is not what phiv-split wrote"
    raise UsageError("--out_dir", what, "Pass a new or empty folder")


def _kept_sides(data: Path, manifest: Manifest, out: Path, old: Manifest) -> dict[int, int]:
    """The side of each row that the older split has: of one that shows and asks the same."""
    try:
        sides = {key: SIDES.index(split) for split, key in row_keys(out, old)}
    except (ShardError, FileNotFoundError) as error:
        what = f"the older split, which says the sides of its rows, is damaged ({error})"
        raise ShardError(str(out), what, "Split into a new folder, where rows may be on other sides") from error
    return {row: sides[key] for row, (_, key) in enumerate(row_keys(data, manifest)) if key in sides}


def _choose_sides(
    data: Path,
    manifest: Manifest,
    shares: Shares,
    seed: int,
    kept: Mapping[int, int],
    num_workers: int | None,
    on_rows: Callable[[int], object],
) -> tuple[list[int], dict[str, int]]:
    """The side of each row, split after split, and how many rows are linked by each rule."""
    import numpy as np

    classes = [class_of(record) for split in manifest.splits for record in read_split(data, split)]
    order = [*kept, *(row for row in range(len(classes)) if row not in kept)]  # as if the others had been appended
    numbers = np.empty(len(order), np.int64)
    numbers[order] = np.arange(len(order))
    links = find_links(data, manifest, numbers, num_workers, on_rows)
    partners = defaultdict[int, list[int]](list)
    for earlier, later in chain.from_iterable(links.values()):
        partners[later].append(earlier)
    in_order = assign([classes[row] for row in order], partners, shares, seed, dict(enumerate(kept.values())))
    _check_none_is_empty(in_order, shares, chain.from_iterable(links.values()))
    sides = [in_order[number] for number in numbers.tolist()]
    return sides, {code: len({later for _, later in found}) for code, found in sorted(links.items()) if found}


def _check_none_is_empty(sides: list[int], shares: Shares, links: Iterable[Link]) -> None:
    """UsageError for a split that is asked for and gets no row."""
    for side, name in enumerate(SIDES):
        if shares[side] and side not in sides:
            groups = JoinedGroups[int]()
            for link in links:
                groups.join(link)
            sizes = Counter(groups.name(row) for row in range(len(sides))).most_common(1)
            largest = f"; up to {sizes[0][1]} must stay together" if sizes else ""
            what = f"leaves {name} empty ({len(sides)} rows{largest})"
            flag = f"--{name}_fraction" if side else "--val_fraction"
            raise UsageError(flag, what, "Pass another fraction or another --seed")


def _rows_by_split(manifest: Manifest) -> dict[str, int]:
    return {split.name: split.rows for split in manifest.splits}


def _images_by_split(manifest: Manifest) -> dict[str, int]:
    return {split.name: split.num_images for split in manifest.splits}
