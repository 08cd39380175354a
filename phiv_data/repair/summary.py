"""What --fix did, for a terminal: counts by fix, the first changes of each, and where all of them stand."""

from __future__ import annotations

from pathlib import Path

from phiv_data.repair import Fixed
from phiv_data.storage.dataset import FIXES

_DONE = {
    "mark": "byte order marks taken away (PV006)",
    "missing": "missing keys written: no images, or no answer (PV002)",
    "offsets": "images put in the order of the text (PV002)",
    "nfc": "texts with each letter and its accent as one character (PV224)",
    "suffix": "image paths with the suffix of the file's format (PV110)",
    "order": "objects with their keys in the order of the format",
}


def summary(fixed: Fixed, out: Path) -> str:
    """Lines, each ending in a newline."""
    lines = [f"{out}: {_of(fixed.changed_rows, fixed.rows, 'row')} fixed, {fixed.num_images:,} images copied"]
    for name in (name for name in _DONE if name in fixed.counts):
        lines.append(f"  {fixed.counts[name]:>6,} {_DONE[name]}")
        lines += [f"         {example}" for example in fixed.examples[name]]
    if fixed.bad_rows:
        lines.append(f"  {_of(fixed.bad_rows, fixed.rows, 'row')} left as they are: they break the format otherwise")
    if fixed.images_left:
        lines.append(f"  {fixed.images_left:,} images not copied: they are not there, no files, or lead out of images/")
    if fixed.counts:
        lines.append(f"  every change, and what stood there before: {out / FIXES}")
    return "".join(f"{line}\n" for line in lines)


def _of(count: int, all_: int, what: str) -> str:
    return f"{count:,} of {all_:,} {what}s"
