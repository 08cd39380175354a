"""phiv's own rows in an export that loses nothing (`hub`, `webdataset`), to drafts again.

Every image is decoded once, and its size, format and hash are taken from its bytes; ids, sources, turns, names of
images and where they come from are those of the row.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from phiv_data.export.record import ExportRecord, read_export
from phiv_data.media.reject import RejectInput
from phiv_data.sources.image_index import checked_image
from phiv_data.storage.record_errors import schema_issues
from phiv_data.storage.sample import Draft, EncodedImage
from phiv_data.storage.shards import to_sample
from phiv_schemas import ImageMeta
from phiv_schemas.conversation import check_name


def row_to_draft(row: Mapping[str, Any], where: str) -> Draft:
    """A row as `to_row` of the shards makes it, as it is. RejectInput `bad-row`, or of an image."""
    try:
        sample = to_sample(row)  # type: ignore[arg-type]  # of a file: what it lacks is an error below
    except ValidationError as error:
        first = schema_issues(error, where)[0]
        raise RejectInput(where, "bad-row", f"{first.json_path}: {first.message}") from error
    except (ValueError, TypeError, LookupError) as error:  # not as many images as facts about them; a column is null
        raise RejectInput(where, "bad-row", f"images and media do not agree ({error})") from error
    images = []
    for image in sample.images:
        checked = checked_image(image.meta.path, image.data, where)
        # What the bytes say, and where the image comes from as the row has it.
        own = dict(checked.meta)
        provenance = {key: value for key, value in dict(image.meta).items() if own[key] is None}
        images.append(EncodedImage(ImageMeta(**(own | provenance)), image.data))
    c = sample.conversation
    return Draft(c.turns, tuple(images), c.system, source=c.source, id=c.id)


def export_of(source: Path, format: str) -> ExportRecord:
    """The record of the export that `source` is, or lies in; without one, a record that has the format's name only."""
    folder = source if source.is_dir() else source.parent
    found = next((record for record in (read_export(folder), read_export(folder.parent)) if record), None)
    if found is None or found.format != format:
        return ExportRecord(format, format, {}, ())
    try:
        return found._replace(dataset=check_name(found.dataset))
    except ValueError:
        return found._replace(dataset=format)


def ordered_splits(names: Iterable[str]) -> tuple[str, ...]:
    """train, val and test first, then the others by name."""
    found = set(names)
    first = [name for name in ("train", "val", "test") if name in found]
    return (*first, *sorted(found - set(first)))


def warn_of_other_counts(record: ExportRecord, rows: Mapping[str, int], source: Path) -> tuple[str, ...]:
    """A warning for each split of a folder that has other rows than were exported: a part of it was downloaded."""
    expected = record.rows if source.is_dir() else {}
    return tuple(
        f"split {split!r} has {rows.get(split, 0)} rows of the {count} that were exported"
        for split, count in expected.items()
        if rows.get(split, 0) != count
    )


def files_sha256(files: Sequence[tuple[Path, int]]) -> str:
    """A hash of the names and sizes of files, and of the rows in each."""
    listed = [[path.name, path.stat().st_size, rows] for path, rows in files]
    return hashlib.sha256(json.dumps(listed).encode()).hexdigest()
