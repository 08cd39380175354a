"""Which rows must be on one side of a split: those that phiv-validate would report for leakage were they in two.

    links = find_links(Path("out"), manifest, numbers)
    links["PV240"]      # [(0, 7), (7, 9)]: rows 0, 7 and 9 show the same image, byte for byte

The dataset is checked as phiv-validate checks it, so each image is decoded once, in worker processes, and what is
damaged is refused. PV240, PV242 and PV243 link rows with equal keys; PV241 links rows with similar images.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from phiv_data.validation.core.finding import Settings
from phiv_data.validation.core.key_index import KeyIndex
from phiv_data.validation.inputs.converted import plan_converted
from phiv_data.validation.partial_result import IssueCollector
from phiv_data.validation.rules import near_duplicates as near
from phiv_data.validation.run import choose_engine, run_units, set_up_images
from phiv_schemas import Manifest, ShardError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    _RowFinder = Callable[[NDArray[Any]], NDArray[np.int64]]  # the number of the row of each entry of a KeyIndex

Link = tuple[int, int]
"""Two rows, the earlier first."""
_EQUAL = {"PV240": "image_bytes", "PV242": "record", "PV243": "group"}  # code to the name of its rule's keys
_DAMAGE = re.compile("PV(00|10|30)")  # rows, images and files that are not what was converted


def find_links(
    data: Path,
    manifest: Manifest,
    numbers: NDArray[np.int64],
    num_workers: int | None = 0,
    on_rows: Callable[[int], object] = lambda rows: None,
) -> dict[str, list[Link]]:
    """Of each leakage rule, links that join all rows it means; among rows 0 to n they need no row after them.

    `numbers`: what each row is called in links, by its place in the splits one after another: [rows], a permutation.
    ShardError where the dataset is damaged.
    """
    with ExitStack() as stack:

        def new_folder() -> Path:
            return Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="phiv-split-")))

        index = KeyIndex(new_folder)
        _check(data, index, new_folder, num_workers, on_rows)
        rows_of = _row_finder(manifest, index, numbers)
        links = {code: list(_equal_links(index, rule, rows_of)) for code, rule in _EQUAL.items()}
        return links | {"PV241": list(_similar_links(index, rows_of))}


def _check(
    data: Path,
    index: KeyIndex,
    new_folder: Callable[[], Path],
    num_workers: int | None,
    on_rows: Callable[[int], object],
) -> None:
    """Read every row and image into `index`. ShardError for the first that is not what was converted."""
    settings = Settings(max_issues=1)
    issues = IssueCollector.of(settings)
    plan = plan_converted(data, settings, None, issues, new_folder)
    engine = choose_engine(len(plan.pieces), num_workers)
    set_up_images(plan, engine)
    for result in run_units(plan.pieces, plan.context, settings, engine):
        index.add(result.keys)
        issues = issues.merge(result.issues)
        on_rows(result.rows.total())
    if plan.context.images:
        plan.context.images.close()
    for issue in issues.listed():
        if issue.severity == "error" and _DAMAGE.match(issue.code):
            where = f"{data / issue.file}:{issue.line}" if issue.line else str(data / issue.file)
            raise ShardError(where, issue.message, issue.hint or "phiv-validate lists all that is wrong")


def _row_finder(manifest: Manifest, index: KeyIndex, numbers: NDArray[np.int64]) -> _RowFinder:
    import numpy as np

    starts, start = dict[str, int](), 0
    for split in manifest.splits:
        starts[split.name] = start
        start += split.rows
    of_place = np.array([starts[split] for split in index.splits()], np.int64)
    return lambda entries: numbers[of_place[entries["place"]] + entries["line"].astype(np.int64) - 1]


def _by_key_and_row(entries: NDArray[Any], rows: NDArray[np.int64]) -> tuple[Any, Any, Any]:
    """The entries and their rows, sorted by key, then row; and which have the key of the one before."""
    import numpy as np

    order = np.lexsort((rows, entries["lo"], entries["hi"]))
    entries, rows = entries[order], rows[order]
    same = np.zeros(len(entries), bool)
    same[1:] = (entries["hi"][1:] == entries["hi"][:-1]) & (entries["lo"][1:] == entries["lo"][:-1])
    return entries, rows, same


def _equal_links(index: KeyIndex, rule: str, rows_of: _RowFinder) -> Iterator[Link]:
    """Each row with the next that has an equal key."""
    for found in index.sorted_entries(rule):
        _, rows, same = _by_key_and_row(found, rows_of(found))
        linked = same[1:] & (rows[1:] != rows[:-1])
        yield from zip(rows[:-1][linked].tolist(), rows[1:][linked].tolist(), strict=True)


def _similar_links(index: KeyIndex, rows_of: _RowFinder) -> Iterator[Link]:
    """The first rows of images that look the same. PV240 links the other rows of each image."""
    import numpy as np

    images, firsts = [np.empty(0, [("hi", "<u8"), ("lo", "<u8")])], [np.empty(0, np.int64)]
    for found in index.sorted_entries(near.USES):
        entries, rows, same = _by_key_and_row(found, rows_of(found))
        images.append(entries[~same][["hi", "lo"]].astype(images[0].dtype))
        firsts.append(rows[~same])
    first, image = np.concatenate(firsts), np.concatenate(images)
    order = np.argsort(first, kind="stable")
    first, image = first[order], image[order]
    similar = near.have_similar_hash(image["lo"], np.arange(len(image)))
    first, image = first[similar], image[similar]
    for earlier, later in near.find_links(image["lo"], near.read_pixels(index, image["hi"])):
        if first[earlier] != first[later]:
            yield int(first[earlier]), int(first[later])
