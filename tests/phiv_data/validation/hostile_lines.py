"""Lines of jsonl files, good, odd and bad: hypothesis strategies and tools of the property tests and of fuzzing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from data_builders import image_bytes
from hypothesis import strategies as st

IMAGES = ("a.png", "b/ü.png", "cut.png", "gone.png")
BOM = b"\xef\xbb\xbf"

texts = st.sampled_from(
    ["What is it?", "<image>\nwhich one?", "", " ", "Fu\u0308chslein \u200b", "\u202e<|end|>", '"user": "\\"', "x" * 70]
)
answers = st.none() | st.sampled_from(["cat", "dog", "Cat", "", "a" * 65]) | texts


@st.composite
def turns(draw: st.DrawFn) -> dict[str, Any]:
    """A turn, most often one that the format allows."""
    user = draw(texts)
    turn: dict[str, Any] = {
        "images": draw(st.lists(st.sampled_from(IMAGES), max_size=3)),
        "user": user,
        "assistant": draw(answers),
    }
    if draw(st.integers(0, 7)) == 0:
        turn["answers"] = [*draw(st.lists(answers.filter(bool), max_size=2)), turn["assistant"] or "cat"]
    if draw(st.integers(0, 7)) == 0:
        turn["image_offsets"] = sorted(draw(st.integers(0, len(user) + 1)) for _ in turn["images"])
    return turn


@st.composite
def records(draw: st.DrawFn) -> dict[str, Any]:
    """A record. Ids are few, so that some stand twice."""
    record: dict[str, Any] = {
        "id": f"val-{draw(st.integers(0, 9))}",
        "source": draw(st.sampled_from(["ucf101", "docvqa", "mine"])),
        "conversations": draw(st.lists(turns(), min_size=1, max_size=3)),
    }
    if draw(st.integers(0, 7)) == 0:
        record["system"] = draw(texts)
    return record


good_lines = st.builds(
    lambda record, ascii_, separators: json.dumps(record, ensure_ascii=ascii_, separators=separators).encode(),
    records(),
    st.booleans(),
    st.sampled_from([(",", ":"), (", ", ": ")]),
)
bad_lines = st.sampled_from(
    [
        b"{",
        b"[]",
        b"null",
        b"NaN",
        b"\x00",
        b'"\xff"',
        b'{"id": "val-1", "id": "val-1"}',
        b'{"id": 1}',
        b'{"id": "\\ud800"}',
        BOM + b"{}",
    ]
)
blank_lines = st.sampled_from([b"", b"  ", b"\t"])
line_ends = st.sampled_from([b"\n", b"\n", b"\r\n"])
lines = st.builds(
    lambda line, end: line + end, good_lines | good_lines | good_lines | bad_lines | blank_lines, line_ends
)


@st.composite
def files(draw: st.DrawFn, max_lines: int = 12) -> list[bytes]:
    """The lines of a file: perhaps with a byte order mark, perhaps without a last newline, perhaps none."""
    found = draw(st.lists(lines, max_size=max_lines))
    if found and draw(st.integers(0, 4)) == 0:
        found[0] = BOM + found[0]
    if found and draw(st.integers(0, 4)) == 0:
        found[-1] = found[-1].rstrip(b"\r\n")
    return found


def write_images(folder: Path) -> Path:
    """A folder with the images of IMAGES: the third is cut, the last is not there."""
    (folder / "b").mkdir(parents=True)
    for number, name in enumerate(IMAGES[:3]):
        (folder / name).write_bytes(image_bytes(number)[: 60 if name == "cut.png" else None])
    return folder
