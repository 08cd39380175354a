"""What `phiv-inspect` shows: the row in text or JSON, and its images as files."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import sys
from bisect import bisect_left
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from phiv_data.storage.dataset import ConversationDataset, read_manifest
from phiv_data.storage.sample import Sample
from phiv_data.utils.atomic import atomic_write
from phiv_data.utils.image_options import collect_image_options
from phiv_data.utils.outputs import check_output_folder
from phiv_data.utils.terminal import printable, say, write_document
from phiv_schemas.errors import UsageError
from phiv_train.checkpoints.resolve import find_source, load_processor
from phiv_train.cli.options import InspectOptions
from phiv_train.evaluation.inspection import Inspection, inspect_row
from phiv_train.families.base import get_family

_GREEN, _BLUE, _PLAIN = "\x1b[1;32m", "\x1b[34m", "\x1b[0m"


def show_row(options: InspectOptions) -> None:
    """Print the row on stdout, and save its images where `options` say so."""
    image_options = collect_image_options(options.image_option, options.num_crops)
    if options.save_images is not None:
        check_output_folder("--save_images", options.save_images)
    dataset, row = find_row(options)
    source = find_source(options.model_name_or_path, family=options.family)
    processor = load_processor(source, image_options=image_options)
    sample = dataset[row]
    seen = inspect_row(sample, get_family(source.family), processor)
    if options.save_images is not None:
        save_images(seen, sample, options.save_images)
    facts = {
        "data_dir": dataset.place,
        "split": dataset.split,
        "row": row,
        "rows": len(dataset),
        "family": source.family,
        "model": source.base,
        **processor.image_options,
        "spec_hash": processor.spec_hash,
    }
    if options.format == "json":
        write_document(json.dumps(as_dict(seen, facts), indent=2, ensure_ascii=False) + "\n")
    else:
        colour = sys.stdout.isatty() and "NO_COLOR" not in os.environ
        say(*as_text(seen, facts, processor.image_options, colour=colour).splitlines(), colours=colour)


def find_row(options: InspectOptions) -> tuple[ConversationDataset, int]:
    """The dataset and the row's number. UsageError, saying what there is, when there is no such row."""
    names = [split.name for split in read_manifest(options.data_dir).splits]
    own = next((name for name in names if options.row.startswith(f"{name}-")), "train")
    dataset = ConversationDataset(options.data_dir, options.split or own)
    try:
        found: int | None = int(options.row)
    except ValueError:
        found = _find_id(dataset, options.row)
    if found is None:
        what = f"no row with this id in split {dataset.split!r} of {dataset.place}"
        raise UsageError(options.row, what, f"Pass --split ({', '.join(names)}), or a number below {len(dataset)}")
    if not -len(dataset) <= found < len(dataset):
        raise UsageError(options.row, f"split {dataset.split!r} has {len(dataset)} rows", "Rows are counted from 0")
    return dataset, found % len(dataset)


def as_dict(seen: Inspection, facts: dict[str, Any]) -> dict[str, Any]:
    """Everything as plain JSON values. Ids of images are left out: they are all the same."""
    spans = [
        {"start": s.start, "stop": s.stop, "image": s.image, "supervised": s.supervised}
        | ({"text": s.text, "ids": list(s.ids), "pieces": list(s.pieces)} if s.image is None else {})
        for s in seen.spans
    ]
    return {
        "id": seen.id,
        "source": seen.source,
        **facts,
        "labeled": seen.labeled,
        "tokens": seen.tokens,
        "supervised": seen.supervised,
        "images": [dataclasses.asdict(image) for image in seen.images],
        "spans": spans,
    }


def as_text(seen: Inspection, facts: dict[str, Any], image_options: Mapping[str, Any], *, colour: bool = False) -> str:
    """The row for people: a head, the images, then the spans in order, supervised ones marked."""
    image_tokens = sum(image.tokens for image in seen.images)
    options = "  ".join(f"{key} {value}" for key, value in image_options.items())
    lines = [
        f"{seen.id}  row {facts['row']} of {facts['rows']} in {facts['split']}  source {seen.source}",
        f"{facts['family']}  {options}  {facts['model']}  spec {facts['spec_hash'][:12]}",
        f"{seen.tokens} tokens: {image_tokens} of {len(seen.images)} images, "
        f"{seen.tokens - image_tokens} of text, {seen.supervised} supervised"
        + ("" if seen.labeled else "  (unlabeled: the prompt alone)"),
        "",
    ]
    for k, image in enumerate(seen.images):
        canvas = "" if image.canvas is None else f" -> {image.canvas[0]}x{image.canvas[1]}"
        tiles = "" if image.tiles is None else f" in {image.tiles[0]}x{image.tiles[1]} tiles"
        place = "" if image.offset is None else f", at character {image.offset}"
        lines.append(
            f"image {k}  turn {image.turn}{place}  {image.width}x{image.height}{canvas}{tiles}"
            f"  {image.tokens} tokens from {image.start}  {image.path}"
        )
    lines = [*map(printable, lines), *([""] if seen.images else [])]
    for span in seen.spans:
        place = f"{'>' if span.supervised else ' '} {span.start:6} +{span.stop - span.start:<6} "
        if span.image is not None:
            lines.append(place + _paint(f"[image {span.image}]", _BLUE, colour))
            continue
        lines.append(
            place + _paint(printable(json.dumps(span.text, ensure_ascii=False)), _GREEN, colour and span.supervised)
        )
        if len(span.pieces) > 1:
            lines.append(" " * 17 + printable("|".join(repr(piece)[1:-1].replace(" ", "·") for piece in span.pieces)))
    return "".join(f"{line}\n" for line in lines)


def save_images(seen: Inspection, sample: Sample, folder: Path) -> None:
    """Write `00_source.jpg`, the bytes as stored, and `00_canvas.png`, the image that is cut into tiles."""
    files = {f"{k:02d}_source{Path(image.meta.path).suffix}": image.data for k, image in enumerate(sample.images)}
    for k, preview in enumerate(seen.previews):
        out = io.BytesIO()
        preview.image.save(out, "PNG")
        files[f"{k:02d}_canvas.png"] = out.getvalue()
    for name, data in files.items():
        with atomic_write(folder / name, durable=False) as file:
            file.write(data)


def _paint(text: str, code: str, colour: bool) -> str:
    return f"{code}{text}{_PLAIN}" if colour else text


def _find_id(dataset: ConversationDataset, row_id: str) -> int | None:
    """The row of an id: by halving, because converted ids ascend, else by looking at every row."""
    rows = range(len(dataset))
    near = bisect_left(rows, row_id, key=lambda row: dataset.conversation(row).id)
    if near < len(dataset) and dataset.conversation(near).id == row_id:
        return near
    return next((row for row in rows if dataset.conversation(row).id == row_id), None)
