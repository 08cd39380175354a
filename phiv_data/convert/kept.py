"""What a finished output keeps for `--update`: the rows of an input that has not changed are taken, not made again.

    <out>/.phiv/kept/000000.json   the report of each task: rows, images' metadata, rejects
    <out>/.phiv/kept/digests       16 bytes an input, over all that its draft depends on (with --verify twice as many)
    <out>/.phiv/kept/image_sizes    eight bytes for each line of images.sha256, to tell whether the output is whole
    <out>/.phiv/kept/index.json    which inputs each report holds, and what all drafts depended on

`find_kept` looks the inputs of a new plan up by digest, and `kept_rows` reads what became of those of one task. An
input whose report or images are not as they were written is converted again, as one that was rejected.

An output that was updated equals one that was converted from the new source, because equal digests mean equal drafts.
"""

from __future__ import annotations

import hashlib
import pickle
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from phiv_data.convert.base import Converter
from phiv_data.convert.fingerprint import spell
from phiv_data.convert.plan import DIGEST_BYTES, ConversionPlan, ConversionTask, load_digests
from phiv_data.convert.staging import Workspace, read_report, report_name, write_report
from phiv_data.convert.task_report import TaskReport, WrittenRow
from phiv_data.utils.atomic import TMP_PREFIX, atomic_write, sha256_file
from phiv_schemas.conversation import Contract

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

INDEX, DIGESTS = "index.json", "digests"
MADE_OTHERWISE = "was made in another way"


class KeptIndex(Contract):
    """The inputs of a finished output: `first` of each of its tasks. `basis` is what all drafts depended on.

    `has_contents`: the source's files were read, so that a second column of digests is over their sha256.
    """

    basis: str
    first: list[int]
    num_inputs: int
    has_contents: bool
    digests_sha256: str


@dataclass(frozen=True, slots=True)
class KeptRows:
    """An earlier output to take rows from. `places` is a file: of each input the number that it had there, or -1."""

    reports: Path
    images: Path
    first: tuple[int, ...]
    places: Path


def spell_basis(converter: Converter, provenance: dict[str, Any], roots: Sequence[Path]) -> str:
    """A hash of what all drafts depend on; "" where a third party's converter holds what cannot be spelled."""
    of_run = {key: provenance[key] for key in ("versions", "converter", "converter_version")}
    names = converter.name, converter.record_source
    try:
        words = spell((of_run, names, converter.drafts_depend_on()), roots)
    except (pickle.PicklingError, AttributeError, TypeError, RecursionError):
        return ""
    return hashlib.sha256(words.encode()).hexdigest()


def write_index(workspace: Workspace, plan: ConversionPlan, basis: str) -> None:
    """Complete the reports of all tasks to what the finished output keeps."""
    for path in workspace.parts.glob(f"{TMP_PREFIX}*"):  # what a killed worker left half-written
        path.unlink()
    has_contents = plan.source.sha256 is not None
    with atomic_write(workspace.parts / DIGESTS, durable=False) as file:
        for column in range(1 + has_contents):
            for task in plan.tasks:
                file.write(load_digests(task)[column])
    index = KeptIndex(
        basis=basis,
        first=[task.first for task in plan.tasks],
        num_inputs=plan.num_items,
        has_contents=has_contents,
        digests_sha256=file.sha256,
    )
    write_report(workspace.parts / INDEX, index.model_dump_json())


def find_kept(workspace: Workspace, plan: ConversionPlan, basis: str) -> KeptRows | str:
    """What the finished output has of the plan's inputs, or why nothing of it can be taken: it ..."""
    import numpy as np

    try:
        index = KeptIndex.model_validate_json(read_report(workspace.kept / INDEX))
        if sha256_file(workspace.kept / DIGESTS) != index.digests_sha256:
            return "has a damaged record of its inputs"
    except (OSError, ValueError):
        return "has no record of its inputs"
    has_contents = plan.source.sha256 is not None
    if has_contents and not index.has_contents:
        return "was made without --verify"
    if not basis or index.basis != basis:
        return MADE_OTHERWISE
    places = workspace.items / "kept"
    start = index.num_inputs * DIGEST_BYTES if has_contents else 0  # of the column that is asked for
    old = np.fromfile(workspace.kept / DIGESTS, f"S{DIGEST_BYTES}", index.num_inputs, offset=start)
    _write_places(places, old, plan, has_contents)
    return KeptRows(workspace.kept, workspace.out_dir / "images", tuple(index.first), places)


def _write_places(file: Path, old: npt.NDArray[np.bytes_], plan: ConversionPlan, has_contents: bool) -> None:
    """Of each input of the plan, the first place of its digest in `old`, or -1: eight bytes each."""
    import numpy as np

    order = np.argsort(old, kind="stable")
    ascending = old[order]
    with atomic_write(file, durable=False) as out:
        for task in plan.tasks:
            new = np.frombuffer(load_digests(task)[has_contents], old.dtype)
            at = np.searchsorted(ascending, new).clip(max=len(old) - 1)
            out.write(np.where(ascending[at] == new, order[at], -1).astype("<i8").tobytes())


def kept_rows(kept: KeptRows, task: ConversionTask) -> Iterator[tuple[int, WrittenRow | None]]:
    """(number of an input of the task, its earlier row), None for one without an answer. Rejected ones are left out."""
    import numpy as np

    places = np.fromfile(kept.places, "<i8", task.stop - task.first, offset=8 * task.first).tolist()
    reports: dict[int, dict[int, WrittenRow | None]] = {}
    for index, place in enumerate(places, start=task.first):
        if place < 0:
            continue
        number = bisect_right(kept.first, place) - 1
        if number not in reports:
            reports[number] = {}
            with suppress(OSError, ValueError):  # nothing where the report of that task is damaged
                report = TaskReport.model_validate_json(read_report(kept.reports / report_name(number)))
                reports[number] = dict.fromkeys(report.unlabeled) | {row.input: row for row in report.rows}
        if place in reports[number]:
            yield index, reports[number][place]
