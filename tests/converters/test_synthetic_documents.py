"""The synthetic sets are what they say: official layouts, the same bytes each time, answers that the images hold."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from phiv_converters.synthetic import documents
from phiv_converters.synthetic.documents import (
    COLOURS,
    make_synthetic_docvqa,
    make_synthetic_hateful_memes,
    make_synthetic_nlvr2,
)
from phiv_data.media.images import image_size, open_image
from phiv_data.utils.atomic import sha256_file

MAKERS = [make_synthetic_docvqa, make_synthetic_nlvr2, make_synthetic_hateful_memes]


@pytest.fixture(name="sets", scope="module")
def _sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("synthetic")
    for make in MAKERS:
        make(folder)
    return folder


def hashes(root: Path) -> dict[str, str]:
    return {p.relative_to(root).as_posix(): sha256_file(p) for p in sorted(root.rglob("*")) if p.is_file()}


def json_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("make", MAKERS, ids=lambda make: make.__name__)
def test_made_twice_the_bytes_are_the_same(make: Callable[[Path], Path], sets: Path, tmp_path: Path) -> None:
    root = make(tmp_path)
    assert hashes(root) == hashes(sets / root.name) != {}


@pytest.mark.parametrize("make", MAKERS, ids=lambda make: make.__name__)
def test_an_interrupted_set_leaves_nothing_and_a_finished_one_is_kept(
    make: Callable[[Path], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    name = make.__name__.removeprefix("make_synthetic_")
    with monkeypatch.context() as patch:
        patch.setattr(json, "dumps", stop)
        with pytest.raises(KeyboardInterrupt):
            make(tmp_path)
    assert list(tmp_path.iterdir()) == []
    root = make(tmp_path)
    assert root == tmp_path / name
    (root / "mine.txt").write_text("kept")
    assert make(tmp_path) == root
    assert (root / "mine.txt").exists()


def test_every_image_is_a_sound_png_and_no_two_are_equal(sets: Path) -> None:
    images = sorted(sets.rglob("*.png"))
    assert all(image_size(path).format == "PNG" for path in images)
    assert all(min(open_image(path).size) >= 100 for path in images)
    assert len({sha256_file(path) for path in images}) == len(images) > 400


def test_docvqa_has_the_keys_and_types_of_the_official_files(sets: Path) -> None:
    keys = ("questionId", "question", "question_types", "image", "docId", "ucsf_document_id", "ucsf_document_page_no")
    for split, file in {"train": "train_v1.0_withQT", "val": "val_v1.0_withQT", "test": "test_v1.0"}.items():
        body = json.loads((sets / f"docvqa/{file}.json").read_text())
        assert (body["dataset_name"], body["dataset_version"], body["dataset_split"]) == ("docvqa", "1.0", split)
        hidden = {"question_types", "answers"} if split == "test" else set()
        wanted = [key for key in (*keys, "answers", "data_split") if key not in hidden]
        assert all(list(row) == wanted for row in body["data"])
        assert all(isinstance(row["ucsf_document_page_no"], str) for row in body["data"])


def test_docvqa_splits_by_document_and_every_page_is_there(sets: Path) -> None:
    rows = [row for file in sorted((sets / "docvqa").glob("*.json")) for row in json.loads(file.read_text())["data"]]
    splits, pages = defaultdict(set), defaultdict(set)
    for row in rows:
        splits[row["ucsf_document_id"]].add(row["data_split"])
        pages[row["docId"]].add(row["image"])
    assert all(len(found) == 1 for found in splits.values())
    assert all(len(found) == 2 for found in pages.values())  # documents of several pages
    assert len({row["questionId"] for row in rows}) == len(rows)
    named = {Path(row["image"]).name for row in rows}
    assert {path.name for path in (sets / "docvqa/spdocvqa_images").iterdir()} == named
    assert max(len(row.get("answers", ())) for row in rows) == 3


def test_nlvr2_labels_are_strings_that_are_true_of_the_images(sets: Path) -> None:
    for split in ("train", "dev", "test1"):
        for row in json_lines(sets / f"nlvr2/data/{split}.json"):
            left, right = (count_shapes(nlvr2_image(sets, split, row, side)) for side in (0, 1))
            assert row["label"] == str(holds(row["sentence"], left, right)), row


def nlvr2_image(sets: Path, split: str, row: dict[str, Any], side: int) -> Path:
    folder = sets / "nlvr2/images" / split / (str(row["directory"]) if split == "train" else "")
    return folder / f"{row['identifier'].rpartition('-')[0]}-img{side}.png"


def holds(sentence: str, left: int, right: int) -> bool:
    number = next((int(word) for word in sentence.split() if word.isdigit()), None)
    if number is not None:
        return left + right == number
    if sentence.startswith("Both"):
        return left == right
    return left > right if sentence.startswith("The left") else right > left


def count_shapes(path: Path) -> int:
    """Connected regions of anything but the background."""
    image = open_image(path)
    width, _ = image.size
    flat = image.tobytes()
    pixels = [flat[i : i + 3] for i in range(0, len(flat), 3)]
    left = {i for i, pixel in enumerate(pixels) if pixel != pixels[0]}
    count = 0
    while left:
        count, reached = count + 1, [left.pop()]
        while reached:
            here = reached.pop()
            for step in (-1, 1, -width, width):
                if here + step in left:
                    left.remove(here + step)
                    reached.append(here + step)
    return count


def test_nlvr2_identifiers_buckets_and_balance_are_official(sets: Path) -> None:
    rows = json_lines(sets / "nlvr2/data/train.json")
    buckets: dict[str, set[int]] = defaultdict(set)
    for row in rows:
        split, number, pair, sentence = row["identifier"].split("-")
        assert (split, pair in "0123", sentence in "01") == ("train", True, True)
        buckets[number].add(row["directory"])
    assert all(len(found) == 1 for found in buckets.values())  # no image set crosses buckets
    assert {0, 99} <= {row["directory"] for row in rows}
    assert len({row["identifier"] for row in rows}) == len(rows)
    first = Counter(row["label"] for row in rows if row["identifier"].endswith("-0"))
    assert first["True"] == first["False"]
    assert all("directory" not in row for row in json_lines(sets / "nlvr2/data/dev.json"))


def test_memes_say_by_their_colour_whether_the_caption_is_true(sets: Path) -> None:
    for file in ("train", "dev_seen", "dev_unseen"):
        rows = json_lines(sets / f"hateful_memes/{file}.jsonl")
        assert {row["label"] for row in rows} == {0, 1}
        for row in rows:
            (named,) = [colour for colour in COLOURS if colour in row["text"].split()]
            found = {colour for _, colour in open_image(sets / "hateful_memes" / row["img"]).getcolors(4096) or ()}
            assert (COLOURS[named] in found) == (row["label"] == 0)


def test_memes_have_the_official_files(sets: Path) -> None:
    root = sets / "hateful_memes"
    rows = {file: json_lines(root / f"{file}.jsonl") for file in ("train", "dev_seen", "dev_unseen", "test_seen")}
    assert all(list(row) == ["id", "img", "label", "text"] for row in rows["train"])
    assert all("label" not in row for row in rows["test_seen"])
    assert all(row["img"] == f"img/{row['id']:05d}.png" for file in rows.values() for row in file)
    ids = {file: {row["id"] for row in found} for file, found in rows.items()}
    assert ids["dev_seen"] & ids["dev_unseen"]  # as in the official files
    assert not (ids["train"] & (ids["dev_seen"] | ids["dev_unseen"] | ids["test_seen"]))
    assert {path.name for path in (root / "img").iterdir()} == {f"{i:05d}.png" for i in set().union(*ids.values())}


def test_nothing_but_words_about_shapes_is_written(sets: Path) -> None:
    words = {w for row in json_lines(sets / "hateful_memes/train.jsonl") for w in row["text"].split()}
    assert words <= {*COLOURS, *documents.CORNERS, "what", "a", "nice", "when", "you", "see", "this", "is", "so"}
