"""Files of official releases: rows of JSON by offset, images by name, archives opened once."""

from __future__ import annotations

import io
import os
import tarfile
import tempfile
import zipfile
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from phiv_data.media.reject import RejectInput
from phiv_data.sources.image_index import (
    checked_image,
    index_images,
    load_image,
    open_source,
    read_image,
    sources_sha256,
    unpack,
)
from phiv_schemas import SourceError


def write(path: Path, content: bytes | str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def png(colour: str = "red", format: str = "PNG") -> bytes:
    Image.new("RGB", (8, 6), colour).save(out := io.BytesIO(), format)
    return out.getvalue()


def test_images_are_found_by_base_name_whatever_folder_the_list_names(tmp_path: Path) -> None:
    file = write(tmp_path / "spdocvqa_images/page.png", b"x")
    images = index_images(tmp_path)
    assert images.find("documents/page.png") == images.find("page.png") == file.absolute()
    assert "documents/page.png" in images
    assert len(images) == 1
    with pytest.raises(RejectInput, match=r"f:3: no file 'documents/other.png' in the source \[missing-image\]"):
        images.find("documents/other.png", where="f:3")


def test_of_several_files_of_one_name_the_named_folder_wins_and_a_tie_is_said(tmp_path: Path) -> None:
    for folder in ("a/train", "a/val", "b/val"):
        write(tmp_path / folder / "1.png", folder)
    images = index_images(tmp_path)
    assert images.find("train/1.png").read_text() == "a/train"
    assert images.find("b/val/1.png").read_text() == "b/val"
    for name in ("1.png", "val/1.png"):
        with pytest.raises(RejectInput, match=r"[23] files called '.*1\.png' \(in 'a/.*\[ambiguous-image\]"):
            images.find(name)


def test_nothing_outside_the_source_is_found_and_hidden_files_are_not_images(tmp_path: Path) -> None:
    write(tmp_path / "secret.png", b"x")
    write(tmp_path / "in/._a.png", b"x")
    write(tmp_path / "in/.hidden/b.png", b"x")
    images = index_images(tmp_path / "in")
    for name in ("../secret.png", str(tmp_path / "secret.png"), "._a.png", "b.png", "", "..", "/"):
        with pytest.raises(RejectInput, match="missing-image"):
            images.find(name)


def test_links_are_followed_and_loops_end(tmp_path: Path) -> None:
    write(tmp_path / "elsewhere/a.png", b"x")
    (tmp_path / "in").mkdir()
    (tmp_path / "in/linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "in/loop").symlink_to(tmp_path / "in")
    (tmp_path / "in/dangling.png").symlink_to("nowhere")
    images = index_images(tmp_path / "in")
    assert len(images) == 1
    assert images.find("a.png").read_bytes() == b"x"


def test_candidates_are_all_that_agree_most_and_lie_inside(tmp_path: Path) -> None:
    files = [write(tmp_path / name, b"x").absolute() for name in ("a/1.png", "b/c/1.png", "d/c/1.png")]
    images = index_images(tmp_path)
    assert images.candidates("x/c/1.png") == files[1:]
    assert images.candidates("1.png") == images.candidates("x/1.png") == files
    assert images.candidates("d/c/1.png") == files[2:]
    assert images.candidates("../../2.png") == []


def test_several_folders_are_indexed_under_the_one_around_them(tmp_path: Path) -> None:
    one, two = write(tmp_path / "a/1.png", b"1"), write(tmp_path / "b/2.png", b"2")
    images = index_images(tmp_path / "a", tmp_path / "b")
    assert (images.find("1.png"), images.find("2.png")) == (one.absolute(), two.absolute())


FOLDERS = st.lists(st.sampled_from(["a", "b", "img"]), max_size=3)


@settings(max_examples=60, deadline=None)
@given(st.sets(FOLDERS.map("/".join), min_size=1), st.sampled_from(["", "in"]), st.data())
def test_an_exact_path_wins_over_every_namesake(folders: set[str], start: str, data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as path:
        root = Path(path)
        for folder in folders:
            write(root / start / folder / "1.png", folder)
        images = index_images(root / start)
        named = data.draw(st.sampled_from(sorted(folders)))
        for name in (f"{named}/1.png".lstrip("/"), f"./{named}//1.png"):
            assert images.find(name).read_text() == named


def test_an_exact_path_may_start_from_any_indexed_folder(tmp_path: Path) -> None:
    for name in ("one/old/img/1.png", "two/img/1.png", "two/old/img/1.png"):
        write(tmp_path / name, name)
    images = index_images(tmp_path / "one", tmp_path / "two")
    assert images.find("img/1.png").read_text() == "two/img/1.png"
    with pytest.raises(RejectInput, match=r"2 files called 'old/img/1\.png'"):
        images.find("old/img/1.png")


def test_odd_names_of_real_files_are_found(shared: Path) -> None:
    folder = shared / "samples/memes_harmless/odd_names"
    (file,) = (path for path in folder.rglob("*.png"))
    assert index_images(folder).find(f"img/{file.name}") == file.absolute()


def test_an_image_keeps_its_bytes_and_takes_its_format_from_the_header() -> None:
    data = png(format="JPEG")
    image = checked_image("train/a.png", data, where="a.png", source="img/a.png")
    assert (image.data, image.meta.format, image.meta.width, image.meta.height) == (data, "JPEG", 8, 6)
    assert (image.meta.source, image.meta.source_sha256) == ("img/a.png", image.meta.sha256)
    assert checked_image("train/a.png", data, where="a.png").meta.source is None


@pytest.mark.parametrize(
    ("data", "code"), [(b"", "empty-file"), (b"<html>", "not-an-image"), (png(format="BMP")[:-20], "truncated")]
)
def test_an_image_that_does_not_decode_is_rejected(data: bytes, code: str) -> None:
    with pytest.raises(RejectInput, match=rf"f:1: .*\[{code}\]"):
        checked_image("a.png", data, where="f:1")


def test_an_image_is_loaded_with_the_name_and_hash_of_its_source(tmp_path: Path) -> None:
    file = write(tmp_path / "a.png", png())
    image = load_image(file, "train/a.png")
    assert image == checked_image("train/a.png", file.read_bytes(), where="train/a.png", source="train/a.png")
    assert load_image(file, "train/a.png", where="rows:7", source="img/a.png").meta.source == "img/a.png"
    for broken in (tmp_path / "none.png", write(tmp_path / "b.png", b"<html>")):
        with pytest.raises(RejectInput, match=r"^rows:7: "):
            load_image(broken, "train/a.png", where="rows:7")


def test_what_is_no_regular_file_is_unreadable(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    for name in ("pipe.png", "none.png"):
        with pytest.raises(RejectInput, match=r"f:1: .*\[unreadable\]"):
            read_image(tmp_path / name, "f:1")


# Archives --------------------------------------------------------------------------------------------------------


def tar(path: Path, **files: bytes) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def test_a_folder_is_itself_and_an_archive_is_unpacked_once(tmp_path: Path) -> None:
    archive = tar(tmp_path / "a.tar.gz", one=b"1")
    assert open_source(tmp_path, tmp_path / "work") == tmp_path
    folder = open_source(archive, tmp_path / "work", sha256=sources_sha256(archive))
    assert (folder / "one").read_bytes() == b"1"
    inode = folder.stat().st_ino
    assert open_source((archive,), tmp_path / "work") == folder
    assert unpack(archive, tmp_path / "work") == folder
    assert folder.stat().st_ino == inode


def test_an_unpacked_folder_that_lost_or_changed_a_file_is_unpacked_again(tmp_path: Path) -> None:
    archive = tar(tmp_path / "a.tar.gz", one=b"1", two=b"22")
    folder = unpack(archive, tmp_path / "work")
    lose, cut, add = (folder / "one").unlink, partial((folder / "two").write_bytes, b"2"), (folder / "three").touch
    zeros, lose_record = partial((folder / "two").write_bytes, bytes(2)), next((tmp_path / "work").glob(".*")).unlink
    for damage in (lose, cut, add, zeros, lose_record):
        damage()
        assert unpack(archive, tmp_path / "work") == folder
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == {"one": b"1", "two": b"22"}


def test_several_archives_lie_in_one_folder_whatever_their_order(tmp_path: Path) -> None:
    one, two = tar(tmp_path / "a.tar.gz", one=b"1"), tmp_path / "b.zip"
    with zipfile.ZipFile(two, "w") as archive:
        archive.writestr("two", b"2")
    folder = open_source((one, two), tmp_path / "work")
    assert {path.name for path in folder.rglob("[!.]*") if path.is_file()} == {"one", "two"}
    assert open_source([two, one], tmp_path / "work") == folder
    assert sources_sha256((one, two)) == sources_sha256((two, one)) != sources_sha256(one)
    assert sources_sha256((one, tmp_path)) is None


def test_what_is_not_there_or_no_archive_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"--source: no such file or folder '.*gone'"):
        open_source(tmp_path / "gone", tmp_path / "work")
    page = write(tmp_path / "data.tar.gz", b"<!DOCTYPE html><title>Log in</title>")
    with pytest.raises(SourceError, match="a login, licence or error page was saved under its name"):
        open_source(page, tmp_path / "work")
    with pytest.raises(SourceError, match="is a folder among archives"):
        open_source((tmp_path, page), tmp_path / "work")
