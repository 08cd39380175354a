"""Export: a converted dataset written in a format of another tool, whole or not at all.

>>> done = export(Hub(), Path("out"), Path("ucf101_hub"), splits=("train",))      # doctest: +SKIP
>>> done.losses                                  # what the format cannot carry, and how many rows lose it
{}

The folder is filled under a temporary name beside OUT and renamed at the end; `.phiv-export.json` in it says what was
exported. Same dataset, options and library versions: same bytes.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from phiv_data.export.base import ExportedDataset, ExportReport, Writer, open_source
from phiv_data.utils.atomic import atomic_folder, atomic_write
from phiv_schemas import FileInfo, UsageError

RECORD = ".phiv-export.json"  # hidden: whoever looks for rows or tables in the folder passes it over


@dataclass(frozen=True, slots=True)
class Exported:
    """What stands in the folder. `rows` by split; `losses`: rows that lose something, by what it is."""

    rows: dict[str, int]
    images: dict[str, int]
    files: tuple[str, ...]
    losses: dict[str, int]
    notices: tuple[str, ...]
    found_finished: bool


def export(
    writer: Writer,
    data: Path,
    out: Path,
    *,
    splits: tuple[str, ...] = (),
    overwrite: bool = False,
    on_rows: Callable[[int], object] = lambda rows: None,
) -> Exported:
    """Write the dataset in `data` to the folder `out`; a finished export of the same data and options is left alone.

    `overwrite` replaces another export, never a folder of other files. UsageError where `out` is taken, ShardError
    where the dataset is not whole, EnvironmentProblem for a full disk and the like.
    """
    source = dataclasses.replace(open_source(data, splits), on_rows=on_rows)
    wanted = _identity(writer, source)
    found = _found(out)
    if found and not overwrite:
        _check_same(found, wanted, out)
        return _exported(found, found_finished=True)
    with atomic_folder(out, replace=found is not None) as folder:
        record = _fill(writer, source, folder, wanted)
    return _exported(record, found_finished=False)


def _fill(writer: Writer, source: ExportedDataset, folder: Path, identity: dict[str, Any]) -> dict[str, Any]:
    """Everything the export holds, its record last; returns the record."""
    tally = ExportReport()
    files = [info.model_dump(mode="json") for info in writer.write(source, folder, tally)]
    record = identity | {
        "rows": {split.name: split.rows for split in source.splits},
        "images": {split.name: split.num_images for split in source.splits},
        "losses": dict(sorted(tally.losses.items())),
        "notices": tally.notices,
        "versions": _versions(),
        "files": sorted(files, key=lambda file: str(file["path"])),
    }
    with atomic_write(folder / RECORD) as file:
        file.write((json.dumps(record, indent=1) + "\n").encode())
    return record


def _identity(writer: Writer, source: ExportedDataset) -> dict[str, Any]:
    """What decides the output's contents, as it stands first in the record."""
    assert dataclasses.is_dataclass(writer)
    assert not isinstance(writer, type)
    return {
        "format": writer.name,
        "options": dataclasses.asdict(writer),
        "dataset": source.manifest.name,
        "manifest_sha256": source.manifest_sha256,
        "splits": [split.name for split in source.splits],
    }


def _found(out: Path) -> dict[str, Any] | None:
    """The record of the export that stands at `out`; None where nothing does. UsageError for anything else there."""
    if not os.path.lexists(out) or (out.is_dir() and not any(out.iterdir())):
        return None
    try:
        record = json.loads((out / RECORD).read_bytes())
        dict(record["rows"]), dict(record["losses"]), record["files"][0]["path"]
    except (OSError, ValueError, TypeError, LookupError):
        raise UsageError(str(out), "is there and no export of phiv", "Pass a new or empty folder") from None
    return dict(record)


def _check_same(found: dict[str, Any], wanted: dict[str, Any], out: Path) -> None:
    wanted = json.loads(json.dumps(wanted))  # tuples as the record has them
    if keys := [key for key in wanted if found.get(key) != wanted[key]]:
        names = ", ".join("the converted data" if key == "manifest_sha256" else key for key in keys)
        raise UsageError(
            str(out),
            f"holds another export, which differs in {names}",
            "Pass --overwrite to replace it, or another OUT",
        )


def _exported(record: dict[str, Any], *, found_finished: bool) -> Exported:
    files = tuple(FileInfo(**file).path for file in record["files"])
    return Exported(record["rows"], record["images"], files, record["losses"], tuple(record["notices"]), found_finished)


def _versions() -> dict[str, str]:
    from importlib.metadata import version

    return {name: version(name) for name in ("phiv", "pyarrow")}
