"""What two splits have in common is found, images, records and groups, except for what datasets share on purpose."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from data_builders import encoded, write_dataset
from PIL import Image

from phiv_converters.docvqa.options import DocvqaOptions
from phiv_converters.hateful_memes.options import HatefulMemesOptions
from phiv_converters.nlvr2.options import Nlvr2Options
from phiv_converters.ucf101.options import Ucf101Options
from phiv_data.convert.engine import convert
from phiv_data.storage.sample import Sample
from phiv_data.validation import validate
from phiv_data.validation.inputs import jsonl_range
from phiv_data.validation.rules.leakage import image_json_path, image_position, split_kind
from phiv_schemas import Conversation, Issue

LEAKS = ("PV240", "PV241", "PV242", "PV243")
Row = dict[str, Any]


def image(seed: int, kind: str = "PNG", size: tuple[int, int] = (64, 48)) -> bytes:
    """Smooth blots of random colors; those of one seed look the same in every format."""
    levels = np.random.default_rng(seed).integers(0, 256, (9, 11, 3), np.uint8)
    out = io.BytesIO()
    Image.fromarray(levels).resize(size, Image.Resampling.BICUBIC).save(out, kind)
    return out.getvalue()


def plain(kind: str = "PNG") -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (64, 48)).save(out, kind)
    return out.getvalue()


def row(id_: str, *images: str, user: str = "What is it?", source: str = "mine", **more: Any) -> Row:
    """A row of one turn; `more` are other fields of the turn."""
    turn = {"images": list(images), "user": user, "assistant": "a fox", **more}
    return {"id": id_, "source": source, "conversations": [turn]}


def write(folder: Path, images: dict[str, bytes], **splits: Sequence[Row]) -> Path:
    """Files of rows, beside their images."""
    folder.mkdir(exist_ok=True)
    for name, data in images.items():
        (folder / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "images" / name).write_bytes(data)
    for split, rows in splits.items():
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows))
    return folder


def leaks(path: Path, **options: Any) -> list[Issue]:
    return [issue for issue in validate(path, **options).issues if issue.code in LEAKS]


def places(issues: Sequence[Issue]) -> list[tuple[str, str, int | None]]:
    return [(issue.code, issue.file, issue.line) for issue in issues]


# Splits ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("split", "expected"),
    [
        ("train", 0), ("Train", 0), ("ucf101_train", 0), ("training", 0),
        ("val", 1), ("validation", 1), ("dev", 1), ("dev_seen", 1), ("docvqa-val", 1),
        ("test", 2), ("test1", 2), ("test_unseen", 2), ("nlvr2.test2", 2),
        ("trainer", None), ("part-1", None), ("", None), ("train_val", None), ("contest", None),
    ],
)  # fmt: skip
def test_the_name_of_a_split_is_its_kind(split: str, expected: int | None) -> None:
    assert split_kind(split) == expected


def test_the_number_of_an_image_gives_its_path() -> None:
    assert image_json_path(image_position(0, 0)) == "$.conversations[0].images[0]"
    assert image_json_path(image_position(12, 345)) == "$.conversations[12].images[345]"
    assert image_position(2**40, 2**40) < 2**32, "it fits into a key"


# Images ----------------------------------------------------------------------------------------------------------


def test_an_image_of_train_is_reported_once_at_its_first_row_of_val(tmp_path: Path) -> None:
    images = {"a.png": image(0), "b.png": image(1), "again.png": image(0)}
    train = [row("t0", "b.png", user="0"), row("t1", "a.png", user="1"), row("t2", "a.png", user="2")]
    val = [row("v0", "again.png", user="3"), row("v1", "again.png", user="4")]
    (issue,) = leaks(write(tmp_path, images, train=train, val=val))
    assert str(issue) == (
        "val.jsonl:1: $.conversations[0].images[0]: 'again.png' is the very image of train.jsonl:2, which is in train"
    )
    assert (issue.code, issue.severity) == ("PV240", "warning")


def test_the_later_split_is_reported_whatever_the_names_of_files(tmp_path: Path) -> None:
    images = {"a.png": image(0)}
    write(tmp_path, images, a_test=[row("a", "a.png", user="1")], z_train=[row("b", "a.png", user="2")])
    assert places(leaks(tmp_path)) == [("PV240", "a_test.jsonl", 1)]


def test_an_image_of_all_three_splits_is_reported_in_val_and_test(tmp_path: Path) -> None:
    rows = {split: [row(split, "a.png", user=split)] for split in ("train", "val", "test")}
    found = leaks(write(tmp_path, {"a.png": image(0)}, **rows))
    assert places(found) == [("PV240", "test.jsonl", 1), ("PV240", "val.jsonl", 1)]
    assert all("train.jsonl:1, which is in train" in issue.message for issue in found)


def test_the_turn_and_the_image_in_it_are_reported(tmp_path: Path) -> None:
    late = row("v", "b.png")
    late["conversations"].append({"images": ["c.png", "a.png"], "user": "And this?", "assistant": "a"})
    images = {f"{name}.png": image(seed) for seed, name in enumerate("abc")}
    (issue,) = leaks(write(tmp_path, images, train=[row("t", "a.png")], val=[late]))
    assert issue.json_path == "$.conversations[1].images[1]"


def test_splits_of_one_kind_or_of_none_are_not_compared(tmp_path: Path) -> None:
    rows = [row("0", "a.png"), row("1", "a.png")]
    for number, names in enumerate((["test1", "test2"], ["train", "part-1"], ["train"], ["a", "b"])):
        folder = write(tmp_path / str(number), {"a.png": image(0)}, **dict.fromkeys(names, rows))
        assert leaks(folder) == []


def test_images_without_anything_to_see_are_not_compared(tmp_path: Path) -> None:
    write(tmp_path, {"a.png": plain()}, train=[row("a", "a.png", user="1")], val=[row("b", "a.png", user="2")])
    assert leaks(tmp_path) == []


def test_nor_are_any_that_were_not_decoded(tmp_path: Path) -> None:
    write(tmp_path, {"a.png": image(0)}, train=[row("a", "a.png")], val=[row("b", "a.png")])
    assert len(leaks(tmp_path)) == 2
    assert leaks(tmp_path, deep=False) == leaks(tmp_path, images=False) == []


def test_a_broken_image_is_reported_as_broken_alone(tmp_path: Path) -> None:
    cut = image(0)[:500]
    write(tmp_path, {"a.png": cut}, train=[row("a", "a.png", user="1")], val=[row("b", "a.png", user="2")])
    assert leaks(tmp_path) == []


def test_an_image_stored_again_is_reported_as_a_near_duplicate(tmp_path: Path) -> None:
    images = {"a.png": image(0), "b.jpg": image(0, "JPEG"), "c.webp": image(0, "WEBP", (128, 96))}
    rows = {"train": [row("t", "a.png")], "val": [row("v", "b.jpg")], "test": [row("x", "c.webp")]}
    found = leaks(write(tmp_path, images, **rows))
    assert places(found) == [("PV241", "test.jsonl", 1), ("PV241", "val.jsonl", 1)]
    assert str(found[1]) == (
        "val.jsonl:1: $.conversations[0].images[0]: 'b.jpg' looks like an image of train.jsonl:1, which is in train"
    )


# Records -----------------------------------------------------------------------------------------------------------


def memes(tmp_path: Path, *turns: Row) -> list[Issue]:
    """The first turn is in train, the others in val."""
    images = {"a.png": image(0), "again.png": image(0), "b.png": image(1)}
    rows = [row(f"r{i}", *turn.pop("images"), source="hateful_memes", **turn) for i, turn in enumerate(turns)]
    return leaks(write(tmp_path, images, train=rows[:1], val=rows[1:]))


def test_a_meme_of_two_splits_is_reported_as_a_record(tmp_path: Path) -> None:
    again = {"images": ["again.png"], "user": "so cute", "assistant": "Yes."}
    (issue,) = memes(tmp_path, {"images": ["a.png"], "user": "so cute", "assistant": "No."}, again)
    assert issue.code == "PV242"
    assert str(issue) == "val.jsonl:1: asks what train.jsonl:1 asks of the same images, which is in train"


def test_memes_share_images_and_captions_on_purpose(tmp_path: Path) -> None:
    same_image, same_text = {"images": ["a.png"], "user": "so ugly"}, {"images": ["b.png"], "user": "so cute"}
    assert memes(tmp_path, {"images": ["a.png"], "user": "so cute"}, same_image, same_text) == []


def test_another_question_order_system_or_turn_is_another_record(tmp_path: Path) -> None:
    first = {"images": ["a.png", "b.png"], "user": "Which?"}
    others = [{"images": ["b.png", "a.png"], "user": "Which?"}, {"images": ["a.png", "b.png"], "user": "Which? "}]
    assert memes(tmp_path / "a", first, *others) == []
    images = {"a.png": image(0), "b.png": image(1)}
    one = row("t", "a.png", source="nlvr2")
    one["conversations"].append({"images": ["b.png"], "user": "", "assistant": "a"})
    divided = row("v", "a.png", "b.png", source="nlvr2")
    divided["conversations"].append({"images": [], "user": "", "assistant": "a"})
    brief = one | {"id": "w", "system": "Be brief."}
    assert leaks(write(tmp_path / "b", images, train=[one], val=[divided, brief])) == []
    same = one | {"id": "x"}
    assert places(leaks(write(tmp_path / "b", {}, val=[divided, brief, same]))) == [("PV242", "val.jsonl", 3)]


def test_a_record_without_images_is_not_compared(tmp_path: Path) -> None:
    rows = [row("a", "a.png"), row("b", user="What is 2 + 2?")], [row("c", "b.png"), row("d", user="What is 2 + 2?")]
    write(tmp_path, {"a.png": image(0), "b.png": image(1)}, train=rows[0], val=rows[1])
    assert leaks(tmp_path) == []


# Groups ------------------------------------------------------------------------------------------------------------

GROUPS = {
    "ucf101": ("source video", "train/Archery/v_Archery_g21_c04.7.jpg", "val/Archery/v_Archery_g21_c01.0.jpg"),
    "docvqa": ("document", "train/ffbf0023_4.png", "val/ffbf0023_12.png"),
    "nlvr2": ("image set", "train/train-10171-0-img0.png", "val/train-10171-2-img1.png"),
}
APART = {
    "ucf101": ("train/Archery/v_Archery_g21_c04.7.jpg", "val/Archery/v_Archery_g22_c04.7.jpg"),
    "docvqa": ("train/ffbf0023_4.png", "val/ffbf0024_4.png"),
    "nlvr2": ("train/train-10171-0-img0.png", "val/train-1017-0-img0.png"),
}


@pytest.mark.parametrize("suffix", ["", "-synthetic"])
@pytest.mark.parametrize("source", GROUPS)
def test_images_of_one_group_in_two_splits_are_reported(source: str, suffix: str, tmp_path: Path) -> None:
    kind, early, late = GROUPS[source]
    rows = {"train": [row("t", early, source=source + suffix)], "val": [row("v", late, source=source + suffix)]}
    (issue,) = leaks(write(tmp_path, {early: image(0), late: image(1)}, **rows))
    assert issue.code == "PV243"
    assert issue.message == f"'{late}' is of the same {kind} as train.jsonl:1, which is in train"
    assert issue.json_path == "$.conversations[0].images[0]"


@pytest.mark.parametrize("source", APART)
def test_images_of_two_groups_are_not(source: str, tmp_path: Path) -> None:
    early, late = APART[source]
    rows = {"train": [row("t", early, source=source)], "val": [row("v", late, source=source)]}
    assert leaks(write(tmp_path, {early: image(0), late: image(1)}, **rows)) == []


@pytest.mark.parametrize("source", ["mine", "hateful_memes"])
def test_names_mean_nothing_in_other_datasets(source: str, tmp_path: Path) -> None:
    _, early, late = GROUPS["ucf101"]
    rows = {"train": [row("t", early, source=source)], "val": [row("v", late, source=source)]}
    assert leaks(write(tmp_path, {early: image(0), late: image(1)}, **rows)) == []


def test_a_group_of_many_rows_is_reported_once(tmp_path: Path) -> None:
    names = [f"{split}/Archery/v_Archery_g01_c0{i}.0.jpg" for split in ("train", "val") for i in (1, 2, 3)]
    rows = [row(str(i), name, source="ucf101") for i, name in enumerate(names)]
    found = leaks(write(tmp_path, {name: image(i) for i, name in enumerate(names)}, train=rows[:3], val=rows[3:]))
    assert places(found) == [("PV243", "val.jsonl", 1)]


# Real and synthetic datasets ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [DocvqaOptions, HatefulMemesOptions, Nlvr2Options, Ucf101Options])
def test_synthetic_datasets_do_not_leak(options: Callable[..., Any], tmp_path: Path) -> None:
    convert(options(demo=True), tmp_path / "out", num_workers=0, arrow=False)
    report = validate(tmp_path / "out")
    assert report.ok
    assert not set(LEAKS) & report.counts().keys()
    assert len(report.stats.splits) > 1


def test_the_recipes_clips_do_not_leak(shared: Path, tmp_path: Path) -> None:
    convert(Ucf101Options(shared / "samples/ucf101/UCF101_subset"), tmp_path / "out", num_workers=0, arrow=False)
    assert leaks(tmp_path / "out") == []


def test_nor_do_the_official_lists_and_a_split_by_clips_does(shared: Path, tmp_path: Path) -> None:
    convert(
        Ucf101Options(shared / "samples/ucf101/UCF-101", classes=("ApplyEyeMakeup", "Archery", "BenchPress")),
        tmp_path / "out",
        num_workers=0,
        arrow=False,
    )
    assert leaks(tmp_path / "out") == []
    whole = "".join(path.read_text() for path in sorted((tmp_path / "out").glob("ucf101_*.jsonl")))
    rows = [json.loads(line) for line in whole.splitlines()]
    early = [one for one in rows if "_c01." in one["conversations"][0]["images"][0]]
    late = [one for one in rows if one not in early]
    folder = write(tmp_path / "again", {}, train=early, val=late)
    found = leaks(folder, images_root=tmp_path / "out" / "images")
    groups = {issue.message.split("'")[1].rpartition("_c")[0] for issue in found if issue.code == "PV243"}
    assert {name.rpartition("/")[2] for name in groups} == {"v_ApplyEyeMakeup_g01", "v_BenchPress_g01"}
    near = {issue.message.split("'")[1].rpartition("_c")[0] for issue in found if issue.code == "PV241"}
    assert near <= groups
    assert any("ApplyEyeMakeup" in name for name in near)


def test_pages_of_a_document_in_two_splits_are_reported(shared: Path, tmp_path: Path) -> None:
    convert(DocvqaOptions(shared / "samples/docvqa/val"), tmp_path / "out", num_workers=0, arrow=False)
    rows = [json.loads(line) for line in (tmp_path / "out" / "docvqa_val.jsonl").read_text().splitlines()]
    rows.sort(key=lambda one: one["conversations"][0]["images"])
    folder = write(tmp_path / "again", {}, train=rows[::2], val=rows[1::2])
    found = leaks(folder, images_root=tmp_path / "out" / "images")
    shared_pages = {name for name in images_of(rows[::2]) if name in images_of(rows[1::2])}
    assert shared_pages
    assert {issue.message.split("'")[1] for issue in found if issue.code == "PV240"} == shared_pages
    assert {issue.message.split("'")[1] for issue in found if issue.code == "PV243"} == shared_pages
    assert {issue.code for issue in found} == {"PV240", "PV243"}, "questions differ, and pages look the same"


def images_of(rows: Sequence[Row]) -> set[str]:
    return {name for one in rows for turn in one["conversations"] for name in turn["images"]}


# However they are divided ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def leaky(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A converted dataset whose splits leak in every way, with shards."""

    def sample(split: str, i: int) -> Sample:
        kind = "JPEG" if split == "val" and i % 3 == 0 else "PNG"
        path = f"{split}/Archery/v_Archery_g{i if i % 5 else 0:02d}_c01.{i}.{kind.lower()}"
        wire = row(f"{split}-{i:010d}", path, user=f"Which? {i % 7}", source="ucf101" if i % 2 else "hateful_memes")
        data = image(i % 11, kind)
        return Sample(Conversation.model_validate(wire), (encoded(path, data, width=64, height=48, kind=kind),))

    rows = {
        split: [sample(split, i) for i in range(count)] for split, count in (("train", 24), ("val", 16), ("test", 9))
    }
    return write_dataset(tmp_path_factory.mktemp("leaky") / "out", rows, max_shard_bytes=20_000)


@pytest.mark.parametrize("num_workers", [1, 3])
def test_any_number_of_workers_finds_the_same(num_workers: int, leaky: Path) -> None:
    whole = validate(leaky)
    assert set(LEAKS) <= whole.counts().keys()
    assert validate(leaky, num_workers=num_workers).model_dump_json() == whole.model_dump_json()


def test_small_pieces_find_the_same(leaky: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("ucf101_train.jsonl", "ucf101_val.jsonl", "ucf101_test.jsonl"):
        (tmp_path / name).write_bytes((leaky / name).read_bytes())
    whole = validate(tmp_path, images_root=leaky / "images")
    assert set(LEAKS) <= whole.counts().keys()
    monkeypatch.setattr(jsonl_range, "DEEP_PIECE_BYTES", 300)
    for num_workers in (0, 2):
        again = validate(tmp_path, images_root=leaky / "images", num_workers=num_workers)
        assert again.model_dump_json() == whole.model_dump_json()


def test_lines_lines_with_shards_and_shards_alone_find_the_same(leaky: Path, tmp_path: Path) -> None:
    for name in ("ucf101_train.jsonl", "ucf101_val.jsonl", "ucf101_test.jsonl"):
        (tmp_path / name).write_bytes((leaky / name).read_bytes())
    found = [leaks(tmp_path, images_root=leaky / "images"), leaks(leaky)]
    assert found[0] == found[1]
    of_shards = leaks(leaky / "arrow")
    assert {one.code for one in of_shards} == set(LEAKS)
    of_lines = sorted((one.code, quoted(one)) for one in found[0])
    assert sorted((one.code, quoted(one)) for one in of_shards) == of_lines


def quoted(issue: Issue) -> str:
    """The image that a finding names; other parts of it say which file."""
    return issue.message.split("'")[1] if "'" in issue.message else ""
