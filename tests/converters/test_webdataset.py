"""phiv's own tars: the contract of converters, members that are lost, and damage (round trips: phiv_data/export)."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from phiv_converters.own_jsonl.options import JsonlOptions
from phiv_converters.webdataset.options import WebDatasetOptions
from phiv_data.convert.engine import convert
from phiv_data.export.engine import export
from phiv_data.export.webdataset import WebDataset
from phiv_data.storage.dataset import ConversationDataset
from phiv_data.testing import Case, Check, conformance_checks
from phiv_schemas import SourceError

Members = list[tuple[str, bytes]]


@pytest.fixture(scope="module")
def tars(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An export of a few rows; one has no answer."""
    folder = tmp_path_factory.mktemp("tars")
    for split, count in (("train", 3), ("val", 2)):
        lines = []
        for i in range(count):
            name = f"{split}/{i}.png"
            (folder / "rows/images" / split).mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (12, 8), (i * 40, len(split), 9)).save(folder / "rows/images" / name)
            turn = {"images": [name], "user": f"What is {i}?", "assistant": None if i == 2 else "An image."}
            lines.append(json.dumps({"id": f"{split}-{i}", "source": "mine", "conversations": [turn]}))
        (folder / f"rows/{split}.jsonl").write_text("\n".join(lines) + "\n")
    convert(JsonlOptions(folder / "rows"), folder / "data", num_workers=0, include_unlabeled=True)
    export(WebDataset(), folder / "data", folder / "out")
    return folder / "out"


@pytest.mark.parametrize("check", conformance_checks(), ids=lambda check: check.__name__)
def test_the_converter_keeps_the_contract(check: Check, tars: Path, tmp_path: Path) -> None:
    check(Case(WebDatasetOptions, tars, unlabeled=1, damaged=""), tmp_path)


def changed(tar: Path, folder: Path, change: Callable[[Members], Members]) -> Path:
    """A copy of a tar in `folder`, with other members."""
    with tarfile.open(tar) as file:
        members = [(member.name, file.extractfile(member).read()) for member in file]  # type: ignore[union-attr]
    with tarfile.open(folder / tar.name, "w") as file:
        for name, data in change(members):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))
    return folder / tar.name


def as_row(data: bytes, **other: object) -> bytes:
    return json.dumps(json.loads(data) | other).encode()


@pytest.mark.parametrize(
    ("change", "code", "reason"),
    [
        (lambda m: [m[0], *m[2:]], "missing-image", "no member '0.png' in the tar"),
        (lambda m: m[1:], "bad-row", "no member .json beside '0.png'"),
        (lambda m: [m[0], *m], "bad-row", "one of its members twice"),
        (lambda m: [*m[:2], ("train-0000000000.1.png", b""), *m[2:]], "bad-row", "'1.png' is no part of a row"),
        (lambda m: [(m[0][0], b"{"), *m[1:]], "bad-row", "JSON"),
        (lambda m: [(m[0][0], b"[]"), *m[1:]], "bad-row", "not an object"),
        (lambda m: [(m[0][0], as_row(m[0][1], files=[7])), *m[1:]], "missing-image", "no member 7"),
        (lambda m: [(m[0][0], as_row(m[0][1], files=[["0.png"]])), *m[1:]], "missing-image", "no member ['0.png']"),
        (lambda m: [(m[0][0], as_row(m[0][1], media=None)), *m[1:]], "bad-row", "do not agree"),
        (lambda m: [(m[0][0], as_row(m[0][1], extra=1)), *m[1:]], "bad-row", "'extra'"),
        (lambda m: [(m[0][0], as_row(m[0][1], id="../a\n")), *m[1:]], "bad-row", "$.id"),
        (lambda m: [m[0], (m[1][0], b"GIF"), *m[2:]], "not-an-image", ""),
    ],
)
def test_a_row_that_is_not_as_it_was_written_is_a_reject(
    change: Callable[[Members], Members], code: str, reason: str, tars: Path, tmp_path: Path
) -> None:
    tar = changed(tars / "train-00000-of-00001.tar", tmp_path, change)
    convert(WebDatasetOptions(tar), tmp_path / "back", num_workers=0, include_unlabeled=True)
    rejects = [json.loads(line) for line in (tmp_path / "back/rejects.jsonl").read_text().splitlines()]
    assert [(reject["input"], reject["code"]) for reject in rejects] == [(f"{tar.name}:train-0000000000", code)]
    assert reason in rejects[0]["reason"]
    assert len(ConversationDataset(tmp_path / "back", "train")) == 2


@pytest.mark.parametrize(
    ("damage", "what"),
    [
        (lambda data: data[:700], "cut or damaged"),
        (lambda data: data[:600] + b"\xff" * 512 + data[1112:], "cut or damaged"),
        (lambda data: b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "git lfs pull"),
        (lambda data: data[:3072], "cut or damaged"),  # after a whole member
        (gzip.compress, "it is compressed"),
        (lambda data: b"", "the file is empty"),
    ],
)
def test_a_damaged_tar_is_an_error(damage: Callable[[bytes], bytes], what: str, tars: Path, tmp_path: Path) -> None:
    tar = tmp_path / "train-00000-of-00001.tar"
    tar.write_bytes(damage((tars / tar.name).read_bytes()))
    with pytest.raises(SourceError, match=what):
        convert(WebDatasetOptions(tar), tmp_path / "back", num_workers=0)


def test_tars_of_others_are_named(tars: Path, tmp_path: Path) -> None:
    tar = changed(tars / "train-00000-of-00001.tar", tmp_path, lambda m: [("a.jpg", b"x"), ("a.txt", b"a cat")])
    with pytest.raises(SourceError, match=r"holds no member KEY\.json"):
        convert(WebDatasetOptions(tar), tmp_path / "back", num_workers=0)
    tar.rename(tmp_path / "a.tar")
    with pytest.raises(SourceError, match="no tars called SPLIT-00000-of-00001"):
        convert(WebDatasetOptions(tmp_path / "a.tar"), tmp_path / "back", num_workers=0)
