"""Names and links in a source of unknown origin: rows lead nowhere outside it, links of its owner are followed."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from phiv_converters.cauldron.options import CauldronOptions
from phiv_converters.docvqa.options import DocvqaOptions
from phiv_converters.hateful_memes.options import HatefulMemesOptions
from phiv_converters.nlvr2.options import Nlvr2Options
from phiv_converters.own_jsonl.options import JsonlOptions
from phiv_data.convert.base import ConverterOptions
from phiv_data.convert.engine import convert
from phiv_schemas import Manifest, SourceError


def image(shade: int) -> bytes:
    Image.new("RGB", (32, 24), (shade, 80, 120)).save(out := io.BytesIO(), "PNG")
    return out.getvalue()


def write(path: Path, data: bytes | list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = b"" if isinstance(data, bytes) else "".join(json.dumps(row) + "\n" for row in data).encode()
    path.write_bytes(data if isinstance(data, bytes) else lines)
    return path


def run(options: ConverterOptions, out: Path) -> Manifest:
    return convert(options, out, num_workers=0, arrow=False).manifest


def memes(source: Path, name: str) -> ConverterOptions:
    write(source / "img/00002.png", image(2))
    write(
        source / "train.jsonl",
        [{"id": i, "img": n, "label": 0, "text": "t"} for i, n in ((1, name), (2, "img/00002.png"))],
    )
    return HatefulMemesOptions(source, val_fraction=0)


def docvqa(source: Path, name: str) -> ConverterOptions:
    write(source / "pages/b_1.png", image(2))
    rows = [
        {"questionId": i, "question": "q", "image": n, "docId": i, "answers": ["a"], "data_split": "val"}
        for i, n in ((1, name), (2, "documents/b_1.png"))
    ]
    body = {"dataset_name": "docvqa", "dataset_version": "1.0", "dataset_split": "val", "data": rows}
    write(source / "val_v1.0.json", json.dumps(body).encode())
    return DocvqaOptions(source)


def own_jsonl(source: Path, name: str) -> ConverterOptions:
    write(source / "images/b.png", image(2))
    rows = [{"conversations": [{"images": [n], "user": "q", "assistant": "a"}]} for n in (name, "b.png")]
    write(source / "train.jsonl", rows)
    return JsonlOptions(source)


@pytest.mark.parametrize("place", ["../secret.png", "../../in/../secret.png", "ABSOLUTE", "img/../../secret.png"])
@pytest.mark.parametrize("make", [memes, docvqa, own_jsonl], ids=lambda make: make.__name__)
def test_a_file_name_with_dots_or_a_root_never_leaves_the_source(
    tmp_path: Path, make: Callable[[Path, str], ConverterOptions], place: str
) -> None:
    secret = write(tmp_path / "secret.png", image(1))
    options = make(tmp_path / "in", str(secret) if place == "ABSOLUTE" else place)
    manifest = run(options, tmp_path / "out")
    assert manifest.accounting.written == 1
    assert sum(manifest.accounting.rejected.values()) == 1
    assert secret.read_bytes() not in [path.read_bytes() for path in (tmp_path / "out/images").rglob("*.png")]


def test_an_identifier_with_dots_never_leaves_the_source(tmp_path: Path) -> None:
    row = {"sentence": "s", "label": "True", "synset": "x", "query": "x"}
    for name in ("dev-1-0", "secret-1-0"):
        for side in (0, 1):
            folder = tmp_path if name.startswith("secret") else tmp_path / "in/images"
            write(folder / f"{name}-img{side}.png", image(side))
    rows = [row | {"identifier": name} for name in ("dev-1-0-0", "../secret-1-0-0", "secret-1-0-0")]
    write(tmp_path / "in/data/dev.json", rows)
    manifest = run(Nlvr2Options(tmp_path / "in"), tmp_path / "out")
    assert manifest.accounting.written == 1
    assert manifest.accounting.rejected == {"bad-row": 1, "missing-image": 1}


@pytest.mark.parametrize("name", ["../../evil.png", "/etc/evil.png", "..\\..\\evil.png", "a/../../../evil.png"])
def test_names_of_images_in_tables_are_base_names(tmp_path: Path, name: str) -> None:
    texts = [{"user": "Is it?", "assistant": "Yes.", "source": "x"}]
    row = {"images": [{"bytes": image(1), "path": name}], "texts": texts}
    source = tmp_path / "in/train.parquet"
    source.parent.mkdir()
    pq.write_table(pa.Table.from_pylist([row]), source)
    for options in (CauldronOptions(source), HatefulMemesOptions(source), DocvqaOptions(source)):
        out = tmp_path / type(options).__name__
        assert run(options, out).accounting.written == 1
        (path,) = (path.relative_to(out / "images") for path in (out / "images").rglob("*.png"))
        assert path.parts[0] == "train"
        assert path.name.endswith("evil.png")


def test_links_in_a_source_are_followed_out_of_it(tmp_path: Path) -> None:
    """Datasets are often farms of links into a store."""
    store = write(tmp_path / "store/00001.png", image(1))
    options = memes(tmp_path / "in", "img/00001.png")
    (tmp_path / "in/img/00001.png").symlink_to(store)
    (tmp_path / "in/around").symlink_to(tmp_path / "in")
    assert run(options, tmp_path / "out").accounting.written == 2
    linked = tmp_path / "linked"
    linked.mkdir()
    (linked / "img").symlink_to(tmp_path / "in/img")
    (linked / "train.jsonl").symlink_to(tmp_path / "in/train.jsonl")
    assert run(HatefulMemesOptions(linked, val_fraction=0), tmp_path / "out2").accounting.written == 2


def test_tables_in_a_linked_folder_are_read_and_a_link_to_no_table_is_an_error(tmp_path: Path) -> None:
    row = {"images": [{"bytes": image(1), "path": None}], "texts": [{"user": "q", "assistant": "a", "source": "x"}]}
    (tmp_path / "store").mkdir()
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "store/train-00000-of-00002.parquet")
    (tmp_path / "in").mkdir()
    (tmp_path / "in/data").symlink_to(tmp_path / "store")
    assert run(CauldronOptions(tmp_path / "in"), tmp_path / "out").accounting.written == 1
    (tmp_path / "store/train-00001-of-00002.parquet").symlink_to("nowhere")
    with pytest.raises(SourceError, match=r"train-00001-of-00002\.parquet: no such file"):
        run(CauldronOptions(tmp_path / "in"), tmp_path / "out2")


@pytest.mark.parametrize("options", [CauldronOptions, DocvqaOptions, HatefulMemesOptions, Nlvr2Options])
def test_files_that_names_of_tables_announce_are_missed(tmp_path: Path, options: type[ConverterOptions]) -> None:
    images = [{"bytes": image(i), "path": None} for i in range(2 if options is Nlvr2Options else 1)]
    texts = [{"user": '"Is it?"', "assistant": "Yes.", "source": "x"}]
    (tmp_path / "in").mkdir()
    rows = pa.Table.from_pylist([{"images": images, "texts": texts}])
    pq.write_table(rows, tmp_path / "in/train-00001-of-00003.parquet")
    outcome = convert(options(tmp_path / "in"), tmp_path / "out", num_workers=0)  # type: ignore[call-arg]
    assert "2 files of the dataset are not here (first: train-00000-of-00003.parquet)" in outcome.warnings
    assert outcome.manifest.accounting.written == 1


NOT_UTF8 = os.fsdecode(b"\xff")


def odd_memes(source: Path) -> ConverterOptions:
    memes(source, f"img/{NOT_UTF8}.png")
    write(source / f"img/{NOT_UTF8}.png", image(1))
    write(source / NOT_UTF8 / "other.png", image(1))
    return HatefulMemesOptions(source, val_fraction=0)


def odd_docvqa(source: Path) -> ConverterOptions:
    docvqa(source, "documents/b_1.png")
    (source / "val_v1.0.json").rename(source / f"val_v1.0{NOT_UTF8}.json")
    return DocvqaOptions(source)


def odd_jsonl(source: Path) -> ConverterOptions:
    own_jsonl(source, "b.png")
    (source / "train.jsonl").rename(source / f"{NOT_UTF8}_train.jsonl")
    return JsonlOptions(source)


def odd_table(source: Path) -> ConverterOptions:
    row = {"images": [{"bytes": image(1), "path": None}], "texts": [{"user": "q", "assistant": "a", "source": "x"}]}
    pq.write_table(pa.Table.from_pylist([row]), write(source.parent / "train.parquet", b""))
    (source / NOT_UTF8).mkdir(parents=True)
    (source.parent / "train.parquet").rename(source / NOT_UTF8 / "train.parquet")
    return CauldronOptions(source)


@pytest.mark.parametrize("make", [odd_docvqa, odd_jsonl, odd_table], ids=lambda make: make.__name__)
def test_a_file_of_rows_whose_name_is_not_utf8_is_one_line(
    tmp_path: Path, make: Callable[[Path], ConverterOptions]
) -> None:
    with pytest.raises(SourceError, match=r"is not UTF-8.* Rename") as caught:
        run(make(tmp_path / "in"), tmp_path / "out")
    assert caught.value.exit_code == 2


def test_an_image_whose_name_is_not_utf8_rejects_its_row_alone(tmp_path: Path) -> None:
    accounting = run(odd_memes(tmp_path / "in"), tmp_path / "out").accounting
    assert (accounting.written, accounting.rejected) == (1, {"bad-name": 1})


@pytest.mark.parametrize("made", ["recipe", "phiv"])
@pytest.mark.parametrize("options", [CauldronOptions, DocvqaOptions, HatefulMemesOptions, Nlvr2Options])
def test_what_is_converted_already_is_recognised(tmp_path: Path, made: str, options: type[ConverterOptions]) -> None:
    if made == "phiv":
        run(own_jsonl(tmp_path / "in", "b.png"), tmp_path / "old")
    else:
        write(tmp_path / "old/ucf101_train.jsonl", [])
        write(tmp_path / "old/images/train/A/a.0.jpg", image(1))
    with pytest.raises(
        SourceError, match=r"It is a converted dataset: phiv-convert jsonl --source \S+old --out_dir NEW"
    ):
        run(options(tmp_path / "old"), tmp_path / "out")  # type: ignore[call-arg]  # all of them have a source
