"""Hateful Memes on synthetic memes in every layout, and on harmless real ones. Nothing here is hateful."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from phiv_converters.hateful_memes.convert import recipe_question
from phiv_converters.hateful_memes.options import PLAIN, WORDINGS, HatefulMemesOptions
from phiv_data import validate
from phiv_data.convert.engine import convert
from phiv_schemas import Conversation, EnvironmentProblem, Manifest, SourceError, UsageError

IDS = {
    "train": (1203, 42953, 8, 77777),
    "dev_seen": (500, 501, 502),
    "dev_unseen": (501, 502, 503),  # two of them were seen
    "test_seen": (9001, 9002),
    "test_unseen": (9003,),
}


def image(number: int) -> bytes:
    pixels = np.random.default_rng(number).integers(0, 255, (12, 16, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(out := io.BytesIO(), "PNG")
    return out.getvalue()


def meme(number: int, **changes: Any) -> dict[str, Any]:
    found = {"id": number, "img": f"img/{number:05d}.png", "label": number % 2, "text": f"caption {number}"} | changes
    return {name: value for name, value in found.items() if value is not ...}


def release() -> dict[str, list[dict[str, Any]]]:
    """The official files; those of the challenge's test have no labels."""
    hidden = {"test_seen", "test_unseen"}
    return {name: [meme(i, label=... if name in hidden else i % 2) for i in ids] for name, ids in IDS.items()}


def official(root: Path, files: dict[str, list[dict[str, Any]]] | None = None) -> Path:
    files = files or release()
    (root / "img").mkdir(parents=True)
    for name, rows in files.items():
        (root / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        for row in rows:
            number = int(row["id"])
            (root / f"img/{number:05d}.png").write_bytes(image(number))
    return root


def table(path: Path, rows: Iterable[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(list(rows)), path)
    return path


def biecho(root: Path, names: Iterable[str] = ("train", "dev_seen", "dev_unseen")) -> Path:
    """`id, image, text, label`: the image in the table, under its file's name."""
    for name in names:
        rows = release()[name][::-1]
        cells = [{"bytes": image(row["id"]), "path": Path(row["img"]).name} for row in rows]
        kept = [{"id": row["id"], "text": row["text"], "label": row["label"]} for row in rows]
        found = [row | {"image": cell} for row, cell in zip(kept, cells, strict=True)]
        table(root / f"data/{name}-00000-of-00001.parquet", found)
    return root


def run(out: Path, source: Path, **options: Any) -> Manifest:
    manifest = convert(HatefulMemesOptions(source, **options), out, num_workers=0, arrow=False).manifest
    assert validate(out).ok
    return manifest


def read(out: Path, split: str) -> list[Conversation]:
    lines = (out / f"hateful_memes_{split}.jsonl").read_bytes().splitlines()
    return [Conversation.model_validate_json(line) for line in lines]


def rejects(out: Path) -> dict[str, str]:
    found = [json.loads(line) for line in (out / "rejects.jsonl").read_bytes().splitlines()]
    return {reject["input"]: f"{reject['code']}: {reject['reason']}" for reject in found}


def image_bytes(out: Path, split: str) -> set[bytes]:
    return {(out / "images" / path).read_bytes() for row in read(out, split) for path in row.image_paths}


def outputs(out: Path, *splits: str) -> list[bytes]:
    names = [f"hateful_memes_{split}.jsonl" for split in splits or ("train", "val")]
    return [(out / name).read_bytes() for name in [*names, "images.sha256"]]


# Rows ------------------------------------------------------------------------------------------------------------


def test_a_meme_becomes_one_of_the_cauldrons_questions_and_yes_or_no(tmp_path: Path) -> None:
    run(tmp_path / "out", official(tmp_path / "in"))
    rows = read(tmp_path / "out", "train")
    assert [row.image_paths for row in rows] == [(f"train/{i:05d}.png",) for i in sorted(IDS["train"])]
    assert [row.turns[0].assistant for row in rows] == ["No.", "Yes.", "Yes.", "Yes."]
    assert all(row.turns[0].user in WORDINGS for row in rows)
    assert all(wording.endswith("?\nAnswer yes or no.") for wording in WORDINGS)


def test_all_eleven_wordings_are_used_and_a_meme_keeps_its_own() -> None:
    assert len(set(WORDINGS)) == 11
    assert {recipe_question(f"{i:05d}") for i in range(500)} == set(WORDINGS)
    assert recipe_question("01203") == recipe_question("01203")


def test_the_plain_prompt_is_one_question_with_the_caption_where_asked(tmp_path: Path) -> None:
    run(tmp_path / "out", official(tmp_path / "in"), prompt="plain", with_text=True)
    first = read(tmp_path / "out", "train")[0].turns[0]
    assert (first.user, first.assistant) == (f"The text on this meme: caption 8\n{PLAIN}", "No")


@pytest.mark.parametrize(
    ("label", "answer"),
    [(0, "No."), (1, "Yes."), ("0", "No."), ("1", "Yes."), (True, "Yes."), (1.0, "Yes."), (None, None), ("", None)],
)
def test_labels_are_numbers_or_strings_or_absent(tmp_path: Path, label: Any, answer: str | None) -> None:
    source = official(tmp_path / "in", {"train": [meme(7, label=label)]})
    outcome = convert(HatefulMemesOptions(source), tmp_path / "out", num_workers=0, include_unlabeled=True)
    assert outcome.manifest.accounting.written == 1
    assert read(tmp_path / "out", "train")[0].turns[0].assistant == answer


@pytest.mark.parametrize("number", [8, "8", "00008"])
def test_ids_are_numbers_or_strings_with_or_without_zeros(tmp_path: Path, number: Any) -> None:
    run(tmp_path / "out", official(tmp_path / "in", {"train": [meme(8, id=number, img=...)]}))
    assert read(tmp_path / "out", "train")[0].image_paths == ("train/00008.png",)


def test_rows_without_label_are_counted_and_written_on_demand(tmp_path: Path) -> None:
    source = official(tmp_path / "in")
    assert run(tmp_path / "out", source).accounting.unlabeled == 3
    assert read(tmp_path / "out", "test") == []
    convert(HatefulMemesOptions(source), tmp_path / "all", num_workers=0, include_unlabeled=True)
    assert [row.turns[0].assistant for row in read(tmp_path / "all", "test")] == [None] * 3


def test_every_row_ends_somewhere_with_a_reason(tmp_path: Path) -> None:
    rows = [
        meme(1),
        meme(2, label=2),
        meme(3, label="hateful?"),
        meme(4, id=...),
        meme(5, id=[5]),
        meme(6, img="img/gone.png"),
        meme(1),
        meme(1, label=0),
        meme(9, img=3),
    ]
    source = official(tmp_path / "in", {"train": [meme(i) for i in range(1, 10)]})
    (source / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"id": 1\n"x"\n')
    (source / "img/00009.png").write_bytes(b"<html>")
    a = run(tmp_path / "out", source).accounting
    assert (a.inputs, a.written, a.duplicates) == (11, 1, 1)
    assert a.rejected == {"bad-row": 8, "missing-image": 1}
    found = rejects(tmp_path / "out")
    assert "label is neither 0 nor 1 (found 2)" in found["train.jsonl:00000002"]
    assert "(found 'hateful?')" in found["train.jsonl:00000003"]
    assert "no 'id' (found img, label, text)" in found["train.jsonl:00000004"]
    assert "'id' is not int or str (found [5])" in found["train.jsonl:00000005"]
    assert found["00006"] == "missing-image: no file 'img/gone.png' in the source"
    assert "meme 00001 is on train.jsonl:1 too, with another text or label" in found["train.jsonl:00000008"]
    assert "'img' is not str (found 3)" in found["train.jsonl:00000009"]
    assert "not valid JSON" in found["train.jsonl:00000010"]
    assert "not an object (found 'x')" in found["train.jsonl:00000011"]


# Splits ----------------------------------------------------------------------------------------------------------


def test_memes_of_both_dev_files_are_taken_once_and_counted(tmp_path: Path) -> None:
    manifest = run(tmp_path / "out", official(tmp_path / "in"))
    assert manifest.accounting.duplicates == 2
    assert [row.image_paths[0] for row in read(tmp_path / "out", "val")] == [
        f"val/{i:05d}.png" for i in range(500, 504)
    ]
    a = manifest.accounting
    assert a.inputs == sum(map(len, IDS.values())) == a.written + a.unlabeled + a.duplicates


def test_phase_one_files_are_read_and_a_labelled_copy_of_a_meme_wins(tmp_path: Path) -> None:
    files = {
        "train": [meme(1)],
        "dev": [meme(500)],
        "test": [meme(9001, label=...), meme(9002, label=...)],
        "test_seen": [meme(9001), meme(9002, label=...)],
    }
    manifest = run(tmp_path / "out", official(tmp_path / "in", files))
    assert (manifest.accounting.duplicates, manifest.accounting.unlabeled) == (2, 1)
    assert [row.turns[0].assistant for row in read(tmp_path / "out", "test")] == ["Yes."]
    assert manifest.source == "official layout: train as train, dev as val, test as test, test_seen as test"


def test_files_go_to_the_splits_that_are_asked_for(tmp_path: Path) -> None:
    options = HatefulMemesOptions(official(tmp_path / "in"), val=("dev_seen",), test=())
    outcome = convert(options, tmp_path / "out", num_workers=0)
    assert [(split.name, split.rows) for split in outcome.manifest.splits] == [("train", 4), ("val", 3)]
    assert outcome.warnings == ("files of no split were left alone: dev_unseen, test_seen, test_unseen",)


def test_a_meme_in_two_splits_is_an_error_not_a_leak(tmp_path: Path) -> None:
    options = {"train": ("train", "dev_unseen"), "val": ("dev_seen",)}
    with pytest.raises(
        SourceError, match=r"meme 00501 is in train \(dev_unseen.jsonl:1\) and in val|is in val .* train"
    ):
        run(tmp_path / "out", official(tmp_path / "in"), **options)


# Layouts ---------------------------------------------------------------------------------------------------------


def test_the_tables_of_the_hub_give_the_records_of_the_release(tmp_path: Path) -> None:
    """biecho's, and neuralcatcher's, whose `img` is a path: the images come from elsewhere."""
    files = {name: rows for name, rows in release().items() if not name.startswith("test")}
    source = official(tmp_path / "in", files)
    run(tmp_path / "out", source)
    run(tmp_path / "out1", biecho(tmp_path / "hub"))
    assert outputs(tmp_path / "out1") == outputs(tmp_path / "out")
    for name, rows in files.items():
        table(tmp_path / f"paths/{name}-00000-of-00001.parquet", ({**row, "id": str(row["id"])} for row in rows))
    manifest = run(tmp_path / "out2", tmp_path / "paths", images=(source / "img",))
    assert outputs(tmp_path / "out2") == outputs(tmp_path / "out")
    assert "tables with img, text, label" in manifest.source


def test_a_table_that_only_names_its_images_asks_for_them(tmp_path: Path) -> None:
    table(tmp_path / "hub/train.parquet", release()["train"])
    with pytest.raises(SourceError, match=r"no row has its image \(4 rows in hub layout: tables with img.*--images"):
        run(tmp_path / "out", tmp_path / "hub")


def test_rows_whose_image_a_mirror_lacks_are_counted(tmp_path: Path) -> None:
    """biecho's copy has no image for 535 ids."""
    rows = [{"id": i, "image": {"bytes": image(i), "path": None}, "text": "t", "label": 0} for i in range(4)]
    rows[1]["image"] = None
    rows[2]["image"] = {"bytes": None, "path": "00002.png"}
    table(tmp_path / "hub/train.parquet", rows)
    manifest = run(tmp_path / "out", tmp_path / "hub", val_fraction=0)
    assert manifest.accounting.rejected == {"missing-image": 2}
    assert [row.image_paths[0] for row in read(tmp_path / "out", "train")] == ["train/00000.png", "train/00003.png"]


@pytest.mark.parametrize("names", [("not-hateful", "hateful"), ("hateful", "not-hateful")])
def test_class_labels_mean_what_their_names_say(tmp_path: Path, names: tuple[str, ...]) -> None:
    from datasets import ClassLabel, Dataset, Features, Value
    from datasets import Image as ImageFeature

    features = Features({"image": ImageFeature(), "text": Value("string"), "label": ClassLabel(names=list(names))})
    rows = [{"image": {"bytes": image(i), "path": None}, "text": "t", "label": i} for i in (0, 1)]
    Dataset.from_list(rows, features=features).save_to_disk(str(tmp_path / "hub"))
    run(tmp_path / "out", tmp_path / "hub", prompt="plain", val_fraction=0)
    answers = [row.turns[0].assistant for row in read(tmp_path / "out", "train")]
    assert answers == ["Yes" if name == "hateful" else "No" for name in names]


def test_the_cauldrons_rows_keep_their_wording(tmp_path: Path) -> None:
    rows = [
        {
            "images": [{"bytes": image(i), "path": None}],
            "texts": [{"user": WORDINGS[i], "assistant": "Yes." if i % 2 else "No.", "source": "Hateful Memes"}],
        }
        for i in range(3)
    ]
    rows += [{"images": [], "texts": rows[0]["texts"]}, {"images": rows[0]["images"], "texts": []}]
    table(tmp_path / "hub/train-00000-of-00001.parquet", rows)
    manifest = run(tmp_path / "out", tmp_path / "hub", val_fraction=0)
    found = read(tmp_path / "out", "train")
    assert [row.turns[0].user for row in found] == list(WORDINGS[:3])
    assert [row.turns[0].assistant for row in found] == ["No.", "Yes.", "No."]
    assert manifest.accounting.rejected == {"bad-turns": 1, "missing-image": 1}
    with pytest.raises(UsageError, match="--with_text: The Cauldron's rows have no caption"):
        run(tmp_path / "out2", tmp_path / "hub", with_text=True)


def test_without_a_val_split_rows_of_train_with_one_image_become_it_together(tmp_path: Path) -> None:
    def row(number: int) -> dict[str, Any]:  # two rows an image
        return {"image": {"bytes": image(number // 2), "path": None}, "text": f"t{number}", "label": number % 2}

    table(tmp_path / "hub/train.parquet", map(row, range(120)))
    table(tmp_path / "half/train.parquet", map(row, range(119, 59, -1)))
    outcome = convert(HatefulMemesOptions(tmp_path / "hub", val_fraction=0.2), tmp_path / "out", num_workers=0)
    val = image_bytes(tmp_path / "out", "val")
    assert not val & image_bytes(tmp_path / "out", "train")
    rows = len(read(tmp_path / "out", "val"))
    assert outcome.warnings == (
        f"no val in the source: {rows} of 120 rows, by whole images, are val. --val_fraction 0 keeps them in train",
    )
    assert 2 * len(val) == rows
    parts = HatefulMemesOptions(tmp_path / "hub", val_fraction=0.2, test_fraction=0.2)
    convert(parts, tmp_path / "parts", num_workers=0)
    assert image_bytes(tmp_path / "parts", "val") == val
    assert image_bytes(tmp_path / "parts", "test").isdisjoint(val | image_bytes(tmp_path / "parts", "train"))
    convert(HatefulMemesOptions(tmp_path / "half", val_fraction=0.2), tmp_path / "out2", num_workers=0)
    assert image_bytes(tmp_path / "out2", "val") == val & {image(n) for n in range(30, 60)}


def test_a_source_with_val_keeps_its_train(tmp_path: Path) -> None:
    run(tmp_path / "out", official(tmp_path / "in"))
    assert len(read(tmp_path / "out", "train")) == len(release()["train"])


def test_memes_in_two_splits_are_named_at_their_place_in_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    official(tmp_path, {"train": [meme(1)], "dev": [meme(2)], "test": [meme(2)]})
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SourceError, match=r"^\.: meme 00002 is in val \(dev.jsonl:1\) and in test \(test.jsonl:1\)"):
        run(tmp_path / "out", Path())


# Archives --------------------------------------------------------------------------------------------------------


def test_a_zip_and_images_in_their_own_archive_give_what_the_folder_gives(tmp_path: Path) -> None:
    source = official(tmp_path / "in")
    run(tmp_path / "out", source)
    shutil.make_archive(str(tmp_path / "hm"), "zip", tmp_path, "in")
    run(tmp_path / "out1", tmp_path / "hm.zip")
    (tmp_path / "packed/data").mkdir(parents=True)
    for file in source.glob("*.jsonl"):
        shutil.copy(file, tmp_path / "packed/data")
    with tarfile.open(tmp_path / "packed/data/img.tar.gz", "w:gz") as tar:
        tar.add(source / "img", "img")
    run(tmp_path / "out2", tmp_path / "packed")
    assert outputs(tmp_path / "out1") == outputs(tmp_path / "out2") == outputs(tmp_path / "out")


def test_images_that_are_links_in_an_archive_are_files_of_the_output(tmp_path: Path) -> None:
    source = official(tmp_path / "in")
    run(tmp_path / "out", source)
    (source / "store").mkdir()
    for i, file in enumerate(sorted((source / "img").iterdir())):
        (source / "store" / f"{i}").write_bytes(file.read_bytes())
        file.unlink()
        file.symlink_to(f"../store/{i}")
    with tarfile.open(tmp_path / "linked.tar", "w") as tar:
        tar.add(source, "in")
    run(tmp_path / "out1", tmp_path / "linked.tar")
    assert outputs(tmp_path / "out1") == outputs(tmp_path / "out")
    assert not any(path.is_symlink() for path in (tmp_path / "out1").rglob("*") if ".phiv" not in path.parts)
    assert validate(tmp_path / "out1").ok


def encrypt(data: bytes, password: bytes, check: int) -> bytes:
    """ZipCrypto (APPNOTE 6.1): Python reads it and does not write it."""
    table_of = [_crc_table(i) for i in range(256)]
    keys = [0x12345678, 0x23456789, 0x34567890]

    def update(byte: int) -> None:
        keys[0] = (keys[0] >> 8) ^ table_of[(keys[0] ^ byte) & 0xFF]
        keys[1] = ((keys[1] + (keys[0] & 0xFF)) * 134775813 + 1) & 0xFFFFFFFF
        keys[2] = (keys[2] >> 8) ^ table_of[(keys[2] ^ (keys[1] >> 24)) & 0xFF]

    for byte in password:
        update(byte)
    out = bytearray()
    for byte in b"elevenbytes" + bytes([check]) + data:
        key = keys[2] | 2
        out.append(byte ^ ((key * (key ^ 1)) >> 8) & 0xFF)
        update(byte)
    return bytes(out)


def _crc_table(value: int) -> int:
    for _ in range(8):
        value = (value >> 1) ^ (0xEDB88320 if value & 1 else 0)
    return value


def encrypted_zip(path: Path, folder: Path, password: bytes) -> Path:
    """`folder` in a zip whose members are stored and encrypted: the plain zip's bytes, exchanged."""
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(p for p in folder.rglob("*") if p.is_file()):
            data = file.read_bytes()
            crc = zlib.crc32(data)
            info = zipfile.ZipInfo(file.relative_to(folder).as_posix())
            archive.writestr(info, encrypt(data, password, crc >> 24))
            info.flag_bits |= 1
            info.CRC, info.file_size = crc, len(data)
    raw = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            raw[info.header_offset + 6] |= 1  # the local header's flag; the directory has the rest
    path.write_bytes(raw)
    return path


def test_an_encrypted_zip_opens_with_its_password_and_no_other(tmp_path: Path) -> None:
    source = official(tmp_path / "in")
    run(tmp_path / "out", source)
    archive = encrypted_zip(tmp_path / "hm.zip", source, "pässword".encode())
    manifest = run(tmp_path / "out1", archive, password="pässword")
    assert outputs(tmp_path / "out1") == outputs(tmp_path / "out")
    assert "pässword" not in (tmp_path / "out1/manifest.json").read_text()
    assert "pässword" not in repr(manifest.options)
    with pytest.raises(SourceError, match=r"hm\.zip: the zip is encrypted"):
        run(tmp_path / "out2", archive)
    for wrong in ("password", "", "x", "123"):
        with pytest.raises(SourceError, match="does not open with this password"):
            run(tmp_path / "out3", archive, password=wrong)
        assert not (tmp_path / "out3").exists()


def test_a_zip_with_aes_names_a_program_that_opens_it(tmp_path: Path) -> None:
    archive = encrypted_zip(tmp_path / "hm.zip", official(tmp_path / "in", {"train": [meme(1)]}), b"x")
    raw = bytearray(archive.read_bytes())
    with zipfile.ZipFile(archive) as opened:
        offsets = [info.header_offset for info in opened.infolist()]
    for start in offsets:
        raw[start + 8 : start + 10] = (99).to_bytes(2, "little")
    at = 0
    while (at := raw.find(b"PK\x01\x02", at)) >= 0:
        raw[at + 10 : at + 12] = (99).to_bytes(2, "little")
        at += 4
    archive.write_bytes(raw)
    with pytest.raises(SourceError, match=r"encrypted with AES, which phiv does not read\. .*7z x"):
        run(tmp_path / "out", archive, password="x")


def test_a_login_page_saved_as_the_zip_is_reported(tmp_path: Path) -> None:
    (tmp_path / "hm.zip").write_text("<!DOCTYPE html><title>Log in</title>")
    with pytest.raises(SourceError, match="a login, licence or error page was saved under its name"):
        run(tmp_path / "out", tmp_path / "hm.zip")


# Real, harmless memes --------------------------------------------------------------------------------------------


def test_harmless_memes_of_any_format_are_converted_byte_for_byte(shared: Path, tmp_path: Path) -> None:
    real = shared / "samples/memes_harmless"
    manifest = run(tmp_path / "out", real)
    assert (manifest.accounting.inputs, manifest.accounting.written) == (12, 12)
    paths = [path for row in read(tmp_path / "out", "train") for path in row.image_paths]
    assert {"train/64587.jpg", "train/72506.webp", "train/01235.png"} <= set(paths)
    for path in paths:
        name = path.removeprefix("train/")
        assert (tmp_path / "out/images" / path).read_bytes() == (real / "img" / name).read_bytes()


def test_an_odd_file_name_is_kept(shared: Path, tmp_path: Path) -> None:
    (file,) = (shared / "samples/memes_harmless/odd_names").rglob("*.png")
    source = official(tmp_path / "in", {"train": [meme(1)]})
    shutil.copy(file, source / "img")
    (source / "train.jsonl").write_text(json.dumps(meme(1, id="🚀 a", img=f"img/{file.name}")) + "\n")
    run(tmp_path / "out", source)
    assert read(tmp_path / "out", "train")[0].image_paths == (f"train/{file.name}",)


def test_real_annotations_whose_images_are_not_here_are_accounted(shared: Path, tmp_path: Path) -> None:
    """The official images may not be passed on: synthetic ones replace all but one."""
    source = tmp_path / "in"
    shutil.copytree(shared / "samples/hateful_memes", source)
    source.chmod(0o755)
    with pytest.raises(SourceError, match=r"no row has its image \(107 rows"):
        run(tmp_path / "out", source)
    rows = [json.loads(line) for file in source.glob("*.jsonl") for line in file.read_bytes().splitlines()]
    (source / "img").mkdir()
    for row in rows[1:]:
        (source / row["img"]).write_bytes(image(int(row["id"])))
    a = run(tmp_path / "out", source).accounting
    assert (a.inputs, a.written, a.rejected) == (107, 106, {"missing-image": 1})


# Options ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"demo": True, "source": Path()}, "--demo: makes its own synthetic data"),
        ({"val": ("dev_seen", "train")}, "--val: 'train' is given to two splits"),
        ({"password": "x", "source": Path()}, "--password: opens a zip"),
    ],
)
def test_options_that_do_not_go_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        HatefulMemesOptions(**arguments)


def test_what_is_no_release_reports_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "in/memes").mkdir(parents=True)
    with pytest.raises(SourceError, match=r"neither .*jsonl with img/ .* \(found: memes\)"):
        run(tmp_path / "out", tmp_path / "in")
    with pytest.raises(SourceError, match=r"no file has a split \(found: train\)"):
        run(tmp_path / "out", official(tmp_path / "hm", {"train": [meme(1)]}), train=("all",))


def test_the_demo_is_marked_and_valid(tmp_path: Path) -> None:
    manifest = convert(HatefulMemesOptions(demo=True), tmp_path / "out", num_workers=0).manifest
    assert manifest.synthetic
    assert manifest.accounting.unlabeled > 0
    assert {row.source for row in read(tmp_path / "out", "train")} == {"hateful_memes-synthetic"}
    assert validate(tmp_path / "out").ok


def test_without_source_and_network_it_names_what_to_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    with pytest.raises(EnvironmentProblem, match=r"the_cauldron: .*Pass --source .* or --demo") as raised:
        convert(HatefulMemesOptions(), tmp_path / "out")
    assert "\n" not in str(raised.value)
