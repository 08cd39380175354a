"""UCF-101 on real clips and on trees shaped like the real ones."""

from __future__ import annotations

import json
import os
import shutil
import tarfile
from collections import Counter
from pathlib import Path

import pytest

from phiv_converters.ucf101.layouts import find_layout, list_clips
from phiv_converters.ucf101.options import Ucf101Options
from phiv_converters.val_split import Shares
from phiv_data import validate
from phiv_data.convert.engine import convert
from phiv_schemas import Conversation, EnvironmentProblem, SourceError, UsageError

PAGE_CLASSES = (
    "ApplyEyeMakeup, ApplyLipstick, Archery, BabyCrawling, BalanceBeam, "
    "BandMarching, BaseballPitch, Basketball, BasketballDunk, BenchPress"
)
PAGE_TEST = (6, 4, 7, 9, 4, 9, 10, 11, 6, 9)


def rows(out: Path, split: str) -> list[Conversation]:
    lines = (out / f"ucf101_{split}.jsonl").read_bytes().splitlines()
    return [Conversation.model_validate_json(line) for line in lines]


@pytest.fixture(scope="module")
def subset(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("subset") / "out"
    convert(Ucf101Options(shared / "samples/ucf101/UCF101_subset"), out, num_workers=0)
    return out


@pytest.fixture(scope="module")
def official(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("official") / "out"
    convert(Ucf101Options(shared / "samples/ucf101", fold=1), out, num_workers=2)
    return out


# The recipe's format ----------------------------------------------------------------------------------------------


def page_tree(folder: Path, clip: Path) -> Path:
    """A tree of the shape the recipe's page shows (300/30/75 clips); every clip a hard link to one."""
    names = PAGE_CLASSES.split(", ")
    counts = {"train": (30,) * 10, "val": (3,) * 10, "test": PAGE_TEST}
    for split, per_class in counts.items():
        for name, count in zip(names, per_class, strict=True):
            (folder / "UCF101_subset" / split / name).mkdir(parents=True)
            for i in range(count):
                path = folder / "UCF101_subset" / split / name / f"v_{name}_g{21 + i // 7:02d}_c{i % 7 + 1:02d}.avi"
                path.hardlink_to(clip)
    return folder


def test_a_tree_like_the_pages_gives_its_ids_paths_and_prompt(shared: Path, tmp_path: Path) -> None:
    clip = tmp_path / "clip.avi"
    shutil.copy(shared / "samples/ucf101/UCF101_subset/train/BasketballDunk/v_BasketballDunk_g13_c01.avi", clip)
    source = page_tree(tmp_path / "in", clip)
    manifest = convert(Ucf101Options(source), tmp_path / "out", arrow=False).manifest
    assert [(split.rows, split.num_images) for split in manifest.splits] == [(300, 2400), (30, 240), (75, 600)]
    first = rows(tmp_path / "out", "val")[0]
    assert first.id == "val-0000000300"
    assert first.image_paths == tuple(f"val/ApplyEyeMakeup/v_ApplyEyeMakeup_g21_c01.{k}.jpg" for k in range(8))
    assert first.turns[0].user == f"Classify the video into one of the following classes: {PAGE_CLASSES}."
    assert first.turns[0].assistant == "ApplyEyeMakeup"
    assert rows(tmp_path / "out", "test")[-1].id == "test-0000000404"
    assert manifest.accounting.identical == 404
    assert sum(len(group) for group in manifest.identical_inputs) == 405


def test_keys_and_their_order_are_the_recipes(subset: Path) -> None:
    line = (subset / "ucf101_val.jsonl").read_bytes().splitlines()[0]
    record = json.loads(line)
    assert list(record) == ["id", "source", "conversations"]
    assert list(record["conversations"][0]) == ["images", "user", "assistant"]
    assert json.dumps(record).encode() == line


def test_the_tree_is_the_recipes(subset: Path) -> None:
    for split in ("train", "val", "test"):
        for row in rows(subset, split):
            for k, path in enumerate(row.image_paths):
                assert path.startswith(f"{split}/{row.turns[0].assistant}/v_")
                assert path.endswith(f".{k}.jpg")
                assert (subset / "images" / path).is_file()


# Real clips -------------------------------------------------------------------------------------------------------


def test_every_real_clip_gives_eight_frames(subset: Path, official: Path) -> None:
    counts = {name: len(rows(out, name)) for out in (subset, official) for name in ("train", "val", "test")}
    assert [len(rows(subset, s)) for s in ("train", "val", "test")] == [6, 3, 3]
    assert [len(rows(official, s)) for s in ("train", "val", "test")] == [19, 6, 25], counts
    for out in (subset, official):
        for split in ("train", "val", "test"):
            assert all(len(row.image_paths) == 8 for row in rows(out, split))


def test_the_frames_are_the_recipes_to_the_byte(subset: Path, shared: Path) -> None:
    """The recipe's own way (header count, every frame decoded, default JPEG), written from its description."""
    import io

    import av
    import numpy as np
    from PIL import Image

    for row in rows(subset, "val"):
        stem = Path(row.image_paths[0]).name.split(".")[0]
        clip = shared / "samples/ucf101/UCF101_subset/val" / str(row.turns[0].assistant) / f"{stem}.avi"
        with av.open(str(clip)) as container:
            total = container.streams.video[0].frames
            wanted = np.arange(0, total, total / 8).astype(int).tolist()
            frames = [f.to_ndarray(format="rgb24") for i, f in enumerate(container.decode(video=0)) if i in wanted]
        for frame, path in zip(frames, row.image_paths, strict=True):
            Image.fromarray(frame).convert("RGB").save(buffer := io.BytesIO(), format="JPEG")
            assert (subset / "images" / path).read_bytes() == buffer.getvalue()


def test_workers_and_listing_order_do_not_change_a_byte(shared: Path, subset: Path, tmp_path: Path) -> None:
    """Copies made in another order are listed in another order by most file systems."""
    clips = sorted((shared / "samples/ucf101/UCF101_subset").rglob("*.avi"), reverse=True)
    for clip in clips:
        target = tmp_path / "in" / clip.relative_to(shared / "samples/ucf101")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(clip, target)
    convert(Ucf101Options(tmp_path / "in"), tmp_path / "out", num_workers=3)
    for name in ("ucf101_train.jsonl", "ucf101_val.jsonl", "ucf101_test.jsonl", "images.sha256", "rejects.jsonl"):
        assert (tmp_path / "out" / name).read_bytes() == (subset / name).read_bytes()


def test_datasets_opens_the_shards_and_decodes_what_the_files_hold(official: Path) -> None:
    import numpy as np
    from datasets import load_dataset, load_from_disk
    from PIL import Image

    by_folder = load_from_disk(str(official / "arrow"))
    by_files = load_dataset("arrow", data_files={"val": str(official / "arrow/val/*.arrow")}, split="val")
    for dataset in (by_folder["val"], by_files):
        for record, row in zip(dataset, rows(official, "val"), strict=True):
            assert record["id"] == row.id
            for image, path in zip(record["images"], row.image_paths, strict=True):
                assert np.array_equal(np.asarray(image), np.asarray(Image.open(official / "images" / path)))


# The official lists -----------------------------------------------------------------------------------------------


def test_absent_clips_of_the_lists_are_counted_not_an_error(official: Path, shared: Path, tmp_path: Path) -> None:
    manifest = json.loads((official / "manifest.json").read_bytes())
    assert manifest["accounting"]["absent"] == 9537 + 3783 - 50
    with pytest.raises(SourceError, match=r"13270 clips of the official lists have no file \(first: 'ApplyEyeMakeup"):
        convert(Ucf101Options(shared / "samples/ucf101", fold=1, require_all=True), tmp_path / "out")


def test_no_group_is_in_two_splits_and_every_fold_places_every_clip(shared: Path) -> None:
    for fold in (1, 2, 3):
        layout = find_layout(shared / "samples/ucf101", fold, "it")
        clips = list_clips(layout, val_groups=2, classes=set(layout.classes)).clips
        assert len(clips) == 50
        assert {clip.split for clip in clips} == {"train", "val", "test"}
        splits = {(clip.label, clip.path.stem.split("_g")[1][:2]): set[str]() for clip in clips}
        for clip in clips:
            splits[clip.label, clip.path.stem.split("_g")[1][:2]].add(clip.split)
        assert all(len(found) == 1 for found in splits.values())


def test_the_prompt_of_a_partial_copy_lists_all_101_classes(official: Path) -> None:
    listed = (
        rows(official, "test")[0].turns[0].user.removeprefix("Classify the video into one of the following classes: ")
    )
    assert len(listed.rstrip(".").split(", ")) == 101


def fake_release(folder: Path, files: list[str], train: list[str], test: list[str], flat: bool = False) -> Path:
    lists = folder / "ucfTrainTestlist"
    lists.mkdir(parents=True)
    (lists / "classInd.txt").write_bytes(b"1 Archery\r\n2 HandstandPushups\r\n")
    (lists / "trainlist01.txt").write_bytes("".join(f"{line}\r\n" for line in train).encode())
    (lists / "testlist01.txt").write_bytes("".join(f"{line} \r\n" for line in test).encode())
    for name in files:
        path = folder / ("UCF101" if flat else "UCF-101") / (name.rpartition("/")[2] if flat else name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    return folder


@pytest.mark.parametrize("flat", [False, True])
def test_names_match_without_case_in_class_folders_and_flat(tmp_path: Path, flat: bool) -> None:
    files = ["Archery/v_Archery_g08_c01.avi", "HandstandPushups/v_HandStandPushups_g01_c01.avi"]
    train = ["Archery/v_Archery_g08_c01.avi 1"]
    test = ["HandstandPushups/v_HandstandPushups_g01_c01.avi"]
    layout = find_layout(fake_release(tmp_path, files, train, test, flat), None, "it")
    clips = list_clips(layout, val_groups=0, classes=set(layout.classes)).clips
    assert [(c.split, c.label, c.path.name) for c in clips] == [
        ("train", "Archery", "v_Archery_g08_c01.avi"),
        ("test", "HandstandPushups", "v_HandStandPushups_g01_c01.avi"),
    ]


@pytest.mark.parametrize(
    ("train", "message"),
    [
        (["Golf/v_Golf_g08_c01.avi 3"], r"trainlist01\.txt:1: class 'Golf' is not in classInd\.txt"),
        (["Archery/v_Archery_g08_c01.avi 2"], r"trainlist01\.txt:1: Archery has index 2, in classInd\.txt 1"),
        (["Archery/clip.avi 1"], r"no group number in the file name"),
    ],
)
def test_broken_lists_are_named_with_their_line(tmp_path: Path, train: list[str], message: str) -> None:
    layout = find_layout(fake_release(tmp_path, ["Archery/clip.avi"], train, []), None, "it")
    with pytest.raises(SourceError, match=message):
        list_clips(layout, val_groups=2, classes=set(layout.classes))


def test_real_lists_of_the_detection_challenge_read_too(shared: Path, tmp_path: Path) -> None:
    shutil.copytree(shared / "samples/ucf101/ucfTrainTestlist_detection24", tmp_path / "ucfTrainTestlist")
    (tmp_path / "UCF-101").mkdir()
    layout = find_layout(tmp_path, None, "it")
    assert len(layout.classes) == 24
    assert len(list_clips(layout, 2, set(layout.classes)).absent) > 3000


# Options and sources ----------------------------------------------------------------------------------------------


def test_classes_and_max_per_class_narrow_rows_and_prompt(shared: Path, tmp_path: Path) -> None:
    options = Ucf101Options(
        shared / "samples/ucf101/UCF101_subset", classes=("HorseRace", "Archery"), max_per_class=1, num_frames=3
    )
    convert(options, tmp_path / "out", num_workers=0, arrow=False)
    train = rows(tmp_path / "out", "train")
    assert Counter(row.turns[0].assistant for row in train) == {"Archery": 1, "HorseRace": 1}
    assert train[0].turns[0].user.endswith("classes: Archery, HorseRace.")
    assert all(len(row.image_paths) == 3 for row in train)


def test_an_unknown_class_names_its_neighbour(shared: Path, tmp_path: Path) -> None:
    options = Ucf101Options(shared / "samples/ucf101/UCF101_subset", classes=("Archary",))
    with pytest.raises(UsageError, match=r"--classes: no class 'Archary'\. Did you mean 'Archery'\?"):
        convert(options, tmp_path / "out")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_frames": 0}, "--num_frames: must be 1 to"),
        ({"jpeg_quality": 101}, "--jpeg_quality: must be 1 to 95"),
        ({"demo": True, "source": Path()}, "--demo: makes its own synthetic data"),
    ],
)
def test_options_out_of_range_are_named(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Ucf101Options(**arguments)  # type: ignore[arg-type]  # wrong on purpose


def test_the_archive_gives_what_the_folder_gives(shared: Path, subset: Path, tmp_path: Path) -> None:
    archive = tmp_path / "UCF101_subset.tar.gz"  # a plain tar under this name, as on the hub
    with tarfile.open(archive, "w") as tar:
        tar.add(shared / "samples/ucf101/UCF101_subset", "UCF101_subset")
    convert(Ucf101Options(archive), tmp_path / "out", num_workers=0)
    for name in ("ucf101_train.jsonl", "images.sha256", "arrow/val/data-00000-of-00001.arrow"):
        assert (tmp_path / "out" / name).read_bytes() == (subset / name).read_bytes()
    archive.rename(tmp_path / "moved.tar")
    assert convert(Ucf101Options(tmp_path / "moved.tar"), tmp_path / "out").found_finished


def test_broken_clips_are_rejected_with_the_reason(shared: Path, tmp_path: Path) -> None:
    source, broken = tmp_path / "UCF101_subset", shared / "samples/broken_media/video"
    for split in ("train", "val"):
        (source / split / "Archery").mkdir(parents=True)
    whole = shared / "samples/ucf101/UCF101_subset/train/Archery/v_Archery_g13_c02.avi"
    shutil.copy(whole, source / "train/Archery/a_whole.avi")
    (source / "train/Archery/b_cut.avi").write_bytes(whole.read_bytes()[:100_000])
    (source / "train/Archery/c_empty.avi").touch()
    (source / "train/Archery/d_text.avi").write_text("not a video")
    shutil.copy(broken / "zero_frames/exiftool__RIFF.avi", source / "train/Archery/e_zero.avi")
    shutil.copy(broken / "no_video_stream/fuzzing-corpus__small-shot-mp3.mp4", source / "train/Archery/f_audio.avi")
    manifest = convert(Ucf101Options(tmp_path), tmp_path / "out", num_workers=0).manifest
    assert manifest.accounting.written == 1
    rejects = [json.loads(line) for line in (tmp_path / "out/rejects.jsonl").read_text().splitlines()]
    codes = {Path(reject["input"]).name: reject["code"] for reject in rejects}
    assert codes["b_cut.avi"] == "truncated"
    assert codes["c_empty.avi"] == "empty-file"
    assert codes["d_text.avi"] == "not-a-video"
    assert codes["f_audio.avi"] == "no-video-stream"
    assert codes["e_zero.avi"] in ("no-frames", "truncated")


def odd_source(folder: Path, clip: Path) -> Path:
    """A subset with one sound clip and entries that are none."""
    archery = folder / "train/Archery"
    for split in ("train", "val"):
        (folder / split / "Archery").mkdir(parents=True)
    shutil.copy(clip, archery / "a_whole.avi")
    (archery / "b_dangling.avi").symlink_to("nowhere")
    (archery / "c_folder.avi").mkdir()
    os.mkfifo(archery / "d_pipe.avi")
    shutil.copy(clip, archery / "e_back\\slash.avi")
    shutil.copy(clip, archery / "f_new\nline.avi")
    shutil.copy(clip, os.fsencode(archery) + b"/g_latin\xe9.avi")
    shutil.copy(clip, archery / f"h_{'x' * 248}.avi")
    return folder


def test_odd_entries_are_rejects_and_the_rest_is_converted(shared: Path, tmp_path: Path) -> None:
    clip = shared / "samples/ucf101/UCF101_subset/train/BasketballDunk/v_BasketballDunk_g13_c01.avi"
    manifest = convert(Ucf101Options(odd_source(tmp_path / "in", clip)), tmp_path / "out", num_workers=0).manifest
    assert (manifest.accounting.written, manifest.accounting.rejected) == (1, {"bad-name": 4, "unreadable": 3})
    assert validate(tmp_path / "out").ok


def test_two_clips_that_would_write_the_same_frames_are_named_at_once(tmp_path: Path) -> None:
    for name in ("a.avi", "a.AVI"):
        (tmp_path / "in/train/Archery").mkdir(parents=True, exist_ok=True)
        (tmp_path / "in/train/Archery" / name).write_text(name)
    (tmp_path / "in/val").mkdir()
    with pytest.raises(SourceError, match=r"a\.(avi|AVI): its frames would have the names of those of .*a\."):
        convert(Ucf101Options(tmp_path / "in"), tmp_path / "out", num_workers=0)


def test_another_archive_is_never_served_from_an_earlier_ones_leftovers(shared: Path, tmp_path: Path) -> None:
    """A wrong archive, then the right one; and one that was stopped after it was unpacked."""
    wrong, right, out = tmp_path / "wrong.tar", tmp_path / "right.tar", tmp_path / "out"
    subset = shared / "samples/ucf101/UCF101_subset"
    with tarfile.open(wrong, "w") as tar:
        tar.add(__file__, "readme.txt")
    with tarfile.open(right, "w") as tar:
        tar.add(subset, "UCF101_subset")
    with pytest.raises(SourceError, match=r"wrong\.tar: neither UCF101_subset"):
        convert(Ucf101Options(wrong), out, num_workers=0)
    assert not out.exists()
    fake = out / ".phiv/source" / f"unpacked-{'0' * 16}/UCF101_subset/train/Archery"
    fake.mkdir(parents=True)
    assert convert(Ucf101Options(right), out, num_workers=0).manifest.rows == 12


def test_what_is_left_alone_is_reported(shared: Path, tmp_path: Path) -> None:
    source = tmp_path / "UCF101_subset"
    shutil.copytree(shared / "samples/ucf101/UCF101_subset", source)
    (source / "validation").mkdir()
    (source / "train/loose.avi").touch()
    (source / "train/Archery/notes.txt").touch()
    warnings = convert(Ucf101Options(source), tmp_path / "out", num_workers=0, arrow=False).warnings
    assert warnings == (
        "folders that are no split were left alone (1: 'validation')",
        "files or folders that are not <Class>/*{.avi,.mp4,.mkv,.webm,.mov} were left alone"
        " (2: 'train/Archery/notes.txt', 'train/loose.avi')",
    )


def test_clips_in_no_list_are_named(tmp_path: Path) -> None:
    files = [f"Archery/v_Archery_g08_c0{i}.avi" for i in range(6)]
    layout = find_layout(fake_release(tmp_path, files, [f"{files[0]} 1"], []), None, "it")
    listing = list_clips(layout, val_groups=0, classes=set(layout.classes))
    shown = "'v_Archery_g08_c01.avi', 'v_Archery_g08_c02.avi', 'v_Archery_g08_c03.avi', ..."
    assert listing.warnings == (f"clips in no list of fold 1 were left alone (5: {shown})",)


def test_the_lists_name_clips_of_another_suffix(tmp_path: Path) -> None:
    """Mirrors hold the release as mp4."""
    lists = ["Archery/v_Archery_g08_c01.avi 1", "Archery/v_Archery_g09_c01.avi 1"]
    files = ["Archery/v_Archery_g08_c01.mp4", "Archery/v_Archery_g09_c01.avi"]
    layout = find_layout(fake_release(tmp_path, files, lists, []), None, "it")
    assert len(list_clips(layout, val_groups=0, classes=set(layout.classes)).clips) == 2


def test_lists_in_the_folder_of_their_archive_are_found(tmp_path: Path) -> None:
    name = "Archery/v_Archery_g08_c01.avi"
    source = fake_release(tmp_path, [name], [f"{name} 1"], [])
    (source / "UCF101TrainTestSplits-RecognitionTask").mkdir()
    (source / "ucfTrainTestlist").rename(source / "UCF101TrainTestSplits-RecognitionTask/ucfTrainTestlist")
    layout = find_layout(source, None, "it")
    assert len(list_clips(layout, val_groups=0, classes=set(layout.classes)).clips) == 1


@pytest.mark.parametrize("missing", ["classInd.txt", "trainlist01.txt", "testlist01.txt"])
def test_a_missing_list_is_named_with_those_that_are_there(tmp_path: Path, missing: str) -> None:
    source = fake_release(tmp_path, ["Archery/v_Archery_g08_c01.avi"], [], [])
    (source / "ucfTrainTestlist" / missing).unlink()
    left = ", ".join(sorted({"classInd.txt", "trainlist01.txt", "testlist01.txt"} - {missing}))
    with pytest.raises(SourceError, match=rf"no {missing}.* \(found: {left}\)"):
        find_layout(source, None, "it")


# Sources without all three splits ---------------------------------------------------------------------------------


def clips_of(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")
    return folder


def split_of(source: Path, fraction: float = 0.3, test: float = 0.0) -> dict[str, str]:
    layout = find_layout(source, None, "it")
    return {clip.key: clip.split for clip in list_clips(layout, 2, set(layout.classes), Shares(fraction, test)).clips}


def test_a_tree_with_some_of_the_splits_is_taken(tmp_path: Path) -> None:
    assert split_of(clips_of(tmp_path / "a", "test/Golf/a.avi", "test/Run/b.mov")) == {
        "test/Golf/a.avi": "test",
        "test/Run/b.mov": "test",
    }
    names = [f"train/Golf/v_Golf_g{group:02d}_c{clip:02d}.avi" for group in range(20) for clip in (1, 2)]
    found = split_of(clips_of(tmp_path / "b", *names, "test/Golf/x.avi"))
    val = {name[:-8] for name, split in found.items() if split == "val"}
    assert 1 <= len(val) <= 12
    assert val.isdisjoint({name[:-8] for name, split in found.items() if split == "train"})
    assert [name for name, split in found.items() if split == "test"] == ["test/Golf/x.avi"]
    other = split_of(clips_of(tmp_path / "c", *names[:20], "validation/Golf/x.avi"))
    assert {name for name, split in other.items() if split == "val"} == {"validation/Golf/x.avi"}


def test_class_folders_alone_are_split_by_whole_groups_each_by_its_own_hash(tmp_path: Path) -> None:
    names = [
        f"{label}/v_{label}_g{group:02d}_c{clip:02d}.avi" for label in "AB" for group in range(20) for clip in (1, 2)
    ]
    found = split_of(clips_of(tmp_path / "in", *names))
    groups = {
        split: {name[:-8] for name, where in found.items() if where == split} for split in ("train", "val", "test")
    }
    assert sum(map(len, groups.values())) == 40
    assert all(len(groups[split]) >= 3 for split in groups)
    fewer = split_of(clips_of(tmp_path / "half", *(name for name in names if name.startswith("A"))))
    assert fewer == {name: split for name, split in found.items() if name.startswith("A")}
    assert set(split_of(tmp_path / "in", 0).values()) == {"train"}
    parts = split_of(tmp_path / "in", test=0.3)  # val as before, and test of what is left
    assert {name for name, where in parts.items() if where == "val"} == {n for n, s in found.items() if s == "val"}
    assert {name[:-8] for name, where in parts.items() if where == "test"}.isdisjoint(
        name[:-8] for name, where in parts.items() if where != "test"
    )
    assert set(split_of(tmp_path / "in", 0, 0.3).values()) == {"train", "test"}
    assert set(split_of(clips_of(tmp_path / "one", "A/a.mp4")).values()) == {"train"}


def test_rows_of_classes_alone_are_converted_and_counted(shared: Path, tmp_path: Path) -> None:
    clips = sorted((shared / "samples/ucf101/UCF101_subset").rglob("*.avi"))
    for clip in clips:
        (tmp_path / "in" / clip.parent.name).mkdir(parents=True, exist_ok=True)
        shutil.copy(clip, tmp_path / "in" / clip.parent.name)
    outcome = convert(Ucf101Options(tmp_path / "in", num_frames=1, val_fraction=0.3), tmp_path / "out", num_workers=0)
    counts = {split.name: split.rows for split in outcome.manifest.splits}
    assert list(counts) == ["train", "val", "test"]
    assert sum(counts.values()) == len(clips)
    made = f"{counts['val']} of {len(clips)} rows are val and {counts['test']} test, by whole source videos"
    assert outcome.warnings == (f"no lists of splits in the source: {made}. --val_fraction 0 keeps all in train",)


def test_official_clips_in_one_folder_are_no_class(tmp_path: Path) -> None:
    clips_of(tmp_path / "in", "UCF101/v_Archery_g01_c01.avi", "UCF101/v_Golf_g01_c01.avi")
    with pytest.raises(SourceError, match=r"neither .* nor folders of classes .* \(found: UCF101\)"):
        find_layout(tmp_path / "in", None, "it")


def test_a_class_folder_that_is_not_utf8_rejects_its_clips(shared: Path, tmp_path: Path) -> None:
    clip = shared / "samples/ucf101/UCF101_subset/train/Archery/v_Archery_g13_c02.avi"
    for name in (b"Archery", b"\xff\xfe"):
        folder = Path(os.fsdecode(os.fsencode(tmp_path / "in/train") + b"/" + name))
        folder.mkdir(parents=True)
        shutil.copy(clip, folder)
    manifest = convert(Ucf101Options(tmp_path / "in", num_frames=1), tmp_path / "out", num_workers=0).manifest
    assert (manifest.accounting.written, manifest.accounting.rejected) == (1, {"bad-name": 1})
    assert rows(tmp_path / "out", "train")[0].turns[0].user.endswith("classes: Archery.")


@pytest.mark.parametrize("made", ["recipe", "phiv"])
def test_what_is_converted_already_is_recognised(tmp_path: Path, made: str) -> None:
    names = ["ucf101_train.jsonl"] if made == "recipe" else ["manifest.json", "images.sha256"]
    source = clips_of(tmp_path / "old", *names, "images/train/Archery/a.0.jpg")
    with pytest.raises(SourceError, match=r"\. It is a converted dataset: phiv-convert jsonl --source it "):
        find_layout(source, None, "it")


def test_a_clip_in_both_lists_is_an_error(tmp_path: Path) -> None:
    name = "Archery/v_Archery_g08_c01.avi"
    layout = find_layout(fake_release(tmp_path, [name], [f"{name} 1"], [name]), None, "it")
    with pytest.raises(SourceError, match=r"testlist01\.txt:1: .* is listed before, on trainlist01\.txt:1"):
        list_clips(layout, val_groups=0, classes=set(layout.classes))


def test_val_groups_never_empty_the_train_split(tmp_path: Path) -> None:
    name = "Archery/v_Archery_g08_c01.avi"
    layout = find_layout(fake_release(tmp_path, [name], [f"{name} 1"], []), None, "it")
    with pytest.raises(UsageError, match="--val_groups: 1 would leave nothing to train on"):
        list_clips(layout, val_groups=1, classes=set(layout.classes))


def test_salvage_keeps_the_decodable_frames_of_a_cut_clip(shared: Path, tmp_path: Path) -> None:
    whole = shared / "samples/ucf101/UCF101_subset/train/Archery/v_Archery_g13_c02.avi"
    for split in ("train", "val"):
        (tmp_path / "in" / split / "Archery").mkdir(parents=True)
    (tmp_path / "in/train/Archery/cut.avi").write_bytes(whole.read_bytes()[:100_000])
    convert(Ucf101Options(tmp_path / "in", on_corrupt="salvage"), tmp_path / "out", num_workers=0)
    assert len(rows(tmp_path / "out", "train")[0].image_paths) == 8


def test_a_folder_of_neither_layout_reports_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "in" / "videos").mkdir(parents=True)
    with pytest.raises(SourceError, match=r"neither UCF101_subset/.* \(found: videos\)"):
        convert(Ucf101Options(tmp_path / "in"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_without_source_and_network_it_names_what_to_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    with pytest.raises(EnvironmentProblem, match=r"Pass --source .* or --demo") as raised:
        convert(Ucf101Options(), tmp_path / "out")
    assert raised.value.exit_code == 3
    assert "\n" not in str(raised.value)
