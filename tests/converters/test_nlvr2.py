"""NLVR2 on synthetic pairs in every layout, and on the real annotations."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from phiv_converters.nlvr2.convert import recipe_question
from phiv_converters.nlvr2.official_hashes import average_hash
from phiv_converters.nlvr2.options import WORDINGS, Nlvr2Options
from phiv_data import validate
from phiv_data.convert.engine import NothingWritten, convert
from phiv_schemas import Conversation, EnvironmentProblem, Manifest, SourceError, UsageError

PREFIX = "The first image is the image on the left, the second image is the image on the right. "


def pil_image(seed: int, format: str = "PNG") -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 255, (12, 16, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(out := io.BytesIO(), format)
    return out.getvalue()


def row(identifier: str, sentence: Any = "Both images show a dog.", label: Any = "True", **more: Any) -> dict[str, Any]:
    return {"identifier": identifier, "sentence": sentence, "label": label, "left_url": "u", **more}


def make_rows() -> dict[str, list[dict[str, Any]]]:
    """Directories 5 to 14 of train with a set each, two pairs a set, two sentences a pair; and a dev set."""
    train = [
        row(f"train-{s}-{p}-{k}", f'A "{"dog" if k else "cat"}" {s}.', str((s + p + k) % 2 == 0), directory=s + 5)
        for s in range(10)
        for p in range(2)
        for k in range(2)
    ]
    return {"train": train, "dev": [row("dev-5-0-0"), row("dev-5-1-0", label="False")]}


def pair_images(rows: dict[str, list[dict[str, Any]]]) -> dict[str, bytes]:
    pairs = sorted({r["identifier"].rpartition("-")[0] for found in rows.values() for r in found})
    names = [f"{pair}-img{side}.png" for pair in pairs for side in (0, 1)]
    return {name: pil_image(seed, ("PNG", "JPEG", "WEBP")[seed % 3]) for seed, name in enumerate(names)}


def official(root: Path, rows: dict[str, list[dict[str, Any]]] | None = None, buckets: bool = True) -> Path:
    """The official tree: images in bucket folders, or all flat."""
    rows = rows or make_rows()
    (root / "data").mkdir(parents=True)
    for name, found in rows.items():
        (root / f"data/{name}.json").write_text("".join(json.dumps(r) + "\n" for r in found))
    directories = {r["identifier"].rpartition("-")[0]: r.get("directory") for found in rows.values() for r in found}
    for name, data in pair_images(rows).items():
        directory = directories[name.rpartition("-")[0]]
        part = f"images/{name.split('-')[0]}" + ("" if directory is None else f"/{directory}")
        path = root / (part if buckets else "images") / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return root


def tables(root: Path, make: Callable[[dict[str, Any], dict[str, bytes]], dict[str, Any]], **splits: str) -> Path:
    """Hub parquet: one file per split, rows made by `make`, in an order that is not that of the identifiers."""
    rows = make_rows()
    images = pair_images(rows)
    (root / "data").mkdir(parents=True)
    for name, split in splits.items():
        table = pa.Table.from_pylist([make(r, images) for r in reversed(rows[name])])
        pq.write_table(table, root / f"data/{split}-00000-of-00001.parquet")
    return root


def _cells(found: dict[str, Any], images: dict[str, bytes]) -> list[dict[str, Any]]:
    pair = found["identifier"].rpartition("-")[0]
    return [{"bytes": images[f"{pair}-img{side}.png"], "path": f"{pair}-img{side}.png"} for side in (0, 1)]


def huggingface_m4(found: dict[str, Any], images: dict[str, bytes]) -> dict[str, Any]:
    left, right = _cells(found, images)
    return {**found, "directory": found.get("directory"), "left_image": left, "right_image": right}


def lmms_lab(found: dict[str, Any], images: dict[str, bytes]) -> dict[str, Any]:
    left, right = _cells(found, images)
    names = {"question_id": "identifier", "question": "sentence", "answer": "label"}
    return {new: found[old] for new, old in names.items()} | {
        "left_image": left["bytes"],
        "right_image": right["bytes"],
    }


def cauldron(root: Path, named: bool = True) -> Path:
    """The Cauldron's nlvr2: pairs with their sentences, worded."""
    rows = make_rows()["train"]
    images = pair_images(make_rows())
    pairs: dict[str, dict[str, Any]] = {}
    for found in rows:
        cells = _cells(found, images) if named else [{**cell, "path": None} for cell in _cells(found, images)]
        pair = pairs.setdefault(found["identifier"].rpartition("-")[0], {"images": cells, "texts": []})
        question = recipe_question(found["identifier"], found["sentence"])
        answer = "Yes." if found["label"] == "True" else "No."
        pair["texts"].append({"user": question, "assistant": answer, "source": "NLVR2"})
    root.mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(list(pairs.values())), root / "train-00000-of-00001.parquet")
    return root


def run(out: Path, source: Path, **options: Any) -> Manifest:
    manifest = convert(Nlvr2Options(source, **options), out, num_workers=0, arrow=False).manifest
    assert validate(out).ok or not manifest.rows
    return manifest


def read(out: Path, split: str) -> list[Conversation]:
    return [Conversation.model_validate_json(x) for x in (out / f"nlvr2_{split}.jsonl").read_bytes().splitlines()]


def rejects(out: Path) -> dict[str, str]:
    found = [json.loads(line) for line in (out / "rejects.jsonl").read_bytes().splitlines()]
    return {reject["input"]: f"{reject['code']}: {reject['reason']}" for reject in found}


FILES = ("nlvr2_train.jsonl", "nlvr2_val.jsonl", "nlvr2_dev.jsonl", "images.sha256")


# Rows ------------------------------------------------------------------------------------------------------------


def test_two_images_left_first_and_the_recipes_question_and_answer(tmp_path: Path) -> None:
    run(tmp_path / "out", official(tmp_path / "in"))
    yes, no = read(tmp_path / "out", "dev")
    assert yes.image_paths == ("dev/dev-5-0-img0.png", "dev/dev-5-0-img1.png")
    assert yes.turns[0].user in {w.format(sentence="Both images show a dog.") for w in WORDINGS}
    assert yes.turns[0].user.startswith(PREFIX)
    assert yes.turns[0].user.endswith("Answer yes or no.")
    assert (yes.turns[0].assistant, no.turns[0].assistant) == ("Yes.", "No.")


def test_the_wording_known_from_a_published_cauldron_row_is_among_ours() -> None:
    """Quoted in a public test of another project that reads The Cauldron."""
    known = (
        PREFIX + 'Assess this claim about the two images: "There are exactly two flutes.". Correct or not? '
        "Answer yes or no."
    )
    assert known in {wording.format(sentence="There are exactly two flutes.") for wording in WORDINGS}
    assert len(set(WORDINGS)) == 8
    assert len({recipe_question(f"train-{i}-0-0", "x") for i in range(200)}) == 8


def test_braces_in_a_sentence_are_text() -> None:
    assert '"{0} {x}"' in recipe_question("dev-0-0-0", "{0} {x}")


def test_the_plain_prompt_asks_for_the_official_words(tmp_path: Path) -> None:
    run(tmp_path / "out", official(tmp_path / "in"), prompt="plain")
    yes, no = read(tmp_path / "out", "dev")
    assert yes.turns[0].user == "Both images show a dog.\nIs this sentence true or false of the two images?"
    assert (yes.turns[0].assistant, no.turns[0].assistant) == ("True", "False")


def test_sentences_of_a_pair_become_turns_and_the_images_stand_in_the_first(tmp_path: Path) -> None:
    manifest = run(tmp_path / "out", official(tmp_path / "in"), group="pair")
    assert (manifest.accounting.inputs, manifest.accounting.written) == (22, 22)
    first = read(tmp_path / "out", "train")[0]
    assert [len(turn.images) for turn in first.turns] == [2, 0]
    assert [turn.user.count('"cat"') + 2 * turn.user.count('"dog"') for turn in first.turns] == [1, 2]
    assert [turn.assistant for turn in first.turns] == ["Yes.", "No."]


def test_images_are_copied_and_their_format_is_that_of_the_header(tmp_path: Path) -> None:
    convert(Nlvr2Options(official(tmp_path / "in")), tmp_path / "out", num_workers=0)
    from phiv_data import ConversationDataset

    originals = pair_images(make_rows())
    samples = list(ConversationDataset(tmp_path / "out", split="train"))
    images = {image.meta.path.rpartition("/")[2]: image for sample in samples for image in sample.images}
    assert all(images[name].data == originals[name] for name in images)
    assert {image.meta.format for image in images.values()} == {"PNG", "JPEG", "WEBP"}


# Layouts give the same records -------------------------------------------------------------------------------------


@pytest.mark.parametrize("group", ["sentence", "pair"])
@pytest.mark.parametrize("prompt", ["recipe", "plain"])
def test_flat_folders_archives_and_hub_tables_give_the_same_bytes(tmp_path: Path, group: str, prompt: str) -> None:
    source = official(tmp_path / "in")
    with tarfile.open(tmp_path / "in.tar.gz", "w:gz") as tar:
        tar.add(source, "nlvr2")
    layouts = {
        "flat": official(tmp_path / "flat", buckets=False),
        "archive": tmp_path / "in.tar.gz",
        "m4": tables(tmp_path / "m4", huggingface_m4, train="train", dev="validation"),
    }
    run(tmp_path / "out", source, group=group, prompt=prompt)
    for name, layout in layouts.items():
        out = tmp_path / f"out-{name}"
        run(out, layout, group=group, prompt=prompt)
        assert [(out / f).read_bytes() for f in FILES] == [(tmp_path / "out" / f).read_bytes() for f in FILES], name


def test_lmms_labs_tables_give_the_records_of_the_official_dev_set(tmp_path: Path) -> None:
    rows = {"dev": make_rows()["dev"]}
    images = pair_images(make_rows())
    source = official(tmp_path / "in", rows)
    for name in (path for path in (source / "images/dev").iterdir()):
        name.write_bytes(images[name.name])
    manifest = run(tmp_path / "out", source)
    run(tmp_path / "out2", tables(tmp_path / "hub", lmms_lab, dev="balanced_dev"), subset="balanced")
    for file in ("nlvr2_dev.jsonl", "images.sha256"):
        assert (tmp_path / "out" / file).read_bytes() == (tmp_path / "out2" / file).read_bytes()
    assert [split.name for split in manifest.splits] == ["dev"]


@pytest.mark.parametrize("prompt", ["recipe", "plain"])
def test_the_cauldrons_rows_keep_their_wording_and_equal_ours(tmp_path: Path, prompt: str) -> None:
    options = {"group": "pair", "prompt": prompt, "val_directories": 0}
    run(tmp_path / "out", official(tmp_path / "in", {"train": make_rows()["train"]}), **options)
    manifest = run(tmp_path / "out2", cauldron(tmp_path / "hub"), **options)
    assert "The Cauldron's images and texts (train)" in manifest.source
    found = [[(turn.user, turn.assistant) for turn in c.turns] for c in read(tmp_path / "out2", "train")]
    assert found == [[(turn.user, turn.assistant) for turn in c.turns] for c in read(tmp_path / "out", "train")]
    assert read(tmp_path / "out2", "train")[0].image_paths == read(tmp_path / "out", "train")[0].image_paths


def test_the_cauldrons_rows_without_names_get_names_of_their_place(tmp_path: Path) -> None:
    run(tmp_path / "out", cauldron(tmp_path / "hub", named=False), val_directories=0)
    rows = read(tmp_path / "out", "train")
    assert len(rows) == 40  # one per sentence
    assert rows[1].image_paths == (
        "train/train-00000-of-00001-00000000-img0.jpg",
        "train/train-00000-of-00001-00000000-img1.webp",
    )


def test_a_save_to_disk_folder_with_class_labels_reads_too(tmp_path: Path) -> None:
    from datasets import ClassLabel, Dataset, DatasetDict, Features, Value
    from datasets import Image as ImageFeature

    names = ["True", "False"]  # not the order of the numbers
    rows, images = make_rows(), pair_images(make_rows())
    kinds = {"identifier": Value("string"), "sentence": Value("string"), "directory": Value("int64")}
    image_columns = {"left_image": ImageFeature(), "right_image": ImageFeature()}
    features = Features(kinds | {"label": ClassLabel(names=names)} | image_columns)
    records = [huggingface_m4(r, images) | {"label": names.index(r["label"])} for r in rows["train"]]
    records = [{name: record[name] for name in features} for record in records]
    DatasetDict({"train": Dataset.from_list(records, features=features)}).save_to_disk(str(tmp_path / "hub"))
    run(tmp_path / "out", official(tmp_path / "in", {"train": rows["train"]}))
    run(tmp_path / "out2", tmp_path / "hub")
    assert (tmp_path / "out2/nlvr2_val.jsonl").read_bytes() == (tmp_path / "out/nlvr2_val.jsonl").read_bytes()


# Splits ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("group", ["sentence", "pair"])
def test_val_is_made_of_the_highest_directories_and_no_image_set_crosses(tmp_path: Path, group: str) -> None:
    run(tmp_path / "out", official(tmp_path / "in"), val_directories=3, group=group)
    sets = {
        split: {
            path.rpartition("/")[2].rsplit("-", 2)[0] for c in read(tmp_path / "out", split) for path in c.image_paths
        }
        for split in ("train", "val")
    }
    assert sets["val"] == {"train-7", "train-8", "train-9"}
    assert sets["train"] == {f"train-{i}" for i in range(7)}


def test_a_set_in_several_directories_goes_to_val_whole(tmp_path: Path) -> None:
    rows = make_rows()
    rows["train"][0]["directory"] = "14"  # of set 0; a string, too
    run(tmp_path / "out", official(tmp_path / "in", rows), val_directories=1)
    assert {c.image_paths[0].split("-")[1] for c in read(tmp_path / "out", "val")} == {"0", "9"}


def test_directories_must_leave_something_to_train_on(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--val_directories: 10 would leave nothing .* \(found 10 directories\)"):
        run(tmp_path / "out", official(tmp_path / "in"), val_directories=10)


def test_without_directories_whole_image_sets_become_val(tmp_path: Path) -> None:
    rows = {"train": [row(f"train-{s}-{pair}-0") for s in range(30) for pair in (0, 1)]}
    outcome = convert(Nlvr2Options(official(tmp_path / "in", rows), val_fraction=0.2), tmp_path / "out", num_workers=0)
    sets = {name: {c.image_paths[0].split("-")[1] for c in read(tmp_path / "out", name)} for name in ("train", "val")}
    assert not sets["train"] & sets["val"]
    assert 2 <= len(sets["val"]) <= 12
    num_val = 2 * len(sets["val"])
    said = f"no val in the source: {num_val} of 60 rows, by whole image sets, are val."
    assert outcome.warnings == (f"{said} --val_fraction 0 keeps them in train",)
    run(tmp_path / "parts", official(tmp_path / "in3", rows), val_fraction=0.2, test_fraction=0.2)
    parts = {
        name: {c.image_paths[0].split("-")[1] for c in read(tmp_path / "parts", name)}
        for name in ("train", "val", "test")
    }
    assert parts["val"] == sets["val"]
    assert parts["test"]
    assert parts["test"] == sets["train"] - parts["train"]
    with pytest.raises(UsageError, match="--test_fraction: makes test where the source has neither"):
        run(tmp_path / "named", official(tmp_path / "in4"), test_fraction=0.2)
    none = run(tmp_path / "none", official(tmp_path / "in2", rows), val_fraction=0)
    assert [(split.name, split.rows) for split in none.splits] == [("train", 60)]


def test_the_cauldrons_sets_become_val_as_those_of_the_official_files(tmp_path: Path) -> None:
    rows = [{name: value for name, value in r.items() if name != "directory"} for r in make_rows()["train"]]
    run(tmp_path / "out", official(tmp_path / "in", {"train": rows}), val_fraction=0.3, group="pair")
    run(tmp_path / "out2", cauldron(tmp_path / "hub"), val_fraction=0.3, group="pair")
    val, val2 = ([c.image_paths for c in read(tmp_path / name, "val")] for name in ("out", "out2"))
    assert val == val2
    assert val
    assert read(tmp_path / "out2", "train")


def test_rows_of_the_cauldron_that_share_an_image_stay_in_one_split(tmp_path: Path) -> None:
    source, files = cauldron(tmp_path / "hub", named=False), 0
    table = pq.read_table(source / "train-00000-of-00001.parquet").to_pylist()
    for i, found in enumerate(table):  # a chain through every fourth pair of images
        if i % 4:
            found["images"] = [table[i - 1]["images"][1], found["images"][1]]
    pq.write_table(pa.Table.from_pylist(table), source / "train-00000-of-00001.parquet")
    run(tmp_path / "out", source, val_fraction=0.3)
    hashes: dict[str, set[bytes]] = {}
    for split in ("train", "val"):
        paths = {path for c in read(tmp_path / "out", split) for path in c.image_paths}
        hashes[split] = {(tmp_path / "out/images" / path).read_bytes() for path in paths}
        files += len(paths)
    assert not hashes["train"] & hashes["val"]
    assert all(hashes.values())
    assert files > len(hashes["train"] | hashes["val"])  # there are shared images


def test_subsets_are_read_from_their_own_files(tmp_path: Path) -> None:
    source = official(tmp_path / "in")
    (source / "data/balanced").mkdir()
    (source / "data/balanced/balanced_dev.json").write_text(json.dumps(make_rows()["dev"][1]) + "\n")
    manifest = run(tmp_path / "out", source, subset="balanced")
    assert [(s.name, s.rows) for s in manifest.splits] == [("train", 20), ("val", 20), ("dev", 1)]
    assert manifest.source == "official layout: train.json, balanced_dev.json (balanced subsets)"


# Rows that cannot be used ------------------------------------------------------------------------------------------


def test_every_row_ends_somewhere_with_a_reason(tmp_path: Path) -> None:
    rows = {
        "dev": [
            row("dev-1-0-0"),
            row("dev-1-1-0", label=False),  # a real boolean
            row("dev-1-2-0", label=None),
            {"identifier": "dev-1-3-0", "sentence": "no label at all"},
            row("dev-2-0-0", label="maybe"),
            row("dev-2-1-0", label=1),
            row("dev-2-2"),
            row("dev-2-3-0", sentence=" "),
            row("dev-3-0-0", sentence=7),
            row("dev-1-0-0"),
            row("dev-1-1-0", label=True),
            row("dev-9-0-0"),
        ]
    }
    source = official(tmp_path / "in", rows)
    (source / "images/dev/dev-9-0-img1.png").unlink()
    (source / "images/dev/dev-3-0-img1.png").write_bytes(b"<html>")
    with (source / "data/dev.json").open("a") as file:
        file.write('{"identifier": \n[1]\n')
    manifest = run(tmp_path / "out", source)
    a = manifest.accounting
    assert (a.inputs, a.written, a.unlabeled, a.duplicates) == (14, 2, 2, 1)
    assert a.rejected == {"bad-row": 8, "missing-image": 1}
    found = rejects(tmp_path / "out")
    assert "label is neither 'True' nor 'False' (found 'maybe')" in found["dev.json:00000005"]
    assert "(found 1)" in found["dev.json:00000006"]
    assert "identifier is not split-set-pair-sentence (found 'dev-2-2')" in found["dev.json:00000007"]
    assert "'sentence' is empty" in found["dev.json:00000008"]
    assert "'sentence' is not str (found 7)" in found["dev.json:00000009"]
    assert "'dev-1-1-0' is on dev.json:2 too, with another sentence or label" in found["dev.json:00000011"]
    assert found["dev-9-0-0"] == "missing-image: no file 'dev-9-0-img1.png' in the source"
    assert "not valid JSON" in found["dev.json:00000013"]
    assert "not an object (found [1])" in found["dev.json:00000014"]


def test_broken_images_do_not_get_in(tmp_path: Path) -> None:
    source = official(tmp_path / "in")
    (source / "images/dev/dev-5-0-img0.png").write_bytes(b"<html>404</html>")
    cut = source / "images/dev/dev-5-1-img1.png"
    cut.write_bytes(cut.read_bytes()[:-30])
    manifest = run(tmp_path / "out", source)
    assert sum(manifest.accounting.rejected.values()) == 2
    assert manifest.accounting.rejected["not-an-image"] == 1


def test_unlabeled_sentences_of_a_pair_come_last_and_are_written_on_demand(tmp_path: Path) -> None:
    rows = {"test2": [row("test2-1-0-0", "a", None), row("test2-1-0-1", "b", "True")]}
    options = Nlvr2Options(official(tmp_path / "in", rows), group="pair", prompt="plain")
    with pytest.raises(NothingWritten, match=r"\(1 without an answer of 1 inputs\)"):
        convert(options, tmp_path / "a", num_workers=0)
    convert(options, tmp_path / "b", num_workers=0, include_unlabeled=True)
    (found,) = read(tmp_path / "b", "test2")
    assert [turn.assistant for turn in found.turns] == ["True", None]


@pytest.mark.parametrize(
    ("texts", "images", "code"),
    [
        ([], 2, "bad-turns: the row has no texts"),
        ([{"user": 'Is "x" true?', "assistant": "Maybe."}], 2, "bad-row: the answer is neither yes nor no"),
        ([{"user": 'Is "x" true?', "assistant": "Yes."}], 1, "missing-image: the row has 1 images, not two"),
        ([{"user": "Is it true?", "assistant": "Yes."}], 2, "bad-row: no sentence in quotes in the question"),
    ],
)
def test_odd_rows_of_the_cauldron_are_rejected(
    tmp_path: Path, texts: list[dict[str, str]], images: int, code: str
) -> None:
    good: dict[str, Any] = {
        "images": [{"bytes": pil_image(i), "path": None} for i in (1, 2)],
        "texts": [{"user": '"a"', "assistant": "No."}],
    }
    odd = {"images": good["images"][:images], "texts": texts}
    (tmp_path / "in").mkdir()
    pq.write_table(pa.Table.from_pylist([good, odd]), tmp_path / "in/train.parquet")
    manifest = run(tmp_path / "out", tmp_path / "in", prompt="plain")
    assert manifest.accounting.written == 1
    assert code in next(iter(rejects(tmp_path / "out").values()))


# Hashes ----------------------------------------------------------------------------------------------------------


def test_average_hash_is_that_of_the_imagehash_library() -> None:
    """Its definition, in numpy: grey, 8x8 by Lanczos, above the mean."""
    for seed, format in enumerate(("PNG", "JPEG", "GIF", "WEBP")):
        data = pil_image(seed, format)
        with Image.open(io.BytesIO(data)) as image:
            pixels = np.asarray(image.convert("L").resize((8, 8), Image.Resampling.LANCZOS))
        bits = (pixels > pixels.mean()).flatten()
        assert average_hash(data) == int("".join(str(int(bit)) for bit in bits), 2)


def test_images_that_are_not_the_official_ones_are_rejected(tmp_path: Path) -> None:
    source = official(tmp_path / "in")
    images = pair_images(make_rows())
    hashes = {name: f"{average_hash(data):016x}" for name, data in images.items() if name.startswith("dev")}
    hashes["dev-5-1-img0.png"] = f"{average_hash(images['dev-5-1-img0.png']) ^ 0b11111:016x}"
    hashes["dev-5-0-img0.png"] = f"{average_hash(images['dev-5-0-img0.png']) ^ 0b1111:016x}"  # within tolerance
    (source / "util/hashes").mkdir(parents=True)
    (source / "util/hashes/dev_hashes.json").write_text(json.dumps(hashes))
    outcome = convert(Nlvr2Options(source), tmp_path / "out", num_workers=0)
    assert outcome.warnings == ("official hashes of 4 images are checked",)
    assert outcome.manifest.accounting.rejected == {"hash-mismatch": 1}
    assert "(its hash differs in 5 of 64 bits)" in rejects(tmp_path / "out")["dev-5-1-0"]
    assert run(tmp_path / "out2", source, ignore_hashes=True).accounting.rejected == {}


TWICE = '{"a.png": "0123456789abcdef", "a.png": "fedcba9876543210"}'


@pytest.mark.parametrize("content", ["[1]", "{", '{"a.png": "12"}', '{"a.png": 3}', TWICE])
def test_a_broken_hash_file_is_one_line(tmp_path: Path, content: str) -> None:
    source = official(tmp_path / "in")
    (source / "dev_hashes.json").write_text(content)
    with pytest.raises(SourceError, match=r"dev_hashes\.json: (is no file of image hashes|holds hashes that|names an)"):
        run(tmp_path / "out", source)


# Sources ---------------------------------------------------------------------------------------------------------


def test_images_may_be_in_archives_of_their_own(tmp_path: Path) -> None:
    source = official(tmp_path / "in")
    (source / "images").rename(tmp_path / "elsewhere")
    with tarfile.open(tmp_path / "dev_img.tar.gz", "w:gz") as tar:
        tar.add(tmp_path / "elsewhere/dev", "dev")
    run(tmp_path / "out", source / "data", images=(tmp_path / "elsewhere/train", tmp_path / "dev_img.tar.gz"))
    run(tmp_path / "out2", official(tmp_path / "in2"))
    assert [(tmp_path / "out" / f).read_bytes() for f in FILES] == [(tmp_path / "out2" / f).read_bytes() for f in FILES]


def test_a_single_annotation_file_is_a_source(tmp_path: Path) -> None:
    manifest = run(tmp_path / "out", official(tmp_path / "in") / "data/dev.json")
    assert [(split.name, split.rows) for split in manifest.splits] == [("dev", 2)]


def test_annotations_without_any_image_say_what_is_missing(tmp_path: Path) -> None:
    source = official(tmp_path / "in")
    (source / "images").rename(tmp_path / "elsewhere")
    with pytest.raises(SourceError, match=r"no row has its images \(42 rows in official layout.*--images"):
        run(tmp_path / "out", source)


def test_what_is_no_nlvr2_reports_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "in/photos").mkdir(parents=True)
    with pytest.raises(SourceError, match=r"neither data/.* \(found: photos\)"):
        run(tmp_path / "out", tmp_path / "in")
    page = tmp_path / "nlvr2.zip"
    page.write_text("<!DOCTYPE html><title>Log in</title>")
    with pytest.raises(SourceError, match="a login, licence or error page was saved under its name"):
        run(tmp_path / "out", page)


def test_a_login_page_saved_as_annotations_is_one_line(tmp_path: Path) -> None:
    source = official(tmp_path / "in")
    (source / "data/dev.json").write_text("<html>Sign in</html>")
    with pytest.raises(SourceError, match=r"dev\.json: is a web page"):
        run(tmp_path / "out", source)


def test_a_split_that_nlvr2_does_not_have_is_named(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no split of NLVR2 is called 'holdout'"):
        run(tmp_path / "out", tables(tmp_path / "hub", huggingface_m4, dev="holdout"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"val_directories": 100}, "--val_directories: must be 0 to 99"),
        ({"demo": True, "source": Path()}, "--demo: makes its own synthetic data"),
        ({"images": (Path(),)}, "--images: needs the annotations too"),
    ],
)
def test_options_that_do_not_go_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Nlvr2Options(**arguments)


def test_the_demo_is_marked_and_valid(tmp_path: Path) -> None:
    manifest = convert(Nlvr2Options(demo=True), tmp_path / "out", num_workers=0).manifest
    assert manifest.synthetic
    assert {c.source for c in read(tmp_path / "out", "train")} == {"nlvr2-synthetic"}
    assert validate(tmp_path / "out").ok
    assert convert(Nlvr2Options(demo=True), tmp_path / "out").found_finished


def test_without_source_and_network_it_names_what_to_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    with pytest.raises(EnvironmentProblem, match=r"the_cauldron: .*Pass --source .* or --demo") as raised:
        convert(Nlvr2Options(), tmp_path / "out")
    assert "\n" not in str(raised.value)


# Real annotations ------------------------------------------------------------------------------------------------


def test_the_real_dev_file_parses_to_the_published_counts(shared: Path) -> None:
    from phiv_converters.nlvr2.layouts import Nlvr2Annotations, Nlvr2Example, find_layout

    real = shared / "samples/nlvr2"
    for subset, count in (("all", 6982), ("balanced", 2300)):
        layout = find_layout(real, (), subset, "it")  # type: ignore[arg-type]  # one of the literals
        assert isinstance(layout, Nlvr2Annotations)
        examples = [listed.example for listed in layout.rows()]
        assert len(examples) == count
        assert all(isinstance(example, Nlvr2Example) and example.label is not None for example in examples)
    hashes = json.loads((real / "util/hashes/dev_hashes.json").read_bytes())
    rows = [json.loads(line) for line in (real / "data/dev.json").read_bytes().splitlines()]
    assert {f"{r['identifier'].rpartition('-')[0]}-img{k}.png" for r in rows for k in (0, 1)} == set(hashes)


def test_real_rows_with_some_images_are_accounted(shared: Path, tmp_path: Path) -> None:
    """The official images may not be passed on: others stand in for those of twenty rows."""
    real, source = shared / "samples/nlvr2", tmp_path / "in"
    (source / "data").mkdir(parents=True)
    lines = (real / "data/dev.json").read_bytes().splitlines(keepends=True)[:40]
    (source / "data/dev.json").write_bytes(b"".join(lines))
    pairs = [json.loads(line)["identifier"].rpartition("-")[0] for line in lines]
    stand_in = [(real / f"pairs/ex0_{side}.png").read_bytes() for side in (0, 1)]
    for pair in set(pairs[:20]):
        for side in (0, 1):
            (source / f"{pair}-img{side}.png").write_bytes(stand_in[side])
    a = run(tmp_path / "out", source).accounting
    missing = sum(pair not in pairs[:20] for pair in pairs)
    assert (a.inputs, a.written, a.rejected) == (40, 40 - missing, {"missing-image": missing})
    assert missing > 0
    (source / "util/hashes").mkdir(parents=True)
    (source / "util/hashes/dev_hashes.json").write_bytes((real / "util/hashes/dev_hashes.json").read_bytes())
    counts = rf"\({40 - missing} hash-mismatch, {missing} missing-image of 40 inputs\)"
    with pytest.raises(NothingWritten, match=counts):
        run(tmp_path / "out2", source)
