"""Every file of a converted folder that is damaged, lost or added is an error, and odd bytes are never a traceback."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from toy_converter import ToyOptions, draw_toy_source

from phiv_data.convert.engine import convert
from phiv_data.repair import fix
from phiv_data.storage.dataset import read_manifest
from phiv_data.validation import validate
from phiv_schemas import Manifest, ShardError

FLIPS = 300
ODD_BYTES = (b"\xff\xfe\x00\xd8", b"\x00" * 64, b"\xc3(\n\xed\xa0\x80", b"[" * 5000, b'{"a": "\\ud800"}\n', b"")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A converted folder with every kind of file: rejects, shards, the log of fixes."""
    folder = tmp_path_factory.mktemp("damage")
    source = draw_toy_source(folder / "source", {"train": ["fox", "cat", "bad"], "val": ["owl"]})
    convert(ToyOptions(source, splits=("train", "val")), folder / "converted", num_workers=0)
    fix(folder / "converted", folder / "out")
    assert validate(folder / "out").ok
    return folder / "out"


@pytest.fixture
def out(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "out"))


def files_of(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_there_is_a_file_of_every_kind(whole: Path) -> None:
    names = {path.relative_to(whole).as_posix() for path in files_of(whole)}
    kinds = {"README.md", "manifest.json", "images.sha256", "rejects.jsonl", "phiv-fixes.jsonl", "toy_val.jsonl"}
    assert kinds | {"arrow/dataset_dict.json", "arrow/val/state.json", "images/val/owl.png"} <= names


def test_any_bit_of_the_manifest(whole: Path) -> None:
    raw, numbers = (whole / "manifest.json").read_bytes(), random.Random(12)
    for _ in range(FLIPS):
        flipped = flip(raw, numbers.randrange(8 * len(raw)))
        try:
            assert not Manifest.model_validate_json(flipped).is_whole(flipped)
        except ValueError:
            continue


def flip(raw: bytes, bit: int) -> bytes:
    """The bytes with one other bit."""
    data = bytearray(raw)
    data[bit // 8] ^= 1 << bit % 8
    return bytes(data)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def flip_a_bit(path: Path) -> None:
    raw = path.read_bytes()
    path.write_bytes(flip(raw, random.Random(path.name).randrange(8 * len(raw))))


def add_a_byte(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\n")


def replace_by_a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("damage", [cut, flip_a_bit, add_a_byte, Path.unlink, replace_by_a_folder])
def test_any_file_damaged_or_lost(whole: Path, tmp_path: Path, damage: Callable[[Path], None]) -> None:
    for i, name in enumerate(path.relative_to(whole) for path in files_of(whole)):
        out = Path(shutil.copytree(whole, tmp_path / str(i)))
        if not (out / name).stat().st_size and damage is not Path.unlink:
            continue
        damage(out / name)
        report = validate(out)
        assert report.errors, (damage, name)


def test_odd_bytes_in_any_file_are_findings(whole: Path, tmp_path: Path) -> None:
    for i, name in enumerate(path.relative_to(whole) for path in files_of(whole)):
        for j, odd in enumerate(ODD_BYTES):
            out = Path(shutil.copytree(whole, tmp_path / f"{i}-{j}"))
            if (out / name).read_bytes() == odd:
                continue
            (out / name).write_bytes(odd)
            assert validate(out).errors, (name, odd)


def test_lines_of_images_sha256_that_no_file_can_have(out: Path) -> None:
    with (out / "images.sha256").open("ab") as file:
        for name in (b"a\0b", b"../../etc/passwd", b"x" * 5000, b"\xff"):
            file.write(b"0" * 64 + b"  images/" + name + b"\n")
    report = validate(out)
    assert [issue.line for issue in report.issues if issue.code == "PV302" and issue.line] == [4, 5]
    assert report.counts()["PV101"] == 2


@pytest.mark.parametrize(
    "name",
    [
        *("notes.txt", ".hidden", "images/.hidden.png", "images/train/.x", "arrow/x.arrow", "arrow/train/state.bak"),
        *("toy_test.jsonl", "images.sha256.bak", "arrow/state.json", "images/report.txt", ".hidden/x", b"odd\xff.txt"),
    ],
)
def test_any_file_added(out: Path, name: str | bytes) -> None:
    path = out / os.fsdecode(name)
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"x")
    report = validate(out)
    assert [(issue.code, issue.severity) for issue in report.issues] == [("PV402", "error")]
    assert report.issues[0].file.isprintable()


def test_links_are_no_files_of_the_dataset(out: Path, tmp_path: Path) -> None:
    (out / "link").symlink_to(tmp_path, target_is_directory=True)
    (out / "dead").symlink_to(tmp_path / "nowhere")
    assert [(issue.code, issue.file) for issue in validate(out).errors] == [("PV402", "dead"), ("PV402", "link")]


@pytest.mark.parametrize("deep", [False, True])
def test_a_link_in_place_of_any_file_is_a_change(deep: bool, out: Path) -> None:
    for file in sorted(path for path in out.rglob("*") if path.is_file() and ".phiv" not in path.parts):
        whole, name = file.read_bytes(), file.relative_to(out).as_posix()
        copy = file.with_name(".copy")
        file.rename(copy)
        file.symlink_to(copy.name)
        codes = {issue.code for issue in validate(out, deep=deep).errors} - {"PV402"}  # the copy itself
        assert codes == {"PV104" if name.startswith("images/") else "PV302"}, name
        file.unlink()
        copy.unlink()
        file.write_bytes(whole)
    assert validate(out).ok


def test_images_may_be_a_link_to_a_folder_and_are_checked_there(out: Path, tmp_path: Path) -> None:
    (out / "images").rename(tmp_path / "elsewhere")
    (out / "images").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    assert validate(out).ok
    (tmp_path / "elsewhere" / ".x.png").touch()
    assert [(issue.code, issue.file) for issue in validate(out).errors] == [("PV402", "images/.x.png")]


def test_what_tools_put_there_is_a_warning_and_phivs_own_nothing(out: Path) -> None:
    for name in (".git/config", ".DS_Store", "images/Thumbs.db", ".phiv/source.json", "report.html"):
        (out / name).parent.mkdir(exist_ok=True)
        (out / name).touch()
    report = validate(out)
    assert report.ok
    assert [issue.file for issue in report.issues] == [".DS_Store", ".git", "images/Thumbs.db"]


@pytest.mark.parametrize("trace", ["arrow", "images.sha256", "rejects.jsonl"])
def test_a_lost_manifest_is_an_error_beside_anything_that_phiv_convert_wrote(out: Path, trace: str) -> None:
    for path in out.iterdir():
        if path.name != trace:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    report = validate(out)
    assert [issue.code for issue in report.errors] == ["PV303"]
    assert trace in report.errors[0].message


def test_a_manifest_that_was_changed_is_refused_by_readers(out: Path) -> None:
    manifest = json.loads((out / "manifest.json").read_bytes())
    manifest["options"] = {}
    (out / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
    with pytest.raises(ShardError, match="manifest_sha256"):
        read_manifest(out)
