"""`phiv-inspect DATA ROW`: a row's ids, mask, images and length as the model gets them.

Exit codes: 0 shown, 1 the row cannot be encoded, 2 usage, 3 something of the environment is missing.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from bisect import bisect_left
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tyro.conf import FlagCreatePairsOff, Positional, UseAppendAction

from phiv_data.cli.common import run
from phiv_data.utils.image_options import collect_image_options
from phiv_schemas.errors import EXIT_OK, UsageError

if TYPE_CHECKING:
    from phiv_data.storage.dataset import ConversationDataset
    from phiv_data.storage.sample import Sample
    from phiv_train.checkpoints.resolve import Source
    from phiv_train.evaluation.inspection import InspectedImage, Inspection, Span

_GREEN, _BLUE, _PLAIN = "\x1b[1;32m", "\x1b[34m", "\x1b[0m"


@dataclasses.dataclass(frozen=True)
class InspectOptions:
    """Show a row of a converted dataset as the model gets it: ids, which are supervised, images, length.

    Supervised text is green on a terminal and marked with > everywhere. No weights are loaded.
    """

    data_dir: Positional[Path]
    """Folder of a converted dataset (made by phiv-convert)."""
    row: Positional[str]
    """Number of the row in its split (from 0; -1 is the last), or a record id such as val-0000000300."""
    split: str | None = None
    """By default the one the record id begins with, else train."""
    model_name_or_path: str | None = None
    """Checkpoint or adapter folder, or hub id: its tokenizer and preprocessor files. By default the family's own."""
    family: str | None = None
    """tiny, phi3_vision, or another installed one. By default read from the checkpoint, else phi3_vision."""
    num_crops: int | None = None
    """Crops per image (Phi-3.5-vision), as --image_option num_crops=N; by default the checkpoint's."""
    image_option: UseAppendAction[tuple[str, ...]] = ()
    """KEY=VALUE: an image option of the family, by default the checkpoint's. May be given several times."""
    save_images: Path | None = None
    """Folder for the images: as stored, and as the model gets them, before they are cut into tiles."""
    format: Literal["text", "json"] = "text"
    """How to print on stdout. json holds every id."""


def main() -> int:
    """Entry point of `phiv-inspect`."""
    return run("phiv-inspect", lambda: _inspect(_parse(sys.argv[1:])))


def _parse(argv: list[str]) -> InspectOptions:
    import tyro

    return tyro.cli(InspectOptions, prog="phiv-inspect", args=argv, config=(FlagCreatePairsOff,))


def _inspect(options: InspectOptions) -> int:
    os.environ.setdefault("DS_ACCELERATOR", "cpu")  # deepspeed, where a family imports it, else warns on stdout
    from phiv_train.checkpoints.resolve import find_source, load_processor
    from phiv_train.evaluation.inspection import inspect_row
    from phiv_train.families.base import get_family

    if options.num_crops is not None and not 1 <= options.num_crops <= 16:
        raise UsageError("--num_crops", f"must be 1 to 16 (found {options.num_crops})")
    image_options = collect_image_options(options.image_option, options.num_crops)
    dataset, row = find_row(options)
    source = find_source(options.model_name_or_path, family=options.family)
    processor = load_processor(source, image_options=image_options)
    sample = dataset[row]
    seen = inspect_row(sample, get_family(source.family), processor)
    if options.save_images is not None:
        save_images(seen, sample, options.save_images)
    facts = describe(dataset, row, source, processor)
    if options.format == "json":
        sys.stdout.write(json.dumps(as_dict(seen, facts), indent=2, ensure_ascii=False) + "\n")
    else:
        sys.stdout.write(
            as_text(seen, facts, processor.image_options, colour=sys.stdout.isatty() and "NO_COLOR" not in os.environ)
        )
    return EXIT_OK


def find_row(options: InspectOptions) -> tuple[ConversationDataset, int]:
    """The dataset and the row's number. UsageError, saying what there is, when there is no such row."""
    from phiv_data.storage.dataset import ConversationDataset, read_manifest

    number = _number(options.row)
    names = [split.name for split in read_manifest(options.data_dir).splits]
    own = next((name for name in names if options.row.startswith(f"{name}-")), "train")
    dataset = ConversationDataset(options.data_dir, options.split or own)
    found = _find_id(dataset, options.row) if number is None else number
    if found is None:
        what = f"no row with this id in split {dataset.split!r} of {options.data_dir}"
        raise UsageError(options.row, what, f"Pass --split ({', '.join(names)}), or a number below {len(dataset)}")
    if not -len(dataset) <= found < len(dataset):
        raise UsageError(options.row, f"split {dataset.split!r} has {len(dataset)} rows", "Rows are counted from 0")
    return dataset, found % len(dataset)


def describe(dataset: ConversationDataset, row: int, source: Source, processor: Any) -> dict[str, Any]:
    """What is shown, and with which settings; image options by their own names."""
    return {
        "data_dir": str(dataset.path),
        "split": dataset.split,
        "row": row,
        "rows": len(dataset),
        "family": source.family,
        "model": source.base,
        **processor.image_options,
        "spec_hash": processor.spec_hash,
    }


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
    head = [
        f"{seen.id}  row {facts['row']} of {facts['rows']} in {facts['split']}  source {seen.source}",
        f"{facts['family']}  {options}  {facts['model']}  spec {facts['spec_hash'][:12]}",
        f"{seen.tokens} tokens: {image_tokens} of {len(seen.images)} images, "
        f"{seen.tokens - image_tokens} of text, {seen.supervised} supervised"
        + ("" if seen.labeled else "  (unlabeled: the prompt alone)"),
        "",
    ]
    images = [_image_line(k, image) for k, image in enumerate(seen.images)]
    spans = [line for span in seen.spans for line in _span_lines(span, colour)]
    return "".join(f"{line}\n" for line in [*head, *images, *([""] if images else []), *spans])


def save_images(seen: Inspection, sample: Sample, folder: Path) -> None:
    """Write `00_source.jpg`, the bytes as stored, and `00_canvas.png`, the image that is cut into tiles."""
    import io

    from phiv_data.utils.atomic import atomic_write

    files = {f"{k:02d}_source{Path(image.meta.path).suffix}": image.data for k, image in enumerate(sample.images)}
    for k, preview in enumerate(seen.previews):
        out = io.BytesIO()
        preview.image.save(out, "PNG")
        files[f"{k:02d}_canvas.png"] = out.getvalue()
    for name, data in files.items():
        with atomic_write(folder / name, durable=False) as file:
            file.write(data)


def _image_line(number: int, image: InspectedImage) -> str:
    canvas = "" if image.canvas is None else f" -> {image.canvas[0]}x{image.canvas[1]}"
    tiles = "" if image.tiles is None else f" in {image.tiles[0]}x{image.tiles[1]} tiles"
    place = "" if image.offset is None else f", at character {image.offset}"
    return (
        f"image {number}  turn {image.turn}{place}  {image.width}x{image.height}{canvas}{tiles}"
        f"  {image.tokens} tokens from {image.start}  {image.path}"
    )


def _span_lines(span: Span, colour: bool) -> Iterator[str]:
    place = f"{'>' if span.supervised else ' '} {span.start:6} +{span.stop - span.start:<6} "
    if span.image is not None:
        yield place + _painted(f"[image {span.image}]", _BLUE, colour)
        return
    shown = [repr(piece)[1:-1].replace(" ", "·") for piece in span.pieces]
    yield place + _painted(json.dumps(span.text, ensure_ascii=False), _GREEN, colour and span.supervised)
    if len(shown) > 1:
        yield " " * 17 + "|".join(shown)


def _painted(text: str, code: str, colour: bool) -> str:
    return f"{code}{text}{_PLAIN}" if colour else text


def _number(row: str) -> int | None:
    try:
        return int(row)
    except ValueError:
        return None


def _find_id(dataset: ConversationDataset, row_id: str) -> int | None:
    """The row of an id: by halving, because converted ids ascend, else by looking at every row."""
    rows = range(len(dataset))
    near = bisect_left(rows, row_id, key=lambda row: dataset.conversation(row).id)
    if near < len(dataset) and dataset.conversation(near).id == row_id:
        return near
    return next((row for row in rows if dataset.conversation(row).id == row_id), None)
