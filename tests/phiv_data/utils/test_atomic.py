"""A file under its final name is whole; the system's errors are one plain line."""

from __future__ import annotations

import errno
import hashlib
from pathlib import Path

import pytest

from phiv_data.utils.atomic import atomic_write, environment_problems, sha256_file
from phiv_schemas import EnvironmentProblem


def test_size_and_hash_are_those_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "file.bin"
    with atomic_write(path) as out:
        out.write(b"hello ")
        out.write(memoryview(b"world"))
    assert path.read_bytes() == b"hello world"
    assert out.size_bytes == 11
    assert out.sha256 == sha256_file(path) == hashlib.sha256(b"hello world").hexdigest()


@pytest.mark.parametrize("error", [ValueError("x"), KeyboardInterrupt(), OSError(errno.ENOSPC, "full")])
def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path, error: BaseException) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def fail() -> None:
        with atomic_write(path) as out:
            out.write(b"new")
            raise error

    with pytest.raises((type(error), EnvironmentProblem)):
        fail()
    assert path.read_bytes() == b"old"
    assert [file.name for file in tmp_path.iterdir()] == ["file"]


def test_nothing_stands_under_the_final_name_before_the_end(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with atomic_write(path) as out:
        out.write(b"half")
        assert not path.exists()
    assert path.exists()


def test_the_longest_file_name_can_be_written(tmp_path: Path) -> None:
    path = tmp_path / ("x" * 255)
    with atomic_write(path) as out:
        out.write(b"1")
    assert path.read_bytes() == b"1"


@pytest.mark.parametrize(
    ("number", "words"),
    [(errno.ENOSPC, "disk full"), (errno.EACCES, "no permission"), (errno.EROFS, "read-only"), (errno.EDQUOT, "quota")],
)
def test_errors_of_the_system_are_one_line_with_exit_code_3(number: int, words: str) -> None:
    with pytest.raises(EnvironmentProblem) as caught, environment_problems("out/x"):
        raise OSError(number, "whatever")
    assert words in str(caught.value)
    assert str(caught.value).startswith("out/x: ")
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 3


def test_other_errors_pass_unchanged() -> None:
    with pytest.raises(FileNotFoundError), environment_problems("x"):
        raise FileNotFoundError(errno.ENOENT, "gone")


def test_a_really_full_disk_says_so() -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("needs /dev/full")
    with pytest.raises(EnvironmentProblem, match="disk full"), environment_problems(full):
        full.write_bytes(b"x")
