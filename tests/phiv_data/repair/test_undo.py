"""--undo: undo(fix(data)) is data, byte for byte; whole or not at all; a copy that was edited since is refused."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from data_builders import image_bytes
from toy_converter import ToyOptions, draw_toy_source

from phiv_data.cli.validate import main
from phiv_data.convert.engine import convert
from phiv_data.repair import fix, undo
from phiv_data.repair.lines import parse_log_entry
from phiv_data.storage.dataset import FIXES
from phiv_schemas import RecordError, ShardError, UsageError

PNG, JPEG = image_bytes(1), image_bytes(2, kind="JPEG")
DECOMPOSED = json.dumps("cafe\u0301").encode()
MESSY = [
    b'\xef\xbb\xbf{"id": "r0", "source": "s", "conversations": [{"images": ["a.jpg"], "user": ' + DECOMPOSED
    + b', "assistant": "b"}]}\r\n',
    b"  \n",
    b'{ "source" : "s","id":"r1","conversations":[{"images":["b.png","a.jpg"],"user":"\xc3\xa9 Which? (1)",'
    b'"assistant":"a", "image_offsets":[9,3]}] }  \n',
    b'{"source": "s", "id": "r2", "conversations": [{"user": "\\u0041nd \\/ this?"}]}\n',
    b'{"id": 3,  "source":"s", "conversations": [{"images": ["b.png"], "user": "?", "assistant": "b"}]}\n',
    b"{\n",
    b'{"id":"r5", "source":"s", "conversations":[{"images":["b.png"],"user":"Kept?","assistant":"yes"}]}',
]  # fmt: skip
IMAGES = {"a.jpg": PNG, "b.png": PNG, "deep/c.png": JPEG}


def write(folder: Path, files: dict[str, bytes], images: dict[str, bytes] | None = None) -> Path:
    for name, data in (files | {f"images/{path}": data for path, data in (images or {}).items()}).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of the data by its path; what phiv-convert keeps in `.phiv/` is about this machine."""
    files = sorted(p.relative_to(folder) for p in folder.rglob("*") if p.is_file())
    return {str(name): (folder / name).read_bytes() for name in files if name.parts[0] != ".phiv"}


@pytest.fixture
def messy(tmp_path: Path) -> Path:
    more = b'{"id": "r6", "source": "s", "conversations": [{"images": ["deep/c.png"], "user": "Which?"}]}\n'
    return write(tmp_path / "data", {"val.jsonl": b"".join(MESSY), "train.jsonl": more}, IMAGES)


@pytest.fixture
def fixed(messy: Path, tmp_path: Path) -> Path:
    fix(messy, tmp_path / "fixed")
    return tmp_path / "fixed"


def test_undo_gives_back_every_byte_and_every_name(messy: Path, fixed: Path, tmp_path: Path) -> None:
    assert contents(fixed) != contents(messy)
    undone = undo(fixed, tmp_path / "again")
    assert contents(tmp_path / "again") == contents(messy)
    assert (undone.lines, undone.restored_lines, undone.num_images) == (8, 4, 3)


def test_a_single_file_is_undone_too(messy: Path, tmp_path: Path) -> None:
    copy = messy.rename(tmp_path / "other") / "val.jsonl"
    copy = copy.rename(copy.with_suffix(".txt"))  # --fix takes a file of any suffix
    fix(copy, tmp_path / "fixed", input_format="phiv")
    undo(tmp_path / "fixed", tmp_path / "again")
    assert (tmp_path / "again" / "val.txt").read_bytes() == copy.read_bytes()


def test_two_fixes_are_undone_together(messy: Path, fixed: Path, tmp_path: Path) -> None:
    val = fixed / "val.jsonl"
    lines = val.read_bytes().splitlines(keepends=True)
    lines[6] = b'{"id": "r7",  "source": "s", "conversations": [{"images": ["b.png"], "user": "New"}]}\n'  # no log yet
    lines[1] = b'{"source": "s",  "id": "r8", "conversations": [{"user": "New"}]}\n'
    val.write_bytes(b"".join(lines))
    fix(fixed, tmp_path / "twice")
    undo(tmp_path / "twice", tmp_path / "again")
    expected = [*MESSY[:1], lines[1], *MESSY[2:6], lines[6]]
    assert (tmp_path / "again" / "val.jsonl").read_bytes() == b"".join(expected)
    assert contents(tmp_path / "again" / "images") == contents(messy / "images")


def test_a_line_that_was_fixed_twice_is_as_before_the_first(tmp_path: Path) -> None:
    first = b'{"source": "s", "id":"r", "conversations": [{"user": "?"}]}\n'
    write(tmp_path / "data", {"val.jsonl": first})
    fix(tmp_path / "data", tmp_path / "one")
    line = (tmp_path / "one" / "val.jsonl").read_bytes()
    renamed = (tmp_path / "one" / "val.jsonl", line.replace(b'"images": []', b'"images": ["a.jpg"]'))
    write(tmp_path / "one", {"val.jsonl": renamed[1]}, {"a.jpg": PNG})
    fix(tmp_path / "one", tmp_path / "two")  # only the suffix
    log = map(parse_log_entry, (tmp_path / "two" / FIXES).read_bytes().splitlines()[:-1])
    assert [entry.change.fix for entry in log] == [
        "missing", "missing", "order", "order", "suffix"
    ]  # fmt: skip
    with pytest.raises(RecordError, match=r"val.jsonl:1: is not the line that --fix wrote"):
        undo(tmp_path / "two", tmp_path / "again")  # edited between the fixes
    write(tmp_path / "one", {"val.jsonl": line})
    fix(tmp_path / "one", tmp_path / "three")
    undo(tmp_path / "three", tmp_path / "again")
    assert (tmp_path / "again" / "val.jsonl").read_bytes() == first


@pytest.mark.parametrize("raw", [b"", b"\xef\xbb\xbf", b"\xef\xbb\xbf\xef\xbb\xbf\n", b"\n\n", b"\xff\x00{\n"])
def test_files_without_records(tmp_path: Path, raw: bytes) -> None:
    check_undo(tmp_path, raw)


def check_undo(folder: Path, raw: bytes) -> None:
    """undo(fix(raw)) == raw, whatever the file is."""
    source = write(folder / "data", {"val.jsonl": raw}, IMAGES) / "val.jsonl"
    fix(source, folder / "fixed", input_format="phiv")
    undo(folder / "fixed", folder / "again")
    assert (folder / "again" / "val.jsonl").read_bytes() == raw
    images = contents(folder / "again" / "images") if (folder / "again" / "images").is_dir() else {}
    assert images.items() <= IMAGES.items()


# What phiv-convert wrote ---------------------------------------------------------------------------------------------


@pytest.fixture
def converted(tmp_path: Path) -> Path:
    source = draw_toy_source(tmp_path / "source", {"train": ["fox", "owl"], "val": ["cat"]})
    (source / "train" / "owl.png").write_bytes(JPEG)
    convert(ToyOptions(source, splits=("train", "val"), question="Que\u0301?"), tmp_path / "data", num_workers=0)
    return tmp_path / "data"


@pytest.mark.parametrize("times", [1, 2])
def test_a_converted_folder_is_as_phiv_convert_wrote_it(converted: Path, tmp_path: Path, times: int) -> None:
    fix(converted, tmp_path / "fixed1")
    for i in range(1, times):
        fix(tmp_path / f"fixed{i}", tmp_path / f"fixed{i + 1}")
    assert (tmp_path / f"fixed{times}" / "images" / "train" / "owl.jpg").is_file()
    undone = undo(tmp_path / f"fixed{times}", tmp_path / "again")
    assert contents(tmp_path / "again") == contents(converted)
    assert (undone.restored_lines, undone.num_images) == (3, 3)


def test_damage_is_not_copied(converted: Path, tmp_path: Path) -> None:
    fix(converted, tmp_path / "fixed")
    (tmp_path / "fixed" / "images" / "train" / "owl.jpg").write_bytes(PNG)
    with pytest.raises(ShardError, match="sha256 differs"):
        undo(tmp_path / "fixed", tmp_path / "again")
    assert not (tmp_path / "again").exists()


def test_a_converted_folder_without_its_manifest_is_not_taken_for_plain_files(converted: Path, tmp_path: Path) -> None:
    fix(converted, tmp_path / "fixed")
    (tmp_path / "fixed" / "manifest.json").unlink()
    for work in (undo, fix):
        with pytest.raises(ShardError, match="has lost its manifest"):
            work(tmp_path / "fixed", tmp_path / "again")
    assert not (tmp_path / "again").exists()


# Bad inputs ----------------------------------------------------------------------------------------------------------


def edit(old: bytes, new: bytes, name: str = "val.jsonl") -> object:
    def change(folder: Path) -> None:
        data = (folder / name).read_bytes()
        assert old in data
        (folder / name).write_bytes(data.replace(old, new, 1))

    return change


def log_of(change: Callable[[list[bytes]], list[bytes]]) -> object:
    """The log with other lines."""

    def write_log(folder: Path) -> None:
        (folder / FIXES).write_bytes(b"".join(change((folder / FIXES).read_bytes().splitlines(keepends=True))))

    return write_log


BAD_COPIES = {
    "a fixed value was edited": (edit(b"caf\\u00e9", b"tea"), r"val.jsonl:1: is not the line that --fix wrote"),
    "another value was edited": (edit(b'"r2"', b'"r9"'), r"val.jsonl:4: is not the line that --fix wrote"),
    "a line was removed": (edit(b"  \n", b""), r"val.jsonl:2: is not the line that --fix wrote|val.jsonl:3: "),
    "lines are missing": (lambda folder: (folder / "val.jsonl").write_bytes(b""), r"val.jsonl:1: is not the line"),
    "a file is missing": (lambda folder: (folder / "train.jsonl").unlink(), r"train.jsonl:1: is missing, but"),
    "the log is not JSON": (edit(b"{", b"", FIXES), r"phiv-fixes.jsonl:1: is not a line of the log"),
    "the log has another value": (edit(b'"line": 1', b'"line": []', FIXES), r"phiv-fixes.jsonl:1: is not a line of"),
    "an empty log": (log_of(lambda lines: []), r"phiv-fixes.jsonl:1: is missing: the log was cut or emptied"),
    "a log without its end": (log_of(lambda lines: lines[:-1]), r"phiv-fixes.jsonl:\d+: is missing: the log was cut"),
    "a log that lost a line": (
        log_of(lambda lines: lines[:-2] + lines[-1:]),
        r"phiv-fixes.jsonl:\d+: is not the digest",
    ),
    "a log with more": (log_of(lambda lines: lines + lines[:1]), r"phiv-fixes.jsonl:\d+: .* which ends before it"),
    "no log": (lambda folder: (folder / FIXES).unlink(), r"fixed: has no phiv-fixes.jsonl: it is not a copy"),
    "an image is a link": (
        lambda folder: [(folder / "images/b.png").unlink(), (folder / "images/b.png").symlink_to("a.png")],
        r"b.png: is missing, or not a regular file",
    ),
    "two images had one name": (
        lambda folder: (folder / "images/a.jpg").write_bytes(PNG),
        r"has one file for 'a\.(png|jpg)' and another name of the images",
    ),
}


@pytest.mark.parametrize("case", BAD_COPIES)
def test_bad_copies_are_one_line_and_leave_nothing(
    case: str, fixed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    change, message = BAD_COPIES[case]
    change(fixed)  # type: ignore[operator]
    with pytest.raises((RecordError, UsageError, ShardError), match=message):
        undo(fixed, tmp_path / "again")
    assert run(monkeypatch, fixed, "--undo", tmp_path / "again") in (1, 2)
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "fixed"]


def run(monkeypatch: pytest.MonkeyPatch, *args: object) -> int:
    monkeypatch.setattr(sys, "argv", ["phiv-validate", *map(str, args)])
    return main()


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["none", "--undo", "again"], "none: no such folder. Pass the folder that --fix wrote"),
        (["fixed/val.jsonl", "--undo", "again"], "fixed/val.jsonl: is not a folder. Pass the folder that --fix wrote"),
        (["data", "--undo", "again"], "data: has no phiv-fixes.jsonl"),
        (["fixed", "--undo", "data"], "data: already exists. Pass a new folder to --undo"),
        (["fixed", "--undo", "data/val.jsonl"], "data/val.jsonl: already exists"),
        (["fixed", "--undo", "fixed/again"], "fixed/again: is in fixed, whose fixes are undone"),
        (["fixed", "data", "--undo", "again"], "PATH: several go with --format text or github only"),
        (["fixed", "--undo", "again", "--fix", "more"], "--fix: does not go with --undo"),
        (["fixed", "--undo", "again", "--format", "json"], "--format: does not go with --undo"),
        (["fixed", "--undo", "again", "--images_root", "data"], "--images_root: does not go with --undo"),
    ],
)
def test_wrong_calls_are_one_line_and_leave_nothing(
    args: list[str], message: str, messy: Path, fixed: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    before = contents(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert run(monkeypatch, *args) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"phiv-validate: {message}")
    assert contents(tmp_path) == before


def test_the_command_reports_what_was_restored(
    messy: Path, fixed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, fixed, "--undo", tmp_path / "again") == 0
    assert capsys.readouterr().out == f"{tmp_path / 'again'}: 4 of 8 lines restored, 3 images copied\n"
    assert contents(tmp_path / "again") == contents(messy)
    assert run(monkeypatch, fixed, "--undo", tmp_path / "lines", "--no_images") == 0
    assert sorted(contents(tmp_path / "lines")) == ["train.jsonl", "val.jsonl"]


def test_nothing_is_left_where_undo_is_stopped(fixed: Path, tmp_path: Path) -> None:
    def stop(count: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        undo(fixed, tmp_path / "again", on_rows=stop)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "fixed"]
