"""`export(format, data, out)`: write a converted dataset in another format, whole or not at all.

>>> done = export(Hub(), Path("out"), Path("ucf101_hub"), splits=("train",))      # doctest: +SKIP
>>> done.losses                                  # what the format cannot hold, and how many rows lose it
{}

The folder is filled under a temporary name beside OUT and renamed at the end; `.phiv-export.json` in it records what
was exported. Same dataset, options and library versions: same bytes.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from phiv_data.export.base import ExportReport, Writer
from phiv_data.export.dataset import open_dataset
from phiv_data.export.record import RECORD
from phiv_data.storage.damage import find_damage
from phiv_data.utils.atomic import atomic_folder, atomic_write, environment_problems, must_stay
from phiv_schemas import FileInfo, ShardError, UsageError


@dataclass(frozen=True, slots=True)
class Exported:
    """What the folder contains. `rows` by split; `losses`: the number of rows that lose something, by what it is."""

    rows: dict[str, int]
    images: dict[str, int]
    files: tuple[str, ...]
    losses: dict[str, int]
    warnings: tuple[str, ...]
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
    where the dataset or the finished export is damaged or unfinished, EnvironmentProblem for a full disk and the like.
    """
    with must_stay(data):
        dataset = dataclasses.replace(open_dataset(data, splits), on_rows=on_rows)
    assert dataclasses.is_dataclass(writer)
    assert not isinstance(writer, type)
    wanted = {  # what decides the contents of the output: the first part of its record
        "format": writer.name,
        "options": dataclasses.asdict(writer),
        "dataset": dataset.manifest.name,
        "manifest_sha256": dataset.manifest_sha256,
        "splits": [split.name for split in dataset.splits],
    }
    if out.resolve().is_relative_to(data.resolve()) and out.resolve() != data.resolve():
        raise UsageError(str(out), "is in the dataset's own folder, which would not be whole then", "Pass another OUT")
    found = _read_record(out)
    if found and not overwrite:
        _check_same(found, wanted, out)
        if damage := find_damage(out, ((file["path"], file["size_bytes"]) for file in found["files"])):
            raise ShardError(str(out), f"a finished export is damaged: {damage}", "--overwrite writes it again")
        return _result(found, found_finished=True)
    with atomic_folder(out, replace=found is not None) as folder, must_stay(data):
        report = ExportReport()
        files = [info.model_dump(mode="json") for info in writer.write(dataset, folder, report)]
        record = wanted | {
            "rows": {split.name: split.rows for split in dataset.splits},
            "images": {split.name: split.num_images for split in dataset.splits},
            "losses": dict(sorted(report.losses.items())),
            "warnings": report.warnings,
            "versions": {name: version(name) for name in ("phiv", "pyarrow")},
            "files": sorted(files, key=lambda file: str(file["path"])),
        }
        with atomic_write(folder / RECORD) as file:
            file.write((json.dumps(record, indent=1) + "\n").encode())
    return _result(record, found_finished=False)


def _read_record(out: Path) -> dict[str, Any] | None:
    """The record of the export in `out`; None where there is nothing. UsageError for anything else there."""
    if not os.path.lexists(out) or (out.is_dir() and not any(out.iterdir())):
        return None
    try:
        with environment_problems(out / RECORD):
            record = json.loads((out / RECORD).read_bytes())
        dict(record["rows"]), dict(record["losses"]), record["files"][0]["path"]
    except (OSError, ValueError, TypeError, LookupError):  # a disk that fails is no OSError any more
        raise UsageError(
            str(out), "already exists, and is not an export of phiv", "Pass a new or empty folder"
        ) from None
    return dict(record)


def _check_same(found: dict[str, Any], wanted: dict[str, Any], out: Path) -> None:
    wanted = json.loads(json.dumps(wanted))  # tuples as the record has them
    if keys := [key for key in wanted if found.get(key) != wanted[key]]:
        names = ", ".join("the converted data" if key == "manifest_sha256" else key for key in keys)
        raise UsageError(
            str(out),
            f"has another export, which differs in {names}",
            "Pass --overwrite to replace it, or another OUT",
        )


def _result(record: dict[str, Any], *, found_finished: bool) -> Exported:
    files = tuple(FileInfo(**file).path for file in record["files"])
    return Exported(
        record["rows"], record["images"], files, record["losses"], tuple(record.get("warnings", ())), found_finished
    )
