"""What --fix did, as text for a terminal: counts by fix, the first changes of each, where the log is."""

from __future__ import annotations

from pathlib import Path

from phiv_data.repair import FixResult
from phiv_data.storage.dataset import FIXES
from phiv_data.utils.terminal import printable

_DONE = {
    "mark": "byte order marks removed (PV006)",
    "names": "ids and sources given to rows that had none (PV404)",
    "missing": "missing keys written: no images, or no answer (PV002)",
    "offsets": "images put in the order of the text (PV002)",
    "nfc": "texts with each letter and its accent as one character (PV224)",
    "suffix": "image paths with the suffix of the file's format (PV110)",
    "order": "objects with their keys in the order of the format",
}


def fix_summary(fixed: FixResult, out: Path) -> str:
    """Lines, each ending in a newline."""
    lines = [f"{out}: {_share(fixed.changed_rows, fixed.rows)} fixed, {fixed.num_images:,} images copied"]
    for name in (name for name in _DONE if name in fixed.counts):
        lines.append(f"  {fixed.counts[name]:>6,} {_DONE[name]}")
        lines += [f"         {example}" for example in fixed.examples[name]]
    if fixed.bad_rows:
        lines.append(f"  {_share(fixed.bad_rows, fixed.rows)} left as they are: they break the format otherwise")
    if fixed.images_left:
        lines.append(f"  {fixed.images_left:,} images not copied: missing, not files, or outside images/")
    if fixed.counts:
        lines.append(f"  every change, and what was there before: {out / FIXES}")
    return "".join(f"{printable(line)}\n" for line in lines)


def _share(count: int, all_: int) -> str:
    return f"{count:,} of {all_:,} rows"
