"""`--update` of an output equals a fresh conversion, whatever was done to the source of a built-in converter."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from toy_converter import draw_toy_source

from phiv_converters.chat_json.options import LlavaOptions
from phiv_converters.folder.options import FolderOptions
from phiv_converters.hateful_memes.options import HatefulMemesOptions
from phiv_converters.nlvr2.options import Nlvr2Options
from phiv_converters.own_jsonl.options import JsonlOptions
from phiv_converters.synthetic.clips import make_synthetic_ucf101
from phiv_converters.synthetic.documents import make_synthetic_hateful_memes, make_synthetic_nlvr2
from phiv_converters.table.options import TableOptions
from phiv_converters.ucf101.options import Ucf101Options
from phiv_data.convert.base import ConverterOptions
from phiv_data.convert.engine import convert
from phiv_data.testing.helpers import hashes
from phiv_schemas import PhivError

MakeOptions = Callable[[Path], ConverterOptions]
NAMES = [f"i{i}" for i in range(9)]


def rows_and_images(folder: Path, name: str, lines: list[str]) -> None:
    draw_toy_source(folder, {"images": NAMES})
    (folder / name).write_text("".join(f"{line}\n" for line in lines))


def jsonl(folder: Path) -> MakeOptions:
    turns = [{"images": [f"{name}.png"], "user": "What?", "assistant": name} for name in NAMES]
    rows_and_images(folder, "own_train.jsonl", [json.dumps({"conversations": [turn]}) for turn in turns])
    return JsonlOptions


def llava(folder: Path) -> MakeOptions:
    human = {"from": "human", "value": "<image>\nWhat?"}
    rows = [{"image": f"images/{name}.png", "conversations": [human, {"from": "gpt", "value": name}]} for name in NAMES]
    rows_and_images(folder, "rows.jsonl", [json.dumps(row) for row in rows])
    return LlavaOptions


def table(folder: Path) -> MakeOptions:
    cells = [f"images/{name}.png,What is {name}?,{name}" for name in NAMES]
    rows_and_images(folder, "qa.csv", ["image,question,answer", *cells])
    return TableOptions


def folder(folder: Path) -> MakeOptions:
    draw_toy_source(folder, {"cat": NAMES, "dog": NAMES[:3]})
    return FolderOptions


def ucf101(folder: Path) -> MakeOptions:
    make_synthetic_ucf101(folder.parent / "clips", train=1, val=1, test=1, size=(32, 24)).rename(folder)
    for name in sorted(path.name for path in (folder / "train").iterdir())[2:]:
        for split in ("train", "val", "test"):
            shutil.rmtree(folder / split / name)
    return Ucf101Options


def nlvr2(folder: Path) -> MakeOptions:
    make_synthetic_nlvr2(folder.parent / "pairs").rename(folder)
    return Nlvr2Options


def memes(folder: Path) -> MakeOptions:
    make_synthetic_hateful_memes(folder.parent / "memes").rename(folder)
    return HatefulMemesOptions


# What is done to a source: (its files of rows, its other files, a number) -----------------------------------------


def lines_of(path: Path) -> list[bytes]:
    return path.read_bytes().splitlines(keepends=True)


def drop_line(rows: list[Path], others: list[Path], number: int) -> None:
    for path in rows[:1]:
        lines = lines_of(path)
        del lines[number % len(lines)]
        path.write_bytes(b"".join(lines))


def insert_line(rows: list[Path], others: list[Path], number: int) -> None:
    for path in rows[:1]:
        lines = lines_of(path)
        lines.insert(1, lines[number % len(lines)].replace(b"What", b"Which").replace(b"T", b"t", 1))
        path.write_bytes(b"".join(lines))


def reverse_lines(rows: list[Path], others: list[Path], number: int) -> None:
    for path in rows[:1]:
        first, *more = lines_of(path)
        path.write_bytes(b"".join([first, *reversed(more)]))


def remove_file(rows: list[Path], others: list[Path], number: int) -> None:
    others[number % len(others)].unlink()


def rename_file(rows: list[Path], others: list[Path], number: int) -> None:
    path = others[number % len(others)]
    path.rename(path.with_stem(f"{path.stem}x"))


def copy_below(rows: list[Path], others: list[Path], number: int) -> None:
    """A file of the same name in a folder more: two for one name, or another class."""
    path = others[number % len(others)]
    (path.parent / "more").mkdir(exist_ok=True)
    shutil.copy2(path, path.parent / "more" / path.name)


def exchange_files(rows: list[Path], others: list[Path], number: int) -> None:
    one, two = others[number % len(others)], others[(number + 1) % len(others)]
    data = one.read_bytes(), two.read_bytes()
    one.write_bytes(data[1])
    two.write_bytes(data[0])


def change_bytes(rows: list[Path], others: list[Path], number: int) -> None:
    """Other bytes of the same size at the same time."""
    path = others[number % len(others)]
    data, stat = bytearray(path.read_bytes()), path.stat()
    data[-9] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def touch(rows: list[Path], others: list[Path], number: int) -> None:
    others[number % len(others)].touch()


CHANGES = (
    *(drop_line, insert_line, reverse_lines, remove_file, rename_file),
    *(copy_below, exchange_files, change_bytes, touch),
)


def apply(source: Path, change: Callable[[list[Path], list[Path], int], None], number: int) -> None:
    files = sorted(path for path in source.rglob("*") if path.is_file())
    rows = [path for path in files if path.suffix in (".jsonl", ".json", ".csv")]
    change(rows, [path for path in files if path not in rows], number)


def outcome(options: ConverterOptions, out: Path, **how: bool) -> dict[str, str] | str:
    """The files of the output, or the kind of error."""
    try:
        convert(options, out, num_workers=0, arrow=False, verify=True, **how)
    except PhivError as error:
        return type(error).__name__
    return hashes(out)


@pytest.mark.parametrize("make", [jsonl, llava, table, folder, ucf101, nlvr2, memes], ids=lambda make: make.__name__)
@settings(max_examples=4, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(st.tuples(st.sampled_from(CHANGES), st.integers(0, 99)), min_size=2, max_size=4))
def test_whatever_is_done_to_a_source_an_update_is_as_fresh(
    make: Callable[[Path], MakeOptions], tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[object, int]]
) -> None:
    tmp = tmp_path_factory.mktemp("any")
    options = make(tmp / "source")
    outcome(options(tmp / "source"), tmp / "out")
    for i, (change, number) in enumerate(steps):
        apply(tmp / "source", change, number)  # type: ignore[arg-type]
        if i % 2 or i == len(steps) - 1:
            fresh = outcome(options(tmp / "source"), tmp / f"fresh{i}")
            assert outcome(options(tmp / "source"), tmp / "out", update=True) == fresh
    shutil.rmtree(tmp)
