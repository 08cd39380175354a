"""The one way to a terminal: lines whose characters are shown, and none of which is obeyed.

Names of files, texts of rows and answers of models may hold escape sequences, line breaks that forge a line of ours,
and marks that turn its order around. Everything the commands print goes through `say`; a test finds other ways.
"""

from __future__ import annotations

import re
import sys
from typing import TextIO

_COLOUR = re.compile("(\x1b\\[[0-9;]*m)")
_IN_JSON = re.compile("[\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")


def printable(line: str) -> str:
    r"""A line that no terminal obeys: `\x1b`, `\n` and what else cannot be shown is spelled out."""
    return line if line.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in line)


def say(*lines: str, to: TextIO | None = None, colours: bool = False) -> None:
    """Print lines on stdout, or `to`. With `colours`, codes for colours are let through: for lines printable before."""
    stream = sys.stdout if to is None else to
    for line in lines:
        parts = _COLOUR.split(line) if colours else [line]
        shown = [part if n % 2 else printable(part) for n, part in enumerate(parts)]
        stream.write("".join((*shown, "\n")))


def write_document(text: str) -> None:
    """Write a report for programs (JSON, XML, HTML, ...) on stdout as it is; in JSON, odd characters as its escapes."""
    if text.startswith(("{", "[")):
        text = _IN_JSON.sub(lambda match: f"\\u{ord(match[0]):04x}", text)
    sys.stdout.write(text)
