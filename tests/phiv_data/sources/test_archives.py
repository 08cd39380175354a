"""Archives: whole and inside their folder, or nothing at all and one line."""

from __future__ import annotations

import io
import random
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phiv_data.sources import archives
from phiv_data.sources.archives import Limits, extract
from phiv_schemas.errors import EXIT_USAGE, EnvironmentProblem, PhivError, SourceError, UsageError

FILES = {"UCF/train/A/a.avi": b"clip" * 5000, "UCF/train/B/b.avi": random.Random(0).randbytes(50_000), "UCF/empty": b""}
TAR_MODES = ["w", "w:gz", "w:bz2", "w:xz"]


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "", size: int = 0) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, link, size
    return info


def make_tar(path: Path, files: dict[str, bytes], *extra: tarfile.TarInfo, mode: str = "w") -> Path:
    with tarfile.open(path, mode) as tar:  # type: ignore[call-overload]  # the mode is a parameter
        for name, data in files.items():
            tar.addfile(member(name, size=len(data)), io.BytesIO(data))
        for info in extra:
            tar.addfile(info, io.BytesIO(bytes(info.size)))
    return path


def make_zip(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def refused(archive: Path, **options: Limits) -> PhivError:
    """The error of an archive of which nothing may appear, inside or outside the target."""
    before = sorted(archive.parent.rglob("*"))
    with pytest.raises(PhivError) as caught:
        extract(archive, archive.parent / "out", **options)
    assert sorted(archive.parent.rglob("*")) == before
    assert "\n" not in str(caught.value)
    return caught.value


# --- what unpacks ---


@pytest.mark.parametrize("mode", TAR_MODES)
def test_a_tar_of_any_compression_unpacks_whatever_its_name_says(tmp_path: Path, mode: str) -> None:
    archive = make_tar(tmp_path / "UCF101_subset.tar.gz", FILES, mode=mode)
    assert contents(extract(archive, tmp_path / "deep" / "out")) == FILES


def test_a_zip_unpacks(tmp_path: Path) -> None:
    archive = make_zip(tmp_path / "a.zip", FILES)
    assert contents(extract(archive, tmp_path / "out")) == FILES


def test_links_inside_the_target_are_kept(tmp_path: Path) -> None:
    links = member("hard", tarfile.LNKTYPE, "UCF/train/A/a.avi"), member("UCF/soft", tarfile.SYMTYPE, "train/A")
    out = extract(make_tar(tmp_path / "a.tar", FILES, *links), tmp_path / "out")
    assert (out / "hard").read_bytes() == (out / "UCF/soft/a.avi").read_bytes() == FILES["UCF/train/A/a.avi"]


@pytest.mark.parametrize("data", [b"", b"no archive", b"\x00\x00\x01\xba"])
def test_other_files_are_no_archives(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a.avi").write_bytes(data)


# --- what must not ---


@pytest.mark.parametrize("name", ["../e", "/e", "a/../../e", "a/..", "..", "C:/e"])
@pytest.mark.parametrize("make", [make_tar, make_zip])
def test_members_that_leave_the_target_are_refused(
    tmp_path: Path, make: Callable[[Path, dict[str, bytes]], Path], name: str
) -> None:
    assert "leaves the target" in str(refused(make(tmp_path / "a", FILES | {name: b"x"})))


@pytest.mark.parametrize(
    "bad",
    [
        [member("s", tarfile.SYMTYPE, "../../etc/passwd")],
        [member("s", tarfile.SYMTYPE, "/etc/passwd")],
        [member("s", tarfile.SYMTYPE, "nowhere")],
        [member("s", tarfile.SYMTYPE, "s")],
        [member("s", tarfile.SYMTYPE, ".."), member("s/evil", size=3)],
        [member("d/s", tarfile.SYMTYPE, ".."), member("t", tarfile.SYMTYPE, "d/s/../..")],
        [member("h", tarfile.LNKTYPE, "../../etc/passwd")],
        [member("h", tarfile.LNKTYPE, "later"), member("later", size=3)],
        [member("s", tarfile.SYMTYPE, "/etc/passwd"), member("h", tarfile.LNKTYPE, "s")],
        [member("dev", tarfile.CHRTYPE)],
        [member("pipe", tarfile.FIFOTYPE)],
    ],
    ids=["up", "absolute", "dangling", "loop", "through", "chain", "hard up", "hard later", "hard soft", "dev", "fifo"],
)
def test_links_out_of_the_target_and_devices_are_refused(tmp_path: Path, bad: list[tarfile.TarInfo]) -> None:
    assert isinstance(refused(make_tar(tmp_path / "a.tar", FILES, *bad)), SourceError)


def test_a_zip_with_the_separators_of_windows_has_folders(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for name in ("UCF\\train\\", "UCF\\train\\a.avi"):
            info = zipfile.ZipInfo("x")
            info.filename = name  # as it is: the constructor knows separators
            archive.writestr(info, b"clip" if name.endswith("avi") else b"")
    assert contents(extract(tmp_path / "a.zip", tmp_path / "out")) == {"UCF/train/a.avi": b"clip"}


def test_a_zip_does_not_leave_the_target_by_backslashes(tmp_path: Path) -> None:
    for name in ("a\\..\\..\\e", "\\e", "C:\\e"):
        assert "leaves the target" in str(refused(make_zip(tmp_path / "a.zip", FILES | {name: b"x"})))


def test_a_tar_with_a_backslash_in_a_name_is_refused(tmp_path: Path) -> None:
    assert "has a backslash in its name" in str(refused(make_tar(tmp_path / "a.tar", FILES | {"a\\b": b"x"})))


def header(kind: bytes, size: int, name: str = "x") -> bytes:
    return member(name, kind, size=size).tobuf(tarfile.GNU_FORMAT)


HUGE = 1 << 33


@pytest.mark.parametrize("first", [False, True], ids=["later", "first"])
@pytest.mark.parametrize(
    ("kind", "size", "said"),
    [
        (tarfile.GNUTYPE_LONGNAME, HUGE, f"a header of {HUGE} bytes is over the limit"),
        (tarfile.GNUTYPE_LONGLINK, HUGE, "over the limit"),
        (tarfile.XHDTYPE, HUGE, "over the limit"),
        (tarfile.XGLTYPE, HUGE, "over the limit"),
        (tarfile.SOLARIS_XHDTYPE, HUGE, "over the limit"),
        (tarfile.REGTYPE, -512, "a member has the size -512"),
        (tarfile.GNUTYPE_SPARSE, 512, "a member is a sparse file"),
    ],
)
def test_headers_that_ask_for_too_much_are_refused_before_they_are_read(
    tmp_path: Path, kind: bytes, size: int, said: str, first: bool
) -> None:
    start = b"" if first else header(tarfile.REGTYPE, 0, "a.avi")
    (tmp_path / "a.tar").write_bytes(start + header(kind, size) + bytes(2048))
    assert said in str(refused(tmp_path / "a.tar"))


def test_headers_in_a_chain_without_end_are_refused(tmp_path: Path) -> None:
    for kind in (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME):
        chain = (header(kind, 20) + b"19 a=bcdefghijklmno\n".ljust(512, b"\0")) * 3000
        (tmp_path / "a.tar").write_bytes(chain + header(tarfile.REGTYPE, 0) + bytes(1024))
        assert isinstance(refused(tmp_path / "a.tar"), SourceError)


def test_a_sparse_file_of_the_newer_kind_is_refused(tmp_path: Path) -> None:
    info = member("sparse", size=512)
    info.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "9"}
    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        tar.addfile(info, io.BytesIO(bytes(512)))
    assert "a member is a sparse file" in str(refused(tmp_path / "a.tar"))


@pytest.mark.parametrize("make", [make_tar, make_zip])
@pytest.mark.parametrize(
    ("name", "said"),
    [
        (f"a/{'x' * 256}", "has a name of 256 bytes, over the 255 allowed"),
        ("\u00e9" * 128, "has a name of 256 bytes"),
        ("a/" * 64 + "b", "lies in 65 folders, over the 64 allowed"),
    ],
)
def test_names_that_no_file_system_takes_are_refused(
    tmp_path: Path, make: Callable[..., Path], name: str, said: str
) -> None:
    error = refused(make(tmp_path / "a", FILES | {name: b"x"}))
    assert said in str(error)
    assert len(str(error)) < 300 + len(str(tmp_path))


def test_names_are_limited_in_sum(tmp_path: Path) -> None:
    names = {f"{i:0200d}/x": b"" for i in range(10)}
    assert "4020 in names" in str(refused(make_tar(tmp_path / "a.tar", names), limits=Limits(max_name_bytes=3900)))


def test_names_that_are_not_utf8_are_unpacked_as_they_are(tmp_path: Path) -> None:
    name = b"UCF/train/\xff.avi".decode("utf-8", "surrogateescape")
    out = extract(make_tar(tmp_path / "a.tar", {name: b"clip"}), tmp_path / "out")
    assert contents(out) == {name: b"clip"}


def test_links_in_zips_are_refused(tmp_path: Path) -> None:
    info = zipfile.ZipInfo("link")
    info.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(info, "/etc/passwd")
    assert "link" in str(refused(tmp_path / "a.zip"))


CLASHES = [("A/x", "a/y"), ("x.AVI", "x.avi"), ("e\u0301", "\u00e9"), ("x", "x/y"), ("x/y", "x")]


@pytest.mark.parametrize("names", CLASHES)
@pytest.mark.parametrize("make", [make_tar, make_zip])
def test_names_that_clash_are_refused(tmp_path: Path, make: Callable[..., Path], names: tuple[str, str]) -> None:
    assert isinstance(refused(make(tmp_path / "a", dict.fromkeys(names, b"1"))), SourceError)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_name_that_appears_twice_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("x", "1")
        archive.writestr("x", "2")
    for path in (tmp_path / "a.zip", make_tar(tmp_path / "a.tar", {"x": b"1"}, member("x", size=1))):
        assert "twice" in str(refused(path))


def test_bombs_are_refused(tmp_path: Path) -> None:
    zeros = {"zeros": bytes(101_000_000)}
    for archive in (make_tar(tmp_path / "a.tar.gz", zeros, mode="w:gz"), make_zip(tmp_path / "a.zip", zeros)):
        assert "believable" in str(refused(archive))


@pytest.mark.parametrize("limits", [Limits(max_bytes=60_000), Limits(max_members=2)])
def test_limits_are_the_callers(tmp_path: Path, limits: Limits) -> None:
    archive = make_tar(tmp_path / "a.tar", FILES)
    assert "believable" in str(refused(archive, limits=limits))
    assert contents(extract(archive, tmp_path / "out", limits=Limits(max_bytes=70_000, max_members=3))) == FILES


@pytest.mark.parametrize("mode", [*TAR_MODES, "zip"])
@settings(deadline=None, max_examples=25)
@given(keep=st.floats(0, 1, exclude_max=True))
def test_a_cut_archive_leaves_nothing(tmp_path_factory: pytest.TempPathFactory, mode: str, keep: float) -> None:
    folder = tmp_path_factory.mktemp("cut")
    archive = make_zip(folder / "a", FILES) if mode == "zip" else make_tar(folder / "a", FILES, mode=mode)
    whole = archive.read_bytes()
    end = len(whole.rstrip(b"\0")) if mode == "w" else len(whole)  # a plain tar ends in zeros
    archive.write_bytes(whole[: int(keep * end)])
    assert isinstance(refused(archive), SourceError)


def test_names_and_numbers_that_the_readers_trust_are_one_error_too(tmp_path: Path) -> None:
    make_zip(tmp_path / "no-name.zip", FILES)
    data = bytearray((tmp_path / "no-name.zip").read_bytes())
    data[data.rindex(b"PK\x01\x02") + 28] = 0  # the length of the last name
    (tmp_path / "no-name.zip").write_bytes(data)
    sparse = member("a", size=512)
    sparse.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "9"}
    with tarfile.open(tmp_path / "sparse.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        tar.addfile(sparse, io.BytesIO(b"no map" * 100))
    assert "cut or damaged" in str(refused(tmp_path / "no-name.zip"))
    assert "sparse" in str(refused(tmp_path / "sparse.tar"))


def test_a_plain_tar_cut_between_two_members_is_noticed(tmp_path: Path) -> None:
    archive = make_tar(tmp_path / "a.tar", {"a": bytes(512), "b": bytes(512)})
    archive.write_bytes(archive.read_bytes()[:1024])
    assert "cut or damaged" in str(refused(archive))


@pytest.mark.parametrize("mode", TAR_MODES)
def test_a_damaged_header_in_the_middle_does_not_end_the_archive_quietly(tmp_path: Path, mode: str) -> None:
    data = make_tar(tmp_path / "b.tar", {"a": bytes(512), "b": bytes(512), "c": b""}).read_bytes()
    damaged = data[:1024] + b"?" * 512 + data[1536:]
    if mode != "w":
        opener = {"w:gz": "gzip", "w:bz2": "bz2", "w:xz": "lzma"}[mode]
        damaged = __import__(opener).compress(damaged)
    (tmp_path / "a").write_bytes(damaged)
    assert "cut or damaged" in str(refused(tmp_path / "a"))


@pytest.mark.parametrize("mode", [*TAR_MODES[1:], "zip"])
def test_a_flipped_byte_of_content_is_noticed(tmp_path: Path, mode: str) -> None:
    noise = {"n": random.Random(1).randbytes(20_000)}
    archive = make_zip(tmp_path / "a", noise) if mode == "zip" else make_tar(tmp_path / "a", noise, mode=mode)
    data = bytearray(archive.read_bytes())
    data[len(data) // 2] ^= 1
    archive.write_bytes(data)
    assert "damaged" in str(refused(archive))


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"<!DOCTYPE html><html><title>Log in</title>", "web page"),
        (b"\n <html>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1", "git lfs pull"),
        (b"", "empty"),
        (b"plain text", "it is text, which begins with 'plain text'"),
        (b"index\tquestion\timage\n1\twhat\tAAAA", "it is a table of text, which begins with 'index"),
        (b'\xef\xbb\xbf{"a": 1}', "it is JSON"),
        (b"PAR1\x15\x04", "it is a Parquet table). Converters that read tables"),
        (b"ARROW1\0\0", "it is an Arrow table"),
        (b"\x89PNG\r\n\x1a\n", "it is an image). Pass the folder"),
        (b"RIFF\x10\0\0\0AVI LIST", "it is a clip"),
        (b"\x80\x02}q\0", "it starts with"),
    ],
)
def test_what_was_saved_instead_of_an_archive_is_named(tmp_path: Path, data: bytes, said: str) -> None:
    (tmp_path / "a.tar.gz").write_bytes(data)
    assert said in str(refused(tmp_path / "a.tar.gz"))


@pytest.mark.parametrize(
    ("magic", "kind", "tool"),
    [
        (b"Rar!\x1a\x07\x01\x00", "rar", "unar"),
        (b"7z\xbc\xaf\x27\x1c", "7z", "7z"),
        (b"\x28\xb5\x2f\xfd\x04", "zstd", "tar --zstd"),
        (b"\x04\x22\x4d\x18", "lz4", "lz4 -d"),
    ],
)
def test_formats_that_need_a_program_say_which(tmp_path: Path, magic: bytes, kind: str, tool: str) -> None:
    (tmp_path / "UCF101.rar").write_bytes(magic + bytes(100))
    error = refused(tmp_path / "UCF101.rar")
    assert (error.exit_code, kind in error.what, tool in error.hint) == (EXIT_USAGE, True, True)
    assert "Download" not in str(error)


def test_an_encrypted_zip_says_what_to_do(tmp_path: Path) -> None:
    data = bytearray(make_zip(tmp_path / "a.zip", {"x": b"1"}).read_bytes())
    data[6] |= 1  # the flag in the local header, and in the central directory
    data[data.index(b"PK\x01\x02") + 8] |= 1
    (tmp_path / "a.zip").write_bytes(data)
    assert "unzip -P" in refused(tmp_path / "a.zip").hint


def test_an_archive_without_files_is_refused(tmp_path: Path) -> None:
    assert "no files" in str(refused(make_tar(tmp_path / "a.tar", {}, member("folder", tarfile.DIRTYPE))))


def test_an_existing_target_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").touch()
    assert isinstance(refused(make_tar(tmp_path / "a.tar", FILES)), UsageError)


def test_a_full_disk_leaves_nothing_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = make_tar(tmp_path / "a.tar", FILES)

    def full(content: object, path: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(archives, "_write", full)
    error = refused(archive)
    assert isinstance(error, EnvironmentProblem)
    assert "disk full" in str(error)
