"""`validate` finds everything that was done to a good dataset, and nothing in a good one."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from data_builders import encoded, file_info, image_bytes, sample, samples, seal_manifest, write_dataset, write_split

from phiv_data.storage.dataset import read_manifest
from phiv_data.storage.jsonl import write_jsonl
from phiv_data.storage.sample import EncodedImage, Sample
from phiv_data.storage.shards import write_shard
from phiv_data.validation import validate
from phiv_schemas import ShardInfo, UsageError, ValidationReport

ROWS = {"train": samples("train", 12), "val": samples("val", 3, 12), "test": list[Sample]()}
IMAGE = "images/val/Archery/v_0012.0.png"
SHARD = "arrow/train/data-00000-of-00003.arrow"


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    size = sum(len(image.data) for image in ROWS["train"][0].images)
    folder = tmp_path_factory.mktemp("good") / "out"
    return write_dataset(folder, ROWS, max_shard_bytes=5 * size + size // 2)


@pytest.fixture
def out(good: Path, tmp_path: Path) -> Path:
    """A copy of the good dataset a test may break."""
    return Path(shutil.copytree(good, tmp_path / "out"))


def found(report: ValidationReport) -> list[tuple[str, str, int | None]]:
    return [(issue.code, issue.file, issue.line) for issue in report.issues]


@pytest.mark.parametrize("deep", [True, False])
def test_a_good_dataset_is_valid_in_every_form(good: Path, deep: bool) -> None:
    for path, rows in (
        (good, 15),
        (good / "ucf101_val.jsonl", 3),
        (good / "arrow", 15),
        (good / "arrow" / "val", 3),
        (good / SHARD, 5),
    ):
        report = validate(path, deep=deep)
        assert (report.ok, report.issues, report.rows) == (True, [], rows), path
        assert report.images == rows * 2 or (not deep and "arrow" in str(path))


def remove(name: str) -> Callable[[Path], None]:
    return lambda out: (out / name).unlink()


def append(name: str, data: bytes) -> Callable[[Path], None]:
    return lambda out: (out / name).write_bytes((out / name).read_bytes() + data)


def flip(name: str, at: int) -> Callable[[Path], None]:
    def change(out: Path) -> None:
        data = bytearray((out / name).read_bytes())
        data[at] ^= 1
        (out / name).write_bytes(data)

    return change


def cut(name: str, size: int) -> Callable[[Path], None]:
    return lambda out: (out / name).write_bytes((out / name).read_bytes()[:size])


def link(name: str, target: str) -> Callable[[Path], None]:
    def change(out: Path) -> None:
        (out / name).unlink()
        (out / name).symlink_to(target)

    return change


def folder_instead(out: Path) -> None:
    (out / IMAGE).unlink()
    (out / IMAGE).mkdir()


VAL_1 = ("ucf101_val.jsonl", 1)
BROKEN = {
    "image gone": (remove(IMAGE), [("PV101", *VAL_1)]),
    "image is a folder": (folder_instead, [("PV101", *VAL_1)]),
    "image cut": (cut(IMAGE, 40), [("PV104", *VAL_1)]),
    "image changed": (append(IMAGE, b"x"), [("PV104", *VAL_1)]),
    "image is another": (lambda out: (out / IMAGE).write_bytes(image_bytes(7)), [("PV104", *VAL_1)]),
    "image links out": (link(IMAGE, "/etc/hostname"), [("PV103", *VAL_1)]),
    "image links in circles": (link(IMAGE, "v_0012.0.png"), [("PV101", *VAL_1)]),
    "jsonl gone": (remove("ucf101_val.jsonl"), [("PV301", "ucf101_val.jsonl", None)]),
    "shard gone": (remove(SHARD), [("PV301", SHARD, None)]),
    "shard cut": (cut(SHARD, -8), [("PV302", SHARD, None), ("PV305", SHARD, None)]),
    "rejects gone": (remove("rejects.jsonl"), [("PV301", "rejects.jsonl", None)]),
    "stray file": (lambda out: (out / "images" / "x.txt").touch(), [("PV402", "images/x.txt", None)]),
    "manifest broken": (cut("manifest.json", 100), [("PV304", "manifest.json", None)]),
}


@pytest.mark.parametrize("name", BROKEN)
def test_each_damage_is_found_where_it_was_done(out: Path, name: str) -> None:
    damage, expected = BROKEN[name]
    damage(out)
    report = validate(out)
    assert set(found(report)) >= set(expected)
    assert {code for code, *_ in found(report)} == {code for code, *_ in expected}
    assert not report.ok
    assert all("\n" not in str(issue) for issue in report.issues)


@pytest.mark.parametrize("name", ["ucf101_train.jsonl", SHARD, "rejects.jsonl", "images.sha256"])
def test_a_change_of_any_file_the_manifest_names_is_found(out: Path, name: str) -> None:
    append(name, b" \n")(out)
    assert ("PV302", name, None) in found(validate(out))
    assert ("PV302", name, None) in found(validate(out, deep=False)), "sizes differ"


def test_a_flipped_bit_in_a_shards_image_is_found(out: Path) -> None:
    data = (out / SHARD).read_bytes()
    at = data.index(ROWS["train"][0].images[0].data) + 60
    flip(SHARD, at)(out)
    codes = {(code, line) for code, file, line in found(validate(out)) if file == SHARD}
    assert codes == {("PV302", None), ("PV104", 1)}


def test_a_row_of_a_shard_that_is_not_the_line_is_found(out: Path) -> None:
    rows = [row.conversation for row in ROWS["val"]]
    turn = rows[1].turns[0].model_copy(update={"assistant": "Bowling"})
    rows[1] = rows[1].model_copy(update={"conversations": (turn,)})
    write_jsonl(out / "ucf101_val.jsonl", rows)
    issues = found(validate(out))
    assert ("PV306", "arrow/val/data-00000-of-00001.arrow", 2) in issues
    assert ("PV302", "ucf101_val.jsonl", None) in issues


def test_lines_that_are_gone_or_too_many_are_counted(out: Path) -> None:
    rows = [row.conversation for row in ROWS["val"]]
    for wrong in (rows[:2], [*rows, sample("val", 99, num_images=0).conversation]):
        write_jsonl(out / "ucf101_val.jsonl", wrong)
        assert ("PV304", "ucf101_val.jsonl", None) in found(validate(out))


def test_the_manifests_account_is_checked(out: Path) -> None:
    manifest = read_manifest(out)
    account = manifest.accounting.model_copy(update={"written": 14, "inputs": 15, "rejected": {"truncated": 1}})
    seal_manifest(out, manifest.model_copy(update={"accounting": account}))
    report = validate(out)
    assert {("PV304", "manifest.json", None), ("PV304", "rejects.jsonl", None)} <= set(found(report))


def test_a_shard_whose_facts_about_its_images_are_wrong_is_found(tmp_path: Path) -> None:
    row = sample("val", 0, num_images=4)
    cut = row.images[0].data[:50]
    wrong = [
        encoded(row.images[0].meta.path, cut),
        change(row.images[1], width=25),
        change(row.images[2], size_bytes=3),
        change(row.images[3], sha256="0" * 64),
    ]
    write_shard(tmp_path / "x.arrow", [Sample(row.conversation, tuple(wrong))])
    issues = validate(tmp_path / "x.arrow").issues
    assert [(issue.code, issue.json_path) for issue in issues] == [
        (code, f"$.images[{i}]") for i, code in enumerate(["PV102", "PV105", "PV105", "PV104"])
    ]
    assert "media says 25x16 for an image of 24x16" in str(issues[1])


def change(image: EncodedImage, **facts: object) -> EncodedImage:
    return EncodedImage(image.meta.model_copy(update=facts), image.data)


def test_a_shard_missing_from_its_numbered_set_is_found_without_a_manifest(out: Path) -> None:
    (out / SHARD).unlink()
    report = validate(out / "arrow")
    assert found(report) == [("PV301", SHARD.removeprefix("arrow/"), None)]


def test_ids_are_unique_over_all_splits(out: Path) -> None:
    write_jsonl(out / "ucf101_test.jsonl", [ROWS["train"][4].conversation])
    (issue,) = [issue for issue in validate(out).issues if issue.code == "PV201"]
    expected = "ucf101_train.jsonl:5: $.id: duplicate id 'train-0000000004', first seen at"
    assert str(issue).startswith(("ucf101_test.jsonl:1: $.id: duplicate id 'train-0000000004'", expected))


def test_a_broken_image_is_read_once_and_reported_at_every_use(tmp_path: Path) -> None:
    image = tmp_path / "images" / "a.jpg"
    image.parent.mkdir()
    image.write_bytes(image_bytes(3, (400, 300), "JPEG")[:2000])
    turn = sample("val", 0, num_images=0).conversation.turns[0].model_copy(update={"images": ("a.jpg", "a.jpg")})
    turns = [turn.model_copy(update={"user": f"What is it, {i}?"}) for i in range(2)]
    rows = [sample("val", i).conversation.model_copy(update={"conversations": (turns[i],)}) for i in range(2)]
    write_jsonl(tmp_path / "x.jsonl", rows)
    report = validate(tmp_path / "x.jsonl", ignore=["PV117"])
    assert [(issue.code, issue.line, issue.json_path) for issue in report.issues] == [
        ("PV102", line, f"$.conversations[0].images[{k}]") for line in (1, 2) for k in (0, 1)
    ]
    assert report.images == 1
    assert validate(tmp_path / "x.jsonl", deep=False).ok


def test_a_folder_of_images_reached_through_a_link_is_fine_but_not_one_that_leads_out(tmp_path: Path) -> None:
    row = sample("val", 0)
    write_split(tmp_path / "data", "val", [row])
    shutil.move(tmp_path / "data" / "images", tmp_path / "disk2")
    (tmp_path / "data" / "images").symlink_to(tmp_path / "disk2")
    assert validate(tmp_path / "data" / "ucf101_val.jsonl").ok
    shutil.move(tmp_path / "disk2" / "val", tmp_path / "elsewhere")
    (tmp_path / "disk2" / "val").symlink_to(tmp_path / "elsewhere")
    assert {issue.code for issue in validate(tmp_path / "data" / "ucf101_val.jsonl").issues} == {"PV103"}


def test_a_pipe_in_place_of_an_image_does_not_hang(tmp_path: Path) -> None:
    write_split(tmp_path, "val", [sample("val", 0)])
    path = tmp_path / "images" / "val" / "Archery" / "v_0000.0.png"
    path.unlink()
    os.mkfifo(path)
    assert found(validate(tmp_path / "ucf101_val.jsonl")) == [("PV101", "ucf101_val.jsonl", 1)]


def test_no_images_folder_is_reported_once(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "x.jsonl", (row.conversation for row in ROWS["train"]))
    (issue,) = validate(tmp_path / "x.jsonl").issues
    assert str(issue) == "x.jsonl:1: no folder images/ beside the file, so no image was checked. Pass --images_root DIR"


def test_images_root_says_where_paths_start(good: Path, tmp_path: Path) -> None:
    path = shutil.copy(good / "ucf101_val.jsonl", tmp_path)
    assert validate(path, images_root=good / "images").ok
    with pytest.raises(UsageError, match="no such folder"):
        validate(path, images_root=tmp_path / "none")


def test_the_recipes_own_output_has_no_manifest_and_is_valid(out: Path) -> None:
    for name in ("manifest.json", "images.sha256", "rejects.jsonl"):
        (out / name).unlink()
    shutil.rmtree(out / "arrow")
    report = validate(out)
    assert (report.ok, found(report), report.rows) == (True, [("PV303", "manifest.json", None)], 15)
    (out / ".phiv").mkdir()
    assert not validate(out).ok, "an unfinished conversion of phiv"


def test_errors_come_before_warnings_when_too_many(tmp_path: Path) -> None:
    turn = sample("val", 0, num_images=0).conversation.turns[0]
    turns = [turn.model_copy(update={"user": f"<image> {i}"}) for i in range(9)]
    rows = [sample("val", i).conversation.model_copy(update={"conversations": (turns[i],)}) for i in range(9)]
    path = tmp_path / "x.jsonl"
    write_jsonl(path, rows)
    path.write_bytes(path.read_bytes() + b"{}\n")
    report = validate(path, max_issues=4)
    assert [issue.code for issue in report.issues] == ["PV401", "PV002", "PV002", "PV002"]
    assert report.counts() == {"PV002": 3, "PV401": 9}, "counts are of all"
    assert (report.truncated, report.ok, report.rows) == (True, False, 10)
    assert validate(path, max_issues=12).truncated is False
    assert not validate(path, max_issues=1).ok


def test_nothing_to_check_is_a_usage_error(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none"):
        with pytest.raises(UsageError):
            validate(path)


def test_reports_are_data_and_round_trip(out: Path) -> None:
    remove(IMAGE)(out)
    report = validate(out)
    assert ValidationReport.model_validate_json(report.model_dump_json()) == report
    assert json.loads(report.model_dump_json())["issues"][0]["json_path"] == "$.conversations[0].images[0]"


def test_a_shard_swapped_for_another_with_its_manifest_entry_is_still_not_the_jsonl(out: Path) -> None:
    """Even when every hash is right, rows are compared with lines."""
    rows = [sample("val", i, num_images=2) for i in (13, 12, 14)]
    path = out / "arrow" / "val" / "data-00000-of-00001.arrow"
    info: ShardInfo = write_shard(path, rows, root=out)
    manifest = read_manifest(out)
    splits = [s.model_copy(update={"shards": [info]}) if s.name == "val" else s for s in manifest.splits]
    seal_manifest(out, manifest.model_copy(update={"splits": splits}))
    assert file_info(out, info.path).sha256 == info.sha256
    assert [(code, line) for code, _, line in found(validate(out))] == [("PV306", 1), ("PV306", 2)]
