"""--fix over mutated lines: no crash; what it changes is valid, needs no second fix, and --undo restores its bytes."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

import pytest
from data_builders import image_bytes
from hypothesis import given
from hypothesis import strategies as st
from line_mutations import HOSTILE, good_line, mutated

from phiv_data.repair import fix
from phiv_data.repair import undo as undo_fix
from phiv_data.repair.lines import fix_line
from phiv_data.repair.records import undo
from phiv_data.storage.jsonl import UTF16_MARKS, parse_line

RENAMED = {"a.png": "a.jpg"}


def check(raw: bytes) -> None:
    fixed_line = fix_line(raw + b"\n", RENAMED)
    if not fixed_line.changes:
        assert fixed_line.raw == raw + b"\n"
        assert fixed_line.is_bad == (bool(raw.strip()) and parse_line(raw.strip(b"\r\n"), "x").conversation is None)
        return
    assert parse_line(fixed_line.raw.rstrip(b"\n"), "x").conversation is not None
    assert fixed_line.raw.endswith(b"\r\n" if raw.endswith(b"\r") else b"\n")
    assert json.dumps(undo(fixed_line.record, fixed_line.changes)) == json.dumps(json.loads(raw))
    assert fix_line(fixed_line.raw, RENAMED).changes == ()


@given(st.randoms(use_true_random=False))
def test_mutated_lines(random: Random) -> None:
    check(mutated(good_line(random, 0), random).replace(b"\n", b""))


@pytest.mark.parametrize("hostile", HOSTILE, ids=lambda token: repr(token[:12]))
def test_each_hostile_token_in_each_place(hostile: bytes) -> None:
    line = b'{"source": "b", "id": "a", "conversations": [{"images": ["c"], "user": "d"}]}'
    for at in range(len(line) + 1):
        check((line[:at] + hostile + line[at:]).replace(b"\n", b""))


@pytest.mark.parametrize("depth", [100, 300, 480, 900, 100_000])
def test_lines_of_any_depth(depth: int) -> None:
    check(b'{"source": "b", "id": "a", "conversations": [{"user": "d", "more": ' + b"[" * depth + b"]" * depth + b"}]}")


# Whole files: undo(fix(x)) == x --------------------------------------------------------------------------------------


def check_undo(folder: Path, raw: bytes) -> None:
    (folder / "data" / "images").mkdir(parents=True)
    images = {"a.png": image_bytes(1, kind="JPEG"), "c": image_bytes(2)}
    for name, data in images.items():
        (folder / "data" / "images" / name).write_bytes(data)
    (folder / "data" / "val.jsonl").write_bytes(raw)
    fix(folder / "data" / "val.jsonl", folder / "fixed", input_format="phiv")
    undo_fix(folder / "fixed", folder / "again")
    assert (folder / "again" / "val.jsonl").read_bytes() == raw
    restored = {path.name: path.read_bytes() for path in (folder / "again").glob("images/*")}
    assert restored.items() <= images.items()


@given(st.randoms(use_true_random=False))
def test_mutated_files_are_restored_byte_for_byte(random: Random) -> None:
    lines = [mutated(good_line(random, i), random) + random.choice([b"\n", b"\r\n", b" \n", b""]) for i in range(4)]
    raw = random.choice([b"", b"", b"\xef\xbb\xbf"]) + b"".join(lines)
    if raw[:2] not in UTF16_MARKS:  # --fix refuses these
        with TemporaryDirectory() as folder:
            check_undo(Path(folder), raw)


def test_hostile_tokens_are_restored_byte_for_byte(tmp_path: Path) -> None:
    line = b'{"source": "b", "id": "a", "conversations": [{"images": ["c"], "user": "d"}]}\n'
    lines = [line[:at] + token + line[at:] for token in HOSTILE for at in (1, 13, 30, 48, 57, 62, len(line) - 1)]
    check_undo(tmp_path, b"".join(lines))
