"""`phiv-split DATA --out_dir D`: a converted dataset again, with splits that share nothing.

Exit codes: 0 written or already there, 1 the dataset is unfinished or damaged, 2 usage, 3 something of the environment
is missing, 130 interrupted (nothing is left behind).
"""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import FlagCreatePairsOff, Positional, arg

from phiv_data.cli.common import run
from phiv_data.stores.address import require_local
from phiv_data.stores.folder_copy import local_copy
from phiv_data.utils.terminal import say
from phiv_schemas.errors import EXIT_OK

_WHY = {
    "PV240": "has the same image",
    "PV241": "has an image that is nearly the same",
    "PV242": "asks the same of the same images",
    "PV243": "is of the same declared group",
}


@dataclasses.dataclass(frozen=True)
class SplitOptions:
    """Split a converted dataset into train, val and test that share nothing: no image, near duplicate, question or
    declared group.

    All rows are split again, whichever split they are in. Where answers are classes, each class has its share.
    """

    data: Annotated[Positional[Path], arg(metavar="DATA")]
    """Folder that phiv-convert wrote, or its address in an object store. It is not changed."""
    out_dir: Path
    """New folder of the dataset; it appears when everything is in it. A finished split of the same data is left
    alone."""
    val_fraction: float = 0.1
    """About this share of the rows becomes val."""
    test_fraction: float = 0.0
    """About this share of the rows becomes test."""
    seed: int = 0
    """Another number gives another split."""
    overwrite: bool = False
    """Replace an older split in the folder. With the same fractions and seed its rows keep their sides: use it when
    the data have grown."""
    num_workers: int | None = None
    """Worker processes that decode the images; 0 works in this one. Default: one per core, none for little work."""


def main() -> int:
    """Entry point of `phiv-split`."""
    return run("phiv-split", lambda: _split(sys.argv[1:]))


def _split(argv: list[str]) -> int:
    options = tyro.cli(SplitOptions, prog="phiv-split", args=argv, config=(FlagCreatePairsOff,))
    from tqdm import tqdm

    from phiv_data.split import split_dataset  # imports pydantic and pyarrow: not for --help

    require_local("--out_dir", options.out_dir)
    how = dataclasses.asdict(options)
    with (
        local_copy(how.pop("data"), leave_out="images/") as data,
        tqdm(unit=" rows", desc="split", disable=None, leave=False, file=sys.stderr) as bar,
    ):
        done = split_dataset(data, how.pop("out_dir"), **how, on_rows=bar.update)
    before = ", ".join(f"{rows} of {name}" for name, rows in done.before.items())
    say(f"phiv-split: all rows are split again: {before}", to=sys.stderr)
    for code, rows in done.linked.items():
        say(f"phiv-split: {rows} rows stay with an earlier row that {_WHY[code]} ({code})", to=sys.stderr)
    if done.kept:
        moved = f"; {done.moved} moved, to stay with others" if done.moved else ""
        say(f"phiv-split: {done.kept} rows keep the sides of the older split{moved}", to=sys.stderr)
    say(f"{options.out_dir}: {'already split, nothing to do' if done.found_finished else 'split'}")
    for split, rows in done.rows.items():
        say(f"  {split:5} {rows:7} rows {done.images[split]:8} images")
    return EXIT_OK
